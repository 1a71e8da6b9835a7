"""Writes: assignment, scattering and sums at given places, fills, and selections of sorted values."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pellucid.engine.axes import BatchMixed, summed_axis
from pellucid.engine.call import Call
from pellucid.engine.linear_maps import LinearFunction
from pellucid.engine.operations.moves import Number, constants_of, move_axis, moving, pull_back
from pellucid.engine.table import substitute, tensors_in
from pellucid.engine.tape import Affine, Move

__all__ = ["add_at", "assign", "copy", "fill", "ordered", "put", "rearrange", "scatter", "scatter_add"]


def _put_together(call: Call, replay: Callable[..., Any], parts: Sequence[Any]) -> Tensor:
    """Record a function of `parts` in which each output element copies one element or is a constant."""
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
        Move, "move", value, tracked, move_axis(call, tracked, together), pull=pull_back(tracked, together),
        inserted=constants_of(tracked, together),
    )  # fmt: skip


@moving("__setitem__")
def assign(call: Call, input: Tensor, index: Any, other: Any) -> Tensor:
    """Record `x[index] = other` as a copy with the values assigned."""
    if any(call.depends(part) for part in (index if isinstance(index, tuple) else (index,))):
        call.refuse("uses the image as an index")

    def assigned(target: Tensor, source: Any) -> Tensor:
        result = target.clone()
        result[index] = source
        return result

    return _put_together(call, assigned, (input, other))


@moving(Tensor.copy_)
def copy(call: Call, input: Tensor, source: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
    """Record `x.copy_(source)` as a copy of the source's values."""
    if call.depends(source):
        return _put_together(call, lambda part: part.to(input.dtype).expand_as(input).clone(), (source,))
    return _overwritten(call, input, source.to(input.dtype).expand_as(input).clone())


@moving("fill", "zero", inserts_constants=True)
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


@moving("index_put", "_index_put_impl_")
def put(call: Call, input: Tensor, indices: Any, values: Tensor, accumulate: bool = False, *_args: Any) -> Tensor:
    """Record `x[indices] = values`, or `x[indices] += values`."""
    if not accumulate:
        return _put_together(call, lambda x, source: torch.index_put(x, indices, source), (input, values))
    return _summed_into(call, input, values, lambda zeros, source: torch.index_put(zeros, indices, source, True))


@moving("index_add")
def add_at(call: Call, input: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: float | int = 1) -> Tensor:
    """Record a sum of x and the slices of another tensor at given places."""
    return _summed_into(call, input, source, lambda zeros, part: zeros.index_add(dim, index, part, alpha=alpha))


@moving("scatter_add")
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


@moving("scatter")
def scatter(
    call: Call, input: Tensor, dim: int, index: Tensor, src: Any = None, *, value: Any = None, **kwargs: Any
) -> Tensor:
    """Record x with elements of another tensor, or one number, at given places."""
    if kwargs:
        call.refuse("combines values in place of overwriting them", "use scatter_add for sums.")
    source = value if src is None else src
    return _put_together(call, lambda x, part: torch.scatter(x, dim, index, part), (input, source))


@moving("index_copy", "index_fill", "select_scatter", "slice_scatter", "diagonal_scatter", "masked_scatter",
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


@moving("broadcast_tensors", "meshgrid", "atleast_1d", "atleast_2d", "atleast_3d")
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


@moving("topk", "sort", "kthvalue", "cummax", "cummin", "mode", is_smooth=False, keeps_image=False)
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

    axis = move_axis(call, [input], select)
    values = call.record(Move, "move", values, [input], axis, pull=pull_back([input], select))
    return type(result)((values, indices))


def _dim_of_order(name: str, *args: Any, **kwargs: Any) -> int:
    place = 1 if name in ("topk", "kthvalue") else 0  # their first argument is a number of values
    if "stable" in kwargs:
        return int(kwargs.get("dim", args[0] if args else -1))
    return int(kwargs.get("dim", args[place] if len(args) > place else -1))
