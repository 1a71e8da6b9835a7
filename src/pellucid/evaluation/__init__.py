"""Metrics of explanation quality: one module each, as defined in its paper, and always compared with control maps.

- `_metric`: `Metric`, the base class of metrics, and `Measured`, what a metric returns
- `_case`: `Case`, the model and images that a metric is given, and `Explainer`, the method under test
- every other file without an underscore: the metric of that name
- `_run`: measures every method by every metric
- `_evaluation`: `Evaluation`, the result, with its `_statistics`; `_leaderboard` draws it
- `_recommendation`: the most faithful methods and the recommended one
- `_race`: measures methods on more and more images and drops those that fall behind, for `pellucid.recommend`;
  `_passes` counts its cost, `_joining` joins its rounds, `_ranks` has its statistics
- `_recommended`: `Recommended`, the result of a race; `_race_reasons`: its reason in sentences
- `_conclusions`: methods to be wary of, and equal ones
- `_constancy`: detects methods whose maps ignore the image
- `_classifiers`: differences in accuracy, for comparisons of models
- `_curves`, `_removal`, `_similarity`, `_randomised`, `_rewritten`: parts that several metrics share, or long ones

>>> "selectivity" in METRICS
True
"""

from typing import TYPE_CHECKING

from pellucid.core.lazy import lazy_exports
from pellucid.core.registry import Registry

if TYPE_CHECKING:
    from pellucid.evaluation._case import Case, Explainer
    from pellucid.evaluation._evaluation import Evaluation, Row
    from pellucid.evaluation._metric import Measured, Metric
    from pellucid.evaluation._ranks import Ranked
    from pellucid.evaluation._recommendation import Recommendation
    from pellucid.evaluation._recommended import Recommended

__all__ = [
    "CONTROLS",
    "DEFAULT_METHODS",
    "DEFAULT_METRICS",
    "METRICS",
    "Case",
    "Evaluation",
    "Explainer",
    "Measured",
    "Metric",
    "Ranked",
    "Recommendation",
    "Recommended",
    "Row",
]

METRICS: Registry[type["Metric"]] = Registry(
    "metric", "pellucid.evaluation", "pellucid.metrics", "Metric", ("asks", "is_higher_better")
)
"""All metrics by name; listing imports none of them."""

DEFAULT_METRICS = (
    "selectivity",
    "continuity",
    "completeness",
    "sparseness",
    "random_logit",
    "parameter_randomisation",
)
"""The default selection of metrics."""

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
"""The default selection of methods: one or two of each family."""

CONTROLS = ("random", "constant", "sobel", "input")
"""Maps that do not depend on the network; every evaluation includes them."""

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Case": "._case",
        "Evaluation": "._evaluation",
        "Explainer": "._case",
        "Measured": "._metric",
        "Metric": "._metric",
        "Ranked": "._ranks",
        "Recommendation": "._recommendation",
        "Recommended": "._recommended",
        "Row": "._evaluation",
    },
)
