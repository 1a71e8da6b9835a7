"""Queries that carry no relevance, such as shapes and comparisons, and exits from the graph, which are refused."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from pellucid.engine.call import Call, record_unknown
from pellucid.engine.table import operation
from pellucid.engine.tape import Move, Relevances

__all__ = ["comparison", "exit_of_the_graph", "itself", "query"]

_PROPERTIES = (
    "shape", "ndim", "dtype", "device", "layout", "is_cuda", "is_cpu", "is_mps", "is_meta", "is_sparse", "is_mkldnn",
    "is_quantized", "is_nested", "is_xla", "is_leaf", "requires_grad", "grad_fn", "names", "itemsize", "nbytes",
    "is_vulkan", "is_xpu", "is_sparse_csr",
)  # fmt: skip
_OUT_OF_THE_GRAPH = (
    "takes a value out of the graph, so later computations with it cannot be recorded",
    (
        "keep the computation in tensors without detaching them, or choose a gradient method "
        "if the missing part can be ignored."
    ),
)
_query = partial(operation, family="query")
_metadata = partial(_query, reads_metadata=True)
_new = partial(_query, is_constant=True)
_exit = partial(_query, leaves_graph=True)


@_metadata("size", "dim", "numel", "nelement", "stride", "is_contiguous", "is_floating_point", "is_complex",
           "element_size", "__len__", "ndimension", torch.ops.aten.sym_size.int)  # fmt: skip
@_metadata(*(f"Tensor.{name}.__get__" for name in _PROPERTIES if hasattr(Tensor, name)))
@_new("zeros_like", "ones_like", "empty_like", "full_like", "new_zeros", "new_ones", "new_empty", "new_full")
@_query("storage_offset", "is_tensor", "__repr__", "__hash__", "is_same_size", "is_conj", "is_neg", "get_device",
        "has_names", "__format__", "argmax", "argmin", "_assert",
        torch.ops.aten._assert_tensor_metadata.default)  # fmt: skip
def query(call: Call, *_args: object, **_kwargs: object) -> object:
    """Run a query whose result is independent of the image, or piecewise constant."""
    return call.run()


@_query("gt", "lt", "ge", "le", "eq", "ne", "greater", "less", "greater_equal", "less_equal", "not_equal", "isnan",
        "isinf", "isfinite", "__gt__", "__lt__", "__ge__", "__le__", "__eq__", "__ne__")  # fmt: skip
def comparison(call: Call, *_args: object, **_kwargs: object) -> object:
    """Run a comparison; its mask is piecewise constant, but its formula is kept to evaluate the mask at 0."""
    value = call.run()
    call.recorder.enter_mask(call.function, call.args, call.kwargs, value)
    return value


@_query("requires_grad_", "retain_grad")
def itself(call: Call, input: Tensor, *_args: object, **_kwargs: object) -> Tensor:
    """Return the value itself."""
    return input


@operation("logical_not", "logical_and", "logical_or", "bitwise_not", "bitwise_and", "bitwise_or", "__invert__",
           "__and__", "__or__", "__rand__", "__ror__", is_elementwise=True)  # fmt: skip
@operation("rand_like", "randn_like", "new_tensor", is_constant=True)
def without_rule(call: Call, *_args: object, **_kwargs: object) -> None:
    """Refuse a function that has traits but no rule: the logic of masks, or one that is constant almost everywhere."""
    call.refuse("has no rule")


@_query("detach")
def detached(call: Call, input: Tensor) -> Tensor:
    """Record a detached copy, which may only be used where no relevance arrives, such as in a cache of states."""
    return _dead_end(call, input, *_OUT_OF_THE_GRAPH)


@operation("sign", "sgn", "signbit", "floor", "ceil", "round", "trunc", "fix", "heaviside", "floor_divide",
           "__floordiv__", is_constant=True)  # fmt: skip
def step_function(call: Call, input: Any, *args: object, **kwargs: object) -> Any:
    """Record a piecewise constant function, which may only be used where no relevance arrives, as for an index."""
    if call.recorder.takes_unknown:
        return record_unknown(call, input, *args, **kwargs)
    if not isinstance(input, Tensor) or any(call.depends(value) for value in (*args, *kwargs.values())):
        call.refuse("has no rule")
    return _dead_end(call, input, "is constant almost everywhere, so it has no rule")


def _dead_end(call: Call, x: Tensor, why: str, way_out: str = "") -> Tensor:
    """Record an operation that is refused if the logits depend on its value."""
    error = call.recorder.refusal(call.name, why, way_out)

    def refuse(_relevance: Tensor) -> Relevances:
        raise error

    return call.record(Move, "move", call.run(), [x], pull=refuse)


@_exit("numpy", "item", "tolist", "__array__", "__float__", "__complex__", returns_numbers=True)
@_exit("__int__", "__bool__", "__index__", "__dlpack__", "data_ptr", "untyped_storage", "is_nonzero",
       "allclose", "equal", "__contains__", "Tensor.data.__get__", "Tensor.data.__set__")  # fmt: skip
def exit_of_the_graph(call: Call, *_args: object, **_kwargs: object) -> None:
    """Refuse the call, since whatever the model computes from its result is invisible to the recorder."""
    call.refuse(*_OUT_OF_THE_GRAPH)
