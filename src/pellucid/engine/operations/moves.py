"""Operations that only move values: views, permutations, slices, concatenation, padding and repetition."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from pellucid.engine.axes import BatchMixed, probed_axis
from pellucid.engine.call import Call
from pellucid.engine.linear_maps import vjp
from pellucid.engine.table import operation, substitute
from pellucid.engine.tape import Move, Relevances

__all__ = ["concatenate", "constants_of", "move", "move_axis", "moving", "permute", "pieces", "pull_back", "reshape"]


Number = float | int | Tensor
moving = partial(operation, family="move", is_smooth=True, keeps_image=True, keeps_softmax=True)
"""Register the handler of a function that moves values without changing them."""


@moving("view", "reshape", "flatten", "squeeze", "unsqueeze", "unflatten", "ravel", operators=("_unsafe_view",))
@moving("view_as", "reshape_as", takes_template=True)
def reshape(call: Call, input: Tensor, *args: Any, **_kwargs: Any) -> Tensor:
    """Record the same values in the same order, in another shape."""
    value: Tensor = call.run()
    if value.dtype != input.dtype and call.depends(input):  # `view` may also reinterpret the bytes
        call.refuse("reads the bytes of a value as another type")
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


@moving("permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "t", "adjoint", "Tensor.T.__get__",
       "Tensor.mT.__get__", channels="permuted")  # fmt: skip
def permute(call: Call, input: Tensor, *args: Any, **_kwargs: Any) -> Tensor:
    """Record a permutation of the axes."""
    value: Tensor = call.run()
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


_stay = partial(moving, is_elementwise=True)


@_stay(
    "contiguous", "clone", "alias", "positive", "__pos__", "float", "double", "half", "bfloat16", "type", "cpu", "cuda"
)
@_stay("to", "type_as", takes_template=True, operators=("_to_copy",))
@_stay("masked_fill", inserts_constants=True)
@moving("pad", channels="kept", inserts_constants=True)
@moving("constant_pad_nd", "unfold", inserts_constants=True)
@moving("expand_as", takes_template=True)
@moving("__getitem__", torch.ops.aten.slice.Tensor, torch.ops.aten.index.Tensor, channels="kept", operators=("slice",))
@moving("roll", channels="kept")
@moving("flip", "fliplr", "flipud", "expand", "broadcast_to", "repeat", "tile", "repeat_interleave", "select", "narrow",
       "index_select", "gather", "take_along_dim", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle",
       "native_channel_shuffle", "diagonal")  # fmt: skip
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
        Move, "move", value, [input], None if stays else move_axis(call, [input]), is_elementwise=stays,
        pull=pull_back([input], lambda x: replay(x)),
        inserted=constants_of([input], replay) if call.traits.inserts_constants else None,
    )  # fmt: skip


def pull_back(inputs: Sequence[Tensor], replay: Callable[..., Tensor]) -> Callable[[Tensor], Relevances]:
    """Return the vector-Jacobian product of a function that is linear in `inputs`."""
    like = [(tensor.shape, tensor.dtype, tensor.device) for tensor in inputs]

    def pull(relevance: Tensor) -> Relevances:
        # a linear function has the same derivative everywhere, so it is taken at 0
        zeros = [torch.zeros(shape, dtype=dtype, device=device) for shape, dtype, device in like]

        def alone(place: int) -> Callable[[Tensor], Tensor]:
            return lambda x: replay(*zeros[:place], x, *zeros[place + 1 :])

        return [vjp(alone(place), zero, relevance) for place, zero in enumerate(zeros)]

    return pull


def constants_of(inputs: Sequence[Tensor], replay: Callable[..., Tensor]) -> Callable[[], Tensor]:
    """Return a function that computes 1 where the output comes from no input, 0 elsewhere."""

    def mask() -> Tensor:
        # constants are the outputs that stay equal when all inputs change from 0 to 1
        zero, one = (replay(*(torch.full_like(tensor, value) for tensor in inputs)) for value in (0, 1))
        return (zero == one).to(one.dtype)

    return mask


def move_axis(call: Call, inputs: Sequence[Tensor], replay: Callable[..., Tensor] | None = None) -> int:
    """Find the batch axis of the output of a move, by default that of the call itself."""

    def again(*moved: Tensor) -> Tensor:
        swap = {id(tensor): value for tensor, value in zip(inputs, moved, strict=True)}
        args, kwargs = substitute((call.args, dict(call.kwargs)), lambda tensor: swap.get(id(tensor), tensor))
        result: Tensor = call.function(*args, **kwargs)
        return result

    recorder = call.recorder
    return probed_axis(recorder.batch, replay or again, [(tensor, recorder.batch_axis(tensor)) for tensor in inputs])


@moving("unbind", "chunk", "split", "split_with_sizes", "tensor_split", "hsplit", "vsplit", "dsplit")
def pieces(call: Call, input: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Record each piece of a value that is split into several."""
    values = call.run()
    is_unbound = call.name == "unbind"
    place = {"unbind": 0, "chunk": 1, "split": 1, "split_with_sizes": 1, "tensor_split": 1}.get(call.name)
    dim = kwargs.get("dim", 0 if place is None or len(args) <= place else args[place])
    batch, shape = call.recorder.batch, input.shape
    dim, axis = dim % input.ndim, call.recorder.batch_axis(input)
    if place is None or (batch > 1 and dim == axis):
        return _probed_pieces(call, input, values)
    following = 0 if batch == 1 else axis - (is_unbound and dim < axis)

    def piece(start: int, value: Tensor) -> Tensor:
        def pull(relevance: Tensor) -> Relevances:
            whole = relevance.new_zeros(shape)
            part = whole.select(dim, start) if is_unbound else whole.narrow(dim, start, value.shape[dim])
            part.copy_(relevance)
            return [whole]

        return call.record(Move, "move", value, [input], following, pull=pull)

    sizes = [1 if is_unbound else value.shape[dim] for value in values]
    return tuple(piece(start, value) for start, value in zip(accumulate([0, *sizes]), values, strict=False))


def _probed_pieces(call: Call, x: Tensor, values: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Record pieces of a value along the axis of the images, or along an axis that the function implies."""
    replay = call.replay_on(x)

    def piece(index: int, value: Tensor) -> Tensor:
        def cut(whole: Tensor) -> Tensor:
            part: Tensor = replay(whole)[index]
            return part

        return call.record(Move, "move", value, [x], move_axis(call, [x], cut), pull=pull_back([x], cut))

    return tuple(piece(index, value) for index, value in enumerate(values))


@moving("__iter__")
def iterate(call: Call, input: Tensor) -> Any:
    """Record iteration over the first axis."""
    with call.recorder:
        return iter(torch.unbind(input, 0))


@moving("cat", "concat", "concatenate", channels="kept")
@moving("stack", "hstack", "vstack", "dstack")
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
        Move, "move", value, tracked, move_axis(call, tracked),
        pull=pull_back(tracked, join), inserted=constants_of(tracked, join) if has_constants else None,
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
def where(call: Call, *args: Any, **kwargs: Any) -> Tensor:
    """Record values selected by a mask."""
    value: Any = call.run()
    # the method takes the values around the mask: x.where(mask, y)
    mask, first, second = _where(*args, **kwargs) if call.function is torch.where else (args[1], args[0], args[2])
    if call.depends(mask) or not isinstance(value, Tensor) or not isinstance(mask, Tensor):
        call.refuse("selects by a value that is not a mask")
    choices = [choice for choice in (first, second) if call.depends(choice)]

    def choose(*moved: Tensor) -> Tensor:
        parts = iter(moved)
        chosen: Any = [next(parts) if is_tracked else choice for is_tracked, choice in plan]
        return torch.where(mask, chosen[0], chosen[1])

    plan = [(call.depends(choice), None if call.depends(choice) else choice) for choice in (first, second)]
    return call.record(
        Move, "move", value, choices, is_elementwise=True, pull=pull_back(choices, choose),
        inserted=constants_of(choices, choose) if len(choices) == 1 else None,
    )  # fmt: skip


def _where(condition: Any, input: Any = None, other: Any = None) -> tuple[Any, Any, Any]:
    return condition, input, other
