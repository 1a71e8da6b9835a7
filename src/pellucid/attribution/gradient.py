"""The gradient of a logit with respect to every pixel."""

import torch
from torch import Tensor, nn

from pellucid.core.errors import ModelError, ShapeError
from pellucid.core.types import Images, Targets
from pellucid.engine.chunks import images_per_chunk
from pellucid.engine.freezing import dtype_of, frozen

__all__ = ["gradient"]


def gradient(model: nn.Module, images: Images, targets: Targets) -> Images:
    """The derivative of each image's target logit with respect to each of its pixels, like `images`.

    Computed in the model's dtype, in eval mode, some images at a time; images and model are left as they came. Unit:
    logit per unit of pixel. Simonyan et al., *Deep Inside Convolutional Networks*, 2014.

    Raises `ShapeError` for targets that do not fit images or logits, and `ModelError` where the logits carry no
    gradient to the images.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    >>> images = torch.rand(2, 1, 2, 2)
    >>> relevance = gradient(model, images, torch.tensor([0, 2]))
    >>> torch.equal(relevance[1].flatten(), model[1].weight[2])
    True
    """
    if len(targets) != len(images):
        raise ShapeError(
            f"targets has {len(targets)} entries for {len(images)} images; "
            "pass one class index per image, e.g. logits.argmax(1)."
        )
    with frozen(model), torch.inference_mode(False), torch.enable_grad():
        inputs = images.detach().to(dtype_of(model), copy=True)
        result, chunk = torch.empty_like(images), images_per_chunk(model, inputs)
        for start in range(0, len(images), chunk):
            here = slice(start, start + chunk)
            result[here] = _chunk_gradient(model, inputs[here], targets[here].to(images.device))
    return result


def _chunk_gradient(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    leaf = images.detach().requires_grad_()
    logits = model(leaf.clone())  # a copy, since the model may work in place
    if logits.ndim != 2 or len(logits) != len(images) or int(targets.max()) >= logits.shape[1] or targets.min() < 0:
        raise ShapeError(
            f"the model returned {tuple(logits.shape)} for {len(images)} images and targets from {int(targets.min())} "
            f"to {int(targets.max())}; it should return (batch, class) logits with every target among the classes."
        )
    if not logits.requires_grad:
        raise ModelError("the logits carry no gradient to the images; the model must not detach or use no_grad.")
    (result,) = torch.autograd.grad(logits.gather(1, targets[:, None]).sum(), leaf)
    return result
