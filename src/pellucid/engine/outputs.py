"""Which of a model's outputs is explained, and what stands before a softmax at its end."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from pellucid.core.errors import ConfigError, ShapeError, UnsupportedOperation

__all__ = ["SOFTMAX_AT_THE_END", "Chooser", "check_logits", "choose_output"]

Chooser = int | str | Callable[[Any], Tensor] | None
"""Which output holds the logits: a place, a key or field, a function of the outputs; None for the only one."""

SOFTMAX_AT_THE_END = (
    "the model ends in a softmax, whose outputs compete with one another and say little of what speaks for a class; "
    "pass unwrap_softmax=True to explain the logits before it, or hand over the model without the softmax."
)
"""What a user reads whose model ends in a softmax."""


def choose_output(outputs: Any, chooser: Chooser) -> Tensor:
    """The logits among a model's outputs; `ConfigError` where they cannot be told."""
    if callable(chooser):
        chosen = chooser(outputs)
    elif isinstance(chooser, str) and not isinstance(outputs, Mapping):
        chosen = getattr(outputs, chooser)
    elif chooser is not None:
        chosen = outputs[chooser]
    else:
        chosen = outputs
    if isinstance(chosen, Tensor):
        return chosen
    raise ConfigError(
        f"the model returns a {type(chosen).__name__}, and the logits in it cannot be told; "
        "name them with output=0 (a place), output='logits' (a key or field) or output=function."
    )


def check_logits(logits: Tensor, images: Tensor) -> None:
    """`ShapeError` unless the outputs are one number, one row or one array per image."""
    if logits.ndim == 0 or len(logits) != len(images):
        raise ShapeError(
            f"the model returns {tuple(logits.shape)} for {len(images)} images; expected outputs for each image, "
            "(batch, class) or (batch, …). Choose or reshape them with output=function."
        )


def refuse_softmax(*, behind: str = "") -> None:
    """Raise the error for a softmax at the end, or for one that stands before the operation `behind`."""
    if behind:
        raise UnsupportedOperation(
            f"the model ends in a softmax and, behind it, {behind}, so that probabilities would be explained, which "
            "compete with one another; hand over the model without them, or choose the logits with output=…."
        )
    raise UnsupportedOperation(SOFTMAX_AT_THE_END)
