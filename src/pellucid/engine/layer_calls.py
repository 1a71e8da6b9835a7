"""Calls of layers in a forward pass: modules with weights, and activation functions however they are written.

An activation is seen by the function that torch runs, so that `nn.ReLU`, `F.relu(x)`, `x.relu_()` and `x.clamp(min=0)`
are found alike. Modules with weights are seen by hooks.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pellucid.engine.batch_norm import refuse_batch_statistics, uses_batch_statistics
from pellucid.engine.model import check_autocast
from pellucid.engine.operations import OPERATIONS
from pellucid.engine.table import Entry, modified
from pellucid.engine.wrapping import module_paths

__all__ = ["ActivationFunction", "LayerCall", "watched_layers"]

RECTIFIERS = frozenset(
    ("relu", "relu6", "leaky_relu", "prelu", "rrelu", "threshold", "hardtanh", "clamp", "clip", "clamp_min")
)
"""Functions that may be constant on one side by design, which is no saturation."""
SATURATING = frozenset(
    ("sigmoid", "expit", "hardsigmoid", "tanh", "softsign", "atan", "arctan", "erf", "logsigmoid", "softplus", "elu",
     "selu", "celu", "gelu", "silu", "mish", "hardswish")
)  # fmt: skip
"""Other functions that are flat on at least one side."""
ALWAYS_ACTIVATIONS = RECTIFIERS - {"clamp", "clip", "clamp_min", "hardtanh", "threshold"} | SATURATING
"""Functions that are activations whatever their arguments; clamping at 1e-6, for one, is none."""
ATTENTION = frozenset(("scaled_dot_product_attention", "multi_head_attention_forward"))
REACH = 12.0
"""Largest input at which the slope of a function is sampled to find the steepest one."""


@dataclass(frozen=True, eq=False)
class ActivationFunction:
    """An elementwise function with its constant arguments."""

    name: str
    apply: Callable[[Tensor], Tensor]
    is_rectifier: bool
    """Zero for all negative inputs, or linear there."""
    has_ceiling: bool
    """Flat for large inputs."""

    def slope(self, x: Tensor) -> Tensor:
        """Return |f′(x)|."""
        with torch.enable_grad():
            leaf = x.detach().clone().requires_grad_()
            (slope,) = torch.autograd.grad(self.apply(leaf).sum(), leaf)
        return slope.abs()

    def steepest(self, x: Tensor) -> float:
        """Return the largest |f′| over −12…12, in the dtype and on the device of `x`."""
        points = torch.linspace(-REACH, REACH, 2401, dtype=x.dtype, device=x.device)
        return float(self.slope(points).max())


@dataclass(frozen=True, eq=False)
class LayerCall:
    """One call of a module with weights, or of an activation function."""

    path: str
    """Path of the module, or of the innermost module that runs the function."""
    kind: str
    """Class of the module, or name of the function."""
    module: nn.Module | None
    """The module with weights, or the module that only applies the activation; None for a function in a module."""
    function: ActivationFunction | None
    """The activation; None for modules with weights."""
    input: Tensor | None
    """Input of the activation, before an in-place function changes it."""
    output: Any
    """The module's output, of any type; for an activation, a tensor."""


Note = Callable[[LayerCall], None]


@contextmanager
def watched_layers(model: nn.Module, note: Note, attention: Callable[[str], None] | None = None) -> Iterator[None]:
    """Pass every call of a layer to `note`, in the order in which calls end; `attention` receives paths.

    Modules with weights are those with a parameter of two or more axes of their own, and no such module called inside.
    A module is passed to `note` after its call, before a later layer can change the output in place. Raises
    `UnsupportedOperation` for batch norms that use the statistics of the batch.
    """
    stack: list[tuple[str, nn.Module]] = []
    # number of layers so far, when each running module was entered
    layers, starts = 0, list[int]()

    def enter(path: str, module: nn.Module, _: Any) -> None:
        stack.append((path, module))
        starts.append(layers)

    def leave(path: str, module: nn.Module, _: Any, output: Any) -> None:
        nonlocal layers
        stack.pop()
        # a module with layers inside is no layer, even if it holds a position embedding
        if layers == starts.pop() and _has_weights(module) and ".parametrizations." not in f".{path}.":
            layers += 1
            # the hook runs inside the mode, which would take the caller's computations for layers
            with torch._C.DisableTorchFunction():
                note(LayerCall(path, _kind(module), module, None, None, output))

    with ExitStack() as hooks:
        # a module with several paths keeps the first
        paths = {module: path for path, module in reversed(list(module_paths(model)))}
        for module, path in paths.items():
            hooks.callback(module.register_forward_pre_hook(partial(enter, path)).remove)
            hooks.callback(module.register_forward_hook(partial(leave, path)).remove)
        with _Functions(model, stack, note, attention):
            yield


def _has_weights(module: nn.Module) -> bool:
    own = any(parameter.ndim >= 2 for parameter in module.parameters(recurse=False))
    # weight and spectral norms keep the parameters in a module of their own
    return own or hasattr(module, "parametrizations")


def _kind(module: nn.Module) -> str:
    return type(module).__name__.removeprefix("Parametrized")


class _Functions(TorchFunctionMode):
    """Calls `note` for every activation function."""

    def __init__(
        self,
        model: nn.Module,
        stack: list[tuple[str, nn.Module]],
        note: Note,
        attention: Callable[[str], None] | None,
    ) -> None:
        super().__init__()
        self._model, self._stack, self._note, self._attention = model, stack, note, attention

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        check_autocast(func, args, kwargs)
        if uses_batch_statistics(func, args, kwargs):
            refuse_batch_statistics(self._model)
        entry = OPERATIONS.find(func)
        found = None if entry is None else _activation(entry, func, args, kwargs)
        if found is None:
            value = func(*args, **kwargs)
            if entry is not None and self._attention is not None and _is_attention(entry, value):
                self._attention(self._stack[-1][0] if self._stack else "")
            return value
        function, x = found
        # a copy, if the function is about to overwrite its input and its slope is needed
        is_in_place = modified(func, args, kwargs) is not None or any(one is True for one in args)
        before = x.detach().clone() if is_in_place and function.has_ceiling else x.detach()
        value = func(*args, **kwargs)
        if isinstance(value, Tensor):
            path, module = self._stack[-1] if self._stack else ("", None)
            is_alone = module is not None and type(module).__module__ == "torch.nn.modules.activation"
            kind = type(module).__name__ if is_alone else function.name
            self._note(LayerCall(path, kind, module if is_alone else None, function, before, value))
        return value


def _activation(entry: Entry, func: Any, args: Any, kwargs: Any) -> tuple[ActivationFunction, Tensor] | None:
    """Return the activation function of a call with its input; None for other calls."""
    name = entry.name.strip("_")
    x = args[0] if args else kwargs.get("input")
    if not isinstance(x, Tensor) or not x.is_floating_point():
        return None
    named = {key: value for key, value in kwargs.items() if key not in ("inplace", "out", "input")}
    if name in ("maximum", "fmax"):
        other = args[1] if len(args) > 1 else kwargs.get("other")
        is_relu = isinstance(other, Tensor) and not other.requires_grad and bool((other == 0).all())
        return (ActivationFunction(name, torch.relu, is_rectifier=True, has_ceiling=False), x) if is_relu else None
    if name not in RECTIFIERS | SATURATING:
        return None
    if name != "prelu" and any(isinstance(one, Tensor) and one.numel() > 1 for one in (*args[1:], *named.values())):
        return None
    apply = _out_of_place(entry, func, args[1:], named)
    if name in SATURATING:
        return ActivationFunction(name, apply, is_rectifier=False, has_ceiling=True), x
    if name == "prelu":
        return ActivationFunction(name, apply, is_rectifier=True, has_ceiling=False), x
    with torch.no_grad():
        probes = torch.tensor([-1e4, -1.0, 0.0, 5e3, 1e4], dtype=x.dtype, device=x.device)
        far_low, low, middle, high, far_high = apply(probes).tolist()
    is_zero_below = far_low == low == middle == 0
    if name not in ALWAYS_ACTIVATIONS and not is_zero_below and name != "hardtanh":
        return None
    has_ceiling = high == far_high
    return ActivationFunction(name, apply, is_rectifier=name != "hardtanh" or is_zero_below, has_ceiling=has_ceiling), x


def _out_of_place(entry: Entry, func: Any, more: tuple[Any, ...], named: dict[str, Any]) -> Callable[[Tensor], Tensor]:
    pure = entry.function or func
    # `inplace` can also be a positional argument, the only boolean one of these functions
    rest = tuple(one for one in more if not isinstance(one, bool))

    def apply(x: Tensor) -> Tensor:
        value: Tensor = pure(x, *rest, **named)
        return value

    return apply


def _is_attention(entry: Entry, value: Any) -> bool:
    is_softmax = entry.traits.family == "softmax" and isinstance(value, Tensor) and value.ndim >= 3
    return is_softmax or entry.name in ATTENTION
