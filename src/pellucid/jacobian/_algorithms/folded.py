"""Several cotangents in one backward pass: fewer, larger operations, for networks so small that calling them costs."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from warnings import catch_warnings, simplefilter, warn_explicit

import torch
from torch import Tensor

from pellucid.jacobian._algorithms._part import Part, gradients
from pellucid.jacobian._algorithms.loop import loop
from pellucid.jacobian._plan import Plan

__all__ = ["folded", "pays_folded"]

FEWEST = 3
"""Fewer passes than these cost less one by one."""
FOLDED_BYTES = 10_000_000
"""The largest folded tensor for which folding pays: beyond, operations are slower than the calls they save."""


def pays_folded(plan: Plan) -> bool:
    """Where calling costs more than computing: a small network, few images, and several outputs to fold."""
    size = plan.chunk * len(plan.wanted) * plan.layout.largest
    is_foldable = plan.layout.is_foldable and not _is_each_checked()
    return is_foldable and len(plan.wanted) >= FEWEST and size <= FOLDED_BYTES


def folded(part: Part) -> int:
    """All of J's rows at once, the cotangents stacked along a further axis; in groups where that would be large."""
    if _is_each_checked():
        return loop(part)
    flat, wanted = part.run(), part.plan.wanted
    size = max(1, FOLDED_BYTES // max(1, len(flat) * part.plan.layout.largest))
    units = torch.eye(flat.shape[1], dtype=flat.dtype, device=flat.device)
    if part.plan.problem.indices is not None:
        units = units[list(wanted)]
    cotangents = units.unsqueeze(1).expand(-1, len(flat), -1)
    with nullcontext() if part.plan.is_quiet else _silenced(part.plan):
        if part.targets is None and size >= len(wanted):
            part.targets = tuple(_group(part, flat, cotangents, is_last=True))
            return len(wanted)
        for start in range(0, len(wanted), size):
            found = _group(part, flat, cotangents[start : start + size])
            for rows, gradient in zip(part.rows, found, strict=True):
                rows[:, start : start + size] = gradient
    return len(wanted)


def _is_each_checked() -> bool:
    """True if autograd looks for NaN after each operation, which torch cannot do with a further axis of cotangents."""
    return torch.is_anomaly_enabled() and torch.is_anomaly_check_nan_enabled()


@contextmanager
def _silenced(plan: Plan) -> Iterator[None]:
    """No word that an operation has no batched form, which is slower and right; notes on the plan if there was none."""
    with catch_warnings(record=True) as told:
        simplefilter("always")
        yield
    plan.is_quiet = not told
    for warning in told:
        if not issubclass(warning.category, UserWarning):
            warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def _group(part: Part, flat: Tensor, cotangents: Tensor, *, is_last: bool = False) -> Iterator[Tensor]:
    """For each differentiated input the rows (batch, cotangent, *inputs)."""
    found = gradients(flat, part.differentiated, cotangents, folded=True, is_last=is_last)
    for leaf, gradient in zip(part.differentiated, found, strict=True):
        rows = leaf.new_zeros(len(cotangents), *leaf.shape) if gradient is None else gradient
        yield rows.movedim(0, 1)
