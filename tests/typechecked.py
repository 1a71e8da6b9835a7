"""Runtime type checks of every function and dataclass of pellucid during the tests.

Functions that name axes (`Float[Tensor, "batch class"]`) run under jaxtyping, which compares the sizes of equal names.
That takes about 30 µs per call, so beartype alone checks all others, in about 1 µs.
"""

import ast
import dataclasses
import inspect
import sys
from collections.abc import Callable
from functools import partial, update_wrapper
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import cache_from_source
from types import CellType, CodeType, FunctionType, ModuleType
from typing import Any, get_args, get_type_hints
from unittest.mock import patch

from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray, TypeCheckError, jaxtyped

__all__ = ["check", "check_package"]

by_beartype = beartype(conf=BeartypeConf(is_pep484_tower=True, violation_type=TypeCheckError))
"""As in PEP 484, an int is accepted as a float."""


def check_package(name: str) -> None:
    """Decorate the functions and classes of a package, which is not imported yet, by `check`."""
    sys.meta_path.insert(0, Finder(name))


def check(thing: Any) -> Any:
    """Return a function that checks its arguments and its result, or a dataclass that checks its fields."""
    if not inspect.isclass(thing):
        return checked(thing)
    if dataclasses.is_dataclass(thing) and "__init__" in vars(thing):
        thing.__init__ = checked(thing.__init__)
    return thing


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    known = _earlier.get(id(function.__code__))
    if known is not None and known.written == function.__annotations__:
        return known.around(function)
    written = function.__annotations__
    read = {name: evaluated(annotation, function.__globals__) for name, annotation in written.items()}
    if any(map(names_axes, read.values())):
        return jaxtyped(function, typechecker=by_beartype)
    if "<locals>" in function.__qualname__:
        return _kept(function, read).around(function)
    function.__annotations__ = read
    result = by_beartype(function)
    function.__annotations__ = result.__annotations__ = written
    return result


@dataclasses.dataclass(frozen=True)
class Checks:
    """The checks of a function inside of another one, which is created anew by each call of the outer function."""

    code: CodeType  # kept, so that no other code has its address
    written: dict[str, Any]
    empty: Callable[..., Any]
    """The checks around a copy of the function whose closure is empty, which keeps no values alive."""

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the same checks around a function; to write and compile them anew takes about a millisecond."""
        if FUNCTION not in (self.empty.__kwdefaults__ or ()):
            return function  # nothing to check
        made = FunctionType(self.empty.__code__, self.empty.__globals__)
        made.__kwdefaults__ = self.empty.__kwdefaults__ | {FUNCTION: function}
        made.__dict__.update(self.empty.__dict__)
        return update_wrapper(made, function)


FUNCTION = "__beartype_func"
"""The argument in which the functions that beartype writes find the checked one."""

_earlier: dict[int, Checks] = {}


def _kept(function: Callable[..., Any], read: dict[str, Any]) -> Checks:
    cells = tuple(CellType() for _ in function.__closure__ or ())
    copy = FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, cells)
    copy = update_wrapper(copy, function)
    del copy.__wrapped__
    copy.__kwdefaults__, copy.__annotations__ = function.__kwdefaults__, read
    checks = Checks(function.__code__, dict(function.__annotations__), by_beartype(copy))
    _earlier[id(function.__code__)] = checks
    return checks


def evaluated(annotation: Any, names: dict[str, Any]) -> Any:
    """Evaluate the parts of an annotation that are in quotes; with a name that only mypy imports, it is `Any`."""
    holder = partial(int)
    holder.__annotations__ = {"it": annotation}
    try:
        found = get_type_hints(holder, names, include_extras=True)["it"]
    except Exception:  # noqa: BLE001
        return Any
    return found if is_checkable(found) else Any


def is_checkable(annotation: Any) -> bool:
    """False for a protocol that isinstance refuses, because it is not decorated by `runtime_checkable`."""
    return not getattr(annotation, "_is_protocol", False) or getattr(annotation, "_is_runtime_protocol", False)


def names_axes(annotation: Any) -> bool:
    """True if an annotation contains a type of jaxtyping."""
    is_array = inspect.isclass(annotation) and issubclass(annotation, AbstractArray)
    return is_array or any(map(names_axes, get_args(annotation)))


class Decorator(ast.NodeTransformer):
    """Decorates functions below their other decorators, which may change the signature, and classes above theirs."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        self.generic_visit(node)
        node.decorator_list.append(self._check(node))
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        self.generic_visit(node)
        node.decorator_list.insert(0, self._check(node))
        return node

    @staticmethod
    def _check(node: ast.AST) -> ast.expr:
        expression = ast.parse("__import__('sys').modules['typechecked'].check", mode="eval").body
        for part in ast.walk(expression):
            ast.copy_location(part, node)
        return expression


class Loader(SourceFileLoader):
    """Compiles modules with decorators."""

    def source_to_code(self, data: Any, path: Any, *, _optimize: int = -1) -> CodeType:  # type: ignore[override]
        return compile(Decorator().visit(ast.parse(data)), path, "exec", dont_inherit=True, optimize=_optimize)

    def exec_module(self, module: ModuleType) -> None:
        # in other files than the bytecode without decorators
        place = partial(cache_from_source, optimization="typechecked")
        with patch("importlib._bootstrap_external.cache_from_source", place):
            super().exec_module(module)


class Finder(MetaPathFinder):
    """Finds the modules of one package."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name.partition(".")[0] != self.package:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = Loader(spec.loader.name, spec.loader.path)
        return spec
