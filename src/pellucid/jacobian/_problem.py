"""What is differentiated: a model or function, its inputs, and which of its outputs."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.core.errors import ShapeError, UnknownName
from pellucid.core.seeding import preserved_random_state
from pellucid.engine.batch_norm import SoundNorms
from pellucid.engine.freezing import frozen, modules_of, runs_torch_alone

__all__ = ["Model", "Outputs", "Problem", "dtype_for", "untouched"]

Model = nn.Module | Callable[..., Any]
"""A module, or any function of tensors."""

Outputs = Sequence[int] | str | Mapping[str, Sequence[int] | None] | None
"""Which outputs: all; some, by index into the flattened outputs; of a dict or tuple of outputs the named one ("0", "1"…
for a tuple's entries); or some of the named one."""


@dataclass(frozen=True, eq=False)
class Problem:
    """A call, its inputs as leaves in the model's dtype, and the wanted outputs."""

    model: Model
    inputs: tuple[Tensor, ...]
    """Each (batch, …); those of integers or booleans are passed on and not differentiated."""
    name: str | None
    """Which entry of a dict or tuple of outputs."""
    indices: tuple[int, ...] | None
    """Which of the flattened outputs; None: all."""

    @classmethod
    def of(cls, model: Model, x: Tensor | tuple[Tensor, ...], outputs: Outputs) -> "Problem":
        """The problem that the public arguments state. Raises `ShapeError` where the inputs do not fit together."""
        given = x if isinstance(x, tuple) else (x,)
        size = given[0].shape[:1] if given else ()
        if not size or any(tensor.shape[:1] != size for tensor in given[1:]):
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in given)
            raise ShapeError(f"x has the shapes {shapes}; give tensors (batch, …) with one batch size.")
        if not size[0]:
            raise ShapeError("x holds no image; pass at least one.")
        if not any(tensor.is_floating_point() for tensor in given):
            raise ShapeError("x holds whole numbers; pass floats, such as images in [0, 1] or embedded tokens.")
        dtype = dtype_for(model)
        inputs = tuple([_as_input(tensor, dtype) for tensor in given])
        if outputs is None:
            return cls(model, inputs, None, None)
        if isinstance(outputs, str):
            return cls(model, inputs, outputs, None)
        if isinstance(outputs, Mapping):
            if len(outputs) != 1:
                raise ShapeError(f"outputs names {list(outputs)}; name one, and call again for another.")
            ((name, indices),) = outputs.items()
            return cls(model, inputs, name, None if indices is None else tuple(int(index) for index in indices))
        return cls(model, inputs, None, tuple(int(index) for index in outputs))

    @property
    def batch(self) -> int:
        """How many images."""
        return self.inputs[0].shape[0]

    @property
    def floats(self) -> tuple[int, ...]:
        """The positions of the inputs that are differentiated."""
        return tuple([place for place, tensor in enumerate(self.inputs) if tensor.is_floating_point()])

    @property
    def input_count(self) -> int:
        """How many numbers one image's differentiated inputs hold."""
        return sum([self.inputs[place].numel() for place in self.floats]) // self.batch

    @cached_property
    def known_layers(self) -> tuple[object, ...] | None:
        """The layers of a model that is nothing but layers of torch's known to take each image by itself; None else.

        Equal descriptions mean equal operations on equal shapes.
        """
        model = self.model
        if not isinstance(model, nn.Module) or any(tensor.ndim < 2 for tensor in self.inputs):
            return None
        described = _describe(model)
        return described if described and runs_torch_alone(modules_of(model)) else None

    def part(self, start: int, stop: int) -> tuple[Tensor, ...]:
        """The inputs of some images; the floating ones as leaves that want a gradient."""
        parts = self.inputs if stop - start == self.batch else [tensor[start:stop] for tensor in self.inputs]
        return tuple([part.detach().requires_grad_(part.is_floating_point()) for part in parts])

    def call(self, inputs: Sequence[Tensor]) -> Tensor:
        """The chosen output, (batch, …). The model gets copies, since it may work in place."""
        copies = [tensor.clone() for tensor in inputs]
        if self.known_layers:  # no norm among them
            return self.chosen(self.model(*copies), inputs)
        with SoundNorms(self.model):
            returned = self.model(*copies)
        return self.chosen(returned, inputs)

    def chosen(self, returned: Any, inputs: Sequence[Tensor]) -> Tensor:
        """The chosen one of what the model returned. Raises `ShapeError` where it has no row for each image."""
        result = pick(returned, self.name)
        if result.shape[:1] != inputs[0].shape[:1]:
            raise ShapeError(
                f"the model returned {tuple(result.shape)} for {len(inputs[0])} images; it should return a tensor, "
                "a row per image."
            )
        return result

    def wanted(self, count: int) -> tuple[int, ...]:
        """The indices of the wanted ones among `count` outputs. Raises `ShapeError` where there is no such output."""
        wanted = tuple(range(count)) if self.indices is None else self.indices
        if not wanted or not all(0 <= index < count for index in wanted):
            raise ShapeError(f"outputs is {list(wanted)}, and the model has outputs 0 to {count - 1}.")
        return wanted


_ELEMENTWISE = frozenset(
    {
        *(
            nn.Identity,
            nn.Dropout,
            nn.ReLU,
            nn.ReLU6,
            nn.LeakyReLU,
            nn.ELU,
            nn.SELU,
            nn.CELU,
            nn.GELU,
            nn.SiLU,
            nn.Mish,
        ),
        *(nn.Tanh, nn.Sigmoid, nn.Softplus, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid),
    }
)


def _describe(module: nn.Module) -> tuple[object, ...] | None:
    """A layer that leaves the first axis of (batch, feature, …) alone, or a row of such; None for any other.

    No convolution: it takes an input that lacks an axis for one image.
    """
    kind, own = type(module), module.__dict__  # a module's attributes cost more to look up
    if kind in _ELEMENTWISE:
        return (kind,)
    if kind is nn.Linear:
        weight, bias = own["_parameters"].get("weight"), own["_parameters"].get("bias")
        return (kind, weight.shape, bias is None) if type(weight) is nn.Parameter else None
    if kind is nn.Sequential:
        parts = [_describe(part) for part in own["_modules"].values() if part is not None]
        return None if None in parts else (kind, *parts)
    return (kind, own["start_dim"], own["end_dim"]) if kind is nn.Flatten and own["start_dim"] >= 1 else None


def _as_input(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """A tensor outside of any graph, in the model's dtype where it is floating."""
    if not tensor.is_floating_point():
        return tensor
    if tensor.is_inference():
        return tensor.to(dtype or tensor.dtype, copy=True)
    return tensor.detach() if dtype in (None, tensor.dtype) else tensor.detach().to(dtype)


def pick(result: Any, name: str | None) -> Tensor:
    """The tensor that `name` names in what a model returned."""
    if isinstance(result, Tensor):
        if name is not None:
            raise ShapeError(f"outputs is {name!r}, and the model returns one tensor; leave the name away.")
        return result
    entries = _entries(result)
    if not entries:
        raise ShapeError(f"the model returned {type(result).__name__}; it should return a tensor, a row per image.")
    if name is None and len(entries) > 1:
        raise ShapeError(
            f"the model returned {type(result).__name__} with {', '.join(map(repr, entries))}; name one: "
            f"outputs={next(iter(entries))!r}."
        )
    name = next(iter(entries)) if name is None else name
    if name not in entries:
        raise UnknownName("output", name, entries)
    return entries[name]


def _entries(result: Any) -> dict[str, Tensor]:
    """The tensors of a mapping, tuple, list or dataclass, by name."""
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
    """The dtype of a module's first floating parameter or buffer; None (the input's own) where there is none."""
    module = _module_of(model)
    if module is None:
        return None
    for part in modules_of(module):
        for parameter in part._parameters.values():
            if parameter is not None and parameter.is_floating_point():
                return parameter.dtype
    return next((buffer.dtype for buffer in module.buffers() if buffer.is_floating_point()), None)


def untouched(model: Model) -> AbstractContextManager[object]:
    """In eval mode, without parameter gradients, and handed back as it came; of a function, the random state."""
    module = _module_of(model)
    return preserved_random_state() if module is None else frozen(module, only_model_draws=module is model)


def _module_of(model: Model) -> nn.Module | None:
    """The module itself, or the one whose method the function is."""
    owner = getattr(model, "__self__", model)
    return owner if isinstance(owner, nn.Module) else None
