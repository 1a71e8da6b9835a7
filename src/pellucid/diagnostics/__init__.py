"""Diagnostics of a trained classifier: what the training data taught it, and how far its predictions can be trusted.

All functions take and return tensors; the hooks and sections of the same names apply them to a run.

- `dynamics`: confidence, variability and forgetting of training images, and when each class was learned
- `_label_errors`: examples whose label is probably wrong; its parts are `_confident_learning` (the joint distribution
  of given and true labels), `_nearest` (neighbors in the embedding), `_self_influence` and `_label_checks` (arguments)
- `influence`: training images that raised or lowered the score of a prediction, by TracIn and TRAK; its parts are
  `_gradients` (per sample), `_projection` (random, with its error) and `_influence` (the result)
- `_calibration`: calibration of predicted probabilities, with `_reliability` (bins and intervals), `_resampled` (the
  null distribution), `_brier` (Brier score) and `_predicted` (checks of arguments)
- `_temperature`: temperature scaling
- `_risk_coverage`: error rate as a function of the share of images that are kept
- `out_of_distribution`: scores of images unlike the training images, and how well they detect them; its parts are
  `_embedding` (distances from the training images), `_separation` (AUROC with its interval) and `_shifts` (rotated,
  inverted, noisy and shuffled images)
- `slices`: error rates by column of a table or by cluster, corrected for multiple comparisons; `_partition` groups
  the images
- `robustness`: accuracy on corrupted images (`_corruptions`), smallest adversarial changes (`_adversarial`; geometry
  in `_balls`), their first-order estimates (`_first_order`), and the movement of explanations while the
  prediction stays (`_movement`); `_classified` holds the model and the images
- `concepts`: what the channels of a layer stand for, by reference images; its parts are `_references` (chosen by
  relevance and by activation) and `_receptive` (the part of the image that a position of a layer depends on)
- `_layer_statistics`: activations, dead and saturated units, effective rank and gradient norms of every layer; its
  parts are `_layer_survey` (which layers there are), `_layer_tally` (sums over batches), `_layer_rows` (the result),
  `_effective_rank` and `_layer_findings` (conspicuous layers in sentences)
- `_representations`: similarity of layers (CKA)
- `_proportions`: intervals of proportions; `_arguments`: checks of tensors and class indices

>>> import torch
>>> from pellucid.diagnostics import fit_temperature
>>> temperature = fit_temperature(torch.tensor([[4.0, 0.0]]).repeat(4, 1), torch.tensor([0, 0, 0, 1]))
>>> round(temperature.value, 2)
3.64
"""

from typing import TYPE_CHECKING

from pellucid.core.lazy import lazy_exports

if TYPE_CHECKING:
    from pellucid.diagnostics._brier import BrierScore, brier_score
    from pellucid.diagnostics._calibration import Calibration, ClassCalibration, calibration
    from pellucid.diagnostics._effective_rank import effective_rank
    from pellucid.diagnostics._label_errors import LabelErrorPair, LabelErrors, label_errors
    from pellucid.diagnostics._layer_rows import LayerRow, LayerStatistics
    from pellucid.diagnostics._layer_statistics import layer_statistics
    from pellucid.diagnostics._reliability import ReliabilityBins
    from pellucid.diagnostics._risk_coverage import RiskCoverage, risk_coverage
    from pellucid.diagnostics._temperature import (
        CrossFittedTemperature,
        Temperature,
        cross_fit_temperature,
        fit_temperature,
    )
    from pellucid.diagnostics.concepts import ConceptExplanation, Concepts, References
    from pellucid.diagnostics.dynamics import ClassLearning, TrainingDynamics, class_learning, training_dynamics
    from pellucid.diagnostics.influence import Influence, Projection, Ranked, self_influence, tracin, trak, trak_scores
    from pellucid.diagnostics.out_of_distribution import (
        SHIFTS,
        EmbeddingReference,
        OutOfDistribution,
        Separation,
        detect,
        energy,
        maximum_logit,
        maximum_softmax,
        negative_log_density,
        ood_scores,
        separation,
        shift_images,
    )
    from pellucid.diagnostics.robustness import (
        adversarial_radius,
        corruption_accuracy,
        explanation_movement,
        first_order_radius,
    )
    from pellucid.diagnostics.slices import Sampled, Slice, Slices, find_slices

__all__ = [
    "SHIFTS",
    "BrierScore",
    "Calibration",
    "ClassCalibration",
    "ClassLearning",
    "ConceptExplanation",
    "Concepts",
    "CrossFittedTemperature",
    "EmbeddingReference",
    "Influence",
    "LabelErrorPair",
    "LabelErrors",
    "LayerRow",
    "LayerStatistics",
    "OutOfDistribution",
    "Projection",
    "Ranked",
    "References",
    "ReliabilityBins",
    "RiskCoverage",
    "Sampled",
    "Separation",
    "Slice",
    "Slices",
    "Temperature",
    "TrainingDynamics",
    "adversarial_radius",
    "brier_score",
    "calibration",
    "class_learning",
    "corruption_accuracy",
    "cross_fit_temperature",
    "detect",
    "effective_rank",
    "energy",
    "explanation_movement",
    "find_slices",
    "first_order_radius",
    "fit_temperature",
    "label_errors",
    "layer_statistics",
    "maximum_logit",
    "maximum_softmax",
    "negative_log_density",
    "ood_scores",
    "risk_coverage",
    "self_influence",
    "separation",
    "shift_images",
    "tracin",
    "training_dynamics",
    "trak",
    "trak_scores",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "SHIFTS": ".out_of_distribution",
        "BrierScore": "._brier",
        "Calibration": "._calibration",
        "ClassCalibration": "._calibration",
        "ClassLearning": ".dynamics",
        "ConceptExplanation": ".concepts",
        "Concepts": ".concepts",
        "CrossFittedTemperature": "._temperature",
        "EmbeddingReference": ".out_of_distribution",
        "Influence": ".influence",
        "LabelErrorPair": "._label_errors",
        "LabelErrors": "._label_errors",
        "LayerRow": "._layer_rows",
        "LayerStatistics": "._layer_rows",
        "OutOfDistribution": ".out_of_distribution",
        "Projection": ".influence",
        "Ranked": ".influence",
        "References": ".concepts",
        "ReliabilityBins": "._reliability",
        "RiskCoverage": "._risk_coverage",
        "Sampled": ".slices",
        "Separation": ".out_of_distribution",
        "Slice": ".slices",
        "Slices": ".slices",
        "Temperature": "._temperature",
        "TrainingDynamics": ".dynamics",
        "adversarial_radius": ".robustness",
        "brier_score": "._brier",
        "calibration": "._calibration",
        "class_learning": ".dynamics",
        "corruption_accuracy": ".robustness",
        "cross_fit_temperature": "._temperature",
        "detect": ".out_of_distribution",
        "effective_rank": "._effective_rank",
        "energy": ".out_of_distribution",
        "explanation_movement": ".robustness",
        "find_slices": ".slices",
        "first_order_radius": ".robustness",
        "fit_temperature": "._temperature",
        "label_errors": "._label_errors",
        "layer_statistics": "._layer_statistics",
        "maximum_logit": ".out_of_distribution",
        "maximum_softmax": ".out_of_distribution",
        "negative_log_density": ".out_of_distribution",
        "ood_scores": ".out_of_distribution",
        "risk_coverage": "._risk_coverage",
        "self_influence": ".influence",
        "separation": ".out_of_distribution",
        "shift_images": ".out_of_distribution",
        "tracin": ".influence",
        "training_dynamics": ".dynamics",
        "trak": ".influence",
        "trak_scores": ".influence",
    },
)
