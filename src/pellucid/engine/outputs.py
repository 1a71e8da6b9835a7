"""Choose the logits among a model's outputs, check their shape, and refuse a final softmax."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pellucid.core.errors import ConfigError, ShapeError, UnsupportedOperation

__all__ = ["SOFTMAX_AT_THE_END", "Chooser", "Readout", "check_logits", "choose_output"]

Chooser = int | str | Callable[[Any], Tensor] | None
"""Selects the logits: an index, a key or field, or a function of the outputs; None for a single output."""


@dataclass(frozen=True)
class Readout:
    """The explained part of a model's outputs."""

    output: Chooser = None
    unwrap_softmax: bool = False
    """Explain the logits before a final softmax; False: such a model is refused."""
    is_certified: bool = False
    """Keep an account of the relevance that biases, stabilizers and constants absorb."""


SOFTMAX_AT_THE_END = (
    "the model ends in a softmax; its outputs depend on one another and say little about the evidence for a class. "
    "Pass unwrap_softmax=True to explain the logits before it, or pass the model without the softmax."
)
"""The error message for a model that ends in a softmax."""


def choose_output(outputs: Any, chooser: Chooser) -> Tensor:
    """Return the logits among a model's outputs; raises `ConfigError` if they cannot be identified."""
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
        f"the model returns a {type(chosen).__name__}, so it is unclear which output holds the logits; "
        "select them with output=0 (an index), output='logits' (a key or field) or output=function."
    )


def check_logits(logits: Tensor, images: Tensor) -> None:
    """Raise `ShapeError` unless the outputs are one number, one row or one array per image."""
    if logits.ndim == 0 or len(logits) != len(images):
        raise ShapeError(
            f"the model returns shape {tuple(logits.shape)} for {len(images)} images; expected outputs for each image, "
            "(batch, class) or (batch, …). Select or reshape them with output=function."
        )


def refuse_softmax(*, behind: str = "") -> None:
    """Raise the error for a final softmax, or for one that is followed only by the operation `behind`."""
    if behind:
        raise UnsupportedOperation(
            f"the model ends in a softmax followed by {behind}, so the explanation would be of probabilities, which "
            "depend on one another; pass the model without these operations, or select the logits with output=…."
        )
    raise UnsupportedOperation(SOFTMAX_AT_THE_END)
