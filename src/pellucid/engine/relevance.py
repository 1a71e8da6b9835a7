"""Propagate the relevance of an unmodified model's logits to its input, by any composite of rules."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

import pellucid.engine.operations  # noqa: F401  (fills the table of operations)
from pellucid.core.errors import UnsupportedOperation
from pellucid.core.isolation import exclusive
from pellucid.engine.account import Account
from pellucid.engine.composites import Composite, box_of, rule_of
from pellucid.engine.folding import fold_batch_norms
from pellucid.engine.guards import TaintWatch
from pellucid.engine.outputs import Readout, check_logits, choose_output, refuse_softmax
from pellucid.engine.recorder import Recorder
from pellucid.engine.tape import Move, Node, Rule, Tape

__all__ = ["Propagation", "propagate", "propagate_each", "record"]


@dataclass(frozen=True, eq=False)
class Propagation:
    """Relevance and its conservation ledger."""

    relevance: Tensor
    logits: Tensor
    seed: Tensor
    """The initial relevance of each logit."""
    account: Account | None


def record(
    model: nn.Module,
    images: Tensor,
    readout: Readout = Readout(),  # noqa: B008  (frozen)
    *,
    box: tuple[Tensor, Tensor] | None = None,
    is_watched: bool = False,
) -> Tape:
    """Run a frozen model on `images` (batch, …) and record its operations.

    `is_watched` also tracks the operators below the recorded functions, and so finds dependencies on the images that
    the recorder cannot see. This is slower, and a single image suffices. `box` holds the lowest and the highest image;
    both broadcast to `images`.

    Raises `UnsupportedOperation`, naming operation and module, and `BatchMixed` if an operation mixes the images of the
    batch.
    """
    with exclusive(), torch.no_grad(), ExitStack() as stack:  # exclusive, since the compiler stance is process-wide
        taint = stack.enter_context(TaintWatch(images)) if is_watched else None
        stack.enter_context(torch.compiler.set_stance("force_eager"))  # run compiled modules as plain Python
        recorder = stack.enter_context(Recorder(model, images, box, taint))
        outputs = model(images)
        logits = choose_output(outputs, readout.output)
    if recorder.slot(logits) is None:
        raise UnsupportedOperation(
            "the engine cannot trace the logits back to the images (a detached, scripted or constant output); "
            "compute them from the images with torch operations only, or choose a gradient method."
        )
    tape = recorder.finish(logits)
    last = next((node for node in reversed(tape.nodes) if node.output == tape.output), None)
    if (moved := _softmax_behind(tape, last)) is not None:
        refuse_softmax(behind=moved.place)
    if last is not None and last.kind in ("softmax", "log_softmax"):
        if not readout.unwrap_softmax:
            refuse_softmax()
        slot = last.inputs[0]
        assert slot is not None
        tape.output, tape.logits = slot, last.x
    check_logits(tape.logits, images)
    return tape


def _softmax_behind(tape: Tape, last: Node | None) -> Node | None:
    """Return the last operation if it only moves or clamps the output of a softmax; otherwise None."""
    producers, node = {node.output: node for node in tape.nodes}, last
    while node is not None and (isinstance(node, Move) or node.operation.startswith(("clamp", "clip"))):
        slots = [slot for slot in node.inputs if slot is not None]
        node = producers.get(slots[0]) if len(slots) == 1 else None
    return last if node is not last and node is not None and node.kind in ("softmax", "log_softmax") else None


def propagate(
    model: nn.Module,
    images: Tensor,
    composite: Composite,
    seed_of: Callable[[Tensor], Tensor],
    readout: Readout = Readout(),  # noqa: B008  (frozen)
) -> Propagation:
    """Propagate the relevance `seed_of(logits)` of a frozen model's logits to `images` by the rules of `composite`."""
    return propagate_each(model, images, composite, lambda logits: [seed_of(logits)], readout)[0]


def propagate_each(
    model: nn.Module,
    images: Tensor,
    composite: Composite,
    seeds_of: Callable[[Tensor], Sequence[Tensor]],
    readout: Readout = Readout(),  # noqa: B008  (frozen)
    *,
    box: tuple[Tensor, Tensor] | None = None,
) -> list[Propagation]:
    """Run `propagate` for several seeds: one forward pass, and one reverse pass over its tape per seed.

    Pass `box`, the composite's bounds, if they are already computed for the shape of these images.
    """
    if box is None and (bounds := box_of(composite)) is not None:
        box = bounds.over(images)
    tape = record(model, images, readout, box=box)
    fold_batch_norms(tape)
    logits, results = tape.logits, []

    def rule(node: Node) -> Rule:
        return rule_of(composite, node)

    seeds = seeds_of(logits)
    for number, seed in enumerate(seeds, start=1):
        account = Account(len(images), logits.dtype, logits.device) if readout.is_certified else None
        own = tape if number == len(seeds) else replace(tape, nodes=[*tape.nodes])  # the last one consumes the nodes
        with torch.no_grad():
            results.append(Propagation(own.reverse(seed, rule, account), logits, seed, account))
    return results
