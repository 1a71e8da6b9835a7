"""pellucid: understand what your network has learned."""

from typing import TYPE_CHECKING

from pellucid import errors
from pellucid.core.lazy import lazy_exports

if TYPE_CHECKING:
    from pellucid.attribution import Analyzer, Contrast, Explanation, Method, create_analyzer, function, methods
    from pellucid.diagnostics import Concepts, LabelErrors, LayerStatistics, label_errors, layer_statistics
    from pellucid.engine import Unit
    from pellucid.evaluation import Evaluation, Recommended
    from pellucid.jacobians import (
        augment,
        build_native,
        check_jacobian,
        jacobian,
        jacobian_class_means,
        jacobian_product,
        jacobian_report,
        jacobian_spectrum,
        transposed_product,
    )
    from pellucid.run.comparing import compare
    from pellucid.run.concepts import concepts
    from pellucid.run.explaining import explain
    from pellucid.run.influences import influence
    from pellucid.run.inspection import inspect
    from pellucid.run.recommending import recommend
    from pellucid.run.to_disk.explain_to_disk import explain_to_disk
    from pellucid.run.watcher import Watcher, watch
    from pellucid.storage.densities import fit_density, load_density
    from pellucid.storage.evaluations import evaluate
    from pellucid.storage.explanations import StoredExplanation, StoredExplanations, open_explanations
    from pellucid.storage.fitted import load_fitted, save_fitted
    from pellucid.storage.jacobians import jacobian_to_disk
    from pellucid.storage.prototypes import prototypes
    from pellucid.storage.runs import Run, load_run

__all__ = [
    "Analyzer",
    "Concepts",
    "Contrast",
    "Evaluation",
    "Explanation",
    "LabelErrors",
    "LayerStatistics",
    "Method",
    "Recommended",
    "Run",
    "StoredExplanation",
    "StoredExplanations",
    "Unit",
    "Watcher",
    "augment",
    "build_native",
    "check_jacobian",
    "compare",
    "concepts",
    "create_analyzer",
    "errors",
    "evaluate",
    "explain",
    "explain_to_disk",
    "fit_density",
    "function",
    "influence",
    "inspect",
    "jacobian",
    "jacobian_class_means",
    "jacobian_product",
    "jacobian_report",
    "jacobian_spectrum",
    "jacobian_to_disk",
    "label_errors",
    "layer_statistics",
    "load_density",
    "load_fitted",
    "load_run",
    "methods",
    "open_explanations",
    "prototypes",
    "recommend",
    "save_fitted",
    "transposed_product",
    "watch",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Analyzer": "pellucid.attribution",
        "Concepts": "pellucid.diagnostics",
        "Contrast": "pellucid.attribution",
        "Evaluation": "pellucid.evaluation",
        "Explanation": "pellucid.attribution",
        "LabelErrors": "pellucid.diagnostics",
        "LayerStatistics": "pellucid.diagnostics",
        "Method": "pellucid.attribution",
        "Recommended": "pellucid.evaluation",
        "Run": "pellucid.storage.runs",
        "StoredExplanation": "pellucid.storage.explanations",
        "StoredExplanations": "pellucid.storage.explanations",
        "Unit": "pellucid.engine",
        "Watcher": "pellucid.run.watcher",
        "augment": "pellucid.jacobians",
        "build_native": "pellucid.jacobians",
        "check_jacobian": "pellucid.jacobians",
        "compare": "pellucid.run.comparing",
        "concepts": "pellucid.run.concepts",
        "create_analyzer": "pellucid.attribution",
        "evaluate": "pellucid.storage.evaluations",
        "explain": "pellucid.run.explaining",
        "explain_to_disk": "pellucid.run.to_disk.explain_to_disk",
        "fit_density": "pellucid.storage.densities",
        "function": "pellucid.attribution",
        "influence": "pellucid.run.influences",
        "inspect": "pellucid.run.inspection",
        "jacobian": "pellucid.jacobians",
        "jacobian_class_means": "pellucid.jacobians",
        "jacobian_product": "pellucid.jacobians",
        "jacobian_report": "pellucid.jacobians",
        "jacobian_spectrum": "pellucid.jacobians",
        "jacobian_to_disk": "pellucid.storage.jacobians",
        "label_errors": "pellucid.diagnostics",
        "layer_statistics": "pellucid.diagnostics",
        "load_density": "pellucid.storage.densities",
        "load_fitted": "pellucid.storage.fitted",
        "load_run": "pellucid.storage.runs",
        "methods": "pellucid.attribution",
        "open_explanations": "pellucid.storage.explanations",
        "prototypes": "pellucid.storage.prototypes",
        "recommend": "pellucid.run.recommending",
        "save_fitted": "pellucid.storage.fitted",
        "transposed_product": "pellucid.jacobians",
        "watch": "pellucid.run.watcher",
    },
)
