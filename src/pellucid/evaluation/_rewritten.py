"""Rewrite a model as an equivalent one."""

import copy
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from pellucid.core.errors import ModelError
from pellucid.core.seeding import generator
from pellucid.engine.wrapping import fixed, set_eval

__all__ = ["rewritings"]

LARGEST_DIFFERENCE = 1e-4
"""Largest difference of the logits, relative to the largest logit, that is attributed to float32 rounding."""


def rewritings(model: nn.Module, images: Tensor, seed: int) -> dict[str, nn.Module]:
    """Return equivalent copies of a model (in eval mode): with `folded` batch norms, and with a `split` linear layer.

    Rewritings that do not apply or that change the logits (because a batch norm does not follow the layer listed before
    it) are omitted. Raises `ModelError` if none remains.
    """
    copies = {"folded": _folded(model), "split": _split(model, seed)}
    with torch.no_grad():
        # cloned, because a model may modify its input in place
        logits = model(images[:4].clone())
        kept = {
            name: fixed(copied)
            for name, copied in copies.items()
            if copied is not None and _is_same(copied(images[:4].clone()), logits)
        }
    if not kept:
        raise ModelError(
            "this model cannot be rewritten: it has neither an nn.Linear module nor a batch norm right after a "
            "convolution; omit implementation_invariance."
        )
    return kept


def _is_same(logits: Tensor, expected: Tensor) -> bool:
    return bool((logits - expected).abs().max() <= LARGEST_DIFFERENCE * expected.abs().max().clamp(min=1e-12))


def _folded(model: nn.Module) -> nn.Module | None:
    """Fold every batch norm that is listed right after a convolution or linear layer into that layer."""
    # the fusion functions require eval mode
    copied, count = set_eval(copy.deepcopy(model)), 0
    # a list, because the loop replaces modules
    for parent in list(copied.modules()):
        children = list(parent.named_children())
        for (name, layer), (after, norm) in pairwise(children):
            # without running statistics, a batch norm is no affine map
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
    """Split the last linear layer W into Q (QᵀW), with an orthogonal matrix Q."""
    copied = copy.deepcopy(model)
    layers = [
        (parent, name, child)
        for parent in copied.modules()
        for name, child in parent.named_children()
        # no subclasses: nn.MultiheadAttention, for example, reads the weight of its output layer without calling it
        if type(child) is nn.Linear
    ]
    if not layers:
        return None
    parent, name, layer = layers[-1]
    # in float64, so that only the final conversion rounds
    weight = layer.weight.detach().double().cpu()
    shape, draws = (len(weight), len(weight)), generator(seed, "split")
    drawn = torch.randn(shape, generator=draws, dtype=torch.float64, device="cpu")
    # the Q of a Gaussian matrix is a random orthogonal matrix
    rotation = torch.linalg.qr(drawn).Q
    like = {"dtype": layer.weight.dtype, "device": layer.weight.device}
    first = nn.Linear(layer.in_features, layer.out_features, bias=False, **like)
    second = nn.Linear(layer.out_features, layer.out_features, bias=layer.bias is not None, **like)
    with torch.no_grad():
        first.weight.copy_(rotation.T @ weight)
        second.weight.copy_(rotation)
        if layer.bias is not None:
            second.bias.copy_(layer.bias)
    setattr(parent, name, nn.Sequential(first, second))
    return copied
