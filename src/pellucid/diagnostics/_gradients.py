"""Gradients of the margin or loss of individual images with respect to the parameters, by `torch.func`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from pellucid.core.errors import ConfigError, ModelError, ShapeError
from pellucid.core.options import Range, check_argument
from pellucid.engine.model import device_of, dtype_of

__all__ = ["Explained", "Gradients", "Objective", "Weights", "as_floats", "last_parameters"]

Objective = Literal["margin", "loss"]
"""`margin`: log(p / (1 − p)) for the probability p of the label. `loss`: the cross-entropy, −log p, in nats."""
Explained = UInt8[Tensor, "batch channel height width"] | Float[Tensor, "batch channel height width"]
"""Images to explain: like `Pixels`, but with another number of images."""
Weights = Mapping[str, Tensor]
"""A checkpoint: parameters and buffers by name, as in `model.state_dict()`."""

GRADIENT_VALUES = 4_000_000
"""Approximate number of gradient values per batch: larger batches leave the processor's cache and are slower."""
PIXEL_VALUES = 1_600_000
"""Approximate number of pixels per batch, which bounds the memory of the feature maps."""
MOST_IMAGES = 128
"""Maximum number of images per batch."""


@dataclass(frozen=True, eq=False)
class Gradients:
    """Per-sample gradients of one checkpoint. Use it while the model is frozen."""

    model: nn.Module
    weights: Weights
    names: tuple[str, ...]
    """Parameters with respect to which to differentiate."""

    @classmethod
    def of(cls, model: nn.Module, weights: Weights, names: Sequence[str] | None = None) -> "Gradients":
        """Check the checkpoint and the names (default: all floating-point parameters).

        Raises `ModelError` if names or shapes differ from the model's.
        """
        own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        _check_names(model, own, weights)
        floating = [name for name, value in model.named_parameters() if value.is_floating_point()]
        for name in names or ():
            if name not in floating:
                raise ModelError(f"the model has no parameter {name!r}; its parameters are {', '.join(floating[:20])}.")
        chosen = tuple(floating if names is None else dict.fromkeys(names))
        if names is not None and not chosen:
            raise ConfigError("parameters is empty; pass at least one name, or None for all.")
        if not chosen:
            raise ModelError("the model has no parameters, so no training image can influence it.")
        placed = {name: weights.get(name, value).detach().to(value.device, value.dtype) for name, value in own.items()}
        return cls(model, placed, chosen)

    @property
    def parameters(self) -> int:
        """Number of parameters, the length of a gradient."""
        return sum(self.weights[name].numel() for name in self.names)

    def batches(
        self, images: Tensor, labels: Tensor, objective: Objective, batch_size: int | None = None
    ) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Yield the places of some images with their gradients (image, parameter) and logits (image, class).

        Images are floats as the model takes them, or bytes, which are divided by 255. Raises `ShapeError` for fewer
        than two classes or labels that are no class, and `ModelError` if a gradient is not finite.
        """
        device, dtype = device_of(self.model), dtype_of(self.model)
        inside = {name: self.weights[name] for name in self.names}
        fitting = min(MOST_IMAGES, GRADIENT_VALUES // self.parameters, PIXEL_VALUES // images[:1].numel())
        check_argument("tracin and trak", "batch_size", batch_size, Annotated[int, Range(1)] | None)
        size = max(1, fitting) if batch_size is None else batch_size
        differentiate = self._function(objective)
        for start in range(0, len(images), size):
            part = slice(start, min(start + size, len(images)))
            inputs = as_floats(images[part].detach()).to(device, dtype)
            logits = self._logits(inputs)
            _check_labels(labels[part], logits)
            one_hot = F.one_hot(labels[part].to(device), logits.shape[1]).to(dtype)
            each = differentiate(inside, inputs, one_hot)
            gradients = torch.cat([each[name].reshape(len(inputs), -1) for name in self.names], 1)
            if not torch.isfinite(gradients).all():
                bad = int((~torch.isfinite(gradients).all(1)).nonzero()[0]) + start
                raise ModelError(f"the gradient of image {bad} is not finite; check the checkpoint and the image.")
            yield part, gradients, logits

    def _logits(self, inputs: Tensor) -> Tensor:
        with torch.no_grad():
            logits = functional_call(self.model, dict(self.weights), (inputs,))
        if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] < 2:
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ShapeError(f"the model returns {shape} for {len(inputs)} images; expected logits (image, class ≥ 2).")
        return logits

    def _function(self, objective: Objective) -> Callable[..., dict[str, Tensor]]:
        value = margin_of if objective == "margin" else loss_of

        def objective_of(parameters: Weights, image: Tensor, one_hot: Tensor) -> Tensor:
            logits = functional_call(self.model, {**self.weights, **parameters}, (image[None],))
            return value(logits, one_hot[None])[0]

        each = vmap(grad(objective_of), in_dims=(None, 0, 0))

        def differentiate(parameters: Weights, images: Tensor, one_hot: Tensor) -> dict[str, Tensor]:
            try:
                return each(parameters, images, one_hot)
            except RuntimeError as error:
                if "vmap" not in str(error):
                    raise
                raise ModelError(
                    f"torch.func.vmap cannot differentiate this model image by image: {error}. Replace control flow "
                    "that depends on values, in-place changes of new tensors and random numbers in the forward pass."
                ) from error

        return differentiate


def as_floats(images: Tensor) -> Tensor:
    """Return images as the model takes them: bytes are divided by 255, and floats are unchanged.

    >>> as_floats(torch.tensor([51], dtype=torch.uint8))
    tensor([0.2000])
    """
    return images.to(torch.float32) / 255 if images.dtype == torch.uint8 else images


def margin_of(logits: Tensor, one_hot: Tensor) -> Tensor:
    """Return log(p / (1 − p)) for the probability p of each label: its logit minus the log-sum-exp of the others.

    >>> margin_of(torch.tensor([[2.0, 0.5]]), torch.tensor([[1.0, 0.0]]))
    tensor([1.5000])
    """
    is_label = one_hot > 0
    return (logits * one_hot).sum(1) - logits.masked_fill(is_label, -torch.inf).logsumexp(1)


def loss_of(logits: Tensor, one_hot: Tensor) -> Tensor:
    """Return the cross-entropy −log p for the probability p of each label, in nats.

    >>> loss_of(torch.zeros(1, 4), torch.tensor([[0.0, 1.0, 0.0, 0.0]])).exp()
    tensor([4.])
    """
    return -(logits.log_softmax(1) * one_hot).sum(1)


def last_parameters(model: nn.Module, at_most: int) -> list[str] | None:
    """Return the names of the last parameter tensors with at most `at_most` values, or the last one; None for all.

    >>> last_parameters(nn.Sequential(nn.Linear(10, 5), nn.Linear(5, 2)), 12)
    ['1.weight', '1.bias']
    """
    sizes = [(name, value.numel()) for name, value in model.named_parameters() if value.is_floating_point()]
    if sum(size for _, size in sizes) <= at_most:
        return None
    names: list[str] = []
    total = 0
    for name, size in reversed(sizes):
        if names and total + size > at_most:
            break
        names, total = [name, *names], total + size
    return names


def _check_names(model: nn.Module, own: Weights, weights: Weights) -> None:
    stored = {name for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    missing = sorted(stored - set(weights))
    # a buffer that is not persistent is missing from checkpoints, and the model's own is used
    unknown = sorted(set(weights) - stored - set(own))
    wrong = [name for name, value in own.items() if name in weights and weights[name].shape != value.shape]
    for names, text in ((missing, "lacks"), (unknown, "holds unknown tensors"), (wrong, "has other shapes for")):
        if names:
            raise ModelError(f"the checkpoint {text} {', '.join(names[:5])}; pass model.state_dict() of this model.")


def _check_labels(labels: Tensor, logits: Tensor) -> None:
    if len(labels) and not bool(((labels >= 0) & (labels < logits.shape[1])).all()):
        raise ShapeError(
            f"labels and targets are class indices below {logits.shape[1]}, got {int(labels.min())} to "
            f"{int(labels.max())}."
        )
