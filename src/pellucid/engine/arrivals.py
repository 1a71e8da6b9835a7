"""Relevance that arrives at named layers during a reverse pass, and its split where several paths meet."""

from collections import Counter
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pellucid.core.errors import UnsupportedOperation
from pellucid.engine.tape import Account, Addition, Hidden, Move, Node, Product, Relevances, Softmax, Tape

__all__ = ["Arrival", "Flow", "Witness"]

Flow = Mapping[tuple[str, str], Tensor]
"""Relevance per image, (batch,), by junction and branch, in the order of the forward pass."""


@dataclass(frozen=True, eq=False)
class Arrival:
    """Relevance at the output of one layer."""

    relevance: Tensor
    is_cut: bool
    """True if no other path carries relevance past the layer."""
    account: Account | None
    """Relevance absorbed between the logits and the layer."""
    bypassed: Tensor | None
    """(batch,): relevance that other paths carry past the layer; None without an account, or if unknown."""
    by_slot: Mapping[int, Tensor] = field(default_factory=dict)
    """The relevance by slot: several if some of the output's uses are merged with a batch norm, and some are not."""


class Witness:
    """Observes a reverse pass over a tape: what arrives at the tape's hidden layers, and how sums split it."""

    def __init__(self, tape: Tape) -> None:
        self._tape, self._producers = tape, {node.output: node for node in tape.nodes}
        self._reachable = {tape.image, *(node.output for node in tape.needed())}
        self._names: dict[int, list[str]] = {}
        for name, hidden in tape.hidden.items():
            for slot in _merged_slots(tape, hidden):
                self._names.setdefault(slot, []).append(name)
        places = [number for number, node in enumerate(tape.nodes) if node.output in self._names]
        is_at_image = tape.image in self._names
        self.last = min(places) if places and not is_at_image else -1
        """Index of the earliest node whose output is wanted: the reverse pass may end there. −1: go to the image."""
        self.slots = frozenset(self._names)
        """Slots of the layers' outputs, and those of the batch norms that are merged with them."""
        self._arrivals: dict[str, Arrival] = {}
        self._splits: list[tuple[str, dict[str, Tensor]]] = []

    def arrived(self, slot: int, relevance: Tensor, others: Mapping[int, Tensor], account: Account | None) -> None:
        """Note the relevance at a slot; `others` is the relevance of all other slots at that moment."""
        for name in self._names.get(slot, ()):
            bypassed = None if account is None else self._sum(others, account)
            earlier, by_slot, total = self._arrivals.get(name), {slot: relevance}, relevance
            if earlier is not None:
                # some of the output's uses are merged with a batch norm, and some are not
                total, bypassed, by_slot = relevance + earlier.relevance, None, {**earlier.by_slot, **by_slot}
            self._arrivals[name] = Arrival(total, not others, _snapshot(account), bypassed, by_slot)

    def split(self, node: Node, relevance: Tensor, shares: Relevances, account: Account | None) -> None:
        """Note how an operation splits the relevance of its output among its inputs, and among attention heads."""
        if account is None:
            return
        heads = self._heads(node, relevance, account.images)
        if heads is not None:
            own = {f"head {number}": column for number, column in enumerate(heads.unbind(1))}
            self._splits.append((f"{node.path or 'model'}: heads", own))
        parts = [(slot, share) for slot, share in zip(node.inputs, shares, strict=True)
                 if slot is not None and share is not None]  # fmt: skip
        # the two factors of a product always carry half each
        if len(parts) < 2 or isinstance(node, Product):
            return
        names = Counter[str]()
        sums: dict[str, Tensor] = {}
        for slot, share in parts:
            name = self._branch(node, slot)
            names[name] += 1
            unique = name if names[name] == 1 else f"{name} ({names[name]})"
            sums[unique] = account.per_image(share, self._axis(slot))
        operation = "sum" if isinstance(node, Addition) else node.operation
        self._splits.append((f"{node.path or 'model'}: {operation}", sums))

    def arrival(self, name: str) -> Arrival:
        """Return the relevance at a layer; zeros if none arrives.

        Raises `UnsupportedOperation` if the logits do not depend on the layer's output as a value of its own.
        """
        if name in self._arrivals:
            return self._arrivals[name]
        hidden, tape = self._tape.hidden[name], self._tape
        if not any(slot in self._reachable for slot in _merged_slots(tape, hidden)):
            raise UnsupportedOperation(
                f"no relevance is defined at the output of layer {name!r}: the logits do not depend on it, or it is "
                "part of an elementwise function that has a rule as a whole; name the module around it, or the next."
            )
        zeros = torch.zeros_like(hidden.value)
        return Arrival(zeros, False, None, None, {hidden.slot: zeros})

    @property
    def flow(self) -> Flow:
        """The splits, in the order of the forward pass; equal junctions are numbered."""
        counts = Counter[str]()
        flow: dict[tuple[str, str], Tensor] = {}
        for junction, sums in reversed(self._splits):
            counts[junction] += 1
            unique = junction if counts[junction] == 1 else f"{junction} #{counts[junction]}"
            flow |= {(unique, branch): amount for branch, amount in sums.items()}
        return flow

    def _sum(self, others: Mapping[int, Tensor], account: Account) -> Tensor:
        sums = [account.per_image(value, self._axis(slot)) for slot, value in others.items()]
        return sum(sums, account.zero)

    def _axis(self, slot: int) -> int:
        node = self._producers.get(slot)
        return 0 if node is None else node.batch_axis

    def _branch(self, node: Node, slot: int) -> str:
        """Name the origin of one input of a junction: a module inside the junction's own, or a skip connection."""
        origin = _origin(self._producers, slot)
        if origin is not None and origin.path and (not node.path or origin.path.startswith(f"{node.path}.")):
            return origin.path.removeprefix(f"{node.path}.") if node.path else origin.path
        if isinstance(node, Addition):
            return "skip"
        return "the input" if origin is None else origin.operation.rstrip("_")

    def _heads(self, node: Node, relevance: Tensor, images: int) -> Tensor | None:
        """Return relevance per head, (batch, head), at the product of attention weights and values."""
        if not isinstance(node, Product) or node.batch_axis != 0 or relevance.ndim not in (3, 4):
            return None
        origins = [_origin(self._producers, slot) for slot in node.inputs if slot is not None]
        if not any(isinstance(origin, Softmax) for origin in origins):
            return None
        count = relevance.shape[1] if relevance.ndim == 4 else relevance.shape[0] // images
        if count < 2:
            return None
        # rows are image-major: (image · window, head, …), or (image · head, …)
        return relevance.reshape(images, -1, count, relevance[0, 0].numel() if relevance.ndim == 4 else
                                 relevance[0].numel()).sum((1, 3))  # fmt: skip


def _origin(producers: Mapping[int, Node], slot: int) -> Node | None:
    """Return the operation that computed a value, skipping moves; None for the input."""
    node = producers.get(slot)
    while isinstance(node, Move) and len(node.inputs) == 1 and node.inputs[0] is not None:
        node = producers.get(node.inputs[0])
    return node


def _merged_slots(tape: Tape, hidden: Hidden) -> list[int]:
    """Return the slot of a layer's output, and those of the batch norms that are merged with the layer."""
    slots = [hidden.slot]
    for slot in slots:  # grows while it is read: a norm may be merged with a scale after it
        slots += tape.merged.get(slot, [])
    return slots


def _snapshot(account: Account | None) -> Account | None:
    """Copy an account; its sums are never changed in place, so the copy keeps its values."""
    if account is None:
        return None
    own = copy(account)
    own.absorbed, own.by_place = {**account.absorbed}, {**account.by_place}
    return own
