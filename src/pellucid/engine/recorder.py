"""Record the forward pass of an unmodified model: every torch function applied to a value that depends on the images.

The forward pass runs under `no_grad` inside a `TorchFunctionMode`, which intercepts every torch function, whether
called by a module, as a function or as an operator. A function without an entry in the table of operations is refused.
In-place operations run out of place: afterwards the modified object refers to the new value, and other tensors that
share its memory are updated when they are read next (`engine.memory`).
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pellucid.core.errors import UnsupportedOperation
from pellucid.engine.axes import probed_axis
from pellucid.engine.batch_norm import refuse_batch_statistics, uses_batch_statistics
from pellucid.engine.call import Call, record_unknown
from pellucid.engine.canonical import canonical
from pellucid.engine.memory import Memory, Overlay
from pellucid.engine.model import check_autocast
from pellucid.engine.table import OPERATIONS, Entry, modified, name_of, storage_key, substitute, tensors_in
from pellucid.engine.taint import TaintWatch
from pellucid.engine.tape import Formula, Hidden, Move, Node, Tape
from pellucid.engine.wrapping import module_paths

__all__ = ["Recorder"]


class Recorder(TorchFunctionMode):
    """Records one forward pass of `model`."""

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        box: tuple[Tensor, Tensor] | None = None,
        taint: TaintWatch | None = None,
        takes_unknown: bool = False,
    ) -> None:
        super().__init__()
        self.takes_unknown = takes_unknown
        self.batch = len(images)
        self.nodes: list[Node] = []
        self.images = images
        self._values: list[Tensor] = []
        self._slots: dict[int, tuple[Tensor, int]] = {}  # by object id; the object is kept alive so its id stays unique
        self._owners: dict[int, Tensor] = {}  # id of an out-of-place result → the object that was modified in place
        self._memory = Memory()
        self._constants: list[Tensor] = []  # operands of recorded operations that do not depend on the images
        self._constant_storages: set[int] = set()
        self._precision = images.dtype
        self._has_complex = False
        self._untraced: dict[int, UnsupportedOperation] = {}  # errors by slot, raised if the logits depend on the slot
        self._is_rebound = False
        """True once an object of the model refers to another value than its own."""
        self._changed: dict[int, tuple[Tensor, Tensor]] = {}  # constants modified in place: id → (object, new value)
        self._axes: list[int] = []
        self._image_slots: set[int] = set()
        self._bounds: dict[int, tuple[Tensor, Tensor]] = {}
        self._masks: dict[int, Formula] = {}
        self._paths = {id(module): name for name, module in module_paths(model)}
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
        self._has_complex = self._has_complex or value.is_complex()
        if value.dtype is torch.float32 and self._precision is torch.float64:
            self._precision = torch.float32
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

    def hidden(self, name: str, output: Tensor) -> Hidden:
        """Return the slot and the present value of a layer's output.

        Raises `UnsupportedOperation` if it does not depend on the images.
        """
        with torch._C.DisableTorchFunction():  # a hook runs inside this mode, which would record the look-up
            value = self.newest(output)
        slot = self.slot(output)
        if slot is None:
            raise UnsupportedOperation(
                f"the output of layer {name!r} does not depend on the input, so no relevance passes through it; name "
                "a layer between the input and the logits."
            )
        return Hidden(slot, value)

    def refuse(self, name: str, why: str, way_out: str = "") -> NoReturn:
        """Raise `UnsupportedOperation` for the operation `name`, naming the running module."""
        raise self.refusal(name, why, way_out)

    def refusal(self, name: str, why: str, way_out: str = "") -> UnsupportedOperation:
        """Return the error for the operation `name`, naming the running module."""
        place = self.path()
        return UnsupportedOperation(
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
        if self._memory or self._is_rebound:
            # an object modified in place still holds its old values: pass the newest ones
            args, kwargs = substitute(args, self.newest), substitute(kwargs, self.newest)
        tensors = list(tensors_in((args, kwargs)))
        slots = [self.slot(tensor) for tensor in tensors]
        is_tracked = any(slot is not None for slot in slots)
        entry = OPERATIONS.find(func)
        if self._taint is not None:
            self._check(tensors, slots, func)
        if not is_tracked:
            return self._constant(func, args, kwargs, entry)
        self._constants += [tensor for tensor, slot in zip(tensors, slots, strict=True) if slot is None]
        if isinstance(kwargs.get("out"), (tuple, list)):
            name = name_of(func) if entry is None else entry.name
            self.refuse(name, "writes to out=", "use its return values instead, or choose a gradient method.")
        target = modified(func, args, kwargs)
        # removed, so that the function does not overwrite a recorded tensor
        kwargs = {name: value for name, value in kwargs.items() if name not in ("inplace", "out")}
        entry = entry or (Entry(name_of(func), record_unknown, func) if self.takes_unknown else None)
        if entry is None:
            return self._indices(func, args, kwargs, target)
        if self._has_complex and not (entry.traits.takes_complex or entry.traits.family == "query"):
            entry = self._for_complex(
                entry, [tensor for tensor, slot in zip(tensors, slots, strict=True) if slot is not None]
            )
        call = Call(self, entry, func, args, kwargs, target is not None)
        try:
            result = entry.handler(call, *args, **kwargs)
        except UnsupportedOperation:
            if not self.takes_unknown or entry.traits.family == "query" or uses_batch_statistics(func, args, kwargs):
                raise
            result = record_unknown(call, *args, **kwargs)
        if target is not None and isinstance(result, Tensor):
            return self._written(target, result, tensors)
        return self._external(result)

    def _for_complex(self, entry: Entry, tracked: Sequence[Tensor]) -> Entry:
        """Return the form of an entry for complex numbers, if there are any among its arguments."""
        if not any(tensor.is_complex() for tensor in tracked):
            return entry
        form = OPERATIONS.find(f"complex::{entry.name}")
        return form or self.refuse(entry.name, "has no rule for complex numbers")

    def _indices(self, func: Callable[..., Any], args: Any, kwargs: Any, target: Tensor | None) -> Any:
        """Run an unknown function if it returns only indices or masks, which are piecewise constant."""
        if target is None:
            result = func(*args, **kwargs)
            parts = result if isinstance(result, (tuple, list)) else [result]
            if parts and all(isinstance(part, Tensor) and part.dtype in _DISCRETE for part in parts):
                return result
        raise self.refusal(name_of(func), "has no rule")

    def _constant(self, func: Callable[..., Any], args: Any, kwargs: Any, entry: Entry | None) -> Any:
        """Run a function of values that do not depend on the images."""
        target = modified(func, args, kwargs)
        if target is not None and self._is_shared(target):
            # a recorded operation or a tensor that depends on the images uses this memory: leave it as it is
            copy = target.clone()
            swapped = substitute((args, kwargs), lambda tensor: copy if tensor is target else tensor)
            func(*swapped[0], **swapped[1])
            self._write(target, copy)
            return target
        value = func(*args, **kwargs)
        # a mask that passes elementwise functions, such as `(x > 0).float()`, is still a formula of the image
        if (
            self._masks
            and (entry is not None and entry.traits.is_elementwise and not entry.in_place)
            and any(self._is_mask(tensor) for tensor in tensors_in((args, kwargs)))
            and not any(value is tensor for tensor in tensors_in((args, kwargs)))  # `to` may return its argument
        ):
            self.enter_mask(func, args, kwargs, value)
        return value

    def _is_mask(self, tensor: Tensor) -> bool:
        return id(tensor) in self._masks

    def _external(self, result: Any) -> Any:
        """Return the object that the model knows for a result: after an in-place operation, the modified tensor."""
        if isinstance(result, Tensor):
            return self._owners.get(id(result), result)
        return result

    def _check(self, tensors: Sequence[Tensor], slots: Sequence[int | None], func: Callable[..., Any]) -> None:
        assert self._taint is not None
        for tensor, slot in zip(tensors, slots, strict=True):
            if slot is None and tensor.is_floating_point() and self._taint.knows(tensor) and func not in _COUNTS:
                error = self.refusal(
                    name_of(func),
                    "uses a value whose dependence on the image the engine cannot trace "
                    "(through a scripted or vmapped function, or an index converted to numbers)",
                    "call the original function instead of its scripted form, or choose a gradient method.",
                )
                if not torch._C._functorch.is_functorch_wrapped_tensor(tensor):
                    # only an error if the logits depend on it: a detector's boxes may not affect its scores
                    self._untraced[self._enter_untraced(tensor)] = error
                    continue
                raise error

    def _enter_untraced(self, tensor: Tensor) -> int:
        """Enter a value that depends on the image in unknown ways; only for a single image."""
        slot = self.enter(tensor, 0)
        self.nodes.append(
            Move(operation="unknown", kind="move", inputs=(), output=slot, path="", is_first=False, batch_axis=0,
                 pull=lambda _relevance: [])
        )  # fmt: skip
        return slot

    # ── memory ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def newest(self, tensor: Tensor) -> Tensor:
        """Return the present value of an object of the model."""
        slot = self.slot(tensor)
        value = tensor if slot is None else self._values[slot]
        if slot is None and id(tensor) in self._changed:
            value = self._changed[id(tensor)][1]
        newest = self._memory.read(value, self._overlaid)
        if newest is not value:
            self._bind(tensor, newest)
        return newest

    def _overlaid(self, old: Tensor, written: Tensor, overlay: Overlay) -> Tensor:
        """Record the value of a tensor that another tensor has overwritten in part."""
        value = overlay.apply(old, written)
        slots = (self.slot(old), self.slot(written))
        if slots == (None, None):
            return value
        parts = [(tensor, self._axes[slot]) for tensor, slot in zip((old, written), slots, strict=True)
                 if slot is not None]  # fmt: skip
        constant = written if slots[1] is None else old

        def put_in(*moved: Tensor) -> Tensor:
            return overlay.apply(
                *(moved if len(moved) == 2 else (moved[0], constant) if slots[1] is None else (constant, *moved))
            )

        axis = probed_axis(self.batch, put_in, parts)
        constants = overlay.is_new if slots[1] is None else ~overlay.is_new if slots[0] is None else None
        shape = written.shape
        self.nodes.append(
            Move(
                operation="in-place write through a view", kind="move", inputs=slots, output=self.enter(value, axis),
                path=self.path(), is_first=False, batch_axis=axis,
                pull=lambda r: [overlay.pull_old(r), overlay.pull_written(r, shape)],
                inserted=None if constants is None else lambda: constants.to(value.dtype),
            )
        )  # fmt: skip
        return value

    def _is_shared(self, target: Tensor) -> bool:
        """True if a recorded operation, or a tensor that depends on the images, uses the memory of a constant."""
        self._constant_storages.update(map(storage_key, self._constants))
        # not cleared: the operands stay alive, so that their addresses are not reused
        return self._memory.knows(target) or storage_key(target) in self._constant_storages

    def _written(self, target: Tensor, value: Tensor, others: Sequence[Tensor]) -> Tensor:
        """Make `target` refer to `value`, the result of an in-place function; return the object the model knows."""
        if storage_key(value) == storage_key(target):
            self._bind(target, value)  # nothing was written: only the shape has changed, or the function did nothing
        else:
            # the memory of the new value must belong to no other tensor
            is_of_another = self._memory.knows(value) or any(storage_key(value) == storage_key(own) for own in others)
            with self:  # records the operation
                if value.dtype != target.dtype:
                    value = value.to(target.dtype)
                elif is_of_another:
                    value = value.clone()
            self._write(target, value)
        return self._owners.get(id(value), target)

    def _write(self, target: Tensor, value: Tensor) -> None:
        if value.numel() and value.shape == target.shape:  # `out=` may resize an empty tensor
            self._memory.write(target, value)
        self._bind(target, value)

    def _bind(self, changed: Tensor, value: Tensor) -> None:
        """Make the object `changed` refer to `value` from now on."""
        owner, slot = self._owners.get(id(changed), changed), self.slot(value)
        if owner is value:
            return
        for tensor in (owner, changed):
            if slot is None:
                self._slots.pop(id(tensor), None)
                self._changed[id(tensor)] = (tensor, value)
            else:
                self._slots[id(tensor)] = (tensor, slot)
        self._owners[id(value)] = owner
        self._is_rebound = True

    def finish(self, output: Tensor) -> Tape:
        """Return the tape, and drop the table of tracked values, so that memory is freed during the reverse pass."""
        slot = self.slot(output)
        assert slot is not None
        tape = Tape(self.nodes, 0, slot, self._values[slot], self._precision)
        if self._untraced:
            for node in tape.needed():
                if node.output in self._untraced:
                    raise self._untraced[node.output]
        tape = canonical(tape)
        self._masks.clear()  # formulas hold this table: break the reference cycle
        self.nodes, self._values, self._slots, self._owners = [], [], {}, {}
        self._bounds, self._changed, self._constants = {}, {}, []
        self._memory.clear()
        return tape


_DISCRETE = {torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
_COUNTS = {torch.histc, Tensor.histc}
"""Functions that count indices given as floats: like an index, a count is constant almost everywhere."""


def _homes(model: nn.Module) -> dict[int, list[str]]:
    """Map the address of each parameter to the paths of the modules that own it."""
    homes: dict[int, list[str]] = {}
    for name, module in module_paths(model):
        for parameter in module.parameters(recurse=False):
            homes.setdefault(parameter.data_ptr(), []).append(name)
    return homes
