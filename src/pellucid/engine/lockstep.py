"""DeepLIFT multipliers from two forward passes in lockstep: of the images and of a baseline.

The multiplier m of a value v is the change of the explained score per change of v from its baseline: Σ m Δv = Δscore at
every stage of the network. Linear operations propagate multipliers by their transpose. All others use the rules below,
which preserve that sum exactly.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from pellucid.core.errors import UnsupportedOperation
from pellucid.engine.arrivals import Witness
from pellucid.engine.linear_maps import FrozenMaximum, FrozenNorm, vjp
from pellucid.engine.model import Readout
from pellucid.engine.relevance import record
from pellucid.engine.tape import (
    Account,
    Activation,
    Affine,
    Maximum,
    Move,
    Node,
    Product,
    Relevances,
    Rule,
    Softmax,
    Tape,
)

__all__ = ["Multipliers", "differing_selection", "multipliers"]


@dataclass(frozen=True, eq=False)
class Multipliers:
    """Change of the score per unit change of each pixel, or of each value of a layer's output, from its baseline."""

    values: Tensor
    change: Tensor
    """The change of each pixel, or of each value of the layer's output, from its baseline."""
    logits: Tensor
    baseline_logits: Tensor
    """(1, class), or (batch, class) if each image has its own baseline."""
    slope: Tensor
    """Change of the score per unit change of each logit, shaped like the logits."""
    precision: torch.dtype
    """The lowest precision of any value of the forward pass."""
    activations: Tensor | None = None
    """The layer's output; None for the images."""
    is_cut: bool = True
    """True if the score depends on the images only through these values, so that Σ values · change is its change."""


def multipliers(
    model: nn.Module,
    images: Tensor,
    baseline: Tensor,
    slopes_of: Callable[[Tensor], Sequence[Tensor]],
    readout: Readout = Readout(),  # noqa: B008  (frozen)
) -> list[Multipliers]:
    """Compute the multipliers of a frozen model's input for each slope of a score.

    `baseline` is one image, (1, …), or one per image, like `images`. With `readout.layers`, the multipliers are those
    of the layers' outputs, with one result per slope and layer, in that order.

    Raises `UnsupportedOperation` if control flow differs between the images and the baseline.
    """
    base = record(model, baseline, readout)
    tape = record(model, images, readout)
    if len(baseline) < len(images) and _is_mixed(tape, base):
        base = record(model, baseline.expand_as(images).contiguous(), readout)
    twins = _twins(tape, base)

    def rule(node: Node) -> Rule:
        return _Rescale(twins[id(node)])

    slopes, results = slopes_of(tape.logits), []
    for own, slope in zip(tape.copies(len(slopes)), slopes, strict=True):
        with torch.no_grad():
            witness = Witness(own) if readout.layers else None
            arrived, logits = own.reverse(slope, rule, None, witness), base.logits[: len(baseline)]
        whole = Multipliers(arrived, images - baseline, tape.logits, logits, slope, tape.precision)
        if witness is None:
            results.append(whole)
            continue
        for name in readout.layers:
            arrival, value = witness.arrival(name), tape.hidden[name].value
            change = value - base.hidden[name].value
            results.append(
                replace(whole, values=arrival.relevance, change=change, activations=value, is_cut=arrival.is_cut)
            )
    return results


def _twins(tape: Tape, base: Tape) -> dict[int, Node]:
    """Map the id of each node to its counterpart in the baseline's forward pass."""
    pairs = list(zip(tape.nodes, base.nodes, strict=False))
    differing = [own for own, other in pairs if (own.operation, own.inputs) != (other.operation, other.inputs)]
    if differing or len(tape.nodes) != len(base.nodes):
        where = f", first at {differing[0].place}" if differing else ""
        raise UnsupportedOperation(
            f"the model's control flow differs between the baseline and the image{where}, so the two cannot be "
            "compared; choose another baseline or another method."
        )
    return {id(own): other for own, other in pairs}


def differing_selection(
    model: nn.Module,
    images: Tensor,
    baseline: Tensor,
    readout: Readout = Readout(),  # noqa: B008  (frozen)
) -> str:
    """Name the first operation that selects other values for the images than for the baseline; "" if none does."""
    tapes = [record(model, x, readout) for x in (images, baseline.expand_as(images).contiguous())]
    with torch.no_grad():
        for node, twin in zip(tapes[0].nodes, tapes[1].nodes, strict=True):
            if isinstance(node, Move) and isinstance(twin, Move) and node.shape.numel():
                # different masks and indices route the same numbers to different places
                numbers = torch.linspace(1, 2, node.shape.numel(), dtype=images.dtype, device=images.device)
                routed = [move.pullback(numbers.view(node.shape)) for move in (node, twin)]
                pairs = zip(*routed, strict=True)
                if any(a is not None and b is not None and not torch.equal(a, b) for a, b in pairs):
                    return node.place
            elif isinstance(node, Affine) and isinstance(twin, Affine) and node.is_masked and node.weight is not None:
                own, other = node.weight, twin.weight
                if other is None or not torch.equal(own, other):
                    return node.place
    return ""


def _is_mixed(tape: Tape, base: Tape) -> bool:
    """True if a single baseline does not broadcast to the batch, because images are not along the first axis."""
    pairs = zip(tape.nodes, base.nodes, strict=False)
    return any(node.batch_axis != 0 or _is_merged(node, twin) for node, twin in pairs)


def _is_merged(node: Node, twin: Node) -> bool:
    """True if the first axis holds more than the images, such as images × windows."""
    values = [(getattr(node, name, None), getattr(twin, name, None)) for name in ("x", "z", "a", "b")]
    return any(
        isinstance(own, Tensor) and isinstance(other, Tensor) and own.ndim and other.shape[:1] != (1,)
        for own, other in values
    )


@dataclass(frozen=True, eq=False)
class _Rescale:
    """Rule that computes the multipliers of a node's inputs from that of its output."""

    twin: Node

    def __call__(self, node: Node, relevance: Tensor, account: Account | None) -> Relevances:
        twin = self.twin
        if isinstance(node, Activation) and isinstance(twin, Activation):
            return [_activation_ratio(node, twin).mul_(relevance)]
        if isinstance(node, Maximum) and isinstance(twin, Maximum):
            return [_pooled(node, twin, relevance)]
        if isinstance(node, Product) and isinstance(twin, Product):
            return _averaged(node, twin, relevance)
        if isinstance(node, Softmax) and isinstance(twin, Softmax):
            return [_softmax(node, twin, relevance)]
        if isinstance(node, Affine) and isinstance(twin, Affine) and isinstance(node.map, FrozenNorm):
            return [_normalized(node, twin, node.map, relevance)]
        if isinstance(node, Affine) and isinstance(twin, Affine) and isinstance(node.map, FrozenMaximum):
            return [_log_sum(node, twin, node.map, relevance)]
        return node.pullback(relevance)


def _activation_ratio(node: Activation, twin: Activation) -> Tensor:
    if node.operation not in ("relu", "relu_"):
        return _ratio(node.x - twin.x, node.y - twin.y, lambda: _derivative(node))
    ratio = (node.y - twin.y).div_(node.x - twin.x)  # between 0 and 1, also where both are tiny
    if bool(ratio.sum().isnan()):  # 0 / 0 where nothing changed: use the derivative
        ratio = torch.where(ratio.isnan(), (node.x > 0).to(ratio.dtype), ratio)
    return ratio


def _derivative(node: Activation) -> Tensor:
    return vjp(node.replay, node.x, torch.ones_like(node.x)).nan_to_num(0.0, 0.0, 0.0)  # e.g. of √x at 0


def _ratio(change: Tensor, answer: Tensor, slope: Callable[[], Tensor]) -> Tensor:
    """Return Δy / Δx, or the derivative where Δx is too small to divide by."""
    tiny = 1e-10 if change.dtype == torch.float64 else 1e-6
    is_tiny = change.abs() < tiny
    ratio = answer / change
    return torch.where(is_tiny, slope(), ratio) if bool(is_tiny.any()) else ratio


def _pooled(node: Maximum, twin: Maximum, multiplier: Tensor) -> Tensor:
    """Route everything to the winner of the side with the larger maximum, where 0 ≤ Δy/Δx ≤ 1."""
    if node.indices is None or twin.indices is None:
        return vjp(node.replay, node.x, multiplier)
    count = len(node.pooled)
    last = tuple(range(-count, 0))

    def lined_up(values: Tensor, axes: tuple[int, ...]) -> Tensor:
        return values.movedim(axes, last).flatten(-count)

    x = lined_up(node.x, node.pooled)
    # the baseline may be a single image for the whole batch
    x0 = lined_up(twin.x, node.pooled).expand_as(x)
    y, y0, m, place = (
        lined_up(values, node.pooled)
        # a pool keeps its spatial axes; a maximum over axes has a single output in place of them
        if "pool" in node.operation
        else values.expand_as(node.y).reshape(*x.shape[:-1], 1)
        for values in (node.y, twin.y, multiplier, torch.where(node.y >= twin.y, node.indices, twin.indices))
    )
    change = x.gather(-1, place) - x0.gather(-1, place)
    share = _ratio(change, y - y0, lambda: torch.ones_like(change))
    spread = torch.zeros_like(x).scatter_add_(-1, place, m * share)
    return spread.unflatten(-1, [node.x.shape[axis] for axis in node.pooled]).movedim(last, node.pooled)


def _averaged(node: Product, twin: Product, multiplier: Tensor) -> Relevances:
    """Δ(ab) = Δa (b + b₀)/2 + Δb (a + a₀)/2; in a normalization Δ(ab) = Δa b + Δb a₀, where b is the statistic.

    A norm divides a zero baseline by almost zero, so b₀ = 1/ε would dominate the average with b. Both forms preserve
    the sum. The second is what `_normalized` does for torch's norms.
    """
    if node.is_normalization:
        return _normalized_product(node, twin, multiplier)
    mean_a, mean_b = (node.a + twin.a) / 2, (node.b + twin.b) / 2
    return [
        vjp(lambda a: node.multiply(a, mean_b), node.a, multiplier),
        vjp(lambda b: node.multiply(mean_a, b), node.b, multiplier),
    ]


def _normalized_product(node: Product, twin: Product, multiplier: Tensor) -> Relevances:
    own, base = (node.a, node.b), (twin.a, twin.b)
    assert node.gate is not None
    signal = 1 - node.gate
    shares: list[Tensor | None] = [None, None]
    shares[signal] = (multiplier * own[node.gate]).sum_to_size(own[signal].shape)
    shares[node.gate] = (multiplier * base[signal]).sum_to_size(own[node.gate].shape)
    return shares


def _softmax(node: Softmax, twin: Softmax, multiplier: Tensor) -> Tensor:
    """Decompose log p_i = d_i − log Σ e^d: ratios of changes at the inner exp, at the log of the sum, at the outer exp.

    These ratios are logarithmic means, so nothing cancels. d is x minus its mean under (p + p₀)/2, which makes the
    multipliers sum to 0, as they must: a softmax is invariant to a shift of all of x.
    """
    is_open = torch.isfinite(node.x)  # masked entries are −∞ on both sides
    mean = (node.y + twin.y) / 2
    d, d0 = (x - (mean * x).sum(node.dim, keepdim=True) for x in (x.masked_fill(~is_open, 0) for x in (node.x, twin.x)))
    log, log0 = (x.masked_fill(~is_open, -torch.inf).logsumexp(node.dim, keepdim=True) for x in (d, d0))
    # weights: the logarithmic mean of e^d and e^d₀, relative to that of their sums; subtracting before the only exp
    # prevents overflow
    scale = (torch.maximum(d, d0) - torch.maximum(log, log0)).exp() * is_open
    weights = scale * _decline(d - d0) / _decline(log - log0)
    change = d - d0 - (log - log0)  # log p − log p₀
    by_share = multiplier * torch.maximum(node.y, twin.y) * _decline(change)
    centered = by_share - weights * by_share.sum(node.dim, keepdim=True)
    return (centered - mean * centered.sum(node.dim, keepdim=True)) * is_open


def _log_sum(node: Affine, twin: Affine, own: FrozenMaximum, multiplier: Tensor) -> Tensor:
    """m_i = L(eˣⁱ, eˣ⁰ⁱ) / L(Σ eˣ, Σ eˣ⁰) with the logarithmic mean L: ratios of changes at each exp and at the log."""
    base = twin.map
    assert isinstance(base, FrozenMaximum)
    log, log0 = own.widened(node.z), base.widened(twin.z)
    x, x0 = torch.broadcast_tensors(own.source, base.source)
    is_open = torch.isfinite(x) & torch.isfinite(x0)
    x, x0 = x.masked_fill(~is_open, 0), x0.masked_fill(~is_open, 0)
    scale = (torch.maximum(x, x0) - torch.maximum(log, log0)).exp() * is_open
    return own.widened(multiplier) * scale * _decline(x - x0) / _decline(log - log0)


def _decline(log_ratio: Tensor) -> Tensor:
    """Return the logarithmic mean (a − b) / (log a − log b), relative to the larger of a and b."""
    size = log_ratio.abs()
    # expm1 keeps the digits of small ratios, and the limit at 0 is 1
    return torch.where(size > 0, -torch.expm1(-size) / size, 1.0)


def _normalized(node: Affine, twin: Affine, norm: FrozenNorm, multiplier: Tensor) -> Tensor:
    """c/σ of the centered c: m_c = 1/σ of the image, m_(1/σ) = c of the baseline; average rule for the variance."""
    base = twin.map
    assert isinstance(base, FrozenNorm)
    assert node.weight is not None
    c = norm.center(node.x.reshape(norm.grouped))
    c0 = norm.center(twin.x.reshape(base.grouped))
    m = (multiplier * node.weight).reshape(norm.grouped)
    inverse, inverse0 = 1 / norm.deviation, 1 / base.deviation
    by_inverse = (m * c0).sum(norm.axes, keepdim=True)
    variances = norm.deviation.square() - base.deviation.square()
    # where the variance hardly changes, the derivative of 1/σ with respect to σ² takes the place of the ratio
    by_variance = by_inverse * _ratio(variances, inverse - inverse0, lambda: -0.5 * inverse**3)
    # Δσ² = Σ (c + c₀)(c − c₀) / size, where size is the number of values that share one σ
    size = c[0].numel() // by_variance[0].numel()
    return norm.center(m * inverse + by_variance * (c + c0) / size).reshape(node.x.shape)
