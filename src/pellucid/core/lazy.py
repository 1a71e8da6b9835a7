"""Public names that are imported on first use, so that `import pellucid` does not import torch."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

__all__ = ["lazy_exports"]


def lazy_exports(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the functions `__getattr__` and `__dir__` of a package, which find each name in the module of `homes`.

    Modules are absolute, or relative to the package (`._method`).

    >>> find, names = lazy_exports("pellucid.core", {"Registry": ".registry", "derive_seed": ".seeding"})
    >>> find("Registry").__name__, names()
    ('Registry', ['Registry', 'derive_seed'])
    """

    def find(name: str) -> Any:
        # raised for hasattr and `from package import name`, which both expect it
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(homes[name], package), name)

    return find, lambda: sorted(homes)
