"""One intercepted function call: the first argument of every operation handler."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor

from pellucid.engine.axes import BatchMixed, broadcast_axis
from pellucid.engine.table import Entry, modified, substitute, tensors_in
from pellucid.engine.tape import Formula, Node, Unknown

if TYPE_CHECKING:
    from pellucid.engine.recorder import Recorder

__all__ = ["Call", "record_unknown"]


class Call:
    """One intercepted function call: the first argument of every operation handler."""

    __slots__ = ("args", "function", "in_place", "kwargs", "name", "recorder", "traits")

    def __init__(
        self,
        recorder: "Recorder",
        entry: Entry,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        in_place: bool,
    ) -> None:
        self.recorder = recorder
        self.name = entry.name
        self.traits = entry.traits
        self.function = entry.function or function
        """The out-of-place form of the function."""
        self.args = args
        self.kwargs = kwargs
        self.in_place = in_place

    def run(self) -> Any:
        """Run the function out of place and return its value."""
        return self.function(*self.args, **self.kwargs)

    def depends(self, value: object) -> bool:
        """True if `value` depends on the images."""
        return self.recorder.slot(value) is not None

    def refuse(self, why: str, way_out: str = "") -> NoReturn:
        """Raise `UnsupportedOperation` for this call."""
        self.recorder.refuse(self.name, why, way_out)

    def replay_on(self, tensor: Tensor) -> Callable[[Tensor], Any]:
        """Return the call as a function of one of its arguments."""

        def replay(value: Tensor) -> Any:
            swap = {id(tensor): value}
            args = substitute(self.args, lambda old: swap.get(id(old), old))
            kwargs = substitute(self.kwargs, lambda old: swap.get(id(old), old))
            return self.function(*args, **kwargs)

        return replay

    def record(
        self,
        node: Callable[..., Node],
        kind: str,
        value: Tensor,
        inputs: Sequence[Tensor],
        axis: int | None = None,
        *,
        is_elementwise: bool = False,
        **fields: Any,
    ) -> Tensor:
        """Record a node of this kind for `value`, computed from `inputs`; return the tensor that the model receives.

        `axis` is the batch axis of `value`, by default that of the inputs; without one, the images are run one by
        one. `is_elementwise` states that each element of the value depends only on the same element of the inputs.
        """
        recorder = self.recorder
        if any(value is tensor for tensor in inputs):
            return value  # the function returned its argument, as `contiguous` may: no node needed
        if axis is None:
            tracked_axes = [(tensor, recorder.batch_axis(tensor)) for tensor in inputs if self.depends(tensor)]
            axis = broadcast_axis(recorder.batch, value, tracked_axes)
        slot = recorder.enter(value, axis)
        tracked = [tensor for tensor in inputs if self.depends(tensor)]
        is_first = all(recorder.is_image(tensor) for tensor in tracked)
        recorder.nodes.append(
            node(
                operation=self.name,
                kind=kind,
                inputs=tuple(recorder.slot(tensor) for tensor in inputs),
                output=slot,
                path=recorder.path_of(fields.get("weight")),
                is_first=is_first,
                batch_axis=axis,
                shape=value.shape,
                bounds=recorder.bounds(tracked[0]) if is_first and len(tracked) == 1 else None,
                formula=self._formula(inputs, value) if is_elementwise else None,
                traits=self.traits,
                **fields,
            )
        )
        # a product with a larger constant repeats the image, and is an average with weights rather than a scale
        if is_first and len(tracked) == 1 and self.traits.keeps_image and kind != "average":
            recorder.enter_image(value, self._moved_bounds(tracked[0], value))
        return value

    def _formula(self, inputs: Sequence[Tensor], value: Tensor) -> Formula | None:
        """Return the call as a formula; None if an input that depends on the image is broadcast."""
        if any(tensor.shape != value.shape for tensor in inputs if self.depends(tensor)):
            return None
        return Formula(
            function=self.function,
            args=self.args,
            kwargs=self.kwargs,
            operands=tuple(inputs),
            value=value,
            masks=self.recorder._masks,
        )

    def _moved_bounds(self, image: Tensor, value: Tensor) -> tuple[Tensor, Tensor] | None:
        """Map the bounds of the image through this call; a negative scale swaps low and high."""
        bounds = self.recorder.bounds(image)
        if bounds is None:
            return None
        replay = self.replay_on(image)
        ends = [replay(bound) for bound in bounds]
        if not isinstance(ends[0], Tensor):
            # Pieces may have equal shapes, so they are told apart by their place in memory, or by their values if
            # they are copies.
            pieces = self.run()
            same = [index for index, piece in enumerate(pieces) if piece.shape == value.shape]
            views = [index for index in same if pieces[index].data_ptr() == value.data_ptr()]
            index = next(index for index in views or same if torch.equal(pieces[index], value))
            ends = [end[index] for end in ends]
        return torch.minimum(*ends), torch.maximum(*ends)


def record_unknown(call: Call, *args: Any, **kwargs: Any) -> Any:
    """Record an operation without a rule, for composites that only need derivatives, which autograd provides."""
    tracked = list({id(tensor): tensor for tensor in tensors_in((args, kwargs)) if call.depends(tensor)}.values())
    with torch.enable_grad():
        leaves = tuple(tensor.detach().requires_grad_() for tensor in tracked)
        swap = {id(tensor): leaf for tensor, leaf in zip(tracked, leaves, strict=True)}
        written = modified(call.function, args, kwargs)
        if written is not None:  # never written to itself: other operations have recorded it
            swap[id(written)] = swap.get(id(written), written).clone()
        args, kwargs = substitute((args, kwargs), lambda tensor: swap.get(id(tensor), tensor))
        result = call.function(*args, **kwargs)

    def recorded(y: Any) -> Any:
        if not isinstance(y, Tensor) or not (y.is_floating_point() or y.is_complex()):
            return y
        if not y.requires_grad or y.is_complex():
            call.refuse("has no rule and no derivative" if not y.is_complex() else "returns complex numbers")
        axes = {call.recorder.batch_axis(tensor) for tensor in tracked}
        if call.recorder.batch > 1 and (axes != {0} or not y.ndim or y.shape[0] % call.recorder.batch):
            raise BatchMixed
        return call.record(Unknown, "unknown", y.detach(), tracked, 0, y=y, leaves=leaves)

    if isinstance(result, (tuple, list)):
        parts = [recorded(part) for part in result]
        # torch's named tuples take one sequence, those of Python one argument per field
        return type(result)(*parts) if hasattr(result, "_fields") else type(result)(parts)
    return recorded(result)
