"""Several cotangents per backward pass: fewer and larger operations, for small networks dominated by call overhead."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from warnings import catch_warnings, simplefilter, warn_explicit

import torch
from torch import Tensor

from pellucid.jacobians._algorithms._part import Part, gradients
from pellucid.jacobians._algorithms.loop import loop
from pellucid.jacobians._plan import Plan

__all__ = ["folded", "pays_folded"]

FEWEST = 3
"""Minimum number of outputs for which folding pays off."""
FOLDED_BYTES = 10_000_000
"""Maximum size of a folded tensor. Larger operations cost more time than the saved calls."""


def pays_folded(plan: Plan) -> bool:
    """Return True for a small network, few images and several outputs, where call overhead dominates."""
    size = plan.chunk * len(plan.wanted) * plan.layout.largest
    is_foldable = plan.layout.is_foldable and not _checks_for_nan()
    return is_foldable and len(plan.wanted) >= FEWEST and size <= FOLDED_BYTES


def folded(part: Part) -> int:
    """Compute all rows of J at once, with the cotangents stacked along an extra axis; in groups if too large."""
    if _checks_for_nan():
        return loop(part)
    flat, wanted = part.run(), part.plan.wanted
    size = max(1, FOLDED_BYTES // max(1, len(flat) * part.plan.layout.largest))
    units = torch.eye(flat.shape[1], dtype=flat.dtype, device=flat.device)
    if part.plan.problem.indices is not None:
        units = units[list(wanted)]
    # every image gets the same cotangent; since images do not affect each other, each gradient stays within its image
    cotangents = units.unsqueeze(1).expand(-1, len(flat), -1)
    with nullcontext() if part.plan.is_quiet else _without_batching_warnings(part.plan):
        # a single group covers a whole batch: its gradients become the rows without a copy
        if part.targets is None and size >= len(wanted):
            part.targets = tuple(_group(part, flat, cotangents, is_last=True))
            return len(wanted)
        for start in range(0, len(wanted), size):
            groups = _group(part, flat, cotangents[start : start + size])
            for rows, gradient in zip(part.rows, groups, strict=True):
                rows[:, start : start + size] = gradient
    return len(wanted)


def _checks_for_nan() -> bool:
    """Return True if anomaly detection checks for NaN, which torch does not support with batched cotangents."""
    return torch.is_anomaly_enabled() and torch.is_anomaly_check_nan_enabled()


@contextmanager
def _without_batching_warnings(plan: Plan) -> Iterator[None]:
    """Suppress warnings about missing batching rules, which affect only speed, and record if there were any."""
    with catch_warnings(record=True) as caught:
        simplefilter("always")
        yield
    plan.is_quiet = not caught
    for warning in caught:  # torch's are plain UserWarnings; pass all others on
        if not issubclass(warning.category, UserWarning):
            warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def _group(part: Part, flat: Tensor, cotangents: Tensor, *, is_last: bool = False) -> Iterator[Tensor]:
    """Yield the rows (batch, cotangent, *inputs) for each differentiated input."""
    folded_gradients = gradients(flat, part.differentiated, cotangents, folded=True, is_last=is_last)
    for leaf, gradient in zip(part.differentiated, folded_gradients, strict=True):
        rows = leaf.new_zeros(len(cotangents), *leaf.shape) if gradient is None else gradient
        yield rows.movedim(0, 1)
