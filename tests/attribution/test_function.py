"""Functions of arrays as models: the same maps as the torch model, scikit-learn, and refusals by name."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from torch import nn

import pellucid
from pellucid import create_analyzer
from pellucid.attribution import METHODS
from pellucid.core.errors import ConfigError, ModelError, ShapeError, UnsupportedOperation
from pellucid.engine.inputs import check_is_model

AGNOSTIC = ("feature_ablation", "feature_permutation", "kernel_shap", "lime", "occlusion", "rise", "shapley_sampling")
FEW = {"samples": 20, "masks": 20, "permutations": 2}
pytestmark = pytest.mark.filterwarnings("ignore::pellucid.attribution._explanation.AmplificationWarning")


def ready(name: str, model: nn.Module, images: torch.Tensor, **options: object):
    known = METHODS[name].__dataclass_fields__
    few = {option: value for option, value in FEW.items() if option in known}
    analyzer = create_analyzer(name, model, **few, **options)
    return analyzer.fit([images]) if analyzer.method.needs_fit else analyzer


@pytest.mark.parametrize("name", AGNOSTIC)
def test_maps_equal_those_of_the_model_inside(network, images, name) -> None:
    def run(x: np.ndarray) -> np.ndarray:
        assert x.dtype == np.float64
        with torch.no_grad():
            scores = network(torch.from_numpy(x)).numpy()
        x[:] = 7  # a function may write into its arrays
        return scores

    model = pellucid.function(run)
    torch.testing.assert_close(
        ready(name, model, images).analyze(images, "all"), ready(name, network, images).analyze(images, "all")
    )


def test_every_other_method_is_refused_with_a_way_out() -> None:
    model = pellucid.function(lambda x: x)
    for name in METHODS:
        entry = METHODS[name]
        assert entry.is_model_agnostic == (name in AGNOSTIC or entry.family == "control")
        if not entry.is_model_agnostic:
            with pytest.raises(UnsupportedOperation, match=f"^{name} needs the derivatives.*'kernel_shap', 'lime'"):
                create_analyzer(name, model)


def test_probabilities_of_a_forest_sum_to_their_change() -> None:
    x, labels = load_iris(return_X_y=True)
    forest = RandomForestClassifier(20, random_state=0).fit(x, labels)
    analyzer = create_analyzer("kernel_shap", pellucid.function(forest.predict_proba), baseline=torch.tensor(x.mean(0)))
    explanation = analyzer.explain(x[[3, 70, 120]], strict=True)  # an array keeps its dtype
    assert explanation.relevance.dtype == torch.float64
    assert explanation.target.tolist() == [0, 1, 2]
    change = forest.predict_proba(x[[3, 70, 120]]) - forest.predict_proba(x.mean(0, keepdims=True))
    expected = torch.tensor(change[np.arange(3), [0, 1, 2]])
    torch.testing.assert_close(explanation.relevance.sum(1), expected)


def test_several_inputs_are_passed_by_name_and_position() -> None:
    def run(image: np.ndarray, age: np.ndarray) -> np.ndarray:
        return np.stack([image.reshape(len(image), -1).sum(1) + 2 * age, age], 1)

    image, age = np.random.default_rng(0).random((2, 1, 2, 2)), np.array([0.5, 0.25])
    for inputs in ((image, age), {"age": age, "image": image}):
        maps = create_analyzer("feature_ablation", pellucid.function(run), patch=1).analyze(inputs, 0)
        values = dict(zip(("image", "age"), maps, strict=True)) if isinstance(maps, tuple) else maps
        torch.testing.assert_close(values["image"], torch.from_numpy(image))
        torch.testing.assert_close(values["age"], 2 * torch.from_numpy(age))


def test_a_function_that_mixes_its_rows_runs_one_by_one() -> None:
    def centered(x: np.ndarray) -> np.ndarray:
        return x - x.mean(0) + x.sum()

    x = torch.rand(3, 4).double()
    together = create_analyzer("occlusion", pellucid.function(centered)).analyze(x, 1)
    alone = create_analyzer("occlusion", pellucid.function(centered)).analyze(x[1:2], 1)
    torch.testing.assert_close(together[1:2], alone)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: x[:, 0].astype(int), ModelError, "array of int64, not floats.*predict_proba instead of predict"),
        (lambda x: x[:, 0] > 0, ModelError, "array of bool"),
        (lambda x: np.array(["a"] * len(x)), ModelError, "array of <U1"),
        (lambda x: [x, x], ModelError, r"list of 2 arrays; return one of them"),
        (lambda x: None, ModelError, "array of object"),
        (lambda x: [[1.0], [1.0, 2.0]], ModelError, "expected an array"),
        (lambda x: x[:1], ShapeError, r"shape \(1, 4\) for 2 inputs"),
        (lambda x: x.sum(), ShapeError, r"shape \(\) for 2 inputs"),
    ],
)
def test_outputs_that_are_not_scores_are_refused(call, error, message) -> None:
    with pytest.raises(error, match=message):
        create_analyzer("occlusion", pellucid.function(call)).analyze(torch.rand(2, 4), 0)


def test_wrong_arguments_are_refused(network) -> None:
    with pytest.raises(ModelError, match="is the module Sequential; pass it to create_analyzer"):
        pellucid.function(network)
    with pytest.raises(ModelError, match="expected a function of arrays, got"):
        pellucid.function(RandomForestClassifier)
    with pytest.raises(ModelError, match=r"the model is a function.*pellucid\.function"):
        check_is_model(lambda x: x)
    with pytest.raises(ConfigError, match="unwrap_softmax=True removes a softmax of torch"):
        create_analyzer("kernel_shap", pellucid.function(lambda x: x), unwrap_softmax=True)
    with pytest.raises(UnsupportedOperation, match="function of arrays, which has no derivatives"):
        pellucid.jacobian(pellucid.function(lambda x: x), torch.rand(2, 3))


def test_not_a_number_in_the_outputs_is_reported() -> None:
    model = pellucid.function(lambda x: x / np.where(x.sum(1, keepdims=True) > 100, 0, 1))
    with pytest.raises(ModelError, match="logits for image 1 hold"), np.errstate(divide="ignore"):
        create_analyzer("lime", model).analyze(torch.tensor([[1.0, 2.0], [99.0, 3.0]]), 0)


@pytest.mark.integrations
def test_data_frames_are_converted() -> None:
    x, labels = load_iris(return_X_y=True, as_frame=True)
    forest = RandomForestClassifier(5, random_state=0).fit(x.to_numpy(), labels)
    analyzer = create_analyzer("feature_ablation", pellucid.function(forest.predict_proba))
    assert torch.equal(analyzer.analyze(x[:3], 1), analyzer.analyze(x[:3].to_numpy(), 1))
    with pytest.raises(ShapeError, match="got an array of object"):
        analyzer.analyze(x[:3].assign(name="a"), 1)


def test_integers_of_a_function_are_no_tokens() -> None:
    model = pellucid.function(lambda x: x.astype(float))
    with pytest.raises(ShapeError, match=r"a function of arrays takes floats here.*Pass x\.double\(\)"):
        create_analyzer("kernel_shap", model).analyze(torch.ones(2, 3, dtype=torch.int64), 0)
