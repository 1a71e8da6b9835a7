"""The choices of a call, as the user makes them: methods, target and storage."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from hashlib import sha256
from typing import Any

from pellucid.attribution import Analyzer, create_analyzer
from pellucid.core.checksum import checksum
from pellucid.core.errors import ConfigError, UnknownName
from pellucid.engine.wrapping import Network

__all__ = ["DTYPES", "Request", "analyzers_for", "options_of", "resolve_target"]

DTYPES = ("float32", "float16")
"""Types of the stored maps."""
PREDICTED, LABEL, ALL = "predicted", "label", "all"


@dataclass(frozen=True)
class Request:
    """The choices of a call; see `explain_to_disk`."""

    methods: str | Analyzer | Sequence[str | Analyzer] | None = None
    target: int | str = PREDICTED
    jacobian: bool = False
    embeddings: bool | None = None
    embedding_layer: str | None = None
    dtype: str = "float32"
    limit: int | None = None
    shard: int | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        """Raise `ConfigError` for values that no model or data set can fit."""
        if self.dtype not in DTYPES:
            raise ConfigError(f"dtype is {self.dtype!r}; expected {' or '.join(DTYPES)}.")
        for name in ("limit", "shard", "threads"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise ConfigError(f"{name} is {value!r}; expected a whole number from 1 on.")
        target: Any = self.target
        if not isinstance(target, int | str) or isinstance(target, bool):
            raise ConfigError(
                f"target is {self.target!r}; expected 'predicted', 'label', 'all', a class name or a class index."
            )

    @property
    def wants_embeddings(self) -> bool:
        """True to store embeddings: if asked for, or if nothing else is."""
        is_bare = not self.jacobian and self.methods is not None and not self.listed
        if self.embeddings is None:
            return is_bare or self.embedding_layer is not None
        return self.embeddings

    @property
    def listed(self) -> tuple[str | Analyzer, ...]:
        """The methods as a tuple; empty for the default and for none."""
        one = self.methods
        return () if one is None else (one,) if isinstance(one, str | Analyzer) else tuple(one)


def analyzers_for(model: Network, wanted: Sequence[str | Analyzer]) -> dict[str, Analyzer]:
    """Return an analyzer of `model` by name. An analyzer in `wanted` contributes its method and options.

    Raises `ConfigError` for a method that is named twice, or that has to be fitted first.
    """
    found: dict[str, Analyzer] = {}
    for one in wanted:
        made = create_analyzer(one, model) if isinstance(one, str) else _rebound(one, model)
        if made.name in found:
            raise ConfigError(f"the method {made.name} is named twice; name it once.")
        if not made.method.is_ready:
            raise ConfigError(
                f"{made.name} learns from data, so it cannot be used by its name alone; fit it in Python and pass the "
                f"analyzer: pellucid.explain_to_disk(model, data, out, methods=[create_analyzer({made.name!r}, model)"
                ".fit(loader)])."
            )
        found[made.name] = made
    return found


def _rebound(analyzer: Analyzer, model: Network) -> Analyzer:
    """Return an analyzer with the same method for the model as a function of displayed images."""
    if analyzer.explains_other_outputs:
        raise ConfigError(
            f"the analyzer {analyzer.name} has the option output or unwrap_softmax, which a store does not record; "
            "wrap the model in a module that returns the logits to explain."
        )
    return Analyzer(analyzer.method, model, name=analyzer.name)


def options_of(analyzer: Analyzer) -> dict[str, Any]:
    """Return the options of a method in a form that JSON can hold; tensors become checksums."""
    import torch

    def plain(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return f"tensor {checksum(value)[:16]}"
        if isinstance(value, dict):
            return {str(key): plain(one) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [plain(one) for one in value]
        if isinstance(value, str | int | float | bool | None):
            return value
        code = getattr(value, "__code__", None)
        if code is not None:  # a function: its description holds an address, which differs between processes
            constants = [one for one in code.co_consts if not hasattr(one, "co_code")]
            text = f"{code.co_code.hex()} {code.co_names} {constants}"
            return f"{value.__module__}.{value.__qualname__} {sha256(text.encode()).hexdigest()[:16]}"
        return re.sub(r" at 0x[0-9a-f]+", "", repr(value))

    options = {one.name: plain(getattr(analyzer.method, one.name)) for one in fields(analyzer.method)}
    if analyzer.method.needs_fit:
        state = analyzer.state()
        options["fitted"] = checksum(*state.tensors.values())[:16]
    return options


def resolve_target(target: int | str, classes: Sequence[str], count: int) -> int | str:
    """Return the index of a class name; `predicted`, `label` and `all` stay as they are.

    Raises `UnknownName` for an unknown class and `ConfigError` for an index that is out of range.

    >>> resolve_target("dog", ["cat", "dog"], 2), resolve_target("all", ["cat", "dog"], 2)
    (1, 'all')
    """
    if isinstance(target, str):
        if target in classes:
            if list(classes).count(target) > 1:
                raise ConfigError(f"target is {target!r}, the name of several classes; pass an index.")
            return list(classes).index(target)
        if target in (PREDICTED, LABEL, ALL):
            return target
        if not target.isdecimal():
            raise UnknownName("class", target, [*classes, PREDICTED, LABEL, ALL])
        target = int(target)
    if not 0 <= target < count:
        raise ConfigError(f"target is {target}, but the model has {count} classes; pass 0 to {count - 1}.")
    return target
