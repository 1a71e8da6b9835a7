"""Models with several inputs, explained as functions of one tensor: the differentiated inputs, flattened and joined.

Every method then sees a batch of rows, (batch, value), so a map covers all inputs and has one sum. The first operations
of the explained model cut the rows into the inputs again, which methods see as moves. Integer and boolean inputs are
not differentiated; examples with such inputs run one at a time, so that methods may pass several variations at once.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pellucid.attribution._adapter import Adapter
from pellucid.attribution._method import Attribution
from pellucid.core.errors import ConfigError, ShapeError, UnsupportedOperation
from pellucid.core.finite import bad_value, check_inputs, first_bad_row
from pellucid.engine.box import Box
from pellucid.engine.inputs import Several
from pellucid.engine.model import dtype_of

__all__ = ["FromInputs", "Packing"]


@dataclass(frozen=True)
class Part:
    """The columns of one input in the joined rows."""

    name: str
    start: int
    stop: int
    shape: tuple[int, ...]
    """Shape of one example of the input, without the batch."""
    dtype: torch.dtype

    def of(self, rows: Tensor) -> Tensor:
        """Cut this input out of rows (…, value): (…, *shape)."""
        return rows[..., self.start : self.stop].reshape(*rows.shape[:-1], *self.shape)

    def places(self) -> Tensor:
        """Column of each value, in the shape of one example; a number per example counts as one value."""
        return torch.arange(self.start, self.stop, device="cpu").reshape(self.shape or (1,))


@dataclass(frozen=True, eq=False)
class Packing:
    """The inputs of one call, joined into rows, with the way back to their structure."""

    several: Several
    parts: tuple[Part, ...]
    """The differentiated inputs, in order."""
    dtype: torch.dtype

    @classmethod
    def of(cls, several: Several, model: nn.Module) -> "Packing":
        """Plan how to join the inputs. Raises `ShapeError` if none is differentiated, or for a low precision."""
        tensors = [several.tensors[place] for place in several.floats]
        if not tensors:
            raise ShapeError(
                f"none of the inputs {', '.join(several.names)} holds floats, so none has a gradient or relevance; "
                "pass at least one as floats. Token ids are explained if they are the only input, a single tensor."
            )
        dtypes = {tensor.dtype for tensor in tensors}
        dtype = dtype_of(model) if any(True for _ in model.parameters()) else max(dtypes, key=lambda own: own.itemsize)
        if not dtypes | {dtype} <= {torch.float32, torch.float64}:
            raise ShapeError(
                f"the inputs are {', '.join(sorted(map(str, dtypes)))} and the model is {dtype}, a precision at which "
                "maps are off by several percent and miss their sums; explain in float32."
            )
        parts, start = [], 0
        for place, tensor in zip(several.floats, tensors, strict=True):
            stop = start + tensor[0].numel()
            if stop == start:
                raise ShapeError(f"the input {several.names[place]!r} is empty, {tuple(tensor.shape)}.")
            parts.append(Part(several.names[place], start, stop, tuple(tensor.shape[1:]), tensor.dtype))
            start = stop
        return cls(several, tuple(parts), dtype)

    @property
    def key(self) -> tuple[Any, ...]:
        """Description of the structure and shapes; equal for calls that run the model in the same way."""
        several = self.several
        held = [(tensor.shape[1:], tensor.dtype) for tensor in several.tensors]
        return several.names, several.style, self.parts, self.dtype, *held

    @property
    def holds(self) -> bool:
        """True if some inputs are not differentiated."""
        return len(self.parts) < len(self.several.tensors)

    def packed(self) -> Tensor:
        """Join the differentiated inputs: (batch, value), after checking that they are finite."""
        tensors = [self.several.tensors[place] for place in self.several.floats]
        for part, tensor in zip(self.parts, tensors, strict=True):
            check_inputs(tensor, f"the input {part.name!r} of example")
        return self._joined([tensor.detach() for tensor in tensors])

    def _joined(self, tensors: Sequence[Tensor]) -> Tensor:
        device = self.several.tensors[self.several.floats[0]].device
        return torch.cat([tensor.reshape(len(tensor), -1).to(device, self.dtype) for tensor in tensors], 1)

    def unpacked(self, maps: Tensor) -> Any:
        """Return maps (batch, …, value) in the structure of the inputs; None for inputs that are held."""
        values = [part.of(maps).to(part.dtype).clone() for part in self.parts]
        return self.several.arranged(dict(zip(self.several.floats, values, strict=True)))

    def per_part(self, value: Any, option: str) -> list[Any]:
        """Return an option given for all inputs, or in their structure, as one value per differentiated input."""
        values = self.several.of_structure(value, option)
        return [values[place] for place in self.several.floats]

    def rerun(self, model: nn.Module) -> Any:
        """Run the model itself on all examples."""
        floats = set(self.several.floats)
        tensors = enumerate(self.several.tensors)
        # copies, because the model may modify its inputs in place
        return self.several.call(model, [t.to(self.dtype if at in floats else t.dtype, copy=True) for at, t in tensors])

    def bounds(self, box: Box) -> tuple[Tensor, Tensor]:
        """Return the bounds of the z^B rule as rows, after checking that every input lies within its own."""
        low, high = (self.per_part(_as_structure(end), name) for end, name in ((box.low, "low"), (box.high, "high")))
        rows: list[tuple[Tensor, Tensor]] = []
        for part, place, *ends in zip(self.parts, self.several.floats, low, high, strict=True):
            if any(end is None for end in ends):
                raise ConfigError(f"low and high need a value for the input {part.name!r}.")
            tensor = self.several.tensors[place]
            example = tensor.to(self.dtype) if tensor.ndim > 1 else tensor.to(self.dtype)[:, None]
            own = Box.of(*ends).check(example, noun=f"values of the input {part.name!r}")
            rows.append((own[0].expand_as(example[:1]), own[1].expand_as(example[:1])))
        return self._joined([ends[0] for ends in rows]), self._joined([ends[1] for ends in rows])

    def adapted(self, method: Attribution, name: str) -> Attribution:
        """Return the method with its baselines and references joined like the inputs.

        Raises `UnsupportedOperation`, by name, for a method that needs a single image.
        """
        if not method.takes_several_inputs:
            raise UnsupportedOperation(
                f"{name} explains regions of one image, so it does not apply to a model with several inputs; choose a "
                "method that gives each value its own relevance, such as 'lrp.epsilon', 'deeplift' or "
                "'integrated_gradients'."
            )
        changed: dict[str, Any] = {}
        names = {option.name for option in fields(method)}
        if "baseline" in names and not isinstance(value := getattr(method, "baseline"), float | int):  # noqa: B009
            changed["baseline"] = self._baseline(value)
        if "references" in names and isinstance(value := getattr(method, "references"), tuple | list | Mapping):  # noqa: B009
            changed["references"] = self._references(value)
        return replace(method, **changed) if changed else method

    def _baseline(self, value: Any) -> Tensor:
        """Join a baseline given in the structure of the inputs: (1, value), or (batch, value) if given per example."""
        rows = []
        for part, own in zip(self.parts, self.per_part(value, "baseline"), strict=True):
            try:
                given = torch.as_tensor(own, dtype=self.dtype, device="cpu")
                count = self.several.batch if given.ndim > len(part.shape) and len(given) > 1 else 1
                rows.append(given.expand(count, *part.shape).reshape(count, -1))
            except (TypeError, ValueError, RuntimeError) as error:
                raise ShapeError(
                    f"the baseline of the input {part.name!r} is {_summary(own)}; expected a number, or a tensor that "
                    f"broadcasts to {(self.several.batch, *part.shape)}."
                ) from error
            if first_bad_row(rows[-1]) is not None:
                raise ConfigError(f"the baseline of the input {part.name!r} holds {bad_value(rows[-1])}.")
        count = max(map(len, rows))
        return self._joined([row.expand(count, -1) for row in rows])

    def _references(self, value: Any) -> Tensor:
        rows = self.per_part(value, "references")
        for part, own in zip(self.parts, rows, strict=True):
            if not isinstance(own, Tensor) or own.shape[1:] != part.shape or len(own) != len(rows[0]):
                raise ShapeError(
                    f"the references of the input {part.name!r} are {_summary(own)}; expected a tensor (reference, "
                    f"{', '.join(map(str, part.shape))}), with as many references for every input."
                )
        return self._joined(rows)


def _as_structure(bound: Any) -> Any:
    """Return a bound of `Box` as users give it for several inputs: a tuple or dict with one entry per input."""
    if hasattr(bound, "structure"):
        return bound.structure
    return tuple(bound.tensor.unbind()) if hasattr(bound, "tensor") else bound


def _summary(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor | np.ndarray) else repr(value)


class FromInputs(Adapter):
    """A model with several inputs as a function of joined rows: (batch, value) to its outputs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.packing: Packing | None = None
        """The inputs of the current call."""
        self._held: Sequence[Tensor] = ()
        """The inputs of a single example; its floats are replaced by those in the rows."""

    @contextmanager
    def taking(self, packing: Packing) -> Iterator[None]:
        """Take rows that are joined in this way inside the context."""
        self.packing = packing
        try:
            yield
        finally:
            self.packing, self._held = None, ()  # the inputs of the call must not stay in memory

    def hold(self, number: int) -> None:
        """Treat every row as a variation of one example of the call."""
        assert self.packing is not None
        self._held = [tensor[number : number + 1] for tensor in self.packing.several.tensors]

    def forward(self, rows: Tensor) -> Any:
        """Run the model on the inputs that the rows hold, next to the held ones."""
        packing = self.packing
        assert packing is not None
        if packing.holds and not self._held:
            raise UnsupportedOperation(
                "a method that runs the model during fit cannot be fitted on examples with integer or boolean inputs; "
                "choose another method."
            )
        several = packing.several
        own = dict(zip(several.floats, packing.parts, strict=True))
        # Clones: a model that changes one input in place must not change the others, which share the memory.
        tensors = [
            own[place].of(rows).clone() if place in own else self._repeated(place, len(rows))
            for place in range(len(several.tensors))
        ]
        return several.call(self.model, tensors)

    def _repeated(self, place: int, count: int) -> Tensor:
        """Repeat a held input once per row."""
        held = self._held[place]
        return held.expand(count, *held.shape[1:]).contiguous()
