"""pellucid: understand what your network has learned."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pellucid.attribution import Analyzer, Contrast, Explanation, Method, create_analyzer, methods
    from pellucid.core import errors
    from pellucid.density_store import fit_density, load_density
    from pellucid.fitted_store import load_fitted, save_fitted
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
    from pellucid.prototyping import prototypes
    from pellucid.quality import Evaluation, evaluate
    from pellucid.runs import Run, load_run

__all__ = [
    "Analyzer",
    "Contrast",
    "Evaluation",
    "Explanation",
    "Method",
    "Run",
    "augment",
    "check_jacobian",
    "create_analyzer",
    "errors",
    "evaluate",
    "fit_density",
    "jacobian",
    "jacobian_class_means",
    "jacobian_product",
    "jacobian_report",
    "jacobian_spectrum",
    "jacobian_to_disk",
    "load_density",
    "load_fitted",
    "load_run",
    "methods",
    "prototypes",
    "save_fitted",
    "transposed_product",
]

_HOMES = {
    "Analyzer": "pellucid.attribution",
    "Contrast": "pellucid.attribution",
    "Evaluation": "pellucid.quality",
    "Explanation": "pellucid.attribution",
    "Method": "pellucid.attribution",
    "Run": "pellucid.runs",
    "augment": "pellucid.jacobian",
    "check_jacobian": "pellucid.jacobian",
    "create_analyzer": "pellucid.attribution",
    "evaluate": "pellucid.quality",
    "fit_density": "pellucid.density_store",
    "jacobian_class_means": "pellucid.jacobian",
    "jacobian_product": "pellucid.jacobian",
    "jacobian_report": "pellucid.jacobian",
    "jacobian_spectrum": "pellucid.jacobian",
    "jacobian_to_disk": "pellucid.jacobian_store",
    "load_density": "pellucid.density_store",
    "load_fitted": "pellucid.fitted_store",
    "load_run": "pellucid.runs",
    "methods": "pellucid.attribution",
    "prototypes": "pellucid.prototyping",
    "save_fitted": "pellucid.fitted_store",
    "transposed_product": "pellucid.jacobian",
}
"""Module of each public name; it is imported on first use, which keeps `import pellucid` fast."""

_MODULES = {"errors": "pellucid.core.errors", "jacobian": "pellucid.jacobian"}
"""Public names that are modules themselves; `jacobian` is a callable module."""


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(_MODULES[name])
    if name not in _HOMES:
        raise AttributeError(f"module 'pellucid' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
