"""Operations that only move values: views, permutations, slices, concatenation, padding and repetition."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pellucid.engine.linear_maps import vjp
from pellucid.engine.recorder import BatchMixed, Call
from pellucid.engine.table import operation, substitute
from pellucid.engine.tape import Move, Relevances

__all__ = ["assign", "concatenate", "move", "permute", "pieces", "reshape"]


_move = partial(operation, family="move", is_smooth=True, keeps_image=True, keeps_softmax=True)


@_move("view", "reshape", "flatten", "squeeze", "unsqueeze", "unflatten", "ravel", operators=("_unsafe_view",))
@_move("view_as", "reshape_as", takes_template=True)
def reshape(call: Call, input: Tensor, *args: Any, **_kwargs: Any) -> Tensor:
    """Record the same values in the same order, in another shape."""
    value: Tensor = call.run()
    # `view` may also reinterpret the bytes as another dtype
    if not value.is_floating_point() or call.in_place:
        call.refuse("changes the type or the shape of a value in place")
    if not call.depends(input):
        return value  # `view_as(image)` of a constant: only the other tensor's shape is used
    shape = input.shape
    return call.record(
        Move, "move", value, [input], _reshaped_axis(call, input, value), pull=lambda r: [r.reshape(shape)]
    )


def _reshaped_axis(call: Call, x: Tensor, value: Tensor) -> int:
    """Return the batch axis after a reshape: as many values before it as in x, and whole images from there on."""
    recorder = call.recorder
    if recorder.batch == 1:
        return 0
    axis = recorder.batch_axis(x)
    before, total = x.shape[:axis].numel(), 1
    for number, size in enumerate(value.shape):
        if total == before and size % recorder.batch == 0:
            return number
        total *= size
    raise BatchMixed


@_move("permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "t", "adjoint", "Tensor.T.__get__",
       "Tensor.mT.__get__", channels="permuted")  # fmt: skip
def permute(call: Call, input: Tensor, *args: Any, **_kwargs: Any) -> Tensor:
    """Record a permutation of the axes."""
    value: Tensor = call.run()
    if call.in_place:
        call.refuse("changes the shape of a value in place")
    order = order_of_axes(call.replay_on(input), input.ndim)
    inverse = sorted(range(len(order)), key=order.__getitem__)
    axis = order.index(call.recorder.batch_axis(input))
    return call.record(Move, "move", value, [input], axis, pull=lambda r: [r.permute(inverse)])


def order_of_axes(permuted: Callable[[Tensor], Tensor], rank: int) -> list[int]:
    """Return, for each axis of a permutation's result, the axis of its input.

    >>> order_of_axes(lambda x: x.permute(0, 3, 1, 2), 4)
    [0, 3, 1, 2]
    """
    # the axes of this tensor without memory have different sizes: 2, 3, 4, …
    numbered = torch.empty(tuple(range(2, rank + 2)), device="meta")
    return [size - 2 for size in permuted(numbered).shape]


_stay = partial(_move, is_elementwise=True)


@_stay(
    "contiguous", "clone", "alias", "positive", "__pos__", "float", "double", "half", "bfloat16", "type", "cpu", "cuda"
)
@_stay("to", "type_as", takes_template=True, operators=("_to_copy",))
@_stay("masked_fill", inserts_constants=True)
@_move("pad", channels="kept", inserts_constants=True)
@_move("constant_pad_nd", "unfold", inserts_constants=True)
@_move("expand_as", takes_template=True)
@_move("__getitem__", torch.ops.aten.slice.Tensor, torch.ops.aten.index.Tensor, channels="kept", operators=("slice",))
@_move("roll", channels="kept")
@_move("flip", "fliplr", "flipud", "expand", "broadcast_to", "repeat", "tile", "repeat_interleave", "select", "narrow",
       "index_select", "gather", "take_along_dim", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle",
       "native_channel_shuffle", "diagonal", "Tensor.real.__get__")  # fmt: skip
def move(call: Call, input: Tensor, *args: Any, **_kwargs: Any) -> Tensor:
    """Record a single tensor of moved, dropped or repeated values."""
    value: Tensor = call.run()
    if not value.is_floating_point():
        return value
    if not call.depends(input):
        if call.traits.takes_template:
            return value
        call.refuse("uses the image as an index or a size")
    if any(call.depends(other) for other in args) and not call.traits.takes_template:
        call.refuse("inserts a value that depends on the image into another")
    replay = call.replay_on(input)
    stays = call.traits.is_elementwise and value.dtype == input.dtype
    return call.record(
        Move, "move", value, [input], None if stays else _probed_axis(call, value, [input]), is_elementwise=stays,
        pull=_pull_back([input], lambda x: replay(x)),
        inserted=_constants([input], replay) if call.traits.inserts_constants else None,
    )  # fmt: skip


def _pull_back(inputs: Sequence[Tensor], replay: Callable[..., Tensor]) -> Callable[[Tensor], Relevances]:
    """Return the vector-Jacobian product of a function that is linear in `inputs`."""
    like = [(tensor.shape, tensor.dtype, tensor.device) for tensor in inputs]

    def pull(relevance: Tensor) -> Relevances:
        # a linear function has the same derivative everywhere, so it is taken at 0
        zeros = [torch.zeros(shape, dtype=dtype, device=device) for shape, dtype, device in like]

        def alone(place: int) -> Callable[[Tensor], Tensor]:
            return lambda x: replay(*zeros[:place], x, *zeros[place + 1 :])

        return [vjp(alone(place), zero, relevance) for place, zero in enumerate(zeros)]

    return pull


def _constants(inputs: Sequence[Tensor], replay: Callable[..., Tensor]) -> Callable[[], Tensor]:
    """Return a function that computes 1 where the output comes from no input, 0 elsewhere."""

    def mask() -> Tensor:
        # constants are the outputs that stay equal when all inputs change from 0 to 1
        zero, one = (replay(*(torch.full_like(tensor, value) for tensor in inputs)) for value in (0, 1))
        return (zero == one).to(one.dtype)

    return mask


def _probed_axis(
    call: Call, value: Tensor, inputs: Sequence[Tensor], replay: Callable[..., Tensor] | None = None
) -> int:
    """Find the batch axis of the output by running the operation on image indices in place of values."""
    recorder = call.recorder
    if recorder.batch == 1:
        return 0
    numbered = {id(tensor): _numbered(tensor, recorder.batch_axis(tensor), recorder.batch) for tensor in inputs}

    def swap(tensor: Tensor) -> Tensor:
        return numbered.get(id(tensor), torch.full_like(tensor, -1) if tensor.is_floating_point() else tensor)

    if replay is not None:
        moved = replay(*numbered.values())
    else:
        moved = call.function(*substitute(call.args, swap), **substitute(dict(call.kwargs), swap))
    for axis, size in enumerate(value.shape):
        if size % recorder.batch == 0:
            wanted = _numbered(moved, axis, recorder.batch)
            if bool(((moved == wanted) | (moved <= 0)).all()):  # inserted constants carry no image index
                return axis
    raise BatchMixed


def _numbered(like: Tensor, axis: int, batch: int) -> Tensor:
    """Return a tensor shaped like `like` that holds the 1-based index of the image at each position."""
    size = like.shape[axis]
    # counted from 1, because padding inserts 0
    numbers = torch.arange(1, batch + 1, dtype=like.dtype, device=like.device).repeat_interleave(size // batch)
    return numbers.view(-1, *(1 for _ in like.shape[axis + 1 :])).expand(like.shape).contiguous()


@_move("chunk", "split", "split_with_sizes", "tensor_split", "unbind", "hsplit", "vsplit", "dsplit")
def pieces(call: Call, input: Tensor, *_args: Any, **_kwargs: Any) -> Any:
    """Record each piece of a value that is split into several."""
    values = call.run()
    replay = call.replay_on(input)

    def piece(index: int, value: Tensor) -> Tensor:
        def cut(x: Tensor) -> Tensor:
            return replay(x)[index]

        axis = _probed_axis(call, value, [input], cut)
        return call.record(Move, "move", value, [input], axis, pull=_pull_back([input], cut))

    return tuple(piece(index, value) for index, value in enumerate(values))


@_move("__iter__")
def iterate(call: Call, input: Tensor) -> Any:
    """Record iteration over the first axis."""
    with call.recorder:
        return iter(torch.unbind(input, 0))


@_move("cat", "concat", "concatenate", channels="kept")
@_move("stack", "hstack", "vstack", "dstack")
def concatenate(call: Call, tensors: Sequence[Tensor], *args: Any, **kwargs: Any) -> Tensor:
    """Record a concatenation; constants among the tensors absorb the relevance that arrives at them."""
    value: Tensor = call.run()
    tracked = [tensor for tensor in tensors if call.depends(tensor)]

    def join(*moved: Tensor) -> Tensor:
        parts = iter(moved)
        return call.function([next(parts) if is_tracked else tensor for is_tracked, tensor in plan], *args, **kwargs)

    plan = [(call.depends(tensor), tensor if not call.depends(tensor) else None) for tensor in tensors]
    has_constants = len(tracked) < len(tensors)
    if call.name in ("cat", "concat", "concatenate") and not has_constants:
        dim, sizes = _joined(tensors, value, *args, **kwargs)
        axis = _axis_of_joined(call, tensors, dim)
        return call.record(
            Move, "move", value, tracked, axis,
            pull=lambda r: r.split(sizes, dim), joined=tuple(sizes) if dim == 1 else None,
        )  # fmt: skip
    return call.record(
        Move, "move", value, tracked, _probed_axis(call, value, tracked),
        pull=_pull_back(tracked, join), inserted=_constants(tracked, join) if has_constants else None,
    )  # fmt: skip


def _joined(
    tensors: Sequence[Tensor], value: Tensor, dim: int = 0, axis: int | None = None, **_kwargs: Any
) -> tuple[int, list[int]]:
    """Return the axis of a concatenation, and the size along it of each tensor."""
    dim = (dim if axis is None else axis) % value.ndim
    return dim, [tensor.shape[dim] for tensor in tensors]


def _axis_of_joined(call: Call, tensors: Sequence[Tensor], dim: int) -> int:
    axes = {call.recorder.batch_axis(tensor) for tensor in tensors}
    if call.recorder.batch > 1 and (len(axes) != 1 or dim in axes):
        raise BatchMixed
    return axes.pop()


@_stay("where")
def where(call: Call, condition: Tensor, input: Any = None, other: Any = None) -> Tensor:
    """Record values selected by a mask."""
    value: Tensor = call.run()
    if call.depends(condition) or not isinstance(value, Tensor):
        call.refuse("selects by a value that is not a mask")
    choices = [choice for choice in (input, other) if call.depends(choice)]
    if call.name == "where" and not isinstance(condition, Tensor):
        call.refuse("does not receive a mask")
    mask = condition

    def choose(*moved: Tensor) -> Tensor:
        parts = iter(moved)
        chosen: Any = [next(parts) if is_tracked else choice for is_tracked, choice in plan]
        return torch.where(mask, chosen[0], chosen[1])

    plan = [(call.depends(choice), None if call.depends(choice) else choice) for choice in (input, other)]
    return call.record(
        Move, "move", value, choices, is_elementwise=True, pull=_pull_back(choices, choose),
        inserted=_constants(choices, choose) if len(choices) == 1 else None,
    )  # fmt: skip


@_move("__setitem__")
def assign(call: Call, input: Tensor, index: Any, other: Any) -> None:
    """Record `x[index] = other` as a copy with the values assigned, and rebind x to the copy."""
    if any(call.depends(part) for part in (index if isinstance(index, tuple) else (index,))):
        call.refuse("uses the image as an index")
    tracked = [tensor for tensor in (input, other) if call.depends(tensor)]
    plan: list[tuple[bool, Any]] = [
        (call.depends(tensor), None if call.depends(tensor) else tensor) for tensor in (input, other)
    ]

    def assigned(*moved: Tensor) -> Tensor:
        parts = iter(moved)
        target, source = (next(parts) if is_tracked else tensor for is_tracked, tensor in plan)
        assert isinstance(target, Tensor)
        result: Tensor = target.clone()
        result[index] = source
        return result

    value = assigned(*tracked)
    call.record(
        Move, "move", value, tracked, _probed_axis(call, value, tracked, assigned), pull=_pull_back(tracked, assigned),
        inserted=_constants(tracked, assigned) if len(tracked) == 1 else None,
    )  # fmt: skip
    call.recorder.rebind(input, value)


@_move(Tensor.copy_)
def copy(call: Call, input: Tensor, source: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
    """Record `x.copy_(source)` as a copy of the source's values, and rebind x to it."""
    if not call.depends(source):
        call.refuse("overwrites a value that depends on the image with a constant")
    value = source.expand_as(input).clone()
    call.record(
        Move, "move", value, [source], _probed_axis(call, value, [source], lambda x: x.expand_as(input)),
        pull=_pull_back([source], lambda x: x.expand_as(input)),
    )  # fmt: skip
    return call.recorder.rebind(input, value)
