"""The tape: a forward pass recorded as nodes, the reverse loop over them, and the account of absorbed relevance.

Each rule computes what biases, stabilizers and constants absorb by its own formula, never as the difference to the
logit, which would hide errors.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from torch import Tensor

from pellucid.core.errors import UnsupportedOperation
from pellucid.engine.derivatives import WAY_OUT, derivatives
from pellucid.engine.linear_maps import LinearMap, vjp
from pellucid.engine.table import NO_TRAITS, Traits, substitute, tensors_in

if TYPE_CHECKING:
    from pellucid.engine.arrivals import Witness

__all__ = [
    "ABSORBERS",
    "Account",
    "Activation",
    "Addition",
    "Affine",
    "Formula",
    "Function",
    "Hidden",
    "Maximum",
    "Move",
    "Node",
    "Product",
    "Relevances",
    "Rule",
    "Softmax",
    "Tape",
    "Unknown",
]

T = TypeVar("T")

Relevances = Sequence[Tensor | None]
"""One relevance per input of a node; None for an input that receives none."""


@dataclass(eq=False, kw_only=True)
class Formula:
    """An elementwise operation that can be re-evaluated for other inputs."""

    function: Callable[..., Tensor]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    operands: tuple[Tensor, ...]
    """The tensors at the node's input slots, in order; for a mask, the tensors it compares."""
    value: Tensor
    masks: Mapping[int, "Formula"]
    """Formulas of comparisons with values that depend on the image, keyed by the id of their result. A mask is constant
    for the derivative, but f(0) requires the mask at 0."""

    def __call__(self, values: Mapping[int, Tensor]) -> Tensor:
        """Evaluate with replacements for tensors, keyed by their id."""

        def replaced(tensor: Tensor) -> Tensor:
            if id(tensor) in values:
                return values[id(tensor)]
            mask = self.masks.get(id(tensor))
            return tensor if mask is None else mask(values)

        return self.function(*substitute(self.args, replaced), **substitute(dict(self.kwargs), replaced))

    def compared(self) -> set[int]:
        """Return the ids of the tensors whose comparisons the value depends on."""
        found: set[int] = set()
        if not self.masks:  # as in most models
            return found
        for tensor in tensors_in((self.args, dict(self.kwargs))):
            mask = self.masks.get(id(tensor))
            if mask is not None:
                found |= {id(operand) for operand in mask.operands} | mask.compared()
        return found


@dataclass(eq=False, kw_only=True)
class Node:
    """One recorded operation."""

    operation: str
    """The function's name, such as `conv2d`."""
    kind: str
    """The kind of operation that composites match, such as `convolution`."""
    inputs: tuple[int | None, ...]
    """The slot of each input; None for a constant."""
    output: int
    path: str
    """Path of the module that ran the operation; empty for the model itself."""
    is_first: bool
    """True if the input is still the image, up to moves and per-channel normalization."""
    batch_axis: int
    """The axis of the output that holds the images, possibly merged with later axes (image-major)."""
    bounds: tuple[Tensor, Tensor] | None = None
    """Lowest and highest input, if it is still the image and the composite needs them."""
    formula: Formula | None = None
    """Set if each element of the output depends only on the same element of the inputs."""
    traits: Traits = NO_TRAITS
    """The traits of the recorded function."""
    shape: torch.Size = torch.Size()  # noqa: RUF009  (immutable)
    """Shape of the output."""
    is_masked: bool = False
    """True if a constant of the operation is a comparison with the image, or derived from one."""
    kept: dict[Any, Any] | None = field(default=None, init=False)
    """Results that do not depend on the relevance, while several passes go over the same nodes; None: keep none.
    Not passed on by `dataclasses.replace`, by which a rule may change the weights or inputs."""

    def once(self, what: Any, compute: Callable[[], T]) -> T:
        """Compute something that does not depend on the relevance, or return what an earlier pass has kept."""
        if self.kept is None:
            return compute()
        if what not in self.kept:
            self.kept[what] = compute()
        result: T = self.kept[what]
        return result

    def pullback(self, cotangent: Tensor) -> Relevances:
        """Return the vector-Jacobian product with respect to each input."""
        raise NotImplementedError

    @property
    def place(self) -> str:
        """Operation and module, for error messages."""
        return f"{self.operation} in {self.path!r}" if self.path else f"{self.operation} in the model itself"


Rule = Callable[..., Relevances]
"""Maps (node, relevance of its output, account or None) to the relevance of each input."""


@dataclass(eq=False, kw_only=True)
class Move(Node):
    """An operation that moves, copies or drops values: view, permute, cat, index, pad."""

    pull: Callable[[Tensor], Relevances]
    inserted: Callable[[], Tensor] | None = None
    """For operations that insert constants: returns 1 where the output is a constant and 0 elsewhere."""
    joined: tuple[int, ...] | None = None
    """Number of channels (along axis 1) from each input, if the operation concatenates them."""

    def pullback(self, cotangent: Tensor) -> Relevances:
        return self.pull(cotangent)


@dataclass(eq=False, kw_only=True)
class Maximum(Node):
    """A maximum over some values: max-pooling, or a maximum along axes."""

    x: Tensor
    y: Tensor
    replay: Callable[[Tensor], Tensor]
    pull: Callable[[Tensor], Tensor] | None = None
    indices: Tensor | None = None
    """Index of each winner along the flattened `pooled` axes of the input."""
    pooled: tuple[int, ...] = ()

    def pullback(self, cotangent: Tensor) -> Relevances:
        return [self.pull(cotangent) if self.pull else vjp(self.replay, self.x, cotangent)]


@dataclass(eq=False, kw_only=True)
class Affine(Node):
    """z = weight · x + bias, for any linear map."""

    x: Tensor
    z: Tensor
    weight: Tensor | None
    bias: Tensor | None
    map: LinearMap
    replay: Callable[[Tensor], Tensor] | None = None
    """The original operation, if it is affine only while something (a deviation) is held fixed."""

    def pullback(self, cotangent: Tensor) -> Relevances:
        if self.replay is not None:
            return [vjp(self.replay, self.x, cotangent)]
        return [self.map.transpose(cotangent, self.weight, self.x)]


@dataclass(eq=False, kw_only=True)
class Addition(Node):
    """z = Σ signs · terms; terms may broadcast, and constants have no slot."""

    terms: tuple[Tensor, ...]
    z: Tensor
    signs: tuple[float | int, ...]

    def pullback(self, cotangent: Tensor) -> Relevances:
        return [
            None if slot is None else (cotangent if sign == 1 else cotangent * sign).sum_to_size(term.shape)
            for slot, term, sign in zip(self.inputs, self.terms, self.signs, strict=True)
        ]


@dataclass(eq=False, kw_only=True)
class Activation(Node):
    """y = f(x), elementwise."""

    x: Tensor
    y: Tensor
    replay: Callable[[Tensor], Tensor]
    at_zero: float | int | Tensor
    """f(0), not finite if f is undefined there; a tensor if it differs between elements."""
    is_rectifier: bool
    """True if f passes positive values and suppresses negative ones: ReLU and its smooth relatives."""

    def pullback(self, cotangent: Tensor) -> Relevances:
        if self.operation in ("relu", "relu_"):
            return [torch.ops.aten.threshold_backward(cotangent, self.y, 0)]  # one kernel, no autograd graph
        return [vjp(self.replay, self.x, cotangent)]


@dataclass(eq=False, kw_only=True)
class Function(Activation):
    """Several elementwise operations merged into one function of a single value, such as a hand-written GELU."""

    is_saturating: bool
    """True if f is constant far from zero on both sides, like a sigmoid gate."""


@dataclass(eq=False, kw_only=True)
class Product(Node):
    """z = multiply(a, b), an elementwise or matrix product of two values that depend on the image."""

    a: Tensor
    b: Tensor
    z: Tensor
    multiply: Callable[[Tensor, Tensor], Tensor]
    gate: int | None
    """The factor that only scales the other (0 or 1); None if both carry a signal."""
    is_normalization: bool = False
    """True if the gate is the reciprocal of a statistic, such as 1/σ in a norm."""

    def pullback(self, cotangent: Tensor) -> Relevances:
        return [
            vjp(lambda a: self.multiply(a, self.b), self.a, cotangent),
            vjp(lambda b: self.multiply(self.a, b), self.b, cotangent),
        ]


@dataclass(eq=False, kw_only=True)
class Softmax(Node):
    """y = softmax(x) along one axis."""

    x: Tensor
    y: Tensor
    dim: int

    def pullback(self, cotangent: Tensor) -> Relevances:
        weighted = self.y * cotangent
        return [weighted - self.y * weighted.sum(self.dim, keepdim=True)]


@dataclass(eq=False, kw_only=True)
class Unknown(Node):
    """An operation without a rule; only its derivative is known."""

    y: Tensor
    """One output, with its autograd graph."""
    leaves: tuple[Tensor, ...]

    def pullback(self, cotangent: Tensor) -> Relevances:
        # other outputs of the operation share the graph
        return derivatives(
            self.y, self.leaves, cotangent.to(self.y.dtype).expand_as(self.y), way_out=WAY_OUT, retain_graph=True
        )


Absorber = Literal["bias", "stabiliser", "constant"]
ABSORBERS: tuple[Absorber, ...] = ("bias", "stabiliser", "constant")
"""The sinks of relevance: each takes a share of the logit that reaches no pixel."""


class Account:
    """Per-image sums of absorbed relevance, by absorber and by operation."""

    def __init__(self, images: int, dtype: torch.dtype, device: torch.device) -> None:
        self.images = images
        self.zero = torch.zeros(images, dtype=dtype, device=device)
        self.absorbed: dict[str, Tensor] = dict.fromkeys(ABSORBERS, self.zero)
        self.by_place: dict[str, Tensor] = defaultdict(lambda: self.zero)
        """Relevance absorbed as a constant at each place, keyed `operation in module`."""

    def absorb(self, absorber: Absorber, node: Node, amount: Tensor) -> None:
        """Record `amount`, which has the shape of the node's output."""
        per_image = self.per_image(amount, node.batch_axis)
        # not in place: all entries start as the same tensor of zeros
        self.absorbed[absorber] = self.absorbed[absorber] + per_image
        if absorber == "constant":
            self.by_place[node.place] = self.by_place[node.place] + per_image

    def per_image(self, amount: Tensor, axis: int) -> Tensor:
        """Sum a value whose images are along `axis`, possibly merged with later axes (image-major): (batch,)."""
        if self.images == 1:
            return amount.sum().reshape(1)
        if axis:
            amount = amount.movedim(axis, 0)
        # axes merged with the batch are image-major, so each row holds one image
        return amount.reshape(self.images, -1).sum(1)


@dataclass(frozen=True, eq=False)
class Hidden:
    """The output of a named layer on a tape."""

    slot: int
    value: Tensor


@dataclass(eq=False)
class Tape:
    """A recorded forward pass: its nodes in order, and the slots of its input and output."""

    nodes: list[Node]
    image: int
    """The slot of the images."""
    output: int
    """The slot of the logits."""
    logits: Tensor
    precision: torch.dtype = torch.float64
    """The lowest precision of any recorded value: a part of a float64 model may compute in float32."""
    hidden: dict[str, Hidden] = field(default_factory=dict)
    """Outputs of the layers to which relevance is propagated, by name."""
    merged: dict[int, list[int]] = field(default_factory=dict)
    """Slots of the batch norms that are merged with the producer of another slot, by that slot."""

    def needed(self) -> list[Node]:
        """Return the nodes that the output depends on, in order."""
        needed, kept = {self.output}, []
        for node in reversed(self.nodes):
            if node.output in needed:
                needed.update(slot for slot in node.inputs if slot is not None)
                kept.append(node)
        return kept[::-1]

    def up_to(self, slots: Collection[int]) -> "Tape":
        """Return a tape with the nodes up to the last of these slots; its list of nodes is a copy."""
        ends = [place for place, node in enumerate(self.nodes) if node.output in slots]
        return replace(self, nodes=self.nodes[: max(ends, default=-1) + 1])

    def copies(self, count: int) -> Iterator["Tape"]:
        """Yield as many tapes for one reverse pass each; the last is this one, whose nodes that pass consumes."""
        for number in range(1, count + 1):
            yield self if number == count else replace(self, nodes=[*self.nodes])

    def reverse(
        self,
        seed: Tensor | Mapping[int, Tensor],
        rule_of: Callable[[Node], Rule],
        account: Account | None = None,
        witness: "Witness | None" = None,
    ) -> Tensor:
        """Propagate the relevance `seed` of the logits, or of several slots, back to the images, consuming the nodes.

        A `witness` sees the relevance of each value on the way. With one, the pass ends at the first of its layers,
        and the result is the relevance there.

        Raises `UnsupportedOperation` if relevance is left over at other slots, or if none reaches the images.
        """
        relevance: dict[int, Tensor] = {self.output: seed} if isinstance(seed, Tensor) else {**seed}
        while self.nodes:
            node = self.nodes.pop()  # popped, so that each node's tensors are freed as soon as it is done
            arrived = relevance.pop(node.output, None)
            if arrived is None:
                continue
            if witness is not None:
                witness.arrived(node.output, arrived, relevance, account)
                if len(self.nodes) == witness.last:
                    return arrived
            shares = rule_of(node)(node, arrived, account)
            if witness is not None:
                witness.split(node, arrived, shares, account)
            for slot, share in zip(node.inputs, shares, strict=True):
                if slot is not None and share is not None:
                    # never in place: several slots may share the memory of one relevance
                    relevance[slot] = relevance[slot] + share if slot in relevance else share
        arrived = relevance.pop(self.image, None)
        if arrived is None or relevance:
            raise UnsupportedOperation(
                "relevance did not propagate completely from the logits to the images "
                f"({len(relevance)} values were left over); please report the model, or choose a gradient method."
            )
        if witness is not None:
            witness.arrived(self.image, arrived, relevance, account)
        return arrived
