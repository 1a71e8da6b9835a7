"""The names that others script against; a change here breaks somebody's code."""

import pickle
from importlib import import_module

import pytest
import torch
from torch import nn

import pellucid
from pellucid.cli.main import COMMANDS
from pellucid.config import FLAGS
from pellucid.core.registry import Registry

NAMES = {
    "pellucid": """Analyzer Concepts Contrast Evaluation Explanation LabelErrors LayerStatistics Method
        Recommended Run StoredExplanation StoredExplanations Unit Watcher augment build_native check_jacobian
        compare concepts create_analyzer errors evaluate explain explain_to_disk fit_density function influence
        inspect jacobian jacobian_class_means jacobian_product jacobian_report jacobian_spectrum
        jacobian_to_disk label_errors layer_statistics load_density load_fitted load_run methods
        open_explanations prototypes recommend save_fitted transposed_product watch""",
    "pellucid.errors": """BuildError ConfigError DataError DownloadError ModelError PeerFailed PellucidError SaveError
        ShapeError TrainingError UnknownName UnsupportedOperation WriteError""",
    "pellucid.attribution": """METHODS AmplificationWarning Analyzer Attribution ChannelExplanation
        CompletenessWarning Contrast Display Explanation Explanations FittedState FlowRow LayerExplanations
        Method RelevanceFlow check_method create_analyzer function methods""",
    "pellucid.jacobians": """Augmented ClassMeans JacobianCheck JacobianReport JacobianSpectrum augment build_native
        check_jacobian jacobian jacobian_class_means jacobian_product jacobian_report jacobian_spectrum
        transposed_product""",
    "pellucid.evaluation": """CONTROLS DEFAULT_METHODS DEFAULT_METRICS METRICS Case Evaluation Metric Ranked
        Recommendation Recommended""",
    "pellucid.diagnostics": """SHIFTS BrierScore Calibration ClassCalibration ClassLearning ConceptExplanation Concepts
        CrossFittedTemperature References
        EmbeddingReference Influence LabelErrorPair LabelErrors OutOfDistribution
        Projection Ranked ReliabilityBins RiskCoverage Sampled Separation Slice
        Slices Temperature TrainingDynamics adversarial_radius brier_score
        calibration class_learning corruption_accuracy cross_fit_temperature detect
        effective_rank energy explanation_movement find_slices first_order_radius fit_temperature
        label_errors layer_statistics maximum_logit maximum_softmax negative_log_density ood_scores
        risk_coverage self_influence separation shift_images tracin
        training_dynamics trak trak_scores""",
    "pellucid.synthesis": "PRIORS Prior Prototypes objective synthesise",
    "pellucid.densities": "DENSITIES Density",
    "pellucid.data": "DATASETS RawData Request",
    "pellucid.models": "MODELS load_model",
    "pellucid.engine": "Composite Rule Unit operation",
    "pellucid.hooks": "HOOKS Artifact Hook Scene",
    "pellucid.report": "Section write_report",
    "pellucid.storage": "Store",
    "pellucid.storage.films": "FILMS",
    "pellucid.cli": "entry leave main",
}

ENTRIES = {
    "pellucid.attribution.METHODS": """ablation_cam attention_rollout cam conductance constant deconvnet deep_taylor
        deep_taylor.bounded deeplift eigen_cam excitation_backprop expected_gradients feature_ablation
        feature_permutation grad_cam grad_cam_pp gradient gradient.baseline gradient_shap guided_backprop
        guided_grad_cam hires_cam input input_x_gradient integrated_gradients internal_influence kernel_shap layer_cam
        lime lrp.alpha_1_beta_0 lrp.alpha_1_beta_0_ib lrp.alpha_2_beta_1 lrp.alpha_2_beta_1_ib lrp.epsilon
        lrp.epsilon_gamma_box lrp.epsilon_plus_flat lrp.flat lrp.gamma lrp.sequential_preset_a
        lrp.sequential_preset_a_flat lrp.sequential_preset_b lrp.sequential_preset_b_flat lrp.w_square lrp.z lrp.z_box
        lrp.z_plus occlusion pattern.attribution pattern.net random rise score_cam sensitivity shapley_sampling
        simple_taylor smoothgrad smoothgrad.squared smoothgrad.variance sobel""",
    "pellucid.evaluation.METRICS": """completeness continuity deletion implementation_invariance infidelity insertion
        max_sensitivity parameter_randomisation pointing_game random_logit relevance_mass relevance_rank road roar
        selectivity sensitivity_n sparseness""",
    "pellucid.hooks.HOOKS": """calibration concepts confusion_matrix dynamics explanations gallery hardest influence
        jacobian_classes jacobian_classes_all jacobian_maps label_errors layers leaderboard
        live network out_of_distribution projector prototypes prototypes.each_epoch
        robustness saliency slices tsne""",
    "pellucid.data.DATASETS": "confound confound.control digits folder mnist planted_patch two_digits",
    "pellucid.models.MODELS": "basic cnn mlp small_cnn",
    "pellucid.synthesis.PRIORS": "code expert l2",
    "pellucid.densities.DENSITIES": "gaussian_mixture vae",
}

FLAG_NAMES = """dataset data_dir mirror image_size limit_train limit_test model epochs batch_size learning_rate seed
    device precision threads hooks methods classes embedding_layer budget save weights class_names crop mean std
    keep_checkpoints metadata"""

EXPLANATION = """relevance target logits expected residual allowed absorbed evaluations seed method inputs classes unit
    figure show save verdict layer activations explained flow"""


@pytest.mark.parametrize("module", NAMES)
def test_names_can_be_imported_from_their_package(module: str) -> None:
    package = import_module(module)
    missing = [name for name in NAMES[module].split() if not hasattr(package, name)]
    assert missing == []


@pytest.mark.parametrize("module", ["pellucid", "pellucid.errors", "pellucid.jacobians"])
def test_no_other_name_is_public(module: str) -> None:
    assert sorted(import_module(module).__all__) == sorted(NAMES[module].split())


@pytest.mark.parametrize("place", ENTRIES)
def test_registered_names(place: str) -> None:
    module, _, name = place.rpartition(".")
    registry = getattr(import_module(module), name)
    assert isinstance(registry, Registry)
    assert set(ENTRIES[place].split()) <= set(registry.names())  # other tests may have registered more


def test_commands_and_flags() -> None:
    assert {"run", "methods", "evaluate", "compare", "ground-truth", "report"} <= set(COMMANDS)
    assert set(FLAG_NAMES.split()) <= set(FLAGS)


def test_fields_of_an_explanation() -> None:
    explanation = pellucid.create_analyzer("gradient", nn.Flatten()).explain(torch.rand(2, 3, 1, 1), 0)
    assert [name for name in EXPLANATION.split() if not hasattr(explanation, name)] == []


def test_main_is_a_function_and_so_is_jacobian() -> None:
    cli = import_module("pellucid.cli")
    import_module("pellucid.cli.main")  # a submodule of the same name must not replace the function
    assert callable(cli.main)
    assert callable(pellucid.jacobian)
    assert pickle.loads(pickle.dumps(pellucid.jacobian)) is pellucid.jacobian


def test_errors_are_the_same_classes_everywhere() -> None:
    core, errors = import_module("pellucid.core.errors"), import_module("pellucid.errors")
    assert all(getattr(errors, name) is getattr(core, name) for name in core.__all__)
    assert pellucid.errors is errors
    assert sorted(errors.__all__) == sorted(core.__all__)


def test_unknown_names_are_attribute_errors() -> None:
    for module in NAMES:
        with pytest.raises(AttributeError, match="no_such_name"):
            _ = import_module(module).no_such_name
