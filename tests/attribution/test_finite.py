"""NaN and infinities in inputs or model outputs raise an error that names the first affected image."""

from dataclasses import fields

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid import create_analyzer, evaluate
from pellucid.attribution import METHODS, Analyzer
from pellucid.core.errors import ConfigError, DataError, ModelError, PellucidError, UnsupportedOperation
from pellucid.engine.axes import BatchMixed
from pellucid.engine.recorder import Recorder
from pellucid.engine.rules import Epsilon
from pellucid.engine.weight_rules import AlphaBeta, Gamma, ZPlus

pytestmark = pytest.mark.filterwarnings("ignore::pellucid.attribution.CompletenessWarning")
FEW = {"samples": 2, "steps": 4, "places": 2, "halvings": 2, "masks": 4, "permutations": 1}
every_method = pytest.mark.parametrize("name", METHODS.names())
KINDS = ("gradient", "smoothgrad", "integrated_gradients", "occlusion", "grad_cam", "lrp.epsilon", "deeplift", "input")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)]
    model = nn.Sequential(*layers).eval()
    with torch.no_grad():
        model[4].bias.add_(1)
    return model


def some(count: int = 70) -> Tensor:
    return torch.rand(count, 1, 5, 5, generator=torch.Generator().manual_seed(1))


def ready(name: str, model: nn.Module, **options: object) -> Analyzer:
    known = {option.name for option in fields(METHODS[name])}
    few = {option: value for option, value in FEW.items() if option in known}
    analyzer = create_analyzer(name, model, **{**few, **options})
    return analyzer.fit([some(4)]) if analyzer.method.needs_fit else analyzer


class Overflowing(nn.Sequential):
    """`network` with logits that overflow for very bright images."""

    def __init__(self) -> None:
        super().__init__(*network())
        self[0] = Scaled(self[0])


class Scaled(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * 1e30


# ── user input ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_images_that_are_not_finite_are_refused(name, value) -> None:
    images = some()
    images[41, 0, 2, 3] = value
    images[60] = torch.nan
    shown = "NaN" if value != value else str(value)
    with pytest.raises(DataError, match=rf"image 41 holds {shown} at index \(0, 2, 3\)"):
        ready(name, network()).analyze(images, 0)


@pytest.mark.parametrize("name", ["gradient", "lrp.epsilon", "integrated_gradients", "deeplift"])
def test_embeddings_that_are_not_finite_are_refused(name) -> None:
    model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(8, 2))
    with torch.no_grad():
        model[0].weight[7, 2] = torch.nan
    with pytest.raises(DataError, match=r"sequence 2 holds NaN at index \(1, 2\)"):
        create_analyzer(name, model).analyze(torch.tensor([[0, 1], [2, 3], [4, 7], [7, 7]]), 1)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *[("smoothgrad", {"noise_share": value}) for value in (torch.nan, -0.1, "0.1", None)],
        *[("smoothgrad", {"samples": value}) for value in (-1, 0, 2.5, True)],
        *[("lrp.epsilon", {"epsilon": value}) for value in ("x", -1e-6, torch.inf)],
        *[(name, {"baseline": torch.nan}) for name in ("occlusion", "deeplift", "rise", "gradient.baseline")],
        ("integrated_gradients", {"baseline": torch.tensor([[[0.0, torch.inf]]])}),
        ("integrated_gradients", {"tolerance": -1}),
        ("integrated_gradients", {"quadrature": "simpson"}),
        ("expected_gradients", {"references": torch.full((2, 1, 5, 5), torch.nan)}),
        ("expected_gradients", {"keep": 0}),
        ("lrp.gamma", {"gamma": torch.nan}),
        ("lrp.z_plus", {"bias": "no"}),
        ("lrp.z_box", {"low": torch.nan}),
        ("excitation_backprop", {"epsilon": torch.nan}),
        ("simple_taylor", {"places": 0}),
        ("grad_cam", {"layer": 3}),
        ("grad_cam", {"relu": 1}),
        ("grad_cam", {"channels": "middle"}),
        ("pattern.net", {"estimator": "none"}),
        ("shapley_sampling", {"patch": -2}),
        ("random", {"seed": 0.5}),
        ("lrp.epsilon", {"rules": 3}),
    ],
)  # fmt: skip
def test_options_of_a_wrong_type_or_range_are_refused(name, options) -> None:
    ((option, _),) = options.items()
    with pytest.raises(ConfigError, match=f"the option {option} of .* is .*; expected "):
        create_analyzer(name, network(), **options)


@pytest.mark.parametrize("rule", [Epsilon, Gamma, ZPlus, AlphaBeta])
def test_rules_with_numbers_that_are_not_finite_are_refused(rule) -> None:
    for option in fields(rule):
        if option.name not in ("bias",):
            with pytest.raises(ConfigError, match=f"the option {option.name} of {rule.__name__} is nan"):
                rule(**{option.name: float("nan")})


@pytest.mark.parametrize("name", ["pattern.net", "pattern.attribution", "expected_gradients"])
def test_image_index_counts_over_the_batches_of_a_loader(name) -> None:
    images = some(6)
    images[4, 0, 0, 0] = torch.nan
    with pytest.raises(DataError, match="the loader's image 4 holds NaN"):
        create_analyzer(name, network()).fit([images[:3], images[3:]])


def test_fit_refuses_logits_that_are_not_finite() -> None:
    images = some(40)
    images[37] = 1e10
    with pytest.raises(ModelError, match="logits for image 37 hold"):
        create_analyzer("pattern.net", Overflowing().eval()).fit([images[:20], images[20:]])


def test_fitted_state_must_be_finite() -> None:
    analyzer = create_analyzer("expected_gradients", network()).fit([some(3)])
    state = analyzer.state()
    state.tensors["references"][0, 0, 0, 0] = torch.inf
    with pytest.raises(DataError, match="'references' holds inf"):
        create_analyzer("expected_gradients", network()).restore(state)


def test_evaluation_checks_inputs_and_logits_first() -> None:
    images = some(5)
    images[3, 0, 0, 0] = torch.nan
    with pytest.raises(DataError, match="image 3 holds NaN"):
        evaluate(network(), images, methods=["gradient"], metrics=["completeness"])
    images[3] = 1e10
    with pytest.raises(ModelError, match="logits for image 3 hold"):
        evaluate(Overflowing().eval(), images, methods=["gradient"], metrics=["completeness"])


# ── model output ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", [name for name in METHODS if name != "attention_rollout"])  # needs a transformer
def test_the_first_image_whose_logits_are_not_finite_is_named(name) -> None:
    images, options = some(), {"high": 1e10} if "high" in {one.name for one in fields(METHODS[name])} else {}
    images[[38, 66]] = 1e10
    with pytest.raises(ModelError, match=r"logits for image 38 hold (NaN|-?inf) at index \d; .*overflows") as caught:
        ready(name, Overflowing().eval(), **options).analyze(images, 0)
    assert "random" not in str(caught.value)


@pytest.mark.parametrize("name", KINDS)
def test_weights_that_are_not_finite_are_named(name) -> None:
    model = network()
    with torch.no_grad():
        model[4].weight[1, 2] = torch.nan
    with pytest.raises(ModelError, match=r"image 0 hold NaN at index 1; .*'4.weight' is not finite"):
        ready(name, model).analyze(some(), 0)


class Masked(nn.Module):
    """`network` with class 1 masked."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).masked_fill(torch.tensor([False, True, False]), -torch.inf)


@pytest.mark.parametrize(
    "name", ["gradient", "integrated_gradients", "occlusion", "lrp.epsilon", "lrp.gamma", "deeplift"]
)
def test_minus_infinity_is_allowed_for_classes_that_are_not_explained(name) -> None:
    images = some(5)
    masked = ready(name, Masked())
    torch.testing.assert_close(masked.explain(images, 2, strict=name != "integrated_gradients").relevance,
                               ready(name, network()).analyze(images, 2))  # fmt: skip
    for target, image in ((1, 0), (torch.tensor([0, 0, 0, 1, 0]), 3)):
        with pytest.raises(ModelError, match=f"logits for image {image} hold -inf at index 1"):
            masked.analyze(images, target)


@pytest.mark.parametrize("name", KINDS)
def test_custom_scores_must_be_finite(name) -> None:
    images = some()
    images[45] = 0.0

    def score(logits: Tensor) -> Tensor:
        return torch.where(logits[:, 0] == at_zero, logits[:, 0] * torch.nan, logits[:, 0])

    at_zero = network()(images[45:46])[0, 0].detach()
    with pytest.raises(ConfigError, match="target function's score of image 45 is not finite"):
        ready(name, network()).analyze(images, score)


class Root(nn.Module):
    """A norm, whose derivative is NaN at zero, before a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1).square().sum(1, keepdim=True).sqrt())


@pytest.mark.parametrize("name", ["gradient", "input_x_gradient", "gradient.baseline"])
def test_map_that_is_not_finite_is_refused_with_the_reason(name) -> None:
    images = some()
    images[[47, 50]] = 0
    options = {"baseline": 0.5} if name == "gradient.baseline" else {}
    with pytest.raises(
        ModelError, match=f"{name}: the map of image 47 holds NaN .*the derivative is infinite or undefined"
    ):
        create_analyzer(name, Root(), **options).analyze(images, 0)


class Log(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).mean(1, keepdim=True).log().expand(-1, 2) * torch.tensor([1.0, 2.0])


@pytest.mark.parametrize("name", ["integrated_gradients", "shapley_sampling"])
def test_model_output_at_the_baseline_must_be_finite(name) -> None:
    with pytest.raises(ModelError, match=f"{name}: the model's output at the baseline of image 0 is not finite"):
        ready(name, Log()).analyze(some(3), 0)


# ── comparison with a plain forward pass ─────────────────────────────────────────────────────────────────────────────


def is_recorded() -> bool:
    modes = [torch.overrides._get_current_function_mode_stack()]
    return any(isinstance(mode, Recorder) for stack in modes for mode in stack)


class Pretending(nn.Module):
    """Compute different logits for some images while being recorded."""

    def __init__(self, calls: list[int] | None = None) -> None:
        super().__init__()
        self.inner, self.calls = network(), calls

    def forward(self, x: Tensor) -> Tensor:
        if self.calls is not None:
            self.calls.append(len(x))
            return self.inner(x)
        doubled = x * 2 if is_recorded() else x
        return self.inner(torch.where(x[:, :, :1, :1] > 5, doubled, x))


@pytest.mark.parametrize("name", ["lrp.epsilon", "deeplift", "guided_backprop", "cam"])
def test_wrongly_recorded_image_is_detected(name) -> None:
    images = some(9)
    images[7, 0, 0, 0] = 9
    with pytest.raises(PellucidError) as caught:
        ready(name, Pretending()).analyze(images, 0)
    assert "image 7" in str(caught.value) or "no rule" in str(caught.value)
    if "image 7" in str(caught.value):
        assert "although it is deterministic" in str(caught.value)
        assert "random" not in str(caught.value)


class Steep(nn.Module):
    """Amplifies the last bits of the images until they show in the logits."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.head = nn.BatchNorm1d(36), nn.Linear(36, 3)
        for values in (self.norm.running_mean, self.norm.weight.data, self.norm.bias.data):
            values.normal_()

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.norm(x.flatten(1)) * 2e5).sin())


def test_a_model_that_amplifies_rounding_is_explained_as_well_as_its_dtype_allows() -> None:
    model, images = Steep().eval(), torch.rand(3, 1, 6, 6)
    with torch.no_grad():
        by_hand = (images.flatten(1) - model.norm.running_mean) * (model.norm.running_var + 1e-5).rsqrt()
        other = model.head(((by_hand * model.norm.weight + model.norm.bias) * 2e5).sin())
        assert float((other - model(images)).abs().max()) > 1e-3  # the order of operations shows in the logits
    found = create_analyzer("gradient", model).analyze(images, 1)
    exact = images.double().requires_grad_()
    slope = torch.autograd.grad(model.double()(exact)[:, 1].sum(), exact)[0]
    assert float((found - slope).norm() / slope.norm()) < 0.1


@pytest.mark.parametrize("seed", range(20))
def test_random_models_are_refused_by_methods_without_recording(seed: int) -> None:
    torch.manual_seed(seed)  # at some, dropout hides the pixel from the gradient, as if there were none

    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(x.flatten(1), 0.5, training=True)

    with pytest.raises(
        UnsupportedOperation, match=r"different logits each time it is run .*\(image 0, by .*random numbers"
    ):
        create_analyzer("gradient", Noisy()).analyze(some(6), 0)


def test_comparison_costs_one_forward_pass() -> None:
    calls: list[int] = []
    analyzer = create_analyzer("lrp.epsilon", Pretending(calls))
    analyzer.analyze(some(8), 0)
    calls.clear()
    analyzer.analyze(some(8), 0)
    assert sorted(calls) == [1, 8, 8]  # recorded, plain, and the first image alone


def test_mixing_of_images_is_detected_by_the_comparison() -> None:
    class Mixing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x - x.mean(0, keepdim=True) / 2)

    analyzer, images = create_analyzer("lrp.epsilon", Mixing()), some(4)
    alone = torch.cat([analyzer.analyze(image[None], 1) for image in images])
    torch.testing.assert_close(analyzer.analyze(images, 1), alone)
    with pytest.raises(BatchMixed):
        analyzer._subject.begin()
        with torch.no_grad():
            analyzer._subject.compare(images, analyzer._subject.logits(images))


def test_logits_near_zero_may_round() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(25, 1))
    images = some(40)
    with torch.no_grad():
        model[1].bias.sub_(model(images[7:8])[0])  # its only logit is pure rounding error
    create_analyzer("lrp.epsilon", model).analyze(images, 0)
