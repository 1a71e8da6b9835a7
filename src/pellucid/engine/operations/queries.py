"""Queries that carry no relevance, such as shapes and comparisons, and exits from the graph, which are refused."""

from typing import Any

import torch
from torch import Tensor

from pellucid.engine.recorder import Call
from pellucid.engine.table import OPERATIONS, Entry, operation

__all__ = ["comparison", "exit_of_the_graph", "itself", "query"]

_SHAPES_AND_TYPES = (
    "size", "dim", "numel", "nelement", "stride", "storage_offset", "is_contiguous", "is_floating_point", "is_complex",
    "element_size", "__len__", "is_tensor", "__repr__", "__hash__", "is_same_size", "is_conj", "is_neg", "ndimension",
    "get_device", "has_names", "__format__",
)  # fmt: skip
_PROPERTIES = (
    "shape", "ndim", "dtype", "device", "layout", "is_cuda", "is_cpu", "is_mps", "is_meta", "is_sparse", "is_mkldnn",
    "is_quantized", "is_nested", "is_xla", "is_leaf", "requires_grad", "grad_fn", "names", "itemsize", "nbytes",
    "is_vulkan", "is_xpu", "is_sparse_csr",
)  # fmt: skip
_NEW = ("zeros_like", "ones_like", "empty_like", "full_like", "new_zeros", "new_ones", "new_empty", "new_full")
_COMPARISONS = (
    "gt", "lt", "ge", "le", "eq", "ne", "greater", "less", "greater_equal", "less_equal", "not_equal", "isnan", "isinf",
    "isfinite", "__gt__", "__lt__", "__ge__", "__le__", "__eq__", "__ne__",
)  # fmt: skip
_PLACES = ("argmax", "argmin", "_assert")
_EXITS = (
    "detach", "detach_", "numpy", "item", "tolist", "__array__", "__float__", "__int__", "__bool__", "__index__",
    "__dlpack__", "data_ptr", "untyped_storage", "is_nonzero", "allclose", "equal", "__contains__", "__complex__",
)  # fmt: skip


@operation(*_SHAPES_AND_TYPES, *(f"Tensor.{name}.__get__" for name in _PROPERTIES if hasattr(Tensor, name)))
@operation(*_NEW, *_PLACES)
def query(call: Call, *_args: object, **_kwargs: object) -> object:
    """Run a query whose result is independent of the image, or piecewise constant."""
    return call.run()


@operation(*_COMPARISONS)
def comparison(call: Call, *_args: object, **_kwargs: object) -> object:
    """Run a comparison; its mask is piecewise constant, but its formula is kept to evaluate the mask at 0."""
    value = call.run()
    call.recorder.enter_mask(call.function, call.args, call.kwargs, value)
    return value


@operation("requires_grad_", "retain_grad")
def itself(call: Call, input: Tensor, *_args: object, **_kwargs: object) -> Tensor:
    """Return the value itself."""
    return input


def exit_of_the_graph(call: Call, *_args: object, **_kwargs: object) -> None:
    """Refuse the call, since whatever the model computes from its result is invisible to the recorder."""
    call.refuse(
        "takes a value out of the graph, so later computations with it cannot be recorded",
        "keep the computation in tensors without detaching them, or choose a gradient method "
        "if the missing part can be ignored.",
    )


for _name in _EXITS:
    for _place in (torch, Tensor):
        if hasattr(_place, _name):
            OPERATIONS.enter(getattr(_place, _name), Entry(_name, exit_of_the_graph))
_data: Any = Tensor.data
OPERATIONS.enter(_data.__get__, Entry("data", exit_of_the_graph))
OPERATIONS.enter(_data.__set__, Entry("data", exit_of_the_graph))
