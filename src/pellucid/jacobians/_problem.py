"""The differentiation problem: a model or function, its inputs, and a selection of its outputs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from pellucid.core.errors import PellucidError, ShapeError
from pellucid.core.isolation import preserved_random_state
from pellucid.engine.arrays import check_tensor, described
from pellucid.engine.batch_norm import SoundNorms
from pellucid.engine.input_errors import INPUT_ERRORS, raise_input_error
from pellucid.engine.inputs import Several, as_inputs, check_is_model
from pellucid.engine.model import check_model, frozen, modules_of, runs_torch_alone, unwrap
from pellucid.engine.operations import OPERATIONS
from pellucid.engine.outputs import Chooser, check_chooser, choose_output

__all__ = ["Inputs", "Model", "Outputs", "Problem", "check_count", "untouched"]

Model = nn.Module | ExportedProgram | Callable[..., Any]
"""A module, or any function of tensors."""

Inputs = Tensor | np.ndarray | tuple[Any, ...] | list[Any] | Mapping[str, Any]
"""One input (batch, …), or several in a tuple (positional arguments) or dict (keyword arguments)."""

Outputs = Sequence[int] | Chooser | Mapping[Any, Sequence[int] | None]
"""Selection of outputs: None for all; indices into the flattened outputs; one entry of several outputs, by a name, a
path or a function (see `pellucid.engine.outputs`); or {name: indices}. A tuple of integers only is read as indices."""


@dataclass(frozen=True, eq=False)
class Problem:
    """A model, its inputs in the model's dtype, and the wanted outputs."""

    model: Model
    inputs: tuple[Tensor, ...]
    """Each (batch, …); integer and boolean inputs are passed to the model but not differentiated."""
    chooser: Chooser
    """Selector of the wanted tensor among several outputs; None for a single output."""
    indices: tuple[int, ...] | None
    """Indices into the flattened outputs; None for all."""
    several: Several | None = None
    """Structure of several inputs; None for a single one."""
    modules: Sequence[nn.Module] = ()
    """The model and all its submodules, listed once per call; empty for a function."""

    @classmethod
    def of(cls, model: Model, x: Any, outputs: Outputs) -> "Problem":
        """Build the problem from the public arguments. Raises `ShapeError` for unsuitable inputs."""
        model = _inside(model)
        check_is_model(model, allows_functions=True)
        given = as_inputs(x, model, "x")
        several = given if isinstance(given, Several) else None
        tensors = (given,) if isinstance(given, Tensor) else given.tensors
        if not tensors[0].ndim:
            raise ShapeError(
                f"expected inputs of shape (batch, …) with one batch size, got shapes {described(tensors[0])}."
            )
        if not len(tensors[0]):
            raise ShapeError("x contains no images. Pass at least one.")
        if not any(tensor.is_floating_point() for tensor in tensors):
            raise ShapeError(
                "x contains only integers, which have no derivative. Pass floats, such as embedded tokens."
            )
        module = _module_of(model)
        modules = [] if module is None else modules_of(module)
        dtype = _dtype_of(modules)
        inputs = tuple([_as_input(tensor, dtype) for tensor in tensors])
        return cls(model, inputs, *_selection(outputs), several, modules)

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
        if not isinstance(model, nn.Module) or self.several or any(tensor.ndim < 2 for tensor in self.inputs):
            return None
        described: list[object] = []
        return tuple(described) if _describe(model, described) and runs_torch_alone(self.modules) else None

    @cached_property
    def _writes_to_inputs(self) -> bool:
        """False for known layers without any that works in place; True if it is not known."""
        if not self.known_layers:
            return True
        return any(vars(module).get("inplace", False) for module in self.modules)

    def part(self, start: int, stop: int) -> tuple[Tensor, ...]:
        """Return the inputs of images `start` to `stop`, the floating-point ones as leaves that require gradients."""
        parts = self.inputs if stop - start == self.batch else [tensor[start:stop] for tensor in self.inputs]
        return tuple([part.detach().requires_grad_(part.is_floating_point()) for part in parts])

    def call(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return the chosen output (batch, …)."""
        # copies, if the model may modify its inputs in place
        safe = [tensor.clone() for tensor in inputs] if self._writes_to_inputs else inputs
        if self.known_layers:  # they contain no normalization, so `SoundNorms` is unnecessary
            return self.chosen(self.run(safe), inputs)
        with SoundNorms(self.model):
            returned = self.run(safe)
        return self.chosen(returned, inputs)

    def run(self, inputs: Sequence[Tensor]) -> Any:
        """Call the model on its inputs."""
        return self.model(*inputs) if self.several is None else self.several.call(self.model, inputs)

    def untouched(self) -> AbstractContextManager[object]:
        """Run the model in eval mode without parameter gradients, then restore it and the random state."""
        if self.known_layers is None:
            return untouched(self.model)
        # known layers are no wrappers, their weights are plain parameters, and in eval mode they draw nothing
        assert isinstance(self.model, nn.Module)
        return frozen(self.model, draws="nothing", modules=self.modules)

    @contextmanager
    def explained_errors(self) -> Iterator[None]:
        """Turn an error of torch into a `ShapeError` if a plain forward pass of the first image raises it too."""
        try:
            yield
        except PellucidError:
            raise
        except INPUT_ERRORS:
            with torch.no_grad(), untouched(self.model):
                try:
                    self.run([tensor[:1].clone() for tensor in self.inputs])
                except INPUT_ERRORS as error:
                    first, several = self.inputs[0], self.several
                    received = described(first) if several is None else several.described(self.inputs)
                    raise_input_error(error, self.model, received, first if several is None else None)
            raise

    def chosen(self, returned: Any, inputs: Sequence[Tensor]) -> Tensor:
        """Select the chosen output from the model's result. Raises `ShapeError` if it lacks a row per image."""
        result = choose_output(returned, self.chooser, "outputs")
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


def check_count(name: str, count: Any, what: str) -> int | None:
    """Return `count` as an int, or None. Raises `ShapeError` unless it is None or a positive whole number of `what`."""
    if count is None:
        return None
    is_whole = isinstance(count, Integral) and not isinstance(count, bool)
    if not is_whole or not 1 <= int(count) < 2**62:
        raise ShapeError(f"{name} is {count!r}; expected a whole number of {what}, at least 1.")
    return int(count)


def _selection(outputs: Any) -> tuple[Chooser, tuple[int, ...] | None]:
    """Split the argument `outputs` into a selector and indices."""
    if outputs is None:  # as in most calls
        return None, None
    if isinstance(outputs, Mapping):
        if len(outputs) != 1:
            raise ShapeError(f"outputs names {list(outputs)}; name one entry per call.")
        ((name, indices),) = outputs.items()
        return check_chooser(name, "outputs"), None if indices is None else _as_indices(indices)
    is_path = isinstance(outputs, str) or (
        isinstance(outputs, tuple) and any(isinstance(step, str) for step in outputs)
    )
    if isinstance(outputs, Tensor | Sequence | np.ndarray) and not is_path:
        return None, _as_indices(outputs)
    return check_chooser(outputs, "outputs"), None


def _as_indices(indices: Any) -> tuple[int, ...]:
    """Return indices into the flattened outputs as ints. Raises `ShapeError` for anything else."""
    if isinstance(indices, Tensor):
        check_tensor(indices, "outputs")
    listed = indices.tolist() if isinstance(indices, Tensor | np.ndarray) else indices
    is_valid = isinstance(listed, Sequence) and not isinstance(listed, str)
    if not is_valid or not all(isinstance(index, Integral) and not isinstance(index, bool) for index in listed):
        raise ShapeError(
            f"outputs selects {indices!r}; expected a list of indices into the flattened outputs, such as [0, 3], the "
            "name of one output, a path to it, or {name: indices}."
        )
    return tuple(int(index) for index in listed)


def _describe(module: nn.Module, described: list[object]) -> bool:
    """Describe the layers of a model that cannot mix the first axis of (batch, feature, …); False for any other model.

    Convolutions are excluded: they treat an input with one axis too few as a single image.
    """
    kind: Any = type(module)
    own = module.__dict__  # faster than `nn.Module.__getattr__`
    described.append(kind)
    if kind is nn.Sequential:
        return all(part is None or _describe(part, described) for part in own["_modules"].values())
    # a scripted module keeps its parameters elsewhere
    parameters = own.get("_parameters")
    if parameters is None:
        return False
    for parameter in parameters.values():
        # exact types, because a subclass may override what its operations do
        if parameter is not None and type(parameter) is not nn.Parameter:
            return False
    if kind is nn.Linear:
        weight, bias = parameters.get("weight"), parameters.get("bias")
        described += (None if weight is None else weight.shape, bias is None)
        return weight is not None
    if kind is nn.Flatten:  # from axis 0, it would merge the images
        described += (own["start_dim"], own["end_dim"])
        return bool(own["start_dim"] >= 1)
    return _acts_elementwise(kind)


@cache
def _acts_elementwise(kind: type[nn.Module]) -> bool:
    """True for a layer of torch's own that acts on each value independently in eval mode."""
    if not kind.__module__.startswith("torch.nn.modules."):
        return False
    traits = OPERATIONS.named(kind.__name__)
    return kind in (nn.Identity, nn.Dropout) or (traits.family == "activation" and traits.is_elementwise)


def _as_input(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Detach a tensor, and convert it to the model's dtype if it is floating-point."""
    if not tensor.is_floating_point():
        return tensor
    if tensor.is_inference():  # inference tensors cannot require gradients, so copy
        return tensor.to(dtype or tensor.dtype, copy=True)
    return tensor.detach() if dtype in (None, tensor.dtype) else tensor.detach().to(dtype)


def _dtype_of(modules: Sequence[nn.Module]) -> torch.dtype | None:
    """Return the dtype of the first floating-point parameter, or else buffer; None (keep the input's) without any."""
    for store in ("_parameters", "_buffers"):
        for module in modules:
            for tensor in getattr(module, store).values():
                if tensor is not None and tensor.is_floating_point():
                    dtype: torch.dtype = tensor.dtype
                    return dtype
    return None


def untouched(model: Model) -> AbstractContextManager[object]:
    """Run a module in eval mode without parameter gradients, then restore it and the random state."""
    module = _module_of(_inside(model))
    if module is not None:
        check_model(module, "derivatives")
    return preserved_random_state() if module is None else frozen(module, draws="torch" if module is model else "all")


def _inside(model: Model) -> Model:
    return unwrap(model) if isinstance(model, (nn.Module, ExportedProgram)) else model


def _module_of(model: Model) -> nn.Module | None:
    """Return the module itself, or the module that a bound method belongs to."""
    if isinstance(model, nn.Module):  # which takes its time to say that it has no `__self__`
        return model
    owner = getattr(model, "__self__", None)
    return owner if isinstance(owner, nn.Module) else None
