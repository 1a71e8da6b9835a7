"""Public names that are imported on first use, so that `import pellucid` does not import torch."""

import random
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import resolve_name
from typing import Any

__all__ = ["lazy_exports"]


def lazy_exports(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the functions `__getattr__` and `__dir__` of a package, which find each name in the module of `homes`.

    Modules are absolute, or relative to the package (`._method`). Python's random state is unchanged after an import.

    >>> find, names = lazy_exports("pellucid.core", {"Registry": ".registry", "derive_seed": ".seeding"})
    >>> find("Registry").__name__, names()
    ('Registry', ['Registry', 'derive_seed'])
    """

    def find(name: str) -> Any:
        # raised for hasattr and `from package import name`, which both expect it
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = resolve_name(homes[name], package)
        if module in sys.modules:
            return getattr(import_module(module), name)
        # rich draws a random number when it is imported, which must not change those of the caller
        state = random.getstate()
        try:
            return getattr(import_module(module), name)
        finally:
            random.setstate(state)

    return find, lambda: sorted(homes)
