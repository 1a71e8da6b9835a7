"""LRP-0 without relevance rules: input × gradient of a network in which every nonlinearity is a multiplication.

Each activation f becomes x · (f(x) − f(0)) / x + f(0), with the quotient held fixed. Deviations of norms and gates are
held fixed, and a product of two signals keeps half of each derivative. Everything else is linear, or linear in pieces
(max-pooling), or keeps its own derivative (softmax, as in AttnLRP). An operation that this file does not know raises
`Unknown`.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from oracles import RECTIFIER_MODULES
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

ACTIVATIONS = {"relu", "relu6", "leaky_relu", "prelu", "elu", "selu", "celu", "gelu", "silu", "mish", "hardswish",
               "softplus", "tanh", "sigmoid", "hardsigmoid", "hardtanh", "clamp", "clamp_min", "clamp_max", "clip",
               "abs", "square", "pow", "__pow__", "erf", "sqrt", "exp", "log1p", "sin"}  # fmt: skip
"""Elementwise functions of their first argument."""
GATES = {"tanh", "sigmoid", "hardsigmoid", "softmax", "sqrt", "rsqrt", "reciprocal", "exp"}
"""Functions whose result scales the other factor of a product."""
PRODUCTS = {"mul", "multiply", "__mul__", "__rmul__", "__imul__"}
QUOTIENTS = {"div", "true_divide", "__truediv__", "__rtruediv__", "__rdiv__", "__itruediv__"}
MATRIX_PRODUCTS = {"matmul", "__matmul__", "bmm", "mm"}
LINEAR = {
    *("add", "__add__", "__radd__", "__iadd__", "sub", "__sub__", "__rsub__", "__isub__", "rsub", "neg", "__neg__"),
    *("conv1d", "conv2d", "conv3d", "conv_transpose2d", "linear", "batch_norm", "avg_pool2d", "avg_pool1d"),
    *("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "avg_pool3d", "mean", "sum", "cumsum"),
    *("interpolate", "upsample", "lerp", "dropout", "dropout1d", "dropout2d", "dropout3d", "grid_sample", "roll"),
    *("max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool2d", "max", "amax", "topk", "baddbmm", "addmm"),
    *("softmax", "fold", "unfold", "pixel_shuffle", "pixel_unshuffle", "pad", "cat", "concat", "stack", "where"),
    *("masked_fill", "masked_select", "gather", "index_select", "take_along_dim", "index_add", "scatter", "index_add_"),
    *(
        "scatter_add",
        "index_put",
        "embedding",
        "to",
        "float",
        "double",
        "type",
        "type_as",
        "alpha_dropout",
        "zeros_like",
    ),
    *("ones_like", "empty_like", "new_zeros", "new_ones", "new_empty", "new_full", "new_tensor", "channel_shuffle"),
    *("native_channel_shuffle", "feature_alpha_dropout", "trunc_", "masked_fill_", "zero_", "fill_", "copy_"),
}
"""Functions that are linear once masks and indices are fixed, or whose own derivative is the rule."""
MOVES = {
    *(
        "view",
        "reshape",
        "flatten",
        "unflatten",
        "permute",
        "transpose",
        "swapaxes",
        "movedim",
        "t",
        "expand",
        "repeat",
    ),
    *("expand_as", "broadcast_to", "contiguous", "clone", "squeeze", "unsqueeze", "__getitem__", "chunk", "split"),
    *("unbind", "narrow", "select", "tile", "repeat_interleave", "flip", "rot90", "view_as", "reshape_as", "unfold"),
    *("tensor_split", "diagonal", "swapdims", "rearrange", "moveaxis", "squeeze_", "unsqueeze_", "split_with_sizes"),
}


class Unknown(Exception):
    """An operation for which this file has no replacement."""


class Secants(TorchFunctionMode):
    """Replaces nonlinear operations on tensors with a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = 0
        """Depth of modules that are replaced as a whole."""
        self._gates: dict[int, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if self.inside or not any(tensor.requires_grad for tensor in _floats((args, kwargs))):
            return func(*args, **kwargs)
        plain = name if name.startswith("__") else name.rstrip("_")
        in_place = (
            kwargs.get("inplace") is True or (name.endswith("_") and not name.endswith("__")) or name.startswith("__i")
        )
        given = {key: value for key, value in kwargs.items() if key != "inplace"}
        value = self._value(func, plain, args, given)
        if value is NotImplemented:
            if plain.startswith(("conv", "linear", "addmm")) and _both(*[*args, *kwargs.values()][:2]):
                raise Unknown(f"{name} of two signals")
            if plain not in LINEAR | MOVES | PRODUCTS | QUOTIENTS | MATRIX_PRODUCTS | REPLACED.keys() and _computes(
                name
            ):
                raise Unknown(name)
            value = func(*args, **kwargs)
            if plain in GATES or (plain in MOVES and id(args[0]) in self._gates):
                self._mark(value)
            return value
        if in_place:
            args[0].copy_(value)
            value = args[0]
        if plain in GATES:
            self._mark(value)
        return value

    def _value(self, func: Any, plain: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the value of a replaced operation, or NotImplemented."""
        if plain in ("rsqrt", "reciprocal"):
            return getattr(torch, plain)(args[0].detach())  # as a factor, it takes no share
        if plain in ACTIVATIONS:
            return self._activation(func, plain, args, kwargs)
        if plain in PRODUCTS:
            return self._product(*args)
        if plain in QUOTIENTS:
            return self._quotient(plain, *args, **kwargs)
        if plain in MATRIX_PRODUCTS and _both(*args[:2]):
            return _halved(torch.matmul, *args[:2])
        replace = REPLACED.get(plain)
        return NotImplemented if replace is None else replace(*args, **kwargs)

    def _activation(self, func: Any, plain: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        if any(tensor.requires_grad for tensor in _floats((args[1:], kwargs))):
            raise Unknown(f"{plain} with a second signal")
        if plain in ("clamp", "clip") and args[0].dtype.is_floating_point is False:
            return func(*args, **kwargs)
        function = getattr(torch, plain, None) or getattr(F, plain, None) or func
        function = (
            getattr(F, plain) if plain in ("leaky_relu", "elu", "gelu", "softplus", "hardtanh", "relu6") else function
        )
        positional = args[1:] if plain not in ("relu", "silu", "mish", "hardswish", "selu", "relu6") else ()
        if plain == "__pow__":
            function = torch.pow
        if plain in ("pow", "__pow__") and not (isinstance(positional[0], (int, float)) and positional[0] >= 1):
            return function(args[0].detach(), *positional)  # below 1, a power only scales another value
        if plain in ("sqrt", "log1p", "exp"):
            return secant(function, args[0])
        return secant(lambda x: function(x, *positional, **kwargs), args[0])

    def _product(self, a: Any, b: Any) -> Any:
        if not _both(a, b):
            return NotImplemented
        gates = [id(value) in self._gates for value in (a, b)]
        if gates[0] == gates[1]:
            if a.numel() == b.numel():
                return _halved(torch.mul, a, b)
            gates = [a.numel() < b.numel(), b.numel() < a.numel()]
        return a.detach() * b if gates[0] else a * b.detach()

    def _quotient(self, plain: str, a: Any, b: Any, **kwargs: Any) -> Any:
        if plain in ("__rtruediv__", "__rdiv__"):
            a, b = b, a
        if not (isinstance(b, Tensor) and b.requires_grad):
            return NotImplemented
        value = torch.div(a, b.detach(), **kwargs)
        if not (isinstance(a, Tensor) and a.requires_grad):
            self._mark(value)
        return value

    def _mark(self, value: Any) -> None:
        for tensor in _floats(value):
            self._gates[id(tensor)] = tensor


def secant(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return f(x) as x times a fixed number, plus f(0)."""
    with torch.no_grad():
        at_zero = function(torch.zeros_like(x))
        difference = function(x) - at_zero
        slope = torch.where(x == 0, torch.zeros_like(x), difference / torch.where(x == 0, torch.ones_like(x), x))
    return x * slope + at_zero


def _halved(multiply: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor) -> Tensor:
    """Return a product of which each factor gets half the derivative."""
    return 0.5 * (multiply(a, b.detach()) + multiply(a.detach(), b))


def _both(a: Any, b: Any = None) -> bool:
    return all(isinstance(value, Tensor) and value.requires_grad for value in (a, b))


def _floats(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _floats(item)
    elif isinstance(value, dict):
        yield from _floats(list(value.values()))


def _computes(name: str) -> bool:
    """True unless a function only reads metadata or compares."""
    return name not in {"__get__", "size", "dim", "numel", "is_floating_point", "is_contiguous", "stride", "__len__",
                        "__eq__", "__ne__", "__gt__", "__lt__", "__ge__", "__le__", "gt", "lt", "ge", "le", "eq", "ne",
                        "__setitem__", "is_complex", "ndimension", "new_tensor", "argmax", "argsort", "isnan", "isinf",
                        "any", "all", "finfo", "is_nested", "has_names", "requires_grad_", "__bool__", "get_device",
                        "storage_offset", "is_same_size", "bool", "int", "long", "detach", "sign", "round",
                        "isfinite", "data_ptr", "element_size", "unbind", "one_hot", "__set__", "__format__",
                        "set_", "type", "grad", "is_inference", "broadcast_tensors", "meshgrid"}  # fmt: skip


# ── functions replaced as a whole ────────────────────────────────────────────────────────────────────────────────────


def _normalized(x: Tensor, axes: tuple[int, ...], eps: float, *, centered: bool = True) -> Tensor:
    """Divide by a fixed deviation over some axes."""
    if centered:
        x = x - x.mean(axes, keepdim=True)
    deviation = (x.detach().square().mean(axes, keepdim=True) + eps).sqrt()
    return x / deviation


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _layer_norm(x: Tensor, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Tensor:
    return _affine(_normalized(x, tuple(range(-len(shape), 0)), eps), weight, bias)


def _rms_norm(x: Tensor, shape: Any, weight: Any = None, eps: float | None = None) -> Tensor:
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    return _affine(_normalized(x, tuple(range(-len(shape), 0)), eps, centered=False), weight, None)


def _group_norm(x: Tensor, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Tensor:
    grouped = x.reshape(len(x), groups, -1)
    wide = [None if value is None else value.view(-1, *(1 for _ in x.shape[2:])) for value in (weight, bias)]
    return _affine(_normalized(grouped, (2,), eps).reshape(x.shape), *wide)


def _instance_norm(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    weight = kwargs.get("weight", args[2] if len(args) > 2 else None)
    bias = kwargs.get("bias", args[3] if len(args) > 3 else None)
    return _group_norm(x, x.shape[1], weight, bias, kwargs.get("eps", args[6] if len(args) > 6 else 1e-5))


def _normalize(x: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: None = None) -> Tensor:
    return x / x.detach().norm(p, dim, keepdim=True).clamp_min(eps)


def _glu(x: Tensor, dim: int = -1) -> Tensor:
    signal, gate = x.chunk(2, dim)
    return signal * gate.detach().sigmoid()


def _attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    if enable_gqa:
        key, value = (x.repeat_interleave(query.shape[-3] // x.shape[-3], -3) for x in (key, value))
    scores = _halved(torch.matmul, query, key.mT) * (scale or 1 / math.sqrt(query.shape[-1]))
    if is_causal:
        attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool).tril()
    if attn_mask is not None:
        is_bool = attn_mask.dtype == torch.bool
        scores = scores.masked_fill(~attn_mask, -math.inf) if is_bool else scores + attn_mask
    return _halved(torch.matmul, scores.softmax(-1), value)


def _multi_head(query: Tensor, key: Tensor, value: Tensor, _size: int, heads: int, *args: Any, **kwargs: Any) -> Any:
    weight, bias, bias_k, _bias_v, zero, _p, out_weight, out_bias = args[:8]
    if weight is None or bias_k is not None or zero or kwargs.get("attn_mask") is not None:
        raise Unknown("multi_head_attention_forward")
    biases = (None,) * 3 if bias is None else bias.chunk(3)
    parts = [F.linear(*given) for given in zip((query, key, value), weight.chunk(3), biases, strict=True)]
    query, key, value = (x.unflatten(-1, (heads, -1)).permute(1, 2, 0, 3) for x in parts)
    joined = _attention(query, key, value).permute(2, 0, 1, 3).flatten(2)
    return F.linear(joined, out_weight, out_bias), None


def _length(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return torch.linalg.vector_norm(
        x.detach(), *args, **{{"p": "ord"}.get(key, key): value for key, value in kwargs.items()}
    )


def _addcmul(_input: Any, a: Any, b: Any, *, value: float = 1) -> Any:
    if _both(a, b):
        raise Unknown("addcmul of two signals")
    return NotImplemented


def _einsum(equation: str, *operands: Any) -> Any:
    factors = operands[0] if isinstance(operands[0], (tuple, list)) else operands
    if len(factors) == 1 or not _both(*factors[:2]):
        return NotImplemented
    letters, target = equation.replace(" ", "").split("->")
    if len(factors) > 2 or not set(letters.replace(",", "").replace(".", "")) - set(target):
        raise Unknown("einsum")
    return _halved(lambda a, b: torch.einsum(equation, a, b), *factors)


REPLACED: dict[str, Callable[..., Any]] = {
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
    "instance_norm": _instance_norm,
    "normalize": _normalize,
    "glu": _glu,
    "scaled_dot_product_attention": _attention,
    "multi_head_attention_forward": _multi_head,
    "norm": _length,
    "vector_norm": _length,
    "linalg_vector_norm": _length,
    "addcmul": _addcmul,
    "einsum": _einsum,
    "var": lambda x, *args, **kwargs: torch.var(x.detach(), *args, **kwargs),
    "std": lambda x, *args, **kwargs: torch.std(x.detach(), *args, **kwargs),
    "baddbmm": lambda *args, **kwargs: _baddbmm(*args, **kwargs),
}


def _baddbmm(added: Any, batch1: Any, batch2: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    if not _both(batch1, batch2):
        return NotImplemented
    return added * beta + alpha * _halved(torch.bmm, batch1, batch2)


@contextmanager
def secants(model: nn.Module) -> Iterator[None]:
    """Make autograd compute the derivative of the network of secants."""
    mode, handles = Secants(), []

    def enter(_module: nn.Module, given: tuple[Tensor, ...]) -> None:
        mode.inside += 1

    def leave(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x = given[0]
        at_zero = type(module).forward(module, torch.zeros_like(x.detach()))
        slope = torch.where(
            x == 0, torch.zeros_like(x), (output - at_zero) / torch.where(x == 0, torch.ones_like(x), x)
        )
        mode.inside -= 1
        return x * slope.detach() + at_zero

    for module in model.modules():
        if type(module).__name__ in RECTIFIER_MODULES:
            handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        with mode:
            yield
    finally:
        for handle in handles:
            handle.remove()
