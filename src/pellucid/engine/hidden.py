"""Outputs of named layers in one forward pass: found by their names, read or replaced.

A layer is named by its path, as in `model.named_modules()`. A module that is called several times has one output per
call; `relu@1` names the second. The output of a module that returns a tuple, such as an LSTM, is the first entry.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from pellucid.core.errors import ConfigError, ModelError, ShapeError
from pellucid.engine.wrapping import check_model, find_modules

__all__ = ["Observe", "check_names", "observed", "split_name"]

Observe = Callable[[str, Tensor, bool], Tensor | None]
"""Receives a layer's name, its output, and True if the output is also the module's input, as after an in-place
operation. A tensor that it returns takes the place of the output."""


def split_name(name: str) -> tuple[str, int | None]:
    """Split a layer's name into the path of its module and the index of the call.

    >>> split_name("layer1.0.relu@1"), split_name("fc")
    (('layer1.0.relu', 1), ('fc', None))
    """
    path, mark, index = name.rpartition("@")
    # only one spelling of each index, so that different names stand for different outputs
    return (path, int(index)) if mark and index.isdecimal() and index == str(int(index)) else (name, None)


def check_names(model: nn.Module, names: Sequence[str]) -> None:
    """Raise `UnknownName` for a layer that the model does not have, and `ConfigError` for a name given twice."""
    paths = [split_name(name)[0] for name in names]
    check_model(model, "layer", layers=paths)
    find_modules(model, paths)
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise ConfigError(f"the layer {repeated[0]!r} is named twice; name each layer once.")
    both = [path for path in paths if path in names and f"{path}@0" in names]
    if both:
        raise ConfigError(f"{both[0]!r} and '{both[0]}@0' are the same output; name each layer once.")


@dataclass(eq=False)
class _Module:
    """The calls of one module in a forward pass."""

    path: str
    wanted: dict[int | None, str] = field(default_factory=dict)
    """Names by index of the call; None is the key of a layer that is called once."""
    calls: int = 0

    def check(self) -> None:
        """Raise `ModelError` unless every name refers to exactly one call."""
        if self.calls == 0:
            raise ModelError(
                f"layer {self.path!r} is not used in the model's forward pass, or only after the explained unit; name "
                "a layer that is. Containers such as nn.ModuleList, and modules of an exported program, are not called "
                "themselves."
            )
        options = ", ".join(repr(f"{self.path}@{call}") for call in range(min(self.calls, 4)))
        more = ", …" if self.calls > 4 else ""
        if None in self.wanted and self.calls > 1:
            raise ModelError(
                f"layer {self.path!r} is called {self.calls} times in a forward pass, and each call has its own "
                f"output; name one of them: {options}{more}."
            )
        times = "once" if self.calls == 1 else f"{self.calls} times"
        missing = [name for call, name in self.wanted.items() if call is not None and call >= self.calls]
        if missing:
            raise ModelError(
                f"there is no {missing[0]!r}: the module is called {times} in a forward pass; name "
                f"{'one of ' if self.calls > 1 else ''}{options}{more}."
            )


@contextmanager
def observed(model: nn.Module, names: Sequence[str], observe: Observe, batch: int | None) -> Iterator[None]:
    """Pass the outputs of the named layers to `observe` during a forward pass of `batch` images (None: unknown).

    Hooks are registered on entry and removed on exit. Raises `ModelError` or `ShapeError` unless each name refers to
    exactly one call that returns a tensor of floats with one row per image, alone or first in a tuple.
    """
    modules: dict[str, _Module] = {}
    for name in names:
        path, call = split_name(name)
        modules.setdefault(path, _Module(path)).wanted[call] = name

    def hook_of(module: _Module) -> Callable[..., Any]:
        def hook(_: nn.Module, inputs: Any, named_inputs: Any, output: Any) -> Any:
            number = module.calls
            module.calls += 1
            name = module.wanted.get(number) or (module.wanted.get(None) if number == 0 else None)
            if name is None:
                return None
            own = output[0] if isinstance(output, tuple) and output else output
            is_input = any(own is value for value in (*inputs, *named_inputs.values()))
            replaced = observe(name, _checked(name, own, batch), is_input)
            return replaced if replaced is None or own is output else _with_first(output, replaced)

        return hook

    with ExitStack() as stack:
        for found, module in zip(find_modules(model, list(modules)), modules.values(), strict=True):
            hook = found.register_forward_hook(hook_of(module), with_kwargs=True)
            stack.callback(hook.remove)
        yield
        for module in modules.values():
            module.check()


def _with_first(output: tuple[Any, ...], first: Tensor) -> tuple[Any, ...]:
    """Return a tuple with another first entry; named tuples keep their type."""
    entries = (first, *output[1:])
    return entries if type(output) is tuple else type(output)(*entries)


def _checked(name: str, output: object, batch: int | None) -> Tensor:
    if not isinstance(output, Tensor):
        inside = f" of {len(output)}" if isinstance(output, tuple | list | dict) else ""
        raise ModelError(
            f"layer {name!r} returns a {type(output).__name__}{inside}, not a tensor; name a layer inside it, or the "
            "one that receives its output."
        )
    shape = tuple(output.shape)
    if not output.is_floating_point():
        raise ModelError(f"layer {name!r} returns {output.dtype}, which has no relevance; name a layer of floats.")
    if batch is not None and (not shape or shape[0] != batch):
        raise ShapeError(
            f"the output of layer {name!r} has shape {shape} for {batch} {'image' if batch == 1 else 'images'}; its "
            "first axis must hold the images. Name the module around it, or the next one, whose output has one row "
            "per image."
        )
    return output
