"""How good an explanation is: one file per metric, each by its paper's definition, and always beside controls.

>>> "selectivity" in METRICS
True
"""

from typing import TYPE_CHECKING, Any

from pellucid.core.registry import Registry

if TYPE_CHECKING:
    from pellucid.evaluation._evaluation import Evaluation
    from pellucid.evaluation._metric import Metric

__all__ = ["CONTROLS", "DEFAULT_METHODS", "DEFAULT_METRICS", "METRICS", "Evaluation", "Metric"]

METRICS: Registry[type["Metric"]] = Registry("metric", "pellucid.evaluation")
"""Every metric by its name, listed without importing any of them."""

DEFAULT_METRICS = (
    "selectivity",
    "continuity",
    "completeness",
    "sparseness",
    "random_logit",
    "parameter_randomisation",
)
"""Measured where nothing else is asked for."""

DEFAULT_METHODS = (
    "gradient",
    "input_x_gradient",
    "smoothgrad",
    "integrated_gradients",
    "deconvnet",
    "guided_backprop",
    "excitation_backprop",
    "deep_taylor",
    "lrp.epsilon",
    "lrp.alpha_2_beta_1",
    "lrp.epsilon_plus_flat",
    "deeplift",
)
"""Compared where nothing else is asked for: one or two of each family."""

CONTROLS = ("random", "constant", "sobel", "input")
"""Stand in every table: maps that owe nothing to the network."""

_HOMES = {"Evaluation": "_evaluation", "Metric": "_metric"}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _HOMES:
        return getattr(import_module(f"pellucid.evaluation.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'pellucid.evaluation' has no attribute {name!r}")
