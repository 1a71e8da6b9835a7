"""pellucid: what has my network learned?"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pellucid.attribution import Analyzer, Explanation, Method, create_analyzer, methods
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
    from pellucid.quality import Evaluation, evaluate
    from pellucid.runs import Run, load_run

__all__ = [
    "Analyzer",
    "Evaluation",
    "Explanation",
    "Method",
    "Run",
    "augment",
    "check_jacobian",
    "create_analyzer",
    "errors",
    "evaluate",
    "jacobian",
    "jacobian_class_means",
    "jacobian_product",
    "jacobian_report",
    "jacobian_spectrum",
    "jacobian_to_disk",
    "load_run",
    "methods",
    "transposed_product",
]

_HOMES = {
    "Analyzer": "pellucid.attribution",
    "Evaluation": "pellucid.quality",
    "Explanation": "pellucid.attribution",
    "Method": "pellucid.attribution",
    "Run": "pellucid.runs",
    "augment": "pellucid.jacobian",
    "check_jacobian": "pellucid.jacobian",
    "create_analyzer": "pellucid.attribution",
    "evaluate": "pellucid.quality",
    "jacobian_class_means": "pellucid.jacobian",
    "jacobian_product": "pellucid.jacobian",
    "jacobian_report": "pellucid.jacobian",
    "jacobian_spectrum": "pellucid.jacobian",
    "jacobian_to_disk": "pellucid.jacobian_store",
    "load_run": "pellucid.runs",
    "methods": "pellucid.attribution",
    "transposed_product": "pellucid.jacobian",
}
"""Where each public name lives; it is imported when it is first used."""

_MODULES = {"errors": "pellucid.core.errors", "jacobian": "pellucid.jacobian"}
"""The public names that are modules themselves; `jacobian` is one that can be called."""


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(_MODULES[name])
    if name not in _HOMES:
        raise AttributeError(f"module 'pellucid' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
