"""Targets beyond one class: contrasts, regression, segmentation, detection, and invalid targets."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pellucid import Contrast, create_analyzer
from pellucid.attribution import METHODS
from pellucid.core.errors import ConfigError, ShapeError

COMPLETE = ("deeplift", "integrated_gradients", "lrp.epsilon", "lrp.gamma")
pytestmark = [
    pytest.mark.filterwarnings("ignore::pellucid.attribution._explanation.AmplificationWarning"),
    # too few points for the sum of integrated gradients
    pytest.mark.filterwarnings("ignore:integrated_gradients.*:pellucid.attribution.CompletenessWarning"),
]


class Detector(nn.Module):
    """Boxes and class scores of four anchors, in a dict as detectors return them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
        self.boxes, self.scores = nn.Linear(64, 16), nn.Linear(64, 12)
        self.double()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.body(x)
        return {"boxes": self.boxes(features).view(-1, 4, 4), "scores": self.scores(features).view(-1, 4, 3)}


@pytest.fixture(scope="module")
def segmenter() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.ConvTranspose2d(4, 3, 2, 2)).double().eval()


def gradient_of(score, images: Tensor) -> Tensor:
    leaf = images.clone().requires_grad_()
    return torch.autograd.grad(score(leaf).sum(), leaf)[0]


@pytest.mark.parametrize("kind", [list, np.array, np.int64, torch.tensor])
def test_indices_of_any_type(network, images, kind) -> None:
    analyzer = create_analyzer("gradient", network)
    classes = 3 if kind is np.int64 else [3, 3, 3, 3]
    assert torch.equal(analyzer.analyze(images, kind(classes)), analyzer.analyze(images, 3))


def test_a_contrast_with_the_predicted_class(network, images) -> None:
    analyzer, predicted = create_analyzer("lrp.epsilon", network), network(images).argmax(1)
    expected = analyzer.analyze(images, Contrast(predicted, 2))
    assert torch.equal(analyzer.analyze(images, Contrast(None, [2, 2, 2, 2])), expected)
    torch.testing.assert_close(analyzer.analyze(images, Contrast(2, None)), -expected)
    assert not analyzer.analyze(images, Contrast(predicted, None)).any()
    with pytest.raises(ConfigError, match="with itself is zero"):
        Contrast()
    with pytest.raises(ShapeError, match="2 entries for 4 images"):
        analyzer.analyze(images, Contrast(1, [0, 1]))
    with pytest.raises(ShapeError, match="classes 9…9"):
        analyzer.analyze(images, Contrast(1, 9))


@pytest.mark.parametrize("name", COMPLETE)
def test_contrast_sums_to_the_difference_of_the_logits(network, images, name) -> None:
    explanation = create_analyzer(name, network).explain(images, Contrast(3, [0, 1, 2, 4]), strict=True)
    logits = network(images).detach()
    promised = logits[:, 3] - logits.gather(1, torch.tensor([[0], [1], [2], [4]]))[:, 0]
    if not name.startswith("lrp"):
        empty = network(0 * images).detach()
        promised = promised - empty[:, 3] + empty.gather(1, torch.tensor([[0], [1], [2], [4]]))[:, 0]
    sums = explanation.relevance.flatten(1).sum(1) + sum(explanation.absorbed.values(), torch.zeros(4))
    within = 1e-2 if name == "integrated_gradients" else 1e-9
    torch.testing.assert_close(sums, promised, rtol=within, atol=within * float(logits.abs().max()))


@pytest.mark.parametrize("request_", [None, 0, [0] * 4, "all"], ids=repr)
@pytest.mark.parametrize("shape", ["(batch,)", "(batch, 1)"])
def test_a_regression_of_one_output(images, shape, request_) -> None:
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(100, 6), nn.ReLU(), nn.Linear(6, 1), *[nn.Flatten(0)] * (shape == "(batch,)")]
    model = nn.Sequential(*layers).double().eval()
    gradient = gradient_of(model, images)
    for name in METHODS:
        if name in ("gradient", *COMPLETE):
            explanation = create_analyzer(name, model).explain(images, request_, strict=True)
            assert explanation.logits.shape == ((4,) if shape == "(batch,)" else (4, 1))
            relevance = explanation.relevance[:, 0] if request_ == "all" else explanation.relevance
            assert relevance.shape == images.shape
            if name == "gradient":
                torch.testing.assert_close(relevance, gradient)
            elif name == "lrp.epsilon":
                absorbed = sum(explanation.absorbed.values()).flatten()
                torch.testing.assert_close(relevance.flatten(1).sum(1) + absorbed, model(images).detach().flatten())


def test_a_regression_of_several_outputs(network, images) -> None:
    """The network with five outputs as a regression: the target is the index of an output."""
    for index in range(5):
        expected = gradient_of(lambda x, index=index: network(x)[:, index], images)
        torch.testing.assert_close(create_analyzer("gradient", network).analyze(images, index), expected)
        mean_of_two = create_analyzer("gradient", network).analyze(images, lambda y: (y[:, 0] + y[:, 1]) / 2)
    expected = gradient_of(lambda x: network(x)[:, :2].mean(1), images)
    torch.testing.assert_close(mean_of_two, expected)


def test_a_segmentation_by_a_score(segmenter, images) -> None:
    mask = torch.rand(4, 10, 10, generator=torch.Generator().manual_seed(0)).double() > 0.5

    def score(outputs: Tensor) -> Tensor:
        return (outputs[:, 1] * mask).flatten(1).sum(1)

    gradient = create_analyzer("gradient", segmenter).analyze(images, score)
    torch.testing.assert_close(gradient, gradient_of(lambda x: score(segmenter(x)), images))
    value = score(segmenter(images)).detach()
    empty = score(segmenter(0 * images)).detach()
    for name in COMPLETE:
        explanation = create_analyzer(name, segmenter).explain(images, score, strict=True)
        assert explanation.logits.shape == (4, 3, 10, 10)
        sums = explanation.relevance.flatten(1).sum(1) + sum(explanation.absorbed.values(), torch.zeros(4))
        promised = value if name.startswith("lrp") else value - empty
        within = 1e-2 if name == "integrated_gradients" else 1e-9
        torch.testing.assert_close(sums, promised, rtol=within, atol=within * float(value.abs().max()))
    # without biases, lrp.z is input times gradient
    bare = nn.Sequential(*[type(layer)(**_bare(layer)) if hasattr(layer, "bias") else layer for layer in segmenter])
    bare = bare.double().eval()
    ours = create_analyzer("lrp.epsilon", bare, epsilon=1e-12).analyze(images, score)
    torch.testing.assert_close(ours, images * gradient_of(lambda x: score(bare(x)), images), rtol=1e-6, atol=1e-9)


def _bare(layer: nn.Module) -> dict[str, object]:
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding")
    return {name: getattr(layer, name) for name in names} | {"bias": False}


@pytest.mark.parametrize("target", [None, "all"], ids=repr)
@pytest.mark.parametrize("name", ["gradient", "lrp.epsilon", "deeplift", "occlusion", "grad_cam", "input"])
def test_class_target_is_refused_for_segmentation(segmenter, images, name, target) -> None:
    analyzer = create_analyzer(name, segmenter)
    with pytest.raises(ShapeError, match=r"returns \(\d, 3, 10, 10\).*target function outputs -> \(batch,\)"):
        analyzer.analyze(images, target)


def test_a_detection_by_its_key_and_a_score(images) -> None:
    model = Detector()
    with pytest.raises(ConfigError, match="a dict with 'boxes', 'scores'.*output='boxes'"):
        create_analyzer("lrp.epsilon", model).analyze(images, lambda scores: scores[:, :, 2].amax(1))

    def best(scores: Tensor) -> Tensor:
        return scores[:, :, 2].amax(1)

    for name in ("gradient", *COMPLETE):
        explanation = create_analyzer(name, model, output="scores").explain(images, best, strict=True)
        assert explanation.logits.shape == (4, 4, 3)
        if name == "gradient":
            expected = gradient_of(lambda x: best(model(x)["scores"]), images)
            torch.testing.assert_close(explanation.relevance, expected)
    # a function of the outputs gives the same result as a regression
    alone = create_analyzer("lrp.epsilon", model, output=lambda outputs: best(outputs["scores"])).explain(images)
    by_score = create_analyzer("lrp.epsilon", model, output="scores").analyze(images, best)
    torch.testing.assert_close(alone.relevance, by_score)
    assert alone.logits.shape == (4,)


def test_deep_taylor_refuses_decreasing_scores(network, images) -> None:
    for name in ("deep_taylor", "deep_taylor.bounded"):
        with pytest.raises(ConfigError, match="subtracts one"):
            create_analyzer(name, network).analyze(images, lambda logits: logits.log_softmax(1)[:, 0])


@pytest.mark.parametrize("target", ["cat", "ALL"], ids=repr)
def test_class_names_are_refused(network, images, target) -> None:
    with pytest.raises(ConfigError, match="'all', Contrast"):
        create_analyzer("gradient", network).analyze(images, target)


def test_a_residual_of_one_class_is_named(network, images) -> None:
    explanation = create_analyzer("lrp.epsilon", network).explain(images, "all")
    explanation.check()
    explanation.residual[2, 3] = 7
    with pytest.raises(Exception, match="of 1 of 20 maps .* image 2, class 3, sums to"):
        explanation.check()


class Mixed(nn.Module):
    """Mix the images of a batch, so that the engine runs them one by one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(100, 6).double(), nn.Linear(6, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        wide = self.first(x.flatten(1)).t().reshape(-1).relu()
        return self.last(wide.reshape(-1, len(x)).t())


@pytest.mark.parametrize("name", ["lrp.epsilon", "deeplift", "pattern.attribution"])
def test_targets_of_images_run_one_by_one(images, name) -> None:
    mixed, plain = Mixed(), Mixed()
    plain.forward = lambda x: plain.last(plain.first(x.flatten(1)).relu())  # type: ignore[method-assign]
    ours, theirs = create_analyzer(name, mixed), create_analyzer(name, plain)
    if ours.method.needs_fit:
        ours.fit([images]), theirs.fit([images])
    for target in ("all", Contrast([0, 1, 2, 0], [2, 2, 1, 1]), [2, 1, 0, 1], None):
        torch.testing.assert_close(ours.analyze(images, target), theirs.analyze(images, target))


@pytest.mark.parametrize("name", ["gradient", "smoothgrad", "integrated_gradients", "guided_backprop", "lrp.gamma"])
def test_all_classes_share_the_forward_pass(network, images, name) -> None:
    few = {"smoothgrad": {"samples": 4}, "integrated_gradients": {"steps": 6}}.get(name, {})
    analyzer = create_analyzer(name, network, **few)
    passes: list[int] = []
    handle = network[0].register_forward_hook(lambda *_: passes.append(1))
    try:
        analyzer.analyze(images, 0)  # guards run once per kind of input
        passes.clear()
        one = analyzer.explain(images, 0)
        spent_on_one = len(passes)
        together = analyzer.explain(images, "all")
    finally:
        handle.remove()
    assert len(passes) == 2 * spent_on_one + 1  # one extra pass counts the classes
    assert torch.equal(together.evaluations, one.evaluations)
