"""Operations that only move values: views, permutations, slices, concatenation, padding and repetition."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from pellucid.engine.axes import BatchMixed, probed_axis, summed_axis
from pellucid.engine.call import Call
from pellucid.engine.linear_maps import LinearFunction, vjp
from pellucid.engine.table import operation, substitute, tensors_in
from pellucid.engine.tape import Affine, Move, Relevances

__all__ = ["assign", "concatenate", "move", "permute", "pieces", "reshape"]


Number = float | int | Tensor
_move = partial(operation, family="move", is_smooth=True, keeps_image=True, keeps_softmax=True)


@_move("view", "reshape", "flatten", "squeeze", "unsqueeze", "unflatten", "ravel", operators=("_unsafe_view",))
@_move("view_as", "reshape_as", takes_template=True)
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


@_move("permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "t", "adjoint", "Tensor.T.__get__",
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
        Move, "move", value, [input], None if stays else _probed_axis(call, [input]), is_elementwise=stays,
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


def _probed_axis(call: Call, inputs: Sequence[Tensor], replay: Callable[..., Tensor] | None = None) -> int:
    """Find the batch axis of the output of a move, by default that of the call itself."""

    def again(*moved: Tensor) -> Tensor:
        swap = {id(tensor): value for tensor, value in zip(inputs, moved, strict=True)}
        args, kwargs = substitute((call.args, dict(call.kwargs)), lambda tensor: swap.get(id(tensor), tensor))
        result: Tensor = call.function(*args, **kwargs)
        return result

    recorder = call.recorder
    return probed_axis(recorder.batch, replay or again, [(tensor, recorder.batch_axis(tensor)) for tensor in inputs])


@_move("unbind", "chunk", "split", "split_with_sizes", "tensor_split", "hsplit", "vsplit", "dsplit")
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

        return call.record(Move, "move", value, [x], _probed_axis(call, [x], cut), pull=_pull_back([x], cut))

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
        Move, "move", value, tracked, _probed_axis(call, tracked),
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


def _put_together(call: Call, replay: Callable[..., Any], parts: Sequence[Any]) -> Tensor:
    """Record a function of `parts`, of which each output element copies one element or is a constant."""
    places = [place for place, part in enumerate(parts) if call.depends(part)]
    tracked = [parts[place] for place in places]

    def together(*moved: Tensor) -> Tensor:
        present = [*parts]
        for place, part in zip(places, moved, strict=True):
            present[place] = part
        result: Tensor = replay(*present)
        return result

    value = together(*tracked)
    return call.record(
        Move, "move", value, tracked, _probed_axis(call, tracked, together), pull=_pull_back(tracked, together),
        inserted=_constants(tracked, together),
    )  # fmt: skip


@_move("__setitem__")
def assign(call: Call, input: Tensor, index: Any, other: Any) -> Tensor:
    """Record `x[index] = other` as a copy with the values assigned."""
    if any(call.depends(part) for part in (index if isinstance(index, tuple) else (index,))):
        call.refuse("uses the image as an index")

    def assigned(target: Tensor, source: Any) -> Tensor:
        result = target.clone()
        result[index] = source
        return result

    return _put_together(call, assigned, (input, other))


@_move(Tensor.copy_)
def copy(call: Call, input: Tensor, source: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
    """Record `x.copy_(source)` as a copy of the source's values."""
    if call.depends(source):
        return _put_together(call, lambda part: part.to(input.dtype).expand_as(input).clone(), (source,))
    return _overwritten(call, input, source.to(input.dtype).expand_as(input).clone())


@_move("fill", "zero", inserts_constants=True)
def fill(call: Call, input: Tensor, value: Number = 0) -> Tensor:
    """Record that every element is overwritten with one number."""
    if call.depends(value):
        return _put_together(call, lambda part: part.to(input.dtype).expand_as(input).clone(), (value,))
    return _overwritten(call, input, torch.full_like(input, float(value)))


def _overwritten(call: Call, x: Tensor, constants: Tensor) -> Tensor:
    """Record that constants take the place of x, so that all relevance is absorbed."""
    return call.record(
        Move, "move", constants, [x], call.recorder.batch_axis(x), pull=lambda _r: [None],
        inserted=lambda: torch.ones_like(constants),
    )  # fmt: skip


@_move("index_put", "_index_put_impl_")
def put(call: Call, input: Tensor, indices: Any, values: Tensor, accumulate: bool = False, *_args: Any) -> Tensor:
    """Record `x[indices] = values`, or `x[indices] += values`."""
    if not accumulate:
        return _put_together(call, lambda x, source: torch.index_put(x, indices, source), (input, values))
    return _summed_into(call, input, values, lambda zeros, source: torch.index_put(zeros, indices, source, True))


@_move("index_add")
def add_at(call: Call, input: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: float | int = 1) -> Tensor:
    """Record a sum of x and the slices of another tensor at given places."""
    return _summed_into(call, input, source, lambda zeros, part: zeros.index_add(dim, index, part, alpha=alpha))


@_move("scatter_add")
def scatter_add(call: Call, input: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """Record a sum of x and the elements of another tensor at given places."""
    return _summed_into(call, input, src, lambda zeros, part: zeros.scatter_add(dim, index, part))


def _summed_into(call: Call, x: Tensor, source: Tensor, add: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Record x + add(0, source), where `add` is linear in the source."""
    if not call.depends(source):
        with call.recorder:
            return x + add(torch.zeros_like(x), source)
    zeros = torch.zeros_like(x)

    def spread(part: Tensor) -> Tensor:
        return add(zeros, part)

    total = spread(source)
    axis = summed_axis(call.recorder.batch, spread, (source, call.recorder.batch_axis(source)))
    total = call.record(
        Affine, "average", total, [source], axis, x=source, z=total, weight=None, bias=None, map=LinearFunction(spread)
    )
    if not call.depends(x) and not bool(x.any()):
        return total
    with call.recorder:
        return x + total


@_move("scatter")
def scatter(
    call: Call, input: Tensor, dim: int, index: Tensor, src: Any = None, *, value: Any = None, **kwargs: Any
) -> Tensor:
    """Record x with elements of another tensor, or one number, at given places."""
    if kwargs:
        call.refuse("combines values in place of overwriting them", "use scatter_add for sums.")
    source = value if src is None else src
    return _put_together(call, lambda x, part: torch.scatter(x, dim, index, part), (input, source))


@_move("index_copy", "index_fill", "select_scatter", "slice_scatter", "diagonal_scatter", "masked_scatter",
       "as_strided_scatter", "block_diag", "tril", "triu", "diag", "diag_embed", "take", "masked_select", "rot90",
       "column_stack", "row_stack", "as_strided", "swapaxes_copy", inserts_constants=True)  # fmt: skip
def rearrange(call: Call, *args: Any, **kwargs: Any) -> Tensor:
    """Record a function that copies elements of its arguments and inserts constants."""
    parts = list({id(tensor): tensor for tensor in tensors_in((args, kwargs)) if call.depends(tensor)}.values())

    def replay(*moved: Tensor) -> Tensor:
        swap = {id(part): own for part, own in zip(parts, moved, strict=True)}

        def present(tensor: Tensor) -> Tensor:
            return swap.get(id(tensor), tensor)

        result: Tensor = call.function(*substitute(args, present), **substitute(kwargs, present))
        return result

    return _put_together(call, replay, parts)


@_move("broadcast_tensors", "meshgrid", "atleast_1d", "atleast_2d", "atleast_3d")
def broadcast(call: Call, *tensors: Any, **kwargs: Any) -> Any:
    """Record each of several tensors that are expanded to a common shape."""
    given = list(tensors[0] if isinstance(tensors[0], (tuple, list)) else tensors)
    results = call.run()
    shapes = [result.shape for result in (results if isinstance(results, (tuple, list)) else [results])]
    if call.name == "meshgrid":
        call.refuse("has no rule")
    with call.recorder:
        expanded = [part.expand(shape) if call.name == "broadcast_tensors" else part.reshape(shape)
                    for part, shape in zip(given, shapes, strict=True)]  # fmt: skip
    return tuple(expanded) if isinstance(results, (tuple, list)) else expanded[0]


@_move("topk", "sort", "kthvalue", "cummax", "cummin", "mode", is_smooth=False, keeps_image=False)
def ordered(call: Call, input: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Record sorted or selected values; the indices are constants."""
    result = call.run()
    dim = _dim_of_order(call.name, *args, **kwargs)
    if call.recorder.batch > 1 and dim % max(input.ndim, 1) == call.recorder.batch_axis(input):
        raise BatchMixed
    values, indices = result
    keeps = values.ndim == input.ndim
    wide = indices if keeps else indices.unsqueeze(dim)

    def select(x: Tensor) -> Tensor:
        picked = x.gather(dim, wide)
        return picked if keeps else picked.squeeze(dim)

    axis = _probed_axis(call, [input], select)
    values = call.record(Move, "move", values, [input], axis, pull=_pull_back([input], select))
    return type(result)((values, indices))


def _dim_of_order(name: str, *args: Any, **kwargs: Any) -> int:
    place = 1 if name in ("topk", "kthvalue") else 0  # their first argument is a number of values
    if "stable" in kwargs:
        return int(kwargs.get("dim", args[0] if args else -1))
    return int(kwargs.get("dim", args[place] if len(args) > place else -1))
