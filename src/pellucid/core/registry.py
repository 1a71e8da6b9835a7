"""A registry of named entries, one module each, that lists its names without importing the modules."""

import ast
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Generic, TypeVar

from pellucid.core.errors import UnknownName

T = TypeVar("T")


class Registry(Generic[T]):
    """Named entries of one package, discovered from its file names.

    Each public module of `package` holds one entry, registered under the module's own name, or several under dotted
    names `module.variant` listed in the module's literal `VARIANTS` tuple. Listing reads only file names and literals,
    so names can be checked before anything heavy is imported; looking up an entry imports its module.

    Third-party packages add entries with the same decorator. Such an entry exists once its module has been imported.
    The command line does not import it, but a program can import it and then call `pellucid.cli.main`.

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
        """Return a decorator that registers its argument under `name`; a duplicate name raises `ValueError`."""

        def enter(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is registered twice; choose another name")
            self._entries[name] = entry
            return entry

        return enter

    def names(self) -> list[str]:
        """Return all names, sorted, without importing anything."""
        declared = (name for path in self._files() for name in _declared_names(path, path.stat().st_mtime_ns))
        return sorted({*self._entries, *declared})

    def check(self, name: str) -> str:
        """Return `name` if it is registered; otherwise raise `UnknownName` with close matches."""
        if name not in self:
            raise UnknownName(self.kind, name, self.names())
        return name

    def __contains__(self, name: object) -> bool:
        # imported entries are found without reading any file
        return isinstance(name, str) and (name in self._entries or name in self.names())

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __getitem__(self, name: str) -> T:
        if type(name) is not str or name not in self._entries:
            self.check(name)
            # the module registers its entries when it is imported; `module.variant` is in `module`
            import_module(f"{self.package}.{name.partition('.')[0]}")
        return self._entries[name]

    def name_of(self, entry: T) -> str:
        """Return the name under which `entry` is registered."""
        return next(name for name, registered in self._entries.items() if registered is entry)

    def _files(self) -> list[Path]:
        spec = find_spec(self.package)
        folders = (spec.submodule_search_locations or []) if spec else []
        return [path for folder in folders for path in Path(folder).glob("*.py") if not path.stem.startswith("_")]


@cache
def _declared_names(path: Path, _changed_ns: int) -> tuple[str, ...]:
    """Return the names a module's file declares: its `VARIANTS` literal, or else its own name.

    Remembered until the file changes, because every lookup of a module that is not imported yet lists all names.
    """
    text = path.read_text(encoding="utf-8")
    # read from the syntax tree, since importing the module could be slow or fail
    for node in ast.parse(text).body if "VARIANTS" in text else ():
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "VARIANTS":
            return tuple(str(name) for name in ast.literal_eval(node.value))
    return (path.stem,)
