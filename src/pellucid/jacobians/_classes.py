"""Gradients of all classes, from a forward pass that the caller has run."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pellucid.core.seeding import generator
from pellucid.engine.derivatives import derivatives
from pellucid.jacobians._algorithms.native import LEAST_WORK, TOLERANCE, seconds_without
from pellucid.jacobians._native.build import library_for
from pellucid.jacobians._native.graph import widest_span
from pellucid.jacobians._native.program import Packed
from pellucid.jacobians._native.run import run_kernel

__all__ = ["class_gradients"]

LARGEST_BYTES = 50_000_000
"""Maximum size of the gradients that the native kernel returns at once."""
FEWEST = 4
"""Minimum number of classes at once for which the native kernel pays off."""


def class_gradients(
    logits: Tensor, leaf: Tensor, way_out: str, agreements: dict[tuple[Any, ...], bool]
) -> Iterator[Tensor]:
    """Yield the gradient (batch, …) of each column of `logits` (batch, class) with respect to `leaf` (batch, …).

    The native kernel computes them at once where it supports the whole network; otherwise, each takes a backward pass.
    The images must not depend on each other. The graph of the logits cannot be used again. Raises
    `UnsupportedOperation`, ending in `way_out`, if an operation has no derivative.

    `agreements` belongs to the model. It holds for each kind of input whether the kernel agrees with autograd, which is
    found out at the first call. They would differ for hooks on nodes, which cannot be seen from outside.
    """
    kind = (leaf.shape[1:], leaf.dtype, logits.shape[1])
    groups = _native(logits, leaf) if agreements.get(kind, True) else None
    for rows in groups or ():
        if kind not in agreements:
            agreements[kind] = _agrees(rows, logits, leaf, way_out)
        if not agreements[kind]:
            groups = None
            break
        yield from rows.unbind(1)
    if groups is None:
        yield from _one_by_one(logits, leaf, way_out)


def _agrees(rows: Tensor, logits: Tensor, leaf: Tensor, way_out: str) -> bool:
    r"""Compare \(u^T J\) with autograd's, for a random u, from the rows (batch, class, …) of the first classes."""
    classes = rows.shape[1]
    weights = torch.randn(classes, generator=generator(0, "native"), dtype=torch.float64, device="cpu").to(logits)
    cotangent = logits.new_zeros(logits.shape)
    cotangent[:, :classes] = weights
    (expected,) = derivatives(logits, [leaf], cotangent, way_out=way_out, retain_graph=True)
    assert expected is not None
    error, scale = float((torch.tensordot(weights, rows, ([0], [1])) - expected).norm()), float(expected.norm())
    # not finite: an error that the comparison must not hide, and which is reported later
    return error <= TOLERANCE[logits.dtype] * scale or not math.isfinite(scale)


def _one_by_one(logits: Tensor, leaf: Tensor, way_out: str) -> Iterator[Tensor]:
    """Yield the gradients by one backward pass each; the last one frees the graph."""
    last = logits.shape[1] - 1
    for index in range(last + 1):
        # a new tensor for each class, because it can be the gradient itself, for a model that only reshapes
        cotangent = logits.new_zeros(logits.shape)
        cotangent[:, index] = 1  # for all images at once
        (gradient,) = derivatives(logits, [leaf], cotangent, way_out=way_out, retain_graph=index < last)
        assert gradient is not None
        yield gradient


def _native(logits: Tensor, leaf: Tensor) -> Iterator[Tensor] | None:
    """Return an iterator of the rows (batch, class, …) of groups of classes; None if the kernel does not apply."""
    classes = logits.shape[1]
    size = min(classes, LARGEST_BYTES // (leaf.numel() * leaf.element_size()))
    is_known = leaf.device.type == "cpu" and logits.dtype == leaf.dtype in (torch.float32, torch.float64)
    if size < FEWEST or not is_known or torch.is_anomaly_enabled():
        return None
    span, _ = widest_span(logits, leaf)
    if span is None or not span.is_whole or span.work < LEAST_WORK:
        return None
    library = library_for(seconds_without(len(leaf), span.work, classes))
    if library is None:
        return None
    parts = [range(start, min(start + size, classes)) for start in range(0, classes, size)]
    packed: Packed = {}  # weights as rearranged for the kernel, shared by the groups

    def rows_of(wanted: range) -> Tensor:
        rows = leaf.new_empty((len(leaf), len(wanted), *leaf.shape[1:]))
        run_kernel(library, span, leaf, rows, wanted, packed)
        return rows

    return map(rows_of, parts)
