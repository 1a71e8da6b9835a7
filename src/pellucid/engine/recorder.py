"""Record the forward pass of an unmodified model: every torch function applied to a value that depends on the images.

The forward pass runs under `no_grad` inside a `TorchFunctionMode`, which intercepts every torch function, whether
called by a module, as a function or as an operator. A function without an entry in the table of operations is refused.
In-place operations run out of place: afterwards the modified object refers to the new value, and other tensors that
share its memory can no longer be read.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pellucid.core.errors import UnsupportedOperation
from pellucid.engine.batch_norm import refuse_batch_statistics
from pellucid.engine.canonical import canonical
from pellucid.engine.model import check_autocast
from pellucid.engine.table import OPERATIONS, Entry, name_of, storage_key, substitute, tensors_in
from pellucid.engine.taint import TaintWatch
from pellucid.engine.tape import Formula, Node, Tape

__all__ = ["BatchMixed", "Call", "Recorder"]


class BatchMixed(Exception):
    """Raised when an operation mixes the images of the batch, so that no axis of the result separates them."""


class Recorder(TorchFunctionMode):
    """Records one forward pass of `model`."""

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        box: tuple[Tensor, Tensor] | None = None,
        taint: TaintWatch | None = None,
    ) -> None:
        super().__init__()
        self.batch = len(images)
        self.nodes: list[Node] = []
        self.images = images
        self._values: list[Tensor] = []
        self._slots: dict[int, tuple[Tensor, int]] = {}  # by object id; the object is kept alive so its id stays unique
        self._owners: dict[int, Tensor] = {}  # id of an out-of-place result → the object that was modified in place
        self._stale: dict[int, torch.UntypedStorage] = {}  # memory whose content is outdated, by address
        self._axes: list[int] = []
        self._image_slots: set[int] = set()
        self._bounds: dict[int, tuple[Tensor, Tensor]] = {}
        self._masks: dict[int, Formula] = {}
        self._paths = {id(module): name for name, module in model.named_modules()}
        self._homes = _homes(model)
        self._taint = taint
        self._model = model
        slot = self.enter(images, 0)
        self._image_slots.add(slot)
        if box is not None:
            low, high = (torch.empty_like(images).copy_(bound) for bound in box)  # keeps the images' memory format
            self._bounds[slot] = (low, high)

    # ── interface for the operation handlers ─────────────────────────────────────────────────────────────────────────

    def slot(self, value: object) -> int | None:
        """Return the slot of a value that depends on the images; None for constants."""
        entry = self._slots.get(id(value))
        return None if entry is None else entry[1]

    def batch_axis(self, value: Tensor) -> int:
        """Return the axis of a tracked value that holds the images, possibly merged with later axes (image-major)."""
        slot = self.slot(value)
        return 0 if slot is None else self._axes[slot]

    def is_image(self, value: Tensor) -> bool:
        """True if a value is still the image, up to moves and per-channel normalization."""
        return self.slot(value) in self._image_slots

    def bounds(self, value: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return the lowest and highest possible `value` if it is still the image and a box was given."""
        slot = self.slot(value)
        return None if slot is None else self._bounds.get(slot)

    def enter_image(self, value: Tensor, bounds: tuple[Tensor, Tensor] | None) -> None:
        """Mark `value` as still the image, within these bounds."""
        slot = self.slot(value)
        assert slot is not None
        self._image_slots.add(slot)
        if bounds is not None:
            self._bounds[slot] = bounds

    def enter_mask(self, function: Callable[..., Any], args: Any, kwargs: Any, value: object) -> None:
        """Store the formula of a comparison with the image, or of a value computed from one, for re-evaluation."""
        if isinstance(value, Tensor):
            compared = tuple(tensor for tensor in tensors_in((args, kwargs)) if not self._is_mask(tensor))
            formula = Formula(
                function=function, args=args, kwargs=kwargs, operands=compared, value=value, masks=self._masks
            )
            self._masks[id(value)] = formula

    def enter(self, value: Tensor, axis: int) -> int:
        """Allocate a slot for the output of an operation."""
        self._values.append(value)
        self._axes.append(axis)
        slot = len(self._values) - 1
        self._slots[id(value)] = (value, slot)
        return slot

    def path(self) -> str:
        """Return the path of the innermost running module of the model."""
        frame = sys._getframe(1)
        while frame is not None:
            names = frame.f_code.co_varnames
            # test the names first: before Python 3.13, reading `f_locals` copies all local variables
            if names and names[0] == "self":
                path = self._paths.get(id(frame.f_locals.get("self")))
                if path is not None:
                    return path
            frame = frame.f_back  # type: ignore[assignment]
        return ""

    def path_of(self, weight: object) -> str:
        """Return the path of the module that owns `weight` (or its base, for a view), else of the running module."""
        place = self.path()
        homes = self._homes.get(weight.data_ptr(), []) if isinstance(weight, Tensor) else []
        # a tied weight has several owners: prefer the module that is running
        return place if place in homes or not homes else homes[0]

    def refuse(self, name: str, why: str, way_out: str = "") -> NoReturn:
        """Raise `UnsupportedOperation` for the operation `name`, naming the running module."""
        place = self.path()
        raise UnsupportedOperation(
            f"the operation {name!r} in {f'module {place!r}' if place else 'the model itself'} {why}; "
            + (
                way_out
                or "register a rule for it (register_elementwise or @operation of pellucid.engine), "
                "or choose a gradient method such as 'integrated_gradients'."
            )
        )

    def refuse_batch_statistics(self) -> NoReturn:
        """Raise `UnsupportedOperation` for a batch norm of the images with batch statistics."""
        refuse_batch_statistics(self._model)

    # ── interception ─────────────────────────────────────────────────────────────────────────────────────────────────

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        check_autocast(func, args, kwargs)
        tensors = list(tensors_in((args, kwargs)))
        slots = [self.slot(tensor) for tensor in tensors]
        is_tracked = any(slot is not None for slot in slots)
        entry = OPERATIONS.find(func)
        if is_tracked or self._stale or self._taint is not None:
            self._check(tensors, slots, func)
        if not is_tracked:
            value = func(*args, **kwargs)
            # a mask that passes elementwise functions, such as `(x > 0).float()`, is still a formula of the image
            if (
                self._masks
                and (entry is not None and entry.traits.is_elementwise and not entry.in_place)
                and any(map(self._is_mask, tensors))
                and not any(value is tensor for tensor in tensors)  # `to` may return its argument
            ):
                self.enter_mask(func, args, kwargs, value)
            return value
        if entry is None:
            self.refuse(name_of(func), "has no rule")
        # an object modified in place still holds its old values: pass the newest ones
        args = substitute(args, self._current)
        kwargs = substitute(kwargs, self._current)
        if kwargs.get("out") is not None:
            self.refuse(entry.name, "writes to out=", "use its return value instead, or choose a gradient method.")
        # popped, so that the function does not overwrite a recorded tensor
        is_in_place = entry.in_place or bool(kwargs.pop("inplace", False))
        call = Call(self, entry, func, args, kwargs, is_in_place)
        return self._external(entry.handler(call, *args, **kwargs))

    def _is_mask(self, tensor: Tensor) -> bool:
        return id(tensor) in self._masks

    def _current(self, tensor: Tensor) -> Tensor:
        slot = self.slot(tensor)
        return tensor if slot is None else self._values[slot]

    def _external(self, result: Any) -> Any:
        """Return the object that the model knows for a result: after an in-place operation, the modified tensor."""
        if isinstance(result, Tensor):
            return self._owners.get(id(result), result)
        return result

    def _check(self, tensors: Sequence[Tensor], slots: Sequence[int | None], func: Callable[..., Any]) -> None:
        for tensor, slot in zip(tensors, slots, strict=True):
            current = tensor if slot is None else self._values[slot]
            if self._stale and storage_key(current) in self._stale:
                self.refuse(
                    name_of(func),
                    "reads memory that an in-place operation modified through another view",
                    "replace the in-place operation by its out-of-place version, or choose a gradient method.",
                )
            if self._taint is not None and slot is None and tensor.is_floating_point() and self._taint.knows(tensor):
                self.refuse(
                    name_of(func),
                    "uses a value whose dependence on the image the engine cannot trace "
                    "(through a scripted or vmapped function, or an index converted to numbers)",
                    "call the original function instead of its scripted form, or choose a gradient method.",
                )

    def rebind(self, changed: Tensor, value: Tensor) -> Tensor:
        """Make the object `changed` refer to `value` from now on; other tensors that share its memory become stale."""
        owner = self._owners.get(id(changed), changed)
        storage = changed.untyped_storage()
        self._stale[storage.data_ptr()] = storage  # kept alive, so that its address is not reused
        slot = self.slot(value)
        assert slot is not None
        self._slots[id(owner)] = (owner, slot)
        self._slots[id(changed)] = (changed, slot)
        self._owners[id(value)] = owner
        return owner

    def finish(self, output: Tensor) -> Tape:
        """Return the tape, and drop the table of tracked values, so that memory is freed during the reverse pass."""
        slot = self.slot(output)
        assert slot is not None
        tape = canonical(Tape(self.nodes, 0, slot, self._values[slot]))
        self._masks.clear()  # formulas hold this table: break the reference cycle
        self.nodes, self._values, self._slots, self._owners = [], [], {}, {}
        self._stale, self._bounds = {}, {}
        return tape


class Call:
    """One intercepted function call: the first argument of every operation handler."""

    __slots__ = ("args", "function", "in_place", "kwargs", "name", "recorder", "traits")

    def __init__(
        self,
        recorder: Recorder,
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
            axis = _common_axis(recorder, value, inputs)
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
                bounds=recorder.bounds(tracked[0]) if is_first and len(tracked) == 1 else None,
                formula=self._formula(inputs, value) if is_elementwise else None,
                traits=self.traits,
                **fields,
            )
        )
        # a product with a larger constant repeats the image, and is an average with weights rather than a scale
        if is_first and len(tracked) == 1 and self.traits.keeps_image and kind != "average":
            recorder.enter_image(value, self._moved_bounds(tracked[0], value))
        return recorder.rebind(self.args[0], value) if self.in_place else value

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


def _homes(model: nn.Module) -> dict[int, list[str]]:
    """Map the address of each parameter to the paths of the modules that own it."""
    homes: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            homes.setdefault(parameter.data_ptr(), []).append(name)
    return homes


def _common_axis(recorder: Recorder, value: Tensor, inputs: Sequence[Tensor]) -> int:
    """Return the batch axis of an output that broadcasts its inputs."""
    # with a single image, sums per image run over everything, so the axis is irrelevant
    if recorder.batch == 1:
        return 0
    # broadcasting aligns the last axes, so the batch axis shifts with the rank
    axes = {
        recorder.batch_axis(tensor) + value.ndim - tensor.ndim for tensor in inputs if recorder.slot(tensor) is not None
    }
    if len(axes) != 1:
        raise BatchMixed
    axis = axes.pop()
    if not 0 <= axis < value.ndim or value.shape[axis] % recorder.batch:
        raise BatchMixed
    return axis
