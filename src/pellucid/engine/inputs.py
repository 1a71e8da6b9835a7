"""Inputs of a model: what users pass, as tensors, and the structure of several inputs.

A model with several inputs takes them as a tuple or list (positional arguments) or as a dict (keyword arguments). If
`forward` has a single required parameter and cannot take the inputs that way, it receives the tuple or dict itself.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from pellucid.core.errors import ConfigError, ModelError, ShapeError
from pellucid.engine.arrays import EXPECTED, check_tensor, converted, described, is_numbers, shown, unsuitable

__all__ = ["Several", "as_inputs", "check_is_loader", "check_is_model", "one_tensor"]

Constant = bool | int | float | str | None
Model = nn.Module | Callable[..., Any]


def check_is_model(model: Any, allows_functions: bool = False) -> None:
    """Raise `ModelError` unless `model` is a module (or a function, where functions are allowed).

    >>> check_is_model(nn.Linear(2, 2))
    """
    if isinstance(model, nn.Module):
        return
    is_class = isinstance(model, type)
    if allows_functions and callable(model) and not is_class:
        return
    received = f"the class {model.__name__}" if is_class else "a function" if callable(model) else shown(model)
    expected = "a torch.nn.Module or a function of tensors" if allows_functions else "a torch.nn.Module"
    way_out = "pass a module"
    if is_class:
        way_out = f"pass an instance, such as {model.__name__}()"
    elif callable(model):
        way_out = "wrap the function in a module whose forward calls it"
        if not allows_functions:
            way_out += ", or, if it takes NumPy arrays, in pellucid.function(…)"
    raise ModelError(f"the model is {received}; expected {expected}. To fix this, {way_out}.")


def check_is_loader(loader: Any, what: str) -> None:
    """Raise `ConfigError` unless `loader` is a loader, or a list of batches.

    >>> import torch
    >>> check_is_loader([torch.zeros(2, 3)], "batches")
    """
    is_array = isinstance(loader, Tensor | np.ndarray | nn.Module | str | bytes | Mapping | type)
    if is_array or not isinstance(loader, Iterable):
        raise ConfigError(f"{what} is {shown(loader)}; expected a loader, or a list of batches such as [images].")


def one_tensor(x: Any, model: Model | None = None, what: str = "the images") -> Tensor:
    """Return a single input as a tensor; raises `ShapeError` for several inputs and for anything else.

    >>> one_tensor([[0.5, 1.0]]).dtype
    torch.float32
    """
    inputs = as_inputs(x, model, what)
    if isinstance(inputs, Several):
        raise ShapeError(
            f"{what}: got {len(inputs.tensors)} inputs ({', '.join(inputs.names)}); expected a single tensor here. "
            "Several inputs are accepted by create_analyzer and jacobian."
        )
    if not inputs.ndim or not inputs.numel():
        raise ShapeError(f"{what}: got {described(inputs)}; expected at least one value per example, (batch, …).")
    return inputs


def as_inputs(x: Any, model: Model | None = None, what: str = "the images") -> "Tensor | Several":
    """Return the inputs that a user passes as a tensor, or as `Several`.

    NumPy arrays, data frames and nested lists of numbers become tensors on the model's device, floats in its dtype.
    Raises `ShapeError`, which describes what was received, for anything that is not made of numbers.

    >>> import torch
    >>> as_inputs({"image": np.zeros((2, 3)), "mask": torch.ones(2, dtype=torch.bool)}).names
    ('image', 'mask')
    """
    if isinstance(x, Tensor):
        check_tensor(x, what)
        return x
    if hasattr(x, "columns") and hasattr(x, "to_numpy"):  # a data frame of pandas or polars
        x = x.to_numpy()
    if isinstance(x, np.ndarray) or is_numbers(x):
        return converted(x, model, what)
    if isinstance(x, tuple | list | Mapping):
        return Several.of(x, model, what)
    raise unsuitable(x, what)


@dataclass(frozen=True, eq=False)
class Several:
    """Several inputs in a tuple, list or dict, possibly nested; constants such as None, flags and strings may be among
    them.
    """

    structure: Any
    """The inputs in their structure, with tensors in place of arrays."""
    names: tuple[str, ...]
    """Path of each tensor in the structure: its key or position."""
    tensors: tuple[Tensor, ...]
    style: str
    """Calling convention of the model: `positions`, `keywords`, or a single `argument`."""

    @classmethod
    def of(cls, x: Any, model: Model | None, what: str = "the images") -> "Several":
        """Collect the tensors in a structure.

        Raises `ShapeError` if it contains none, if their batch sizes differ, or if the parameters of the model's
        `forward` do not match.
        """
        names, tensors = list[str](), list[Tensor]()

        def convert(value: Any, name: str) -> Any:
            if value is None or isinstance(value, bool | int | float | str | np.generic):
                return value
            if not isinstance(value, Tensor) and not isinstance(value, np.ndarray) and not is_numbers(value):
                raise unsuitable(value, f"the input {name!r}")
            tensor = as_inputs(value, model, f"the input {name!r}")
            assert isinstance(tensor, Tensor)
            names.append(name)
            tensors.append(tensor)
            return tensor

        structure = _mapped(x, convert)
        several = cls(structure, tuple(names), tuple(tensors), "" if model is None else _style(model, structure))
        several._check(x, what)
        return several

    def _check(self, x: Any, what: str) -> None:
        if not self.tensors:
            raise ShapeError(f"{what}: got {shown(x)}, which contains no tensors; {EXPECTED}.")
        size = self.tensors[0].shape[:1]
        if not size or any(tensor.shape[:1] != size for tensor in self.tensors):
            shapes = ", ".join(f"{name}: {tuple(t.shape)}" for name, t in zip(self.names, self.tensors, strict=True))
            raise ShapeError(f"expected inputs of shape (batch, …) with one batch size, got shapes {shapes}.")
        if not size[0]:
            raise ShapeError(f"{what}: the batch is empty. Pass at least one example.")

    def described(self, tensors: Sequence[Tensor] | None = None) -> str:
        """Describe the inputs by name, shape and dtype, for messages."""
        pairs = zip(self.names, tensors or self.tensors, strict=True)
        form = f", passed as one {type(self.structure).__name__}" if self.style == "argument" else ""
        return ", ".join(f"{name}: {described(tensor)}" for name, tensor in pairs) + form

    @property
    def batch(self) -> int:
        """Number of examples."""
        return len(self.tensors[0])

    @property
    def floats(self) -> tuple[int, ...]:
        """Positions of the inputs that are differentiated; integers and booleans are passed on unchanged."""
        return tuple([place for place, tensor in enumerate(self.tensors) if tensor.is_floating_point()])

    def arranged(self, values: Mapping[int, Any]) -> Any:
        """Return results in the structure of the inputs, by position of the input; None for all other entries."""
        places = iter(range(len(self.tensors)))
        return _mapped(self.structure, lambda old, _: values.get(next(places)) if isinstance(old, Tensor) else None)

    def with_tensors(self, tensors: Sequence[Tensor]) -> Any:
        """Return the structure with other tensors, and the same constants."""
        new = iter(tensors)
        return _mapped(self.structure, lambda old, _: next(new) if isinstance(old, Tensor) else old)

    def of_structure(self, value: Any, option: str) -> list[Any]:
        """Split an option given in the structure of the inputs into one value per tensor.

        Any value that is not a tuple, list or dict counts for all inputs. Raises `ShapeError` if the structures differ.
        """
        if not isinstance(value, tuple | list | Mapping):
            return [value] * len(self.tensors)
        values: list[Any] = []
        try:
            _paired(self.structure, value, values)
        except (LookupError, TypeError) as error:
            raise ShapeError(
                f"{option} does not have the structure of the inputs, {', '.join(self.names)}; pass one value for all, "
                f"or one per input in the same structure ({type(self.structure).__name__})."
            ) from error
        return values

    def call(self, model: Callable[..., Any], tensors: Sequence[Tensor]) -> Any:
        """Call the model with other tensors in place of these."""
        inputs = self.with_tensors(tensors)
        if self.style == "keywords":
            return model(**inputs)
        return model(*inputs) if self.style == "positions" else model(inputs)


def _mapped(x: Any, convert: Callable[[Any, str], Any], name: str = "") -> Any:
    """Rebuild nested tuples, lists and dicts with each leaf converted; `convert` also receives its path."""
    joint = f"{name}." if name else ""
    if isinstance(x, Mapping):
        return {key: _mapped(value, convert, f"{joint}{key}") for key, value in x.items()}
    if isinstance(x, tuple | list) and not (name and is_numbers(x)):
        values = [_mapped(value, convert, f"{joint}{place}") for place, value in enumerate(x)]
        if hasattr(x, "_fields"):
            return type(x)(*values)
        return values if isinstance(x, list) else tuple(values)
    return convert(x, name)


def _paired(structure: Any, value: Any, values: list[Any]) -> None:
    """Collect the entry of `value` for each tensor in `structure`."""
    if isinstance(structure, Tensor):
        values.append(value)
    elif isinstance(structure, Mapping):
        if isinstance(value, Mapping) and not set(value) <= set(structure):
            raise LookupError(f"unknown names {sorted(set(value) - set(structure))}")
        for key, entry in structure.items():
            own = value[key] if isinstance(value, Mapping) else _shared(value)
            _paired(entry, own, values)
    elif isinstance(structure, tuple | list):
        is_sequence = isinstance(value, tuple | list)
        if isinstance(value, Mapping) or (is_sequence and len(value) != len(structure)):
            raise LookupError("another length")
        for place, entry in enumerate(structure):
            _paired(entry, value[place] if is_sequence else value, values)


def _shared(value: Any) -> Any:
    if isinstance(value, tuple | list):
        raise TypeError("a sequence for a dict")
    return value


def _style(model: Model, structure: Any) -> str:
    """Return the calling convention that the parameters of the model's `forward` require."""
    is_named = isinstance(structure, Mapping)
    function = model.forward if isinstance(model, nn.Module) else model
    own = "keywords" if is_named else "positions"
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a builtin without a signature
        return own
    try:
        if is_named:
            signature.bind(**structure)
        else:
            signature.bind(*structure)
    except TypeError as error:
        required = [p for p in signature.parameters.values() if p.default is p.empty and p.kind in _POSITIONAL]
        is_known = is_named and any(key in signature.parameters for key in structure)
        if len(required) == 1 and not is_known:
            return "argument"
        names = ", ".join(f"{key}" for key in structure) if is_named else f"{len(structure)} positional inputs"
        raise ShapeError(
            f"the inputs are {names}, but the model takes {signature}: {error}. Pass a tuple for positional arguments, "
            "or a dict for keyword arguments."
        ) from error
    return own


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
