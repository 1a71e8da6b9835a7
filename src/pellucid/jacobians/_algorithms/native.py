"""The native kernel: all cotangents in one pass, over active positions only, for most of the network or all of it."""

import math
from contextlib import suppress
from ctypes import CDLL
from dataclasses import replace

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from pellucid.core.errors import UnsupportedOperation
from pellucid.core.seeding import generator
from pellucid.jacobians._algorithms._part import Part, gradients
from pellucid.jacobians._algorithms.loop import loop
from pellucid.jacobians._graph import Point
from pellucid.jacobians._native.build import build_native, library_for
from pellucid.jacobians._native.graph import Span, widest_span
from pellucid.jacobians._native.job import images_expected
from pellucid.jacobians._native.run import run_kernel
from pellucid.jacobians._native.values import Unsupported
from pellucid.jacobians._plan import NativeShare, Plan

__all__ = ["native", "pays_native", "prepare_native", "seconds_without"]

FEWEST = 2
"""Minimum number of outputs for which the kernel pays off."""
LEAST_WORK = 20_000
"""Minimum number of multiplications per image. Below it, the layers are so narrow that bookkeeping costs more."""
LEAST_DENSE_WORK = 5_000_000
"""Minimum number of multiplications of a job without convolutions, for which folding takes half a millisecond."""
MOST_DEPTHWISE_AREA = 25
"""Depthwise convolutions with kernels of this size or more are up to twice as fast in torch."""
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-8}
"""Relative error from which a result of the kernel counts as different from autograd's."""
GENERIC_RATE = 1e10
"""Multiplications per second of the other algorithms on one core, for estimating how long they would take."""


def pays_native(plan: Plan) -> bool:
    """Return True if the kernel runs most of the network, and is there or worth building for this job."""
    layout, outputs = plan.layout, len(plan.wanted)
    if layout.native is None or outputs < FEWEST or layout.native.work < LEAST_WORK:
        return False
    if layout.depthwise_area >= MOST_DEPTHWISE_AREA or _cut_is_cheaper(plan):
        return False
    if plan.problem.known_layers and plan.problem.batch * layout.native.work * outputs < LEAST_DENSE_WORK:
        return False
    return _library(plan) is not None


def _library(plan: Plan) -> CDLL | None:
    """Return the library for all chunks of a plan, looked up once."""
    if plan.library is None:
        plan.library = library_for(_seconds(plan))
    return plan.library


def _cut_is_cheaper(plan: Plan) -> bool:
    """Return True if a backward pass for every other unit of the cut beats the kernel's pass for all outputs."""
    return plan.layout.cut is not None and 3 * plan.layout.cut.units <= len(plan.wanted)


def _seconds(plan: Plan) -> float:
    """Estimate the duration of the job without the kernel: a forward and a backward pass cost the same."""
    assert plan.layout.native is not None
    return seconds_without(plan.problem.batch, plan.layout.native.work, len(plan.wanted))


def seconds_without(images: int, work: int, outputs: int) -> float:
    """Estimate how long a job of at least `images` images takes without the kernel, from the `work` for one image."""
    return max(images_expected() or 0, images) * work * outputs / GENERIC_RATE


def prepare_native(plan: Plan) -> None:
    """Load the library, and compare a product with autograd's once per plan.

    Raises `UnsupportedOperation` if the kernel cannot run the network, or `BuildError` if there is no library.
    """
    if plan.layout.native is not None:
        library = _library(plan)
        if library is None:
            build_native()
            library = _library(plan)
        assert library is not None
        if not plan.layout.is_compared:
            _compare(plan, library)
    if plan.layout.native is None:
        raise UnsupportedOperation(
            f'method="native" does not apply: {plan.layout.obstacle}. Use method="auto", which takes it where it does.'
        )


def native(part: Part) -> int:
    """Compute all rows of J with the kernel, and those parts of the network that it cannot run by backward passes."""
    plan, flat = part.plan, part.run()
    library = _library(plan) if plan.layout.native is not None else None
    if library is None or plan.layout.native is None:  # found out in an earlier chunk
        return loop(part)
    (leaf,), (rows,) = part.differentiated, part.rows
    if plan.layout.native.is_whole:
        # a chunk may run other operations than the first image alone
        with suppress(Unsupported):
            span = Span(Point(flat.grad_fn, flat.output_nr, 0), None, plan.layout.native.work, True)
            run_kernel(library, span, leaf, rows, plan.wanted, plan.packed)
            return 0
    part_span, obstacle = widest_span(flat, leaf)
    share = None if part_span is None else NativeShare(part_span.work, part_span.is_whole)
    plan.layout = replace(plan.layout, native=share, obstacle=obstacle)
    if part_span is None:
        return loop(part)
    if part_span.bottom is None:
        upper = _rows_to(part_span.top, part, flat)
        run_kernel(library, part_span, leaf, rows, upper, plan.packed)
        return len(plan.wanted)
    below = part_span.bottom.node._input_metadata[part_span.bottom.number].shape
    # the value's first axis may hold several rows per image, such as tokens
    upper = flat.new_empty((len(flat), len(plan.wanted), torch.Size(below).numel() // len(flat)))
    run_kernel(library, part_span, leaf, upper, plan.wanted, plan.packed)
    edge = GradientEdge(part_span.bottom.node, part_span.bottom.number)
    for place in range(len(plan.wanted)):
        (gradient,) = gradients(edge, [leaf], upper[:, place].reshape(below))
        rows[:, place] = 0 if gradient is None else gradient
    return len(plan.wanted)


def _compare(plan: Plan, library: CDLL) -> None:
    r"""Compare \(u^T J\) of the first image with autograd's, for a random u; where it differs, the kernel is not used.

    Both come from the same graph, so that they also agree at kinks. They would differ for hooks on nodes, which change
    gradients but cannot be seen from outside, and for operations that another version of torch stores in another way.
    """
    if plan.first is None:
        leaves = plan.problem.part(0, 1)
        output = plan.problem.call(leaves)
        plan.first = leaves, output.reshape(1, -1)
    leaves, flat = plan.first
    leaf = leaves[plan.problem.floats[0]]
    span, obstacle = widest_span(flat, leaf)
    if span is not None:
        top, bottom = span.top, span.bottom
        above = top.node._input_metadata[top.number].shape
        cotangent = torch.randn(above, generator=generator(0, "native"), dtype=torch.float64, device="cpu").to(flat)
        end = leaf if bottom is None else GradientEdge(bottom.node, bottom.number)
        (expected,) = gradients(GradientEdge(top.node, top.number), [end], cotangent)
        found = torch.zeros_like(leaf if expected is None else expected).reshape(1, 1, -1)
        expected = torch.zeros_like(found) if expected is None else expected.reshape(1, 1, -1)
        run_kernel(library, span, leaf, found, cotangent.reshape(1, 1, -1), plan.packed)
        error, scale = float((found - expected).norm()), float(expected.norm())
        # not finite: an error that the comparison must not hide, and which is reported later
        if error <= TOLERANCE[flat.dtype] * scale or not math.isfinite(scale):
            plan.layout = replace(plan.layout, is_compared=True)
            return
        obstacle = "its result differs from autograd's, perhaps because of hooks that change gradients"
    plan.layout = replace(plan.layout, native=None, obstacle=obstacle, is_compared=True)


def _rows_to(point: Point, part: Part, flat: Tensor) -> Tensor:
    """Return the derivative of the wanted outputs by the value at a point (batch, output, element)."""
    edge, rows = GradientEdge(point.node, point.number), []
    size = torch.Size(point.node._input_metadata[point.number].shape).numel() // len(flat)
    cotangent = flat.new_zeros(flat.shape)
    for index in part.plan.wanted:
        cotangent[:, index] = 1
        (gradient,) = gradients(flat, [edge], cotangent)
        # a copy, because autograd may return the cotangent itself
        row = flat.new_zeros((len(flat), size)) if gradient is None else gradient.clone()
        rows.append(row.reshape(len(flat), size))
        cotangent[:, index] = 0
    return torch.stack(rows, 1)
