"""Reading of a program from autograd's graph: what the native kernel can run, and how its parts are connected.

Autograd's graph is the record of the watched forward pass. Whatever it stores for its own backward pass (results of
ReLUs, indices of max pooling, weights) determines the Jacobian, so nothing of the model itself is read.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor

from pellucid.engine.operations.layers import FastMaxPool
from pellucid.jacobians._graph import Point, leading_to, passages
from pellucid.jacobians._native.operations import OPERATIONS
from pellucid.jacobians._native.steps import MOVES, PARTIAL, STEPS
from pellucid.jacobians._native.values import Arrival, Edge, Images, Layer, Layout, Operation, Step, Unsupported

__all__ = ["Program", "Span", "read_program", "widest_span"]

MOST_NATIVE = 0.5
"""Minimum share of a network's multiplications that the kernel must take for a part to pay off."""


Parts = dict[tuple[Any, int], list[Step] | Operation]
"""Parts read from a graph so far, by node and number of the node's result."""


@dataclass(frozen=True, eq=False)
class Span:
    """The part of a graph that runs natively, between two values that all paths pass through."""

    top: Point
    bottom: Point | None
    """None: the input itself."""
    work: int
    """Multiplications of one image's forward pass."""
    is_whole: bool
    parts: Parts = field(default_factory=dict, repr=False)
    """Parts that need not be read again, with copies of the masks."""


@dataclass(frozen=True, eq=False)
class Program:
    """Operations in reverse order, the first one holding the cotangents of the outputs, and their edges."""

    operations: list[tuple[Operation, list[int]]]
    """Each with the numbers of its edges."""
    edges: list[Edge]
    images: Images


@cache
def _name(kind: Any) -> str:
    """Return the operation's name: "Relu" for `ReluBackward0`. Custom functions have no number, and no entry."""
    if kind is FastMaxPool._backward_cls:
        return "FastMaxPool"
    match = re.fullmatch(r"(\w+?)Backward\d+", kind.__name__)
    return match[1] if match else ""


def _reader(node: Any, images: Images) -> Callable[[int], list[Step] | Operation]:
    """Return a function that reads a node's result by its number: the steps across it, or its operation."""
    kind: Any = type(node)
    name = _name(kind)
    inputs = [source for source, _ in images.sources(node) if source is not None]
    if name in PARTIAL and len(inputs) == 1:
        return lambda _: PARTIAL[name](node, images)
    if name in OPERATIONS and (len(inputs) >= 1):
        return lambda _: OPERATIONS[name](node, images)
    if name in MOVES:
        return lambda number: STEPS[name](node, images, number)
    if name in STEPS and len(inputs) == 1:
        return lambda _: STEPS[name](node, images)
    raise Unsupported(type(node).__name__)


def _read(node: Any, number: int, images: Images) -> list[Step] | Operation:
    """Read a node's result. Raises `Unsupported`, also where another version of torch stores other attributes."""
    images.size(node, number)
    try:
        found = _reader(node, images)(number)
    except AttributeError as error:
        raise Unsupported(f"{type(node).__name__} ({error})") from error
    # otherwise it would lose an input, such as weights that depend on the images
    if isinstance(found, Operation) and len(found.arrivals) != sum(
        source is not None for source, _ in images.sources(node)
    ):
        raise Unsupported(f"{type(node).__name__} of several values that depend on the input")
    return found


@torch.no_grad()
def widest_span(flat: Tensor, leaf: Tensor) -> tuple[Span | None, str]:
    """Return the part of the graph from `leaf` (batch, …) to `flat` (batch, output) that the kernel should run.

    The whole graph if it can; otherwise the part below, or above, all operations that it cannot run, if most of the
    multiplications are there. Also returns the name of the first operation that it cannot run, if any.
    """
    if flat.grad_fn is None:
        return None, "outputs without a gradient"
    images = Images(len(leaf), leaf.dtype, leading_to(flat.grad_fn, leaf))
    order, points = passages(flat, leaf)
    parts: Parts = {}
    work, failed, reason = _survey(order, images, leaf, parts)
    total = sum(work.values())
    top = Point(flat.grad_fn, flat.output_nr, 0)
    if not failed:
        return Span(top, None, total, True, parts), ""
    below = next((point for point in points if point.place > failed[-1]), None)
    above = next((point for point in reversed(points) if 0 < point.place <= failed[0]), None)
    spans = []
    if below is not None:
        done = sum(count for place, count in work.items() if place >= below.place)
        spans.append(Span(below, None, done, False, parts))
    if above is not None:
        done = sum(count for place, count in work.items() if place < above.place)
        spans.append(Span(top, above, done, False, parts))
    best = max(spans, key=lambda span: span.work, default=None)
    return (best if best is not None and best.work > MOST_NATIVE * total else None), reason


def _survey(order: Sequence[Any], images: Images, leaf: Tensor, parts: Parts) -> tuple[dict[int, int], list[int], str]:
    """Return the multiplications by place in the order, the places that the kernel cannot run, and the first reason.

    Adds what it reads to `parts`.
    """
    work, failed, reason = {}, [], ""
    for place, node in enumerate(order):
        if getattr(node, "variable", None) is leaf or node not in images.leading:
            continue
        try:
            for number in range(len(getattr(node, "_input_metadata", ())) or 1):
                part = parts[node, number] = _read(node, number, images)
            if isinstance(part, Operation) and isinstance(part.payload, Layer):
                work[place] = part.payload.work
        except Unsupported as error:
            failed.append(place)
            reason = reason or str(error)
    return work, failed, reason


@torch.no_grad()
def read_program(span: Span, leaf: Tensor) -> Program:
    """Read a span of the graph of the input `leaf` (batch, …).

    Raises `Unsupported` for an operation that the kernel cannot run.
    """
    top, bottom, read = span.top, span.bottom, span.parts
    images = Images(len(leaf), leaf.dtype, leading_to(top.node, leaf))

    def part(node: Any, number: int) -> list[Step] | Operation:
        if (node, number) not in read:
            read[node, number] = _read(node, number, images)
        return read[node, number]

    def is_end(node: Any, number: int) -> bool:
        if bottom is None:
            return getattr(node, "variable", None) is leaf
        return node is bottom.node and number == bottom.number

    seed = Operation(Layout(images.size(top.node, top.number)), (Arrival(top.node, top.number),))
    numbers: dict[Any, int] = {}
    operations: list[tuple[Operation, list[int]]] = [(seed, [])]
    edges: list[Edge] = []
    pending = [(0, arrival) for arrival in seed.arrivals]
    while pending:
        owner, arrival = pending.pop()
        node, number = arrival.node, arrival.number
        edge = Edge(-1, 0, list(arrival.steps), arrival.entry)
        edge.size = _upper_size(arrival, images)
        while not is_end(node, number):
            found = part(node, number)
            if isinstance(found, Operation):
                if node not in numbers:
                    numbers[node] = len(operations)
                    operations.append((found, []))
                    pending += [(numbers[node], each) for each in found.arrivals]
                edge.target = numbers[node]
                break
            edge.steps += found
            (node, number), *_ = [source for source in images.sources(node) if source[0] is not None]
        operations[owner][1].append(len(edges))
        edges.append(edge)
    return _sorted(Program(operations, edges, images))


def _upper_size(arrival: Arrival, images: Images) -> int:
    """Return the number of elements of an input as the operation sees it: after broadcasting, which is a step."""
    broadcast = [len(step.data) for step in arrival.steps if step.kind == "table"]
    return broadcast[0] if broadcast else images.size(arrival.node, arrival.number)


def _sorted(program: Program) -> Program:
    """Order operations so that each comes after all whose edges arrive at it."""
    waiting = [0] * len(program.operations)
    for edge in program.edges:
        if edge.target >= 0:
            waiting[edge.target] += 1
    ready, order = [0], []
    while ready:
        number = ready.pop()
        order.append(number)
        for at in program.operations[number][1]:
            target = program.edges[at].target
            if target >= 0:
                waiting[target] -= 1
                if not waiting[target]:
                    ready.append(target)
    places = {number: place for place, number in enumerate(order)}
    for edge in program.edges:
        edge.target = places.get(edge.target, -1)
    return Program([program.operations[number] for number in order], program.edges, program.images)
