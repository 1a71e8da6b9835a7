"""A registry of named entries, one module each, that lists its names without importing the modules."""

import ast
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Generic, TypeVar

from pellucid.core.errors import ConfigError, UnknownName
from pellucid.core.installed import Installed, find_installed, report_once

T = TypeVar("T")


class Registry(Generic[T]):
    """Named entries of one package, discovered from its file names.

    Each public module of `package` holds one entry, registered under the module's own name, or several under dotted
    names `module.variant` listed in the module's literal `VARIANTS` tuple. Listing reads only file names and literals,
    so names can be checked before anything heavy is imported; looking up an entry imports its module.

    Third-party packages add entries with the same decorator. Such an entry exists once its module has been imported. A
    package that is installed can also declare entries in its metadata, as entry points of `group`. These are found by
    name like built-in entries, on the command line too, and imported on first use.

    >>> from pellucid.core.registry import Registry
    >>> SHAPES = Registry[str]("shape", "pellucid.core")
    >>> _ = SHAPES.register("circle")("round")
    >>> SHAPES["circle"]
    'round'
    """

    def __init__(
        self, kind: str, package: str, group: str | None = None, base: str = "", attributes: tuple[str, ...] = ()
    ) -> None:
        self.kind = kind
        self.package = package
        self.group = group
        self.base = base
        """Name of the class in `package` that entries of installed packages must be subclasses of; "" for functions."""
        self.attributes = attributes
        """Attributes that these subclasses must have."""
        self._entries: dict[str, T] = {}
        self._failed: dict[str, ConfigError] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that registers its argument under `name`; a duplicate name raises `ValueError`."""

        def enter(entry: T) -> T:
            if name in self._entries or (self._is_foreign(entry) and name in self._declared()):
                raise ValueError(f"{self.kind} {name!r} is registered twice; choose another name")
            self._entries[name] = entry
            return entry

        return enter

    def names(self) -> list[str]:
        """Return all names, sorted, without importing anything."""
        own = self._declared()
        return sorted({*self._entries, *own, *self._installed(own)})

    def items(self) -> Iterator[tuple[str, T]]:
        """Yield all names, sorted, with their entries; report and skip broken ones of installed packages."""
        own = self._declared()
        for name in self.names():
            if name in self._entries or name in own:
                yield name, self[name]
                continue
            try:
                entry = self[name]
            except ConfigError as error:
                report_once(str(error))
            else:
                yield name, entry

    def check(self, name: str) -> str:
        """Return `name` if it is registered; otherwise raise `UnknownName` with close matches."""
        if name not in self:
            raise UnknownName(self.kind, name, self.names())
        return name

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str):
            return False
        # in order of cost: imported entries need no file access, and built-in ones no search of installed packages
        return name in self._entries or name in (own := self._declared()) or name in self._installed(own)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __getitem__(self, name: str) -> T:
        if type(name) is not str or name not in self._entries:
            self.check(name)
            if name in self._declared():
                # the module registers its entries when it is imported; `module.variant` is in `module`
                import_module(f"{self.package}.{name.partition('.')[0]}")
            else:
                self._load(self._installed(self._declared())[name])
        return self._entries[name]

    def _load(self, installed: Installed) -> None:
        """Import an entry of an installed package; raises `ConfigError` if that fails."""
        name = installed.name
        if name in self._failed:
            raise self._failed[name]
        try:
            entry = installed.load(self.kind)
            # a module that uses the decorator has already registered its entries
            if (problem := self._problem(self._entries.get(name, entry))) is not None:
                raise installed.failure(self.kind, problem)
            self._entries.setdefault(name, entry)
        except ConfigError as error:
            self._entries.pop(name, None)
            self._failed[name] = error
            raise

    def _problem(self, entry: Any) -> str | None:
        """Return the reason why the entry of an installed package cannot be used; None if it can."""
        if not callable(entry):
            return f"a {type(entry).__name__} that registers no {self.kind} of this name"
        if not self.base:
            return None
        base = getattr(import_module(self.package), self.base)
        if not (isinstance(entry, type) and issubclass(entry, base)):
            return f"not a subclass of {self.package}.{self.base}"
        missing = [name for name in self.attributes if not hasattr(entry, name)]
        if missing:
            return f"without the attribute {', '.join(missing)}"
        try:
            entry()
        except Exception as error:  # noqa: BLE001  (it must not break commands that use every entry)
            return f"cannot be created without arguments: {type(error).__name__}: {error}"
        return None

    def name_of(self, entry: T) -> str:
        """Return the name under which `entry` is registered."""
        return next(name for name, registered in self._entries.items() if registered is entry)

    def _is_foreign(self, entry: object) -> bool:
        """Return True if an entry was defined outside of the registry's package."""
        module = getattr(entry, "__module__", None)
        return isinstance(module, str) and not module.startswith(f"{self.package}.")

    def _declared(self) -> set[str]:
        """Return the names of built-in entries."""
        return {name for path in self._files() for name in _declared_names(path, path.stat().st_mtime_ns)}

    def _installed(self, own: Collection[str]) -> Mapping[str, Installed]:
        """Return the entries that installed packages declare, by name."""
        return {} if self.group is None else find_installed(self.group, self.kind, own)

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
