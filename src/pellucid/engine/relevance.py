"""Record a model, fold its batch norms, and propagate the relevance of its logits to the images by a composite."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from itertools import count

import torch
from torch import Tensor, nn

import pellucid.engine.operations  # noqa: F401  (fills the table of operations)
from pellucid.core.errors import UnsupportedOperation
from pellucid.core.isolation import exclusive, uncompiled
from pellucid.engine.arrivals import Flow, Witness
from pellucid.engine.composites import Composite, box_of, rule_of, takes_unknown
from pellucid.engine.conditional import Conditional, through_channels
from pellucid.engine.hidden import observed
from pellucid.engine.linear_maps import Convolution, Dense
from pellucid.engine.model import Readout, check_logits, refuse_softmax
from pellucid.engine.outputs import choose_output
from pellucid.engine.recorder import Recorder
from pellucid.engine.taint import TaintWatch
from pellucid.engine.tape import Account, Addition, Affine, Hidden, Move, Node, Rule, Tape
from pellucid.engine.wrapping import check_model

__all__ = ["Propagation", "fold_batch_norms", "folded", "propagate", "propagate_along", "record"]


@dataclass(frozen=True, eq=False)
class Propagation:
    """Relevance of the images, or of a layer's output, and its conservation ledger."""

    relevance: Tensor
    logits: Tensor
    seed: Tensor
    """The initial relevance of each logit."""
    account: Account | None
    precision: torch.dtype
    """The lowest precision of any value of the forward pass."""
    bypassed: Tensor | None = None
    """(batch,): relevance that other paths carry past the layer; None for the images, or if unknown."""
    flow: Flow = field(default_factory=dict)
    """Relevance of each branch where paths meet between the logits and the first of the layers."""
    note: str = ""
    """A caveat about the relevance of the layer; empty if there is none."""
    activations: Tensor | None = None
    """The layer's output; None for the images."""
    conditional: Conditional | None = None
    """Relevance of the images through single channels of the layer, if `readout.channels` asks for it."""


def record(
    model: nn.Module,
    images: Tensor,
    readout: Readout = Readout(),  # noqa: B008  (frozen)
    *,
    box: tuple[Tensor, Tensor] | None = None,
    is_watched: bool = False,
    with_unknown: bool = False,
) -> Tape:
    """Run a frozen model on `images` (batch, …) and record its operations.

    `is_watched` also tracks the operators below the recorded functions, and so finds dependencies on the images that
    the recorder cannot see. This is slower, and a single image suffices. `box` holds the lowest and the highest image;
    both broadcast to `images`. `with_unknown` also records operations without a rule, for which only
    the derivative is known.

    Raises `UnsupportedOperation`, naming operation and module, and `BatchMixed` if an operation mixes the images of the
    batch.
    """
    check_model(model, "operations")
    with exclusive(), torch.no_grad():  # exclusive, since the compiler stance is process-wide
        with ExitStack() as stack:
            taint = stack.enter_context(TaintWatch(images)) if is_watched else None
            stack.enter_context(uncompiled())
            recorder = stack.enter_context(Recorder(model, images, box, taint, with_unknown))
            hidden: dict[str, Hidden] = {}

            def note(name: str, output: Tensor, _is_input: bool) -> None:
                hidden[name] = recorder.hidden(name, output)

            with observed(model, readout.layers, note, len(images)) if readout.layers else nullcontext():
                outputs = model(images)
            logits = choose_output(outputs, readout.output)
        logits = recorder.newest(logits)  # a write through a view of them may have come last
    if recorder.slot(logits) is None:
        raise UnsupportedOperation(
            "the engine cannot trace the logits back to the images (a detached, scripted or constant output); "
            "compute them from the images with torch operations only, or choose a gradient method."
        )
    tape = recorder.finish(logits)
    tape.hidden = hidden
    last = next((node for node in reversed(tape.nodes) if node.output == tape.output), None)
    if (moved := _softmax_behind(tape, last)) is not None:
        refuse_softmax(behind=moved.place)
    if last is not None and last.kind in ("softmax", "log_softmax"):
        if not readout.unwrap_softmax:
            refuse_softmax()
        slot = last.inputs[0]
        assert slot is not None
        # the softmax stays on the tape, but no relevance arrives at it
        tape.output, tape.logits = slot, last.x
    check_logits(tape.logits, images)
    return tape


def _softmax_behind(tape: Tape, last: Node | None) -> Node | None:
    """Return the last operation if it only moves or clamps the output of a softmax; otherwise None."""
    producers, node = {node.output: node for node in tape.nodes}, last
    while node is not None and (isinstance(node, Move) or node.traits.keeps_softmax):
        slots = [slot for slot in node.inputs if slot is not None]
        node = producers.get(slots[0]) if len(slots) == 1 else None
    return last if node is not last and node is not None and node.kind in ("softmax", "log_softmax") else None


def propagate(
    model: nn.Module,
    images: Tensor,
    composite: Composite,
    seeds_of: Callable[[Tensor], Sequence[Tensor]],
    readout: Readout = Readout(),  # noqa: B008  (frozen)
    *,
    box: tuple[Tensor, Tensor] | None = None,
) -> list[Propagation]:
    """Propagate each relevance `seeds_of(logits)` of a frozen model's logits to `images` by the rules of `composite`.

    Runs one forward pass, and one reverse pass over its tape per seed. If `readout.is_certified`, also keeps an account
    of the relevance that biases, stabilizers and constants absorb. Pass `box`, the composite's bounds, if they are
    already computed for the shape of these images. With `readout.layers`, there is one result per seed and layer, in
    that order, instead of one per seed.
    """
    if box is None and (bounds := box_of(composite)) is not None:
        box = bounds.over(images)
    return propagate_along(folded(model, images, readout, takes_unknown(composite), box), composite, seeds_of, readout)


def folded(
    model: nn.Module,
    images: Tensor,
    readout: Readout,
    with_unknown: bool = False,
    box: tuple[Tensor, Tensor] | None = None,
) -> Tape:
    """Record a forward pass and fold its batch norms."""
    tape = record(model, images, readout, box=box, with_unknown=with_unknown)
    fold_batch_norms(tape)
    return tape


def propagate_along(
    tape: Tape, composite: Composite, seeds_of: Callable[[Tensor], Sequence[Tensor]], readout: Readout
) -> list[Propagation]:
    """Propagate each seed back along a folded tape, which this consumes."""
    logits, results = tape.logits, []

    def rule(node: Node) -> Rule:
        return rule_of(composite, node)

    def new_account() -> Account | None:
        return Account(len(logits), logits.dtype, logits.device) if readout.is_certified else None

    seeds = seeds_of(logits)
    for own, seed in zip(tape.copies(len(seeds)), seeds, strict=True):
        account = new_account()
        witness = Witness(own) if readout.layers else None
        # before the reverse pass, which consumes the nodes
        below = None if witness is None or readout.channels is None else own.up_to(witness.slots)
        with torch.no_grad():
            relevance = own.reverse(seed, rule, account, witness)
        whole = Propagation(relevance, logits, seed, account, tape.precision)
        found = [whole] if witness is None else [_at_layer(whole, witness, tape, name) for name in readout.layers]
        if below is not None:
            assert witness is not None
            assert readout.channels is not None
            arrival = witness.arrival(*readout.layers)
            with torch.no_grad():
                own_maps = through_channels(below, arrival, readout.layers[0], readout.channels, rule, new_account)
            found = [replace(found[0], conditional=own_maps)]
        results += found
    return results


def _at_layer(whole: Propagation, witness: Witness, tape: Tape, name: str) -> Propagation:
    """Return the result of a reverse pass at one of its layers."""
    arrival, is_merged = witness.arrival(name), tape.hidden[name].slot in tape.merged
    note = f"{name} is merged with the batch norm after it, so its relevance is that of the norm's output"
    return replace(
        whole,
        relevance=arrival.relevance.clone(),  # several layers may share the memory of one relevance
        account=arrival.account,
        bypassed=arrival.bypassed,
        flow=witness.flow,
        note=note if is_merged else "",
        activations=tape.hidden[name].value,
    )


def fold_batch_norms(tape: Tape) -> None:
    """Merge each batch norm with the convolution or dense layer that feeds it into one affine node.

    weight′ = scale · weight, bias′ = scale · bias + shift. A per-channel constant added to a layer's output, or
    multiplied with it, is folded in the same way, so a hand-written batch norm or bias is explained like the module's.
    The layer's own node stays for other uses of its output; without any, no relevance reaches it. If several outputs
    are concatenated before the batch norm, each is folded separately, and outputs of other operations are normalized
    before the concatenation.
    """
    producers = {node.output: node for node in tape.nodes}
    new_slots = count(1 + max(producers, default=0))
    tape.nodes = [new for node in tape.nodes for new in _folded(node, producers, new_slots, tape.merged)]


def _folded(
    node: Node, producers: dict[int, Node], new_slots: Iterator[int], slots: dict[int, list[int]]
) -> list[Node]:
    """Return the nodes that replace `node`; enters into `slots` which outputs they are merged with."""
    source = _source(node, producers)
    if isinstance(source, Affine):
        norm = _per_unit(node, source)
        if norm is None:
            return [node]
        producers[node.output] = merged = _merged(norm, source)  # the next constant is folded into this one
        slots.setdefault(source.output, []).append(node.output)
        return [merged]
    if node.kind != "batch_norm" or not isinstance(node, Affine):
        return [node]
    if not isinstance(source, Move) or source.joined is None:
        return [node]
    parts = _parts(node, source, new_slots)
    origins = [_source(part, producers) for part in parts]
    if not any(_is_kernel(origin) for origin in origins):
        return [node]
    joined = replace(source, inputs=tuple(part.output for part in parts), output=node.output, is_first=False)
    slots.setdefault(source.output, []).append(node.output)
    for part, origin in zip(parts, origins, strict=True):
        if isinstance(origin, Affine) and _is_kernel(origin):
            slots.setdefault(origin.output, []).append(part.output)
    folded = [
        _merged(part, origin) if isinstance(origin, Affine) and _is_kernel(origin) else part
        for part, origin in zip(parts, origins, strict=True)
    ]
    return [*folded, joined]


def _source(node: Node, producers: dict[int, Node]) -> Node | None:
    """Return the operation that feeds a batch norm, a scale or a sum with constants; None for other operations."""
    slots = [slot for slot in node.inputs if slot is not None]
    return producers.get(slots[0]) if node.kind in ("batch_norm", "scale", "add") and len(slots) == 1 else None


def _per_unit(node: Node, source: Affine) -> Affine | None:
    """Rewrite the node as a batch norm of the layer `source`; None unless its constants are one number per unit."""
    # a dense layer over tokens has its units along the last axis: a constant there can be folded, but not a batch norm,
    # which scales axis 1
    if not _is_kernel(source) and not (node.kind != "batch_norm" and isinstance(source.map, Dense)):
        return None
    if node.kind == "batch_norm":
        return node if isinstance(node, Affine) else None
    if node.is_masked:
        return None  # for a single image, a mask has the shape of one number per unit
    if isinstance(node, Addition):
        place = 0 if node.inputs[0] is None else 1
        constant, sign = node.terms[place] * node.signs[place], node.signs[1 - place]
    elif isinstance(node, Affine) and node.weight is not None:
        constant, sign = node.weight, 1
    else:
        return None
    axis = 1 if isinstance(source.map, Convolution) else source.z.ndim - 1
    units = source.z.shape[axis]
    # the unit axis within the constant's own shape, since broadcasting aligns the last axes
    place = axis - source.z.ndim + constant.ndim
    # A single number is not a layer's parameter: in relu6(x + 3) / 6 it belongs to the hard sigmoid.
    if units == 1 or constant.numel() != units or place < 0 or constant.shape[place] != units:
        return None
    vector = constant.flatten()
    if isinstance(node, Affine):
        return replace(node, bias=vector.new_zeros(units), weight=vector)
    return Affine(
        operation=node.operation,
        kind="batch_norm",
        inputs=(source.output,),
        output=node.output,
        path=node.path,
        is_first=node.is_first,
        batch_axis=node.batch_axis,
        x=source.z,
        z=node.z,
        weight=vector.new_full((units,), sign),
        bias=vector,
        map=source.map,
    )


def _is_kernel(node: Node | None) -> bool:
    """True if a node has a kernel and its output axis is axis 1, the one that a batch norm scales."""
    if not isinstance(node, Affine):
        return False
    return isinstance(node.map, Convolution) or (isinstance(node.map, Dense) and node.z.ndim == 2)


def _parts(node: Affine, source: Move, new_slots: Iterator[int]) -> list[Affine]:
    """Split the batch norm `node` into one per value that `source` concatenates."""
    assert source.joined is not None
    assert node.weight is not None
    assert node.bias is not None
    pieces = [value.split(source.joined, axis) for value, axis in
              ((node.x, 1), (node.z, 1), (node.weight, 0), (node.bias, 0))]  # fmt: skip
    return [
        replace(node, inputs=(slot,), output=next(new_slots), x=x, z=z, weight=weight, bias=bias)
        for slot, x, z, weight, bias in zip(source.inputs, *pieces, strict=True)
    ]


def _merged(node: Affine, source: Affine) -> Affine:
    """Merge a batch norm and the layer that feeds it into one affine node."""
    assert node.weight is not None
    assert node.bias is not None
    assert source.weight is not None
    scale, shift = node.weight.flatten(), node.bias.flatten()
    return replace(
        source,
        operation=f"{source.operation} with {node.operation}",
        output=node.output,
        z=node.z,
        weight=_scaled(source, source.weight, scale),
        bias=shift if source.bias is None else shift + scale * source.bias,
    )


def _scaled(source: Affine, weight: Tensor, scale: Tensor) -> Tensor:
    """Scale the weight's output axis: axis 0, or axis 1 within each group of a transposed convolution."""
    if not (isinstance(source.map, Convolution) and source.map.transposed):
        return weight * scale.view(-1, *(1 for _ in weight.shape[1:]))
    groups = source.map.groups
    ins, outs, *sizes = weight.shape
    grouped = weight.view(groups, ins // groups, outs, *sizes)
    return (grouped * scale.view(groups, 1, outs, *(1 for _ in sizes))).view(weight.shape)
