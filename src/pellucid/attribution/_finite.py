"""NaN and infinities in images, logits, scores and maps: an error that names the first image, for every method."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pellucid.attribution._explanation import Outcome
from pellucid.attribution._target import Target
from pellucid.core.errors import ConfigError, DataError, ModelError
from pellucid.core.finite import bad_value, first_bad_row

if TYPE_CHECKING:
    from pellucid.attribution._method import Attribution

__all__ = ["check_finite_logits", "check_inputs", "check_outcome"]


def check_inputs(x: Tensor, what: str = "image", first: int = 0) -> None:
    """Raise `DataError` for the first input that holds NaN or an infinity; `first` is the index of x[0]."""
    row = first_bad_row(x)
    if row is not None:
        raise DataError(
            f"{what} {first + row} holds {bad_value(x[row])}; every input must be finite. "
            "Replace the value, or leave the input out."
        )


def check_finite_logits(
    logits: Tensor, targets: Sequence[Target] = (), *, model: nn.Module, what: str = "image", first: int = 0
) -> None:
    """Raise `ModelError` for the first image whose logits or explained score are not finite.

    −∞ is let through for classes that are not explained: a model may rule out a class so. A score of the user's own
    raises `ConfigError`.
    """
    has_own_score = any(target.score is not None for target in targets)
    if first_bad_row(logits) is None and not has_own_score:
        return
    flat = logits.detach().reshape(len(logits), -1)
    is_bad = flat.isnan() | (flat == torch.inf)
    wrong = is_bad.any(1)
    for target in targets:
        wrong = wrong | ~target.scores(logits).detach().isfinite()
    if not bool(wrong.any()):
        return
    row = int(wrong.nonzero()[0])
    if has_own_score and not bool(is_bad[row].any()):
        raise ConfigError(
            f"the target function's score of {what} {first + row} is not finite, although its logits hold no NaN; "
            "return a finite number for every image."
        )
    raise ModelError(
        f"the model's logits for {what} {first + row} hold {bad_value(logits[row])}; logits must be finite, except for "
        f"-inf at classes that are not explained. {_culprit(model)}"
    )


def _culprit(model: nn.Module) -> str:
    """The likely reason for logits that are not finite."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point() and first_bad_row(tensor.detach().reshape(1, -1)) is not None:
            return f"The model's own {name!r} is not finite; train it anew, or load other weights."
    return (
        "The input and the weights are finite, so the model overflows or divides by zero on the way; check the scale "
        "of the inputs, or compute in float64."
    )


_REASONS = {
    "gradient": "the derivative is infinite or undefined there, as that of a square root or a norm is at zero; add a "
    "small constant under the root, or choose a method without derivatives, such as 'occlusion'",
    "perturbation": "the model's output is not finite for a changed copy of the image; choose another baseline",
    "relevance": "a rule overflows or divides by zero on the way back; compute in float64, or choose rules with a "
    "larger epsilon",
}
_REASONS |= {"class_activation": _REASONS["gradient"], "backward": _REASONS["relevance"]}
"""Why a map is not finite although images and logits are, by family of methods."""


def check_outcome(outcome: Outcome, method: "Attribution", name: str, *, what: str = "image", first: int = 0) -> None:
    """Raise `ModelError` for the first image whose map, or the sum promised for it, is not finite.

    To be asked once images and logits have been found finite.
    """
    if outcome.promised is not None and hasattr(method, "baseline"):
        row = first_bad_row(outcome.promised)
        if row is not None:
            raise ModelError(
                f"{name}: the model's output at the baseline of {what} {first + row} is not finite; choose another "
                "baseline."
            )
    row = first_bad_row(outcome.relevance)
    if row is not None:
        reason = _REASONS.get(method.family, "the method computes it so for a finite input")
        found = bad_value(outcome.relevance[row])
        raise ModelError(
            f"{name}: the map of {what} {first + row} holds {found}, although the input and its logits are finite: "
            f"{reason}."
        )
