"""The tape: what a forward pass did, one node per operation, and the loop that carries relevance back over it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pellucid.core.errors import UnsupportedOperation
from pellucid.engine.arguments import substitute, tensors_in

if TYPE_CHECKING:
    from pellucid.engine.account import Account
    from pellucid.engine.linear_maps import LinearMap

__all__ = [
    "Activation",
    "Addition",
    "Affine",
    "Formula",
    "Function",
    "Maximum",
    "Move",
    "Node",
    "Product",
    "Relevances",
    "Rule",
    "Softmax",
    "Tape",
    "vjp",
]

Relevances = Sequence[Tensor | None]
"""One relevance per input of a node; None where the input gets none."""


@dataclass(eq=False, kw_only=True)
class Formula:
    """How an elementwise operation computes its value, so that it can be computed again from other inputs."""

    function: Callable[..., Tensor]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    operands: tuple[Tensor, ...]
    """The tensors that the node's slots stand for, in the order of its inputs; of a mask, those that it compares."""
    value: Tensor
    masks: Mapping[int, "Formula"]
    """Formulas of comparisons with values that depend on the image, by the identity of their result. A mask is a
    constant for the derivative, but f(0) needs the mask at 0."""

    def __call__(self, values: Mapping[int, Tensor]) -> Tensor:
        """The value where the tensors with the identities in `values` are replaced."""

        def replaced(tensor: Tensor) -> Tensor:
            if id(tensor) in values:
                return values[id(tensor)]
            mask = self.masks.get(id(tensor))
            return tensor if mask is None else mask(values)

        return self.function(*substitute(self.args, replaced), **substitute(dict(self.kwargs), replaced))

    def compared(self) -> set[int]:
        """The identities of the tensors whose comparisons the value depends on."""
        found: set[int] = set()
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
    """What a composite selects by, such as `convolution`."""
    inputs: tuple[int | None, ...]
    """The slot of each input; None for a constant."""
    output: int
    path: str
    """The module in which the operation ran; empty for the model itself."""
    is_first: bool
    """Whether the input is still the image, up to moves and per-channel normalisation."""
    batch_axis: int
    """The axis of the output that starts with the images of the batch."""
    bounds: tuple[Tensor, Tensor] | None = None
    """The lowest and the highest input, where it is still the image and the composite asks for them."""
    formula: Formula | None = None
    """Set where each element of the output depends on the same element of the inputs alone."""
    is_masked: bool = False
    """True if a constant of the operation is a comparison with the image, or computed from one."""

    def pullback(self, cotangent: Tensor) -> Relevances:
        """The vector-Jacobian product with each input."""
        raise NotImplementedError

    @property
    def place(self) -> str:
        """Operation and module, for messages."""
        return f"{self.operation} in {self.path!r}" if self.path else f"{self.operation} in the model itself"


Rule = Callable[..., Relevances]
"""(node, relevance of its output, account or None) to the relevance of each of its inputs."""


@dataclass(eq=False, kw_only=True)
class Move(Node):
    """Values moved, copied or dropped: view, permute, cat, index, pad."""

    pull: Callable[[Tensor], Relevances]
    inserted: Callable[[], Tensor] | None = None
    """1 where the output is a constant and 0 elsewhere, where the operation puts constants in."""
    joined: tuple[int, ...] | None = None
    """How many channels (along axis 1) come from each input, where the operation joins them."""

    def pullback(self, cotangent: Tensor) -> Relevances:
        return self.pull(cotangent)


@dataclass(eq=False, kw_only=True)
class Maximum(Node):
    """The largest of some values wins."""

    x: Tensor
    y: Tensor
    replay: Callable[[Tensor], Tensor]
    pull: Callable[[Tensor], Tensor] | None = None
    indices: Tensor | None = None
    """The place of each winner, counted along the input's axes `pooled` taken as one."""
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
    map: "LinearMap"
    replay: Callable[[Tensor], Tensor] | None = None
    """The operation itself, where it is affine only once something (a deviation) is held fixed."""

    def pullback(self, cotangent: Tensor) -> Relevances:
        if self.replay is not None:
            return [vjp(self.replay, self.x, cotangent)]
        return [self.map.transpose(cotangent, self.weight, self.x)]


@dataclass(eq=False, kw_only=True)
class Addition(Node):
    """z = Σ terms, each of which may be broadcast; the constants among them have no slot."""

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
    """y = f(x), each element by itself."""

    x: Tensor
    y: Tensor
    replay: Callable[[Tensor], Tensor]
    at_zero: float | int | Tensor
    """f(0); not finite where f has no value there. A tensor where it differs between elements."""
    is_rectifier: bool
    """Whether f lets positive values pass and holds negative ones back: ReLU and its smooth relatives."""

    def pullback(self, cotangent: Tensor) -> Relevances:
        if self.operation in ("relu", "relu_"):
            return [torch.ops.aten.threshold_backward(cotangent, self.y, 0)]
        return [vjp(self.replay, self.x, cotangent)]


@dataclass(eq=False, kw_only=True)
class Function(Activation):
    """Several elementwise operations that are one function of a single value, such as GELU written by hand."""

    is_saturating: bool
    """True if f is constant far from zero, on both sides: a gate such as a sigmoid."""


@dataclass(eq=False, kw_only=True)
class Product(Node):
    """z = multiply(a, b) where both depend on the image: an elementwise or a matrix product."""

    a: Tensor
    b: Tensor
    z: Tensor
    multiply: Callable[[Tensor, Tensor], Tensor]
    gate: int | None
    """Which factor only scales the other (0 or 1); None where both carry a signal."""
    is_normalization: bool = False
    """True if the gate is one over a statistic, such as 1/σ in a norm."""

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


def vjp(function: Callable[[Tensor], Tensor], x: Tensor, cotangent: Tensor) -> Tensor:
    """Cotangent · ∂function/∂x, by autograd."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        output = function(leaf)
        return torch.autograd.grad(output, leaf, cotangent.to(output.dtype).expand_as(output))[0]


@dataclass(eq=False)
class Tape:
    """A forward pass: its nodes in order, and where it began and ended."""

    nodes: list[Node]
    image: int
    """The slot of the images."""
    output: int
    """The slot of the logits."""
    logits: Tensor

    def reverse(self, seed: Tensor, rule_of: Callable[[Node], Rule], account: "Account | None" = None) -> Tensor:
        """Carry the relevance `seed` of the logits back to the images; the nodes are used up on the way.

        Raises `UnsupportedOperation` where relevance is left over on the way, or none arrives.
        """
        relevance: dict[int, Tensor] = {self.output: seed}
        while self.nodes:
            node = self.nodes.pop()
            arrived = relevance.pop(node.output, None)
            if arrived is None:
                continue
            for slot, share in zip(node.inputs, rule_of(node)(node, arrived, account), strict=True):
                if slot is not None and share is not None:
                    relevance[slot] = relevance[slot] + share if slot in relevance else share
        arrived = relevance.pop(self.image, None)
        if arrived is None or relevance:
            raise UnsupportedOperation(
                "relevance did not find its way back from the logits to the images "
                f"({len(relevance)} pieces were left over); please report the model, or choose a gradient method."
            )
        return arrived
