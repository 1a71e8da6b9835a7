"""The same function, written in other ways."""

import copy
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from pellucid.core.errors import ModelError
from pellucid.core.seeding import generator

__all__ = ["rewritings"]

LARGEST_DIFFERENCE = 1e-4
"""Of the logits, relative to the largest, that rounding may make in float32."""


def rewritings(model: nn.Module, images: Tensor, seed: int) -> dict[str, nn.Module]:
    """Copies of a model (in eval mode) that compute the same: `folded` batch-norms, and a `split` linear layer.

    A way that the model offers no place for, or that changes the logits (a batch-norm that does not follow the layer
    listed before it), is left out. Raises `ModelError` where none is left.
    """
    made = {"folded": _folded(model), "split": _split(model, seed)}
    with torch.no_grad():
        logits = model(images[:4].clone())
        kept = {
            name: copied.eval().requires_grad_(False)
            for name, copied in made.items()
            if copied is not None and _is_same(copied(images[:4].clone()), logits)
        }
    if not kept:
        raise ModelError(
            "this model can be written in no other way: it has neither a linear layer as a module nor a batch-norm "
            "right after a convolution; leave implementation_invariance out."
        )
    return kept


def _is_same(logits: Tensor, expected: Tensor) -> bool:
    return bool((logits - expected).abs().max() <= LARGEST_DIFFERENCE * expected.abs().max().clamp(min=1e-12))


def _folded(model: nn.Module) -> nn.Module | None:
    """Every batch-norm that is listed right after a convolution or linear layer, folded into it."""
    copied, count = copy.deepcopy(model).eval(), 0
    for parent in list(copied.modules()):
        children = list(parent.named_children())
        for (name, layer), (after, norm) in pairwise(children):
            if not isinstance(norm, nn.modules.batchnorm._BatchNorm) or norm.running_mean is None:
                continue
            if isinstance(layer, nn.Linear):
                fused: nn.Module = fuse_linear_bn_eval(layer, norm)
            elif isinstance(layer, nn.modules.conv._ConvNd):
                fused = fuse_conv_bn_eval(layer, norm, transpose=layer.transposed)
            else:
                continue
            setattr(parent, name, fused)
            setattr(parent, after, nn.Identity())
            count += 1
    return copied if count else None


def _split(model: nn.Module, seed: int) -> nn.Module | None:
    """The last linear layer W as Q (QᵀW), with an orthogonal matrix Q."""
    copied = copy.deepcopy(model)
    found = [
        (parent, name, child)
        for parent in copied.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear
    ]
    if not found:
        return None
    parent, name, layer = found[-1]
    weight = layer.weight.detach().double().cpu()
    shape, draws = (len(weight), len(weight)), generator(seed, "split")
    drawn = torch.randn(shape, generator=draws, dtype=torch.float64, device="cpu")
    turn = torch.linalg.qr(drawn).Q
    like = {"dtype": layer.weight.dtype, "device": layer.weight.device}
    first = nn.Linear(layer.in_features, layer.out_features, bias=False, **like)
    second = nn.Linear(layer.out_features, layer.out_features, bias=layer.bias is not None, **like)
    with torch.no_grad():
        first.weight.copy_(turn.T @ weight)
        second.weight.copy_(turn)
        if layer.bias is not None:
            second.bias.copy_(layer.bias)
    setattr(parent, name, nn.Sequential(first, second))
    return copied
