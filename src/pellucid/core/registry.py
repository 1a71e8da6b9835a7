"""A table of named things, one module each, that lists its names without importing them."""

import ast
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Generic, TypeVar

from pellucid.core.errors import UnknownName

T = TypeVar("T")


class Registry(Generic[T]):
    """The entries of one package, found by their file names.

    Each public module of `package` holds one entry, registered under the module's own name (or a family of dotted
    names `module.variant`, listed in the module's literal `VARIANTS` tuple). Listing reads file names and literals
    only, so that a name can be checked before anything heavy is imported; looking an entry up imports its module.

    A user's own package adds an entry with the same decorator. It counts once its module is imported, which the
    command line does not do by itself: a program that imports it and then calls `pellucid.cli.main` does.

    >>> from pellucid.core.registry import Registry
    >>> SHAPES = Registry[str]("shape", "pellucid.core")
    >>> _ = SHAPES.register("circle")("round")
    >>> SHAPES["circle"]
    'round'
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """A decorator that enters its argument under `name`; a name that is taken is a `ValueError`."""

        def enter(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is registered twice; choose another name")
            self._entries[name] = entry
            return entry

        return enter

    def names(self) -> list[str]:
        """All names, sorted, with nothing imported."""
        return sorted({*self._entries, *(name for path in self._files() for name in _declared_names(path))})

    def check(self, name: str) -> str:
        """`name` itself; `UnknownName` with the near matches where there is no such entry."""
        if name not in self:
            raise UnknownName(self.kind, name, self.names())
        return name

    def __contains__(self, name: object) -> bool:
        return name in self._entries or name in self.names()

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __getitem__(self, name: str) -> T:
        if name not in self._entries:
            self.check(name)
            import_module(f"{self.package}.{name.partition('.')[0]}")
        return self._entries[name]

    def _files(self) -> list[Path]:
        spec = find_spec(self.package)
        folders = (spec.submodule_search_locations or []) if spec else []
        return [path for folder in folders for path in Path(folder).glob("*.py") if not path.stem.startswith("_")]


def _declared_names(path: Path) -> list[str]:
    """The names a module's file declares: its own, or those of its `VARIANTS` literal."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "VARIANTS":
            return [str(name) for name in ast.literal_eval(node.value)]
    return [path.stem]
