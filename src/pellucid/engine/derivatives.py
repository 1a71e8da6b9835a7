"""Distinguish missing derivatives from derivatives that are zero.

Autograd returns "no gradient" both for an output that does not depend on the input and for one whose dependence it
cannot see: an operator without an autograd formula, a branch marked as non-differentiable, a detached value. Filling
in zeros would report the second case as the first.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn
from warnings import catch_warnings, simplefilter

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from pellucid.core.errors import UnsupportedOperation
from pellucid.core.seeding import generator

__all__ = [
    "WAY_OUT",
    "check_graph",
    "derivatives",
    "listed",
    "missing_derivative",
    "slope_or_none",
    "unseen_changes",
    "zero_rows",
]

WAY_OUT = "choose a method that needs no derivative, such as 'occlusion' or 'rise'."
"""Advice that ends errors about missing derivatives in attributions."""
PROBE_SHARE = 1e-3
"""Largest probe noise, as a share of each input's value range: small enough to stay near the input, and large enough to
exceed float32 rounding."""
ROUNDING = 64
"""Changes up to this many machine epsilons of the largest output count as rounding."""
REPEATS = 3
"""Repetitions of a call that has to show a missing derivative, to tell it from a random output."""
SAMPLE = 32
"""Number of entries of a row to inspect before the whole row."""


def derivatives(
    outputs: Tensor | GradientEdge,
    inputs: Sequence[Tensor | GradientEdge],
    cotangent: Tensor | None = None,
    *,
    way_out: str,
    retain_graph: bool = False,
    create_graph: bool = False,
    folded: bool = False,
) -> tuple[Tensor | None, ...]:
    """Call `torch.autograd.grad` on tensors or graph edges; None for an input that the outputs do not depend on.

    Raises `UnsupportedOperation`, ending in `way_out`, if an operation has no derivative, or if the outputs depend on
    none of the inputs.
    """
    try:
        gradients = torch.autograd.grad(
            [outputs],  # type: ignore[arg-type]  # torch's annotation does not mix edges with tensors
            inputs,  # type: ignore[arg-type]
            None if cotangent is None else [cotangent],
            # torch's default for this is `create_graph`; passing False would override it
            retain_graph=retain_graph or create_graph,
            create_graph=create_graph,
            allow_unused=True,
            is_grads_batched=folded,
        )
    except RuntimeError as error:
        translated = missing_derivative(error, way_out)
        if translated is None:
            raise
        raise translated from error
    if all(gradient is None for gradient in gradients):
        if isinstance(outputs, Tensor):
            check_graph(outputs, way_out)  # raises a more precise error if an operator is to blame
        raise UnsupportedOperation(
            "autograd finds no derivative of the outputs with respect to the input: an operation in between (such as "
            f"an autograd.Function whose backward returns None) stops the gradient; {way_out}"
        )
    return gradients


_MISSING = (
    ("derivative for", "not implemented"),
    ("no autograd formula was registered",),
    ("must implement either the backward",),
    ("does not support it because it has not been implemented",),
)
"""Phrases of torch's errors for an operation without a derivative; all parts of one entry must occur."""

_IN_PLACE = "replace in-place operations, such as y += x or nn.ReLU(inplace=True), by ordinary ones"
_CHECKPOINTS = (
    "the model recomputes activations during the backward pass (torch.utils.checkpoint), which explanations cannot "
    "follow; turn that off, as by model.gradient_checkpointing_disable() or model.set_grad_checkpointing(False)"
)
_IMPOSSIBLE = {
    "modified by an inplace operation": f"the model overwrites a value that its gradient needs; {_IN_PLACE}",
    "is a view and is being modified inplace": (
        "the model has backward hooks, and overwrites the output of a module that has one; remove the hooks, or "
        f"{_IN_PLACE}"
    ),
    "Recomputed values for the following tensors": _CHECKPOINTS,
    "number of tensors was saved during the original forward": _CHECKPOINTS,
    "torch.utils.checkpoint is incompatible with .grad()": _CHECKPOINTS,
}
"""Explanations of derivatives that torch cannot compute in the model as it is, by phrases of torch's errors."""


def missing_derivative(error: Exception, way_out: str) -> UnsupportedOperation | None:
    """Translate autograd's error about a derivative that it cannot compute; None for any other error."""
    text = str(error)
    for phrase, problem in _IMPOSSIBLE.items():
        if phrase in text:
            return UnsupportedOperation(f"{problem}, or {way_out}")
    if isinstance(error, UnsupportedOperation) or not any(all(part in text for part in parts) for parts in _MISSING):
        return None
    return UnsupportedOperation(f"{text.strip().splitlines()[0].rstrip('.')}; {way_out}")


def check_graph(output: Tensor, way_out: str) -> None:
    """Raise `UnsupportedOperation` if an operator without an autograd formula took part in computing `output`.

    torch gives such an operator a node that warns during the backward pass and returns no gradient. (Its fallback mode
    "error", which would raise instead, is not implemented as of torch 2.14.) Walking the graph costs about half a
    microsecond per node, far less than the pass itself.
    """
    start = output.grad_fn
    if start is None:
        return
    seen, waiting = {start}, [start]
    while waiting:
        node = waiting.pop()
        # CppFunction is the generic type of C++ nodes; built-in operations and autograd.Functions have their own types
        if type(node).__name__ == "CppFunction" and "WarnNotImplemented" in node.name():
            _refuse_operator(output, way_out)
        for source, _ in node.next_functions:
            if source is not None and source not in seen:
                seen.add(source)
                waiting.append(source)


def _refuse_operator(output: Tensor, way_out: str) -> NoReturn:
    """Raise the error for an operator without a derivative, consuming the graph.

    Runs a backward pass, because only the warning that torch issues during one names the operator.
    """
    leaves = [node.variable for node in _leaf_nodes(output)]
    with catch_warnings(record=True) as warned:
        simplefilter("always")
        torch.autograd.grad(output.sum(), leaves, allow_unused=True)
    texts = [str(warning.message) for warning in warned]
    name = next((text.partition(": an autograd kernel")[0] for text in texts if ": an autograd kernel" in text), "")
    if name.startswith("quantized::"):
        before = "run this on the model as it was before quantization"
        # quantized operators do not take float64
        way_out = f"{before}." if "float64" in way_out else f"{before}, or {way_out}"
    raise UnsupportedOperation(
        f"{name or 'an operator of the model'} has no derivative (torch has no autograd formula for it), so torch "
        f"would return zeros; {way_out}"
    )


def _leaf_nodes(output: Tensor) -> list[Any]:
    seen: dict[Any, None] = {}
    waiting = [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen[node] = None
            waiting += [source for source, _ in node.next_functions]
    # only the nodes that accumulate the gradient of a leaf have a `variable`
    return [node for node in seen if hasattr(node, "variable")]


def zero_rows(maps: Tensor, kept: int = 1) -> Tensor | None:
    """Return True for each row (over all axes but the first `kept`) that is exactly zero; None if no row is."""
    sample = maps
    # first check a short piece from the middle of the image, where maps are rarely zero: this avoids a full pass
    while sample.ndim > kept + 1:
        sample = sample.select(kept, sample.shape[kept] // 2)
    if sample.ndim > kept:
        start = max(0, (sample.shape[kept] - SAMPLE) // 2)
        sample = sample.narrow(kept, start, min(SAMPLE, sample.shape[kept] - start))
        if bool(sample.any(kept).all()):
            return None
    is_zero = ~maps.flatten(kept).any(kept) if maps.ndim > kept else maps == 0
    return is_zero if bool(is_zero.any()) else None


def unseen_changes(call: Callable[[Tensor], Tensor], x: Tensor, is_zero: Tensor) -> Tensor:
    """Return a mask (batch, output) of outputs that change with `x` although their derivative is zero.

    `call` maps inputs like `x` to (batch, output), and `is_zero` marks outputs whose derivative at `x` is exactly zero.
    These are compared with the outputs at a nearby input. If an output differs by more than rounding, and its
    derivative is exactly zero there as well, autograd does not see the dependence. An output that does not change is
    constant (a dead ReLU), and one with a derivative nearby is at a kink or a stationary point (a black image under a
    network without biases); zero is correct for both. If outputs change when `call` is repeated at `x`, they are
    random, and none is marked.
    """
    here = call(x.detach().clone().requires_grad_()).detach()  # with a graph, so that both passes round identically
    leaf = _nearby(x, is_zero.any(1)).requires_grad_()
    there = call(leaf)
    unseen = is_zero & _differ(here, there.detach())
    for index in unseen.any(0).nonzero().flatten().tolist():
        # no output has a derivative nearby either, so all marked ones stay marked
        if not there.requires_grad:
            break
        # the images are independent, so the gradient of the sum holds the slope of each image
        slope = slope_or_none(there[:, index].sum(), leaf)
        if slope is not None:
            still_zero = zero_rows(slope)
            unseen[:, index] &= torch.zeros_like(unseen[:, index]) if still_zero is None else still_zero
    if bool(unseen.any()) and any(_is_random(call, x, here) for _ in range(REPEATS)):
        unseen = torch.zeros_like(unseen)
    return unseen


def _is_random(call: Callable[[Tensor], Tensor], x: Tensor, here: Tensor) -> bool:
    return bool(_differ(here, call(x.detach().clone().requires_grad_())).any())


def _differ(one: Tensor, other: Tensor) -> Tensor:
    """Return a mask (batch, output) of outputs that differ by more than rounding."""
    one, other = one.detach(), other.detach()
    scale = torch.maximum(one.abs(), other.abs()).amax(1, keepdim=True)
    return (one - other).abs() > ROUNDING * torch.finfo(one.dtype).eps * scale


def slope_or_none(score: Tensor, leaf: Tensor) -> Tensor | None:
    """Return ∂ score / ∂ leaf, or None if autograd finds no path; retains the graph."""
    slope: Tensor | None = torch.autograd.grad(score, leaf, retain_graph=True, allow_unused=True)[0]
    return slope


def _nearby(x: Tensor, which: Tensor) -> Tensor:
    """Return a copy of `x` with a little noise on the images `which`, from a separate seeded generator."""
    flat = x.detach().reshape(len(x), -1)
    largest = flat.abs().amax(1)
    span = flat.amax(1) - flat.amin(1)
    # a constant image has no value range: use its magnitude, or 1 if it is black
    size = torch.where(span > 0, span, torch.where(largest > 0, largest, torch.ones_like(largest)))
    # in float64 on the CPU, so that the noise is the same on every device
    draws = torch.rand(flat.shape, generator=generator(0, "unseen_changes"), dtype=torch.float64, device="cpu") - 0.5
    # keep the noise away from zero, so that an output that depends on a single entry changes too
    noise = (draws + torch.where(draws < 0, -0.5, 0.5)).to(flat)
    moved = flat + noise * (PROBE_SHARE * size * which)[:, None]
    return moved.view(x.shape)


def listed(indices: Iterable[int], most: int = 12) -> str:
    """Format indices as text, shortened if there are many.

    >>> listed([2, 3, 5]), listed(range(40), most=3)
    ('2, 3 and 5', '0, 1, 2, … (40 in all)')
    """
    numbers = [str(index) for index in indices]
    if len(numbers) > most:
        return f"{', '.join(numbers[:most])}, … ({len(numbers)} in all)"
    return " and ".join(filter(None, [", ".join(numbers[:-1]), *numbers[-1:]]))
