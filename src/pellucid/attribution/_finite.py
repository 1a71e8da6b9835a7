"""Diagnosis of NaN and infinities in logits, scores and maps: errors name the first affected image and the cause."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pellucid.attribution._explanation import Outcome
from pellucid.attribution._target import Target
from pellucid.core.errors import ConfigError, ModelError
from pellucid.core.finite import bad_value, first_bad_row

if TYPE_CHECKING:
    from pellucid.attribution._method import Attribution

__all__ = ["check_finite_logits", "check_outcome"]


def check_finite_logits(
    logits: Tensor, targets: Sequence[Target] = (), *, model: nn.Module, what: str = "image", first: int = 0
) -> None:
    """Raise `ModelError` for the first image whose logits or explained score contain NaN or infinities.

    −∞ is allowed for classes that are not explained, since models mask classes that way. A custom score that is not
    finite raises `ConfigError`.
    """
    has_custom_score = any(target.score is not None for target in targets)
    if first_bad_row(logits) is None and not has_custom_score:
        return
    flat = logits.detach().reshape(len(logits), -1)
    # -inf marks masked classes; a score that reads one is caught below.
    is_bad = flat.isnan() | (flat == torch.inf)
    is_bad_row = is_bad.any(1)
    for target in targets:
        is_bad_row = is_bad_row | ~target.scores(logits).detach().isfinite()
    if not bool(is_bad_row.any()):
        return
    row = int(is_bad_row.nonzero()[0])
    # With finite logits, the user's own function is at fault, not the model.
    if has_custom_score and not bool(is_bad[row].any()):
        raise ConfigError(
            f"the target function's score of {what} {first + row} is not finite, although its logits are not NaN; "
            "return a finite number for every image."
        )
    raise ModelError(
        f"the model's logits for {what} {first + row} hold {bad_value(logits[row])}; logits must be finite, except for "
        f"-inf at classes that are not explained. {_culprit(model)}"
    )


def _culprit(model: nn.Module) -> str:
    """Likely cause of logits that are not finite, with a remedy."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point() and first_bad_row(tensor.detach().reshape(1, -1)) is not None:
            return f"The model's own {name!r} is not finite; retrain the model, or load other weights."
    return (
        "The input and the weights are finite, so the forward pass overflows or divides by zero; check the scale of "
        "the inputs, or compute in float64."
    )


_REASONS = {
    "gradient": "the derivative is infinite or undefined there, like that of a square root or a norm at zero; add a "
    "small constant under the root, or choose a method without derivatives, such as 'occlusion'",
    "perturbation": "the model's output is not finite for a perturbed copy of the image; choose another baseline",
    "relevance": "a rule overflows or divides by zero in the backward pass; compute in float64, or choose rules with a "
    "larger epsilon",
}
_REASONS |= {"class_activation": _REASONS["gradient"], "backward": _REASONS["relevance"]}
"""Likely cause of NaN or infinities in a map of finite images and logits, by family of methods."""


def check_outcome(outcome: Outcome, method: "Attribution", name: str, *, what: str = "image", first: int = 0) -> None:
    """Raise `ModelError` for the first image whose map or promised sum is not finite.

    Call this only after images and logits were found finite.
    """
    # The promised sum is the change from the baseline; the image's own logits are known to be finite.
    if outcome.promised is not None and hasattr(method, "baseline"):
        row = first_bad_row(outcome.promised)
        if row is not None:
            raise ModelError(
                f"{name}: the model's output at the baseline of {what} {first + row} is not finite; choose another "
                "baseline."
            )
    row = first_bad_row(outcome.relevance)
    if row is not None:
        reason = _REASONS.get(method.family, "the method itself produces it from a finite input")
        value = bad_value(outcome.relevance[row])
        raise ModelError(
            f"{name}: the map of {what} {first + row} holds {value}, although the input and its logits are finite: "
            f"{reason}."
        )
