"""pellucid: what has my network learned?"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pellucid.core import errors
    from pellucid.jacobian import (
        augment,
        check_jacobian,
        jacobian,
        jacobian_class_means,
        jacobian_product,
        jacobian_report,
        jacobian_spectrum,
        transposed_product,
    )
    from pellucid.jacobian_store import jacobian_to_disk
    from pellucid.runs import Run, load_run

__all__ = [
    "Run",
    "augment",
    "check_jacobian",
    "errors",
    "jacobian",
    "jacobian_class_means",
    "jacobian_product",
    "jacobian_report",
    "jacobian_spectrum",
    "jacobian_to_disk",
    "load_run",
    "transposed_product",
]

_HOMES = {
    "Run": "pellucid.runs",
    "augment": "pellucid.jacobian",
    "check_jacobian": "pellucid.jacobian",
    "errors": "pellucid.core",
    "jacobian": "pellucid.jacobian",
    "jacobian_class_means": "pellucid.jacobian",
    "jacobian_product": "pellucid.jacobian",
    "jacobian_report": "pellucid.jacobian",
    "jacobian_spectrum": "pellucid.jacobian",
    "jacobian_to_disk": "pellucid.jacobian_store",
    "load_run": "pellucid.runs",
    "transposed_product": "pellucid.jacobian",
}
"""Where each public name lives; it is imported when it is first used."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pellucid' has no attribute {name!r}")
    if name == "errors":
        return import_module("pellucid.core.errors")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
