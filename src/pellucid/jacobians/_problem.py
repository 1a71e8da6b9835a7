"""The differentiation problem: a model or function, its inputs, and a selection of its outputs."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.core.errors import ShapeError, UnknownName
from pellucid.core.isolation import preserved_random_state
from pellucid.engine.batch_norm import SoundNorms
from pellucid.engine.model import check_model, frozen, modules_of, runs_torch_alone, unwrap
from pellucid.engine.operations import OPERATIONS

__all__ = ["Model", "Outputs", "Problem", "dtype_for", "untouched"]

Model = nn.Module | Callable[..., Any]
"""A module, or any function of tensors."""

Outputs = Sequence[int] | str | Mapping[str, Sequence[int] | None] | None
"""Selection of outputs: None for all, indices into the flattened outputs, the name of one entry of a dict or tuple of
outputs ("0", "1"… for a tuple), or {name: indices}."""


@dataclass(frozen=True, eq=False)
class Problem:
    """A model, its inputs in the model's dtype, and the wanted outputs."""

    model: Model
    inputs: tuple[Tensor, ...]
    """Each (batch, …); integer and boolean inputs are passed to the model but not differentiated."""
    name: str | None
    """Name of the wanted entry of a dict or tuple of outputs; None for a single output."""
    indices: tuple[int, ...] | None
    """Indices into the flattened outputs; None for all."""

    @classmethod
    def of(cls, model: Model, x: Tensor | tuple[Tensor, ...], outputs: Outputs) -> "Problem":
        """Build the problem from the public arguments. Raises `ShapeError` for unsuitable inputs."""
        model = unwrap(model)
        given = x if isinstance(x, tuple) else (x,)
        size = given[0].shape[:1] if given else ()
        if not size or any(tensor.shape[:1] != size for tensor in given[1:]):
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in given)
            raise ShapeError(f"expected inputs of shape (batch, …) with one batch size, got shapes {shapes}.")
        if not size[0]:
            raise ShapeError("x contains no images. Pass at least one.")
        if not any(tensor.is_floating_point() for tensor in given):
            raise ShapeError(
                "x contains only integers, which have no derivative. Pass floats, such as embedded tokens."
            )
        dtype = dtype_for(model)
        inputs = tuple([_as_input(tensor, dtype) for tensor in given])
        if outputs is None:
            return cls(model, inputs, None, None)
        if isinstance(outputs, str):
            return cls(model, inputs, outputs, None)
        if isinstance(outputs, Mapping):
            if len(outputs) != 1:
                raise ShapeError(f"outputs names {list(outputs)}; name one entry per call.")
            ((name, indices),) = outputs.items()
            return cls(model, inputs, name, None if indices is None else tuple(int(index) for index in indices))
        return cls(model, inputs, None, tuple(int(index) for index in outputs))

    @property
    def batch(self) -> int:
        """Number of images."""
        return self.inputs[0].shape[0]

    @property
    def floats(self) -> tuple[int, ...]:
        """Positions of the inputs that are differentiated."""
        return tuple([place for place, tensor in enumerate(self.inputs) if tensor.is_floating_point()])

    @property
    def input_count(self) -> int:
        """Number of differentiated input values per image."""
        return sum([self.inputs[place].numel() for place in self.floats]) // self.batch

    @cached_property
    def known_layers(self) -> tuple[object, ...] | None:
        """Description of a model whose layers are all known to process each image independently; None otherwise.

        Equal descriptions mean equal operations on equal shapes.
        """
        model = self.model
        if not isinstance(model, nn.Module) or any(tensor.ndim < 2 for tensor in self.inputs):
            return None
        described = _describe(model)
        return described if described and runs_torch_alone(modules_of(model)) else None

    def part(self, start: int, stop: int) -> tuple[Tensor, ...]:
        """Return the inputs of images `start` to `stop`, the floating-point ones as leaves that require gradients."""
        parts = self.inputs if stop - start == self.batch else [tensor[start:stop] for tensor in self.inputs]
        return tuple([part.detach().requires_grad_(part.is_floating_point()) for part in parts])

    def call(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return the chosen output (batch, …)."""
        # copies, because the model may modify its inputs in place
        copies = [tensor.clone() for tensor in inputs]
        if self.known_layers:  # they contain no normalization, so `SoundNorms` is unnecessary
            return self.chosen(self.model(*copies), inputs)
        with SoundNorms(self.model):
            returned = self.model(*copies)
        return self.chosen(returned, inputs)

    def chosen(self, returned: Any, inputs: Sequence[Tensor]) -> Tensor:
        """Select the chosen output from the model's result. Raises `ShapeError` if it lacks a row per image."""
        result = pick(returned, self.name)
        if result.shape[:1] != inputs[0].shape[:1]:
            raise ShapeError(
                f"the model returned shape {tuple(result.shape)} for {len(inputs[0])} images; expected a tensor with "
                "one row per image."
            )
        return result

    def wanted(self, count: int) -> tuple[int, ...]:
        """Return the indices of the wanted outputs out of `count`. Raises `ShapeError` if one is out of range."""
        wanted = tuple(range(count)) if self.indices is None else self.indices
        if not wanted or not all(0 <= index < count for index in wanted):
            raise ShapeError(f"outputs is {list(wanted)}; expected at least one index from 0 to {count - 1}.")
        return wanted


def _describe(module: nn.Module) -> tuple[object, ...] | None:
    """Describe a layer, or a sequence of layers, that cannot mix the first axis of (batch, feature, …); None otherwise.

    Convolutions are excluded: they treat an input with one axis too few as a single image.
    """
    kind, own = type(module), module.__dict__  # faster than `nn.Module.__getattr__`
    if kind.__module__.startswith("torch.nn.modules.") and _acts_elementwise(kind.__name__):
        return (kind,)
    if kind is nn.Linear:
        weight, bias = own["_parameters"].get("weight"), own["_parameters"].get("bias")
        # an exact type, because a subclass may override what its operations do
        return (kind, weight.shape, bias is None) if type(weight) is nn.Parameter else None
    if kind is nn.Sequential:
        parts = [_describe(part) for part in own["_modules"].values() if part is not None]
        return None if None in parts else (kind, *parts)
    # a `Flatten` from axis 0 would merge the images
    return (kind, own["start_dim"], own["end_dim"]) if kind is nn.Flatten and own["start_dim"] >= 1 else None


def _acts_elementwise(layer: str) -> bool:
    """True if one of torch's layers acts on each value independently in eval mode."""
    traits = OPERATIONS.named(layer)
    return layer in ("Identity", "Dropout") or (traits.family == "activation" and traits.is_elementwise)


def _as_input(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Detach a tensor, and convert it to the model's dtype if it is floating-point."""
    if not tensor.is_floating_point():
        return tensor
    if tensor.is_inference():  # inference tensors cannot require gradients, so copy
        return tensor.to(dtype or tensor.dtype, copy=True)
    return tensor.detach() if dtype in (None, tensor.dtype) else tensor.detach().to(dtype)


def pick(result: Any, name: str | None) -> Tensor:
    """Return the tensor called `name` in a model's result, or its only tensor."""
    if isinstance(result, Tensor):
        if name is not None:
            raise ShapeError(f"outputs is {name!r}, but the model returns a single tensor. Omit the name.")
        return result
    entries = _entries(result)
    if not entries:
        raise ShapeError(f"the model returned {type(result).__name__}; expected a tensor with one row per image.")
    if name is None and len(entries) > 1:
        raise ShapeError(
            f"the model returned {type(result).__name__} with {', '.join(map(repr, entries))}; name one of them, "
            f"such as outputs={next(iter(entries))!r}."
        )
    name = next(iter(entries)) if name is None else name
    if name not in entries:
        raise UnknownName("output", name, entries)
    return entries[name]


def _entries(result: Any) -> dict[str, Tensor]:
    """Return the tensors of a mapping, tuple, list or dataclass by name."""
    if isinstance(result, Mapping):
        pairs = [(str(key), value) for key, value in result.items()]
    elif isinstance(result, tuple | list):
        names = getattr(result, "_fields", None) or [str(index) for index in range(len(result))]
        pairs = list(zip(names, result, strict=True))
    elif is_dataclass(result):
        pairs = [(field.name, getattr(result, field.name)) for field in fields(result)]
    else:
        pairs = []
    return {name: value for name, value in pairs if isinstance(value, Tensor)}


def dtype_for(model: Model) -> torch.dtype | None:
    """Return the dtype of a module's first floating-point parameter or buffer; None (keep the input's) without any."""
    module = _module_of(model)
    if module is None:
        return None
    for part in modules_of(module):
        for parameter in part._parameters.values():
            if parameter is not None and parameter.is_floating_point():
                return parameter.dtype
    return next((buffer.dtype for buffer in module.buffers() if buffer.is_floating_point()), None)


def untouched(model: Model) -> AbstractContextManager[object]:
    """Run a module in eval mode without parameter gradients, then restore it and the random state."""
    module = _module_of(unwrap(model))
    if module is not None:
        check_model(module)
    return preserved_random_state() if module is None else frozen(module, only_model_draws=module is model)


def _module_of(model: Model) -> nn.Module | None:
    """Return the module itself, or the module that a bound method belongs to."""
    owner = getattr(model, "__self__", model)
    return owner if isinstance(owner, nn.Module) else None
