"""The canonical form of a tape: equal functions become equal nodes, however they are written.

A hand-written GELU, SiLU, softplus or hard-swish consists of several elementwise operations on one value. Rules that
split relevance among these parts would give a different map than `nn.GELU`. Therefore the largest elementwise part that
depends on a single value becomes one `Function` of it. exp(x) / Σ exp(x) becomes a softmax, and division by a
statistic, such as x / σ(x), is marked as a normalization. All are recognized by what they compute, not by how they are
written.
"""

import math
from dataclasses import dataclass, replace
from heapq import heappop, heappush

import torch
from torch import Tensor

from pellucid.engine.tape import Activation, Addition, Affine, Formula, Function, Move, Node, Product, Softmax, Tape

__all__ = ["canonical", "one_number"]

PROBES = (0.0, 4.0, -4.0, 20.0, 40.0, -20.0, -40.0)
"""Points at which a function is evaluated to determine f(0) and its behavior far from 0."""


def canonical(tape: Tape) -> Tape:
    """Recognize elementwise functions, softmax and normalizations on a tape, and drop nodes no longer needed."""
    form = _Form({node.output: node for node in tape.nodes})
    with torch.no_grad():
        nodes = [form.rewritten(node) for node in tape.nodes]
    # only after all nodes are rewritten, because regions read the formulas of earlier nodes
    for node in tape.nodes:
        node.is_masked = node.formula is not None and bool(node.formula.compared())
        node.formula = None  # it holds tensors that the reverse pass may free
    if form.has_changed:
        tape.nodes = nodes
        tape.nodes = tape.needed()
    return tape


@dataclass(frozen=True, eq=False)
class _Region:
    """The elementwise operations that lead from one value to another that depends on it alone."""

    source: int
    x: Tensor
    members: tuple[Node, ...]
    steps: tuple[Formula, ...]
    """The formulas of the members, which drop theirs once the tape is canonical."""

    def __call__(self, x: Tensor) -> Tensor:
        """Evaluate the function at other values of x."""
        values = {id(self.x): x}
        for step in self.steps:
            values[id(step.value)] = step(values)
        return values[id(self.steps[-1].value)]

    @property
    def probed(self) -> Tensor:
        """The function at each of `PROBES`, along axis 0."""
        probes = torch.tensor(PROBES, dtype=self.x.dtype, device=self.x.device)
        # axes of size 1 broadcast against the region's constants, such as a slope per channel
        return self(probes.view(-1, *(1 for _ in self.x.shape)))


class _Form:
    """Rewrites the nodes of a tape one by one."""

    def __init__(self, producers: dict[int, Node]) -> None:
        self.producers = producers
        """Nodes by output slot, with rewritten nodes in place of the recorded ones."""
        self.has_changed = False
        # a copy: chains follow the recorded nodes, which `producers` replaces one by one
        self._recorded = dict(producers)
        self._chains: dict[int, tuple[int, ...]] = {}
        self._slots = {id(node.formula.value): slot for slot, node in producers.items() if node.formula is not None}
        """Slots by the id of their value, to look up values that are only compared."""

    def rewritten(self, node: Node) -> Node:
        """Return the node's canonical form, which may be the node itself."""
        result = node
        if isinstance(node, Product) and node.multiply is torch.mul:
            # most specific form first; `_product` always returns a node
            result = self._softmax(node) or self._function(node) or self._product(node)
        elif node.formula is not None:
            result = self._function(node) or node
        if result is not node:
            self.has_changed = True
            self.producers[node.output] = result
        return result

    # ── elementwise functions ────────────────────────────────────────────────────────────────────────────────────────

    def _chain(self, slot: int) -> tuple[int, ...]:
        """Return the slot and every slot whose value alone determines it elementwise, nearest first."""
        if slot not in self._chains:
            node = self._recorded.get(slot)
            shared: tuple[int, ...] = ()
            if node is not None and node.formula is not None:
                # the dominators of the slot: values in the chains of all its inputs lie on every path to it
                first, *others = [self._chain(source) for source in node.inputs if source is not None]
                shared = tuple(source for source in first if all(source in other for other in others))
            self._chains[slot] = (slot, *shared)
        return self._chains[slot]

    def _function(self, node: Node) -> Function | None:
        """Merge the elementwise operations that end in this node into one function; None if they do not form one."""
        if len(self._chain(node.output)) <= 2 and len(node.inputs) == 1 and not _formula(node).compared():
            return None  # a single operation, as almost always: nothing to merge
        region = self._region(node)
        if region is None or not _is_one_function(region):
            return None
        probed = region.probed
        at_zero, up, down, far_up, farther_up, far_down, farther_down = probed.unbind(0)
        if not bool(at_zero.isfinite().all()):
            return None  # undefined at 0 as a whole, but its parts have rules, such as the gate in x / |x|
        is_rectifier = _rectifies(region, at_zero, up, down)
        if is_rectifier is None:
            return None
        steps = torch.stack([farther_up - far_up, farther_down - far_down]).abs()
        return Function(
            operation=f"function ending in {node.operation}",
            kind="activation",
            inputs=(region.source,),
            output=node.output,
            path=node.path,
            is_first=region.members[0].is_first,
            batch_axis=node.batch_axis,
            bounds=region.members[0].bounds,
            x=region.x,
            y=_formula(node).value,
            replay=region,
            at_zero=one_number(at_zero),
            is_rectifier=is_rectifier,
            is_saturating=bool((steps <= 1e-3).all()),  # flat between ±20 and ±40
        )

    def _region(self, node: Node) -> _Region | None:
        """Return the operations between this node and the earliest value that alone determines it elementwise."""
        chain = list(self._chain(node.output))
        while len(chain) > 1:
            # A first operation that adds or multiplies by a constant per channel (a bias or scale) belongs to the
            # preceding layer, so that x @ W + b is treated like nn.Linear(…).
            first = self._recorded[chain[-2]]
            if not (
                _is_linear(first) and _has_constant_tensor(first) and len(first.inputs) - first.inputs.count(None) == 1
            ):
                break
            chain.pop()
        if len(chain) == 1:
            return None
        return self._between(chain[-1], node)

    def _between(self, source: int, node: Node) -> _Region:
        """Return the operations that lead from the slot `source` to `node`."""
        # a heap of negated slots visits the latest operation first, so that every operation comes after its users
        latest, seen, members = [-node.output], {source, node.output}, list[Node]()
        while latest:
            member = self._recorded[-heappop(latest)]
            members.append(member)
            compared = [self._slots.get(identity) for identity in _formula(member).compared()]
            within = [slot for slot in compared if slot is not None and source in self._chain(slot)]
            for slot in (*member.inputs, *within):
                if slot is not None and slot not in seen:
                    seen.add(slot)
                    heappush(latest, -slot)
        ordered = tuple(reversed(members))
        first = ordered[0]
        x = _formula(first).operands[first.inputs.index(source)]
        return _Region(source, x, ordered, tuple(map(_formula, ordered)))

    # ── products ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _product(self, node: Product) -> Product:
        """Determine the gate of a product from the canonical forms of its factors."""
        statistics = [slot is not None and self._divides_by_a_statistic(slot) for slot in node.inputs]
        if statistics[0] != statistics[1]:
            return replace(node, gate=statistics.index(True), is_normalization=True)
        gates = [slot is not None and self._is_gate(slot) for slot in node.inputs]
        if all(gates):
            # σ(a) · tanh(b), as in an LSTM: the factor that is not 0 at 0 is the gate
            gates = [self._is_open(slot) for slot in node.inputs]
        if gates[0] == gates[1]:
            # both factors or neither look like a gate: the one that is broadcast counts as the gate
            gate = None if node.a.numel() == node.b.numel() else int(node.b.numel() < node.a.numel())
        else:
            gate = gates.index(True)
        return node if gate == node.gate else replace(node, gate=gate)

    def _is_gate(self, slot: int) -> bool:
        node = self._origin(slot)
        if isinstance(node, Function):
            return node.is_saturating
        return node is not None and (node.kind in ("factor", "softmax") or node.traits.is_gate)

    def _is_open(self, slot: int | None) -> bool:
        """True for a gate that lets something through at 0, as a sigmoid does."""
        node = None if slot is None else self._origin(slot)
        return not (isinstance(node, Activation) and isinstance(node.at_zero, (int, float)) and node.at_zero == 0)

    def _origin(self, slot: int) -> Node | None:
        """Return the operation that computed a value, skipping moves."""
        node = self.producers.get(slot)
        while isinstance(node, Move) and len(node.inputs) == 1 and node.inputs[0] is not None:
            node = self.producers.get(node.inputs[0])
        return node

    def _divides_by_a_statistic(self, slot: int) -> bool:
        """True if a value is the reciprocal of means, sums or maxima, through elementwise operations and moves only."""
        waiting, divides = [slot], False
        while waiting:
            node = self._recorded.get(waiting.pop())
            if node is None:
                return False
            if _is_reduction(node):
                continue
            if node.formula is None and not isinstance(node, Move):
                return False
            # only functions that are undefined at 0 can divide, such as a reciprocal root or exp(−log σ)
            divides |= node.kind == "factor" and isinstance(node, Activation) and math.isnan(float(node.at_zero))
            waiting.extend(source for source in node.inputs if source is not None)
        return divides

    # ── softmax ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _softmax(self, node: Product) -> Softmax | None:
        """Rewrite exp(x) / Σ exp(x) as a softmax of x, removing any shift common to all of x."""
        slots = [slot for slot in node.inputs if slot is not None]
        signals = [slot for slot in slots if not self._divides_by_a_statistic(slot)]
        if len(slots) != 2 or len(signals) != 1:
            return None
        # any value that alone determines the numerator may be x; try the nearest first
        for slot in self._chain(signals[0])[1:]:
            x = self._between(slot, self._recorded[signals[0]]).x
            axis = _axis_of_softmax(x, node)
            if axis is not None:
                slot, x = self._unshifted(slot, x, axis)
                return Softmax(
                    operation="softmax",
                    kind="softmax",
                    inputs=(slot,),
                    output=node.output,
                    path=node.path,
                    is_first=node.is_first,
                    batch_axis=node.batch_axis,
                    x=x,
                    y=node.z,
                    dim=axis,
                )
        return None

    def _unshifted(self, slot: int, x: Tensor, axis: int) -> tuple[int, Tensor]:
        """Undo the addition of values that are constant along the axis, such as subtracting the maximum."""
        node = self._recorded.get(slot)
        while isinstance(node, Addition) and len(node.terms) == 2:
            kept = [
                place
                for place, (source, term, sign) in enumerate(zip(node.inputs, node.terms, node.signs, strict=True))
                if source is not None and sign == 1 and term.shape == x.shape
            ]
            # a softmax is invariant only to shifts that are constant along its axis
            shifts = [place for place in (0, 1) if _size_along(node.terms[place], axis, x.ndim) == 1]
            if len(kept) != 1 or shifts != [1 - kept[0]]:
                break
            slot, x = _slot(node, kept[0]), node.terms[kept[0]]
            node = self._recorded.get(slot)
        return slot, x


def one_number(values: Tensor) -> float | Tensor:
    """Return a single number if all values are equal; otherwise the values themselves."""
    first = float(values.flatten()[0])
    return first if bool((values == first).all()) else values


def _formula(node: Node) -> Formula:
    assert node.formula is not None
    return node.formula


def _slot(node: Node, place: int) -> int:
    slot = node.inputs[place]
    assert slot is not None
    return slot


def _size_along(tensor: Tensor, axis: int, rank: int) -> int:
    """Return the size of a tensor along an axis of the rank-`rank` shape it broadcasts to."""
    place = axis - rank + tensor.ndim
    return tensor.shape[place] if place >= 0 else 1


def _is_linear(node: Node) -> bool:
    """True if an operation is a sum, or a product with a constant that is not a mask."""
    if node.formula is not None and node.formula.compared():
        return False
    return isinstance(node, Addition) or (isinstance(node, Affine) and node.kind == "scale")


def _has_constant_tensor(node: Node) -> bool:
    if isinstance(node, Addition):
        return any(slot is None and term.numel() > 1 for slot, term in zip(node.inputs, node.terms, strict=True))
    return isinstance(node, Affine) and node.weight is not None and node.weight.numel() > 1


def _is_one_function(region: _Region) -> bool:
    """True if the region needs a rule as a whole, because rules for its parts would give a different map.

    That is the case if the value is used twice or compared, if a part has no rule (exp), or if a shift would absorb a
    share: relu6(x + 3) / 6 is a hard sigmoid. It is not the case in a chain such as relu(x) · 2.
    """
    members = region.members
    values = {id(region.x), *(id(_formula(member).value) for member in members)}
    compared = [_formula(member).compared() for member in members]
    # compared only with values inside the region, so the mask is part of the function
    if any(own and own <= values for own in compared):
        return True
    if all(_is_linear(member) or isinstance(member, Move) for member in members):
        return False
    if any(sum(slot is not None for slot in member.inputs) > 1 for member in members):
        return True
    return len(members) > 1 and any(member.kind in ("factor", "add") for member in members)


def _is_rectifier(up: Tensor, down: Tensor) -> bool:
    """True if f passes 4, up to a scale, and suppresses most of −4: ReLU and its relatives."""
    passes = (up >= 2) & (up <= 8)
    return bool((passes & (down.abs() <= up / 2)).all())


def _rectifies(region: _Region, at_zero: Tensor, up: Tensor, down: Tensor) -> bool | None:
    """True if a region acts as a rectifier; None if it holds a rectifier that Guided Backprop must treat separately."""
    if _is_rectifier(down, up):
        return None  # relu(1 − x)
    if _is_rectifier(up, down):
        return True
    if not any(isinstance(member, Activation) and member.is_rectifier for member in region.members):
        return False
    # a rectifier that is squared, shifted or negated, as in relu(x)² − 3, is known by its flat side
    rise, fall = up - at_zero, (down - at_zero).abs()
    return None if bool((fall <= -rise / 2).all()) else bool((fall <= rise / 2).all())


def _is_reduction(node: Node) -> bool:
    """True if a node sums, averages or takes the maximum over some axes."""
    if isinstance(node, Affine):
        # "average" also covers upsampling and repetition, which do not reduce
        return node.kind == "average" and node.z.numel() < node.x.numel()
    return node.kind == "max" and getattr(node, "y").numel() < getattr(node, "x").numel()  # noqa: B009


def _axis_of_softmax(x: Tensor, node: Product) -> int | None:
    """Return the axis along which a product equals the softmax of x; None if there is no such axis."""
    same_rank = node.a.ndim == node.b.ndim
    apart = [axis for axis in range(x.ndim) if same_rank and node.a.shape[axis] != node.b.shape[axis]]
    # if the sum was expanded, its shape does not reveal the axis, so try all of them
    for axis in apart if len(apart) == 1 else range(x.ndim):
        # atol near zero: with the default of 1e-8, all maps of tiny probabilities would match each other
        if axis != node.batch_axis and torch.allclose(torch.softmax(x, axis), node.z, rtol=1e-4, atol=1e-20):
            return axis
    return None
