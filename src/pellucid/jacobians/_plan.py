"""Planning from a forward pass of the first image: sizes, operations, and checks that the derivative is correct."""

from ctypes import CDLL
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor
from torch.linalg import vector_norm

from pellucid.core.errors import ShapeError, UnsupportedOperation
from pellucid.engine.derivatives import check_graph, listed
from pellucid.engine.wrapping import check_hidden_norms, check_hidden_paths
from pellucid.jacobians._graph import Cut, narrowest_cut
from pellucid.jacobians._kernels import SMALL_BATCH, KernelSwap
from pellucid.jacobians._missing import WAY_OUT, zero_outputs
from pellucid.jacobians._native.graph import widest_span
from pellucid.jacobians._problem import Problem
from pellucid.jacobians._watch import PathWatch

__all__ = ["LARGEST_BYTES", "Layout", "NativeShare", "Plan", "PlanOutdated", "Signature", "flattened", "make_plan"]

LARGEST_BYTES = 10_000_000
"""Maximum size of a tensor in a chunk: a third of what allocators reuse without requesting new pages."""
LARGEST_STREAMED = 20_000_000
"""Maximum size of a chunk's Jacobian where the next chunk reuses its memory."""

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-2}
"""Allowed relative difference between an image's outputs alone and in a batch. It covers rounding only."""


Signature = tuple[object, ...]
"""The functions called in a forward pass, in order, with the shape and dtype of each result."""


@dataclass(frozen=True)
class NativeShare:
    """The part of a network that the native kernel runs."""

    work: int
    """Multiplications of one image's forward pass."""
    is_whole: bool


class PlanOutdated(Exception):
    """The model's operations have changed since its layout was cached."""


@dataclass(frozen=True)
class Layout:
    """Facts that decide how a Jacobian is computed. A wrong layout costs time but never changes the result."""

    shape: torch.Size
    """Shape of one image's outputs."""
    largest: int
    """Size in bytes of the largest tensor in one image's forward pass."""
    is_foldable: bool
    """True without attention or recurrence, whose backward passes have no batching rule."""
    swapped: frozenset[str]
    """Kinds of convolution that are replaced, and "double" for a forward pass in float64."""
    swapped_in_batches: frozenset[str]
    """Kinds replaced only for chunks of at least `SMALL_BATCH` images."""
    depthwise_area: int
    """Size of the largest kernel of a depthwise convolution, in pixels; 0 without one."""
    cut: Cut | None
    """The narrowest value on all paths of the first image's graph."""
    native: NativeShare | None = None
    """The native kernel's share of the network; None if it does not pay off."""
    is_compared: bool = False
    """True if a product of the native kernel has been compared with autograd's."""
    obstacle: str = ""
    """Reason that the kernel does not run all of the network, if any."""


@dataclass(eq=False)
class Plan:
    """A problem's layout and what else is known before its first chunk, whose forward pass verifies it."""

    problem: Problem
    layout: Layout
    wanted: tuple[int, ...]
    """Indices into the flattened outputs."""
    first: tuple[tuple[Tensor, ...], Tensor] | None = None
    """The first image's inputs as leaves and its flat outputs with their graph; None if not run in this call."""
    signature: Signature | None = None
    """Signature of the first chunk's forward pass; None if not known yet."""
    is_quiet: bool = False
    """True if folding is known to emit no warnings."""
    kernels: KernelSwap | None = None
    """Runs the convolutions; None if no convolution is replaced."""
    packed: dict[tuple[object, ...], tuple[Tensor, Tensor | None, Tensor, Tensor]] = field(
        default_factory=dict, repr=False
    )
    """Weights as rearranged for the native kernel, shared by the chunks of a call."""
    library: CDLL | None = None
    """The native kernel, once it has been looked up."""

    def swaps(self, chunk: int) -> frozenset[str]:
        """Return the optimizations applied to chunks of `chunk` images."""
        layout = self.layout
        return layout.swapped | layout.swapped_in_batches if chunk >= SMALL_BATCH else layout.swapped

    @property
    def chunk(self) -> int:
        """Default number of images per chunk: as many as `LARGEST_BYTES` allows, split into nearly equal chunks."""
        return self._chunk(self.layout.largest)

    @cached_property
    def streamed_chunk(self) -> int:
        """Default number of images per chunk if the Jacobian of a chunk should not exceed `LARGEST_STREAMED`."""
        size = self.problem.inputs[self.problem.floats[0]].element_size()
        jacobian = self.problem.input_count * len(self.wanted) * size
        return self._chunk(max(self.layout.largest, jacobian * LARGEST_BYTES // LARGEST_STREAMED))

    def _chunk(self, largest: int) -> int:
        most = max(1, LARGEST_BYTES // max(largest, 1))
        # the fewest chunks that fit, then the smallest chunk that needs no more of them
        return -(-self.problem.batch // -(-self.problem.batch // most))

    @property
    def result_shape(self) -> torch.Size:
        """Shape of one image's wanted outputs."""
        return self.layout.shape if self.problem.indices is None else torch.Size([len(self.wanted)])

    def verify(self, leaves: tuple[Tensor, ...]) -> Tensor:
        """Run the first chunk with all checks and return its outputs (batch, output) with their graph.

        Raises whatever `make_plan` raises, `ShapeError` for images that depend on each other, and `PlanOutdated` if the
        forward pass differs from the cached one.
        """
        # known layers that passed the checks once cannot behave differently later
        if self.signature is not None and self.problem.known_layers:
            return flattened(self.problem.call(leaves))
        output, signature = _run_watched(self.problem, leaves)
        if self.signature not in (None, signature):
            raise PlanOutdated
        self.signature = signature
        flat = flattened(output)
        if len(flat) > 1 and not self.problem.known_layers:
            self._check_alone(flat.detach()[0])
        return flat

    def _check_alone(self, batched: Tensor) -> None:
        """Raise `ShapeError` if the first image's outputs in a batch differ from its outputs alone."""
        alone = self.problem.call(self.problem.part(0, 1)) if self.first is None else self.first[1]
        alone = alone.detach().flatten()
        if alone.shape != batched.shape:
            raise ShapeError(
                f"the first image's outputs have shape {tuple(batched.shape)} in a batch but {tuple(alone.shape)} "
                "alone. Make their shape independent of the batch, or pass chunk=1."
            )
        error, scale = float(vector_norm(alone - batched, torch.inf)), float(vector_norm(alone, torch.inf))
        if error > TOLERANCE.get(batched.dtype, 0.1) * scale + torch.finfo(batched.dtype).tiny:
            raise ShapeError(
                f"the first image's outputs change by {error:.1e} in a batch with other images: the model mixes the "
                "images of a batch, or draws random numbers. Make it process each image independently, or pass chunk=1."
            )


def flattened(output: Tensor) -> Tensor:
    """Reshape outputs to (batch, output), unless they are: a node of the graph takes time in every backward pass."""
    return output if output.ndim == 2 else output.reshape(len(output), -1)


def make_plan(problem: Problem, kernels: KernelSwap | None = None) -> Plan:
    """Run the first image with all checks and record its layout. Requires that gradients are enabled.

    `kernels` runs the convolutions. Raises `UnsupportedOperation` if the derivative would be wrong, and `ShapeError`
    for outputs without a row per image or an output index out of range.
    """
    leaves, kernels = problem.part(0, 1), kernels or KernelSwap()
    kernels.is_planning = True
    with kernels:
        output, signature = _run_watched(problem, leaves)
    kernels.is_planning = False
    flat = flattened(output)
    wanted = problem.wanted(flat.shape[1])
    share, obstacle = _native_share(problem, flat, leaves, signature)
    if "fourier" in kernels.swapped:
        share, obstacle = None, "large depthwise convolutions are faster by FFT"
    layout = Layout(
        shape=output.shape[1:],
        largest=max(kernels.largest, *(tensor[0].numel() * tensor.element_size() for tensor in problem.inputs)),
        is_foldable=kernels.is_foldable,
        swapped=frozenset(kernels.swapped),
        swapped_in_batches=frozenset(kernels.swapped_in_batches),
        depthwise_area=kernels.depthwise_area,
        cut=narrowest_cut(flat, tuple(leaves[place] for place in problem.floats), fewer_than=len(wanted)),
        native=share,
        obstacle=obstacle,
    )
    # a signature holds the shapes of the first chunk, which is this image only for a batch of one
    return Plan(problem, layout, wanted, (leaves, flat), signature if problem.batch == 1 else None, kernels=kernels)


def _native_share(
    problem: Problem, flat: Tensor, leaves: tuple[Tensor, ...], signature: Signature
) -> tuple[NativeShare | None, str]:
    """Return the native kernel's share of the network, and the reason that it is not all of it, if any."""
    if len(problem.floats) != 1:
        return None, "the model has several inputs"
    leaf = leaves[problem.floats[0]]
    if leaf.device.type != "cpu" or leaf.dtype not in (torch.float32, torch.float64):
        return None, f"the inputs are {leaf.dtype} on {leaf.device}, not float32 or float64 on a CPU"
    # such hooks change gradients in ways that autograd's graph does not show
    if any(
        Tensor.register_hook in call if isinstance(call, tuple) else call is Tensor.register_hook for call in signature
    ):
        return None, "a tensor of the forward pass has a hook"
    span, reason = widest_span(flat, leaf)
    obstacle = f"the kernel does not support {reason}" if reason else ""
    return (None if span is None else NativeShare(span.work, span.is_whole)), obstacle


def _run_watched(problem: Problem, leaves: tuple[Tensor, ...]) -> tuple[Tensor, Signature]:
    """Run one forward pass under `PathWatch`; return the chosen output and the pass's signature."""
    copies = [leaf.clone() for leaf in leaves]  # copies, because the model may modify its inputs in place
    check_hidden_norms(problem.model, *(leaf[:1] for leaf in leaves))
    check_hidden_paths(problem.model, f"or {WAY_OUT}")
    with PathWatch(problem.model) as watch:
        returned = problem.run(copies)
    output = problem.chosen(returned, leaves)
    try:
        watch.check(output)
    except UnsupportedOperation as error:
        missing = zero_outputs(problem, leaves, output) if output.requires_grad else []
        if not missing:
            raise
        raise UnsupportedOperation(f"{error} There is no derivative at all for outputs {listed(missing)}.") from None
    check_graph(output, WAY_OUT)
    return output, (*watch.calls, output.shape)
