"""Every method on a zoo of unusual networks: conservation, batches equal to single images, no side effects."""

import warnings

import pytest
import torch
from torch import Tensor, nn

import pellucid
from pellucid import create_analyzer
from pellucid.attribution import METHODS, AmplificationWarning, Analyzer

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")
FEW = {"samples": 3, "steps": 6, "places": 3, "halvings": 3, "masks": 6, "permutations": 1, "patch": 4}


def ready(name: str, model: nn.Module, images: Tensor) -> Analyzer:
    known = METHODS[name].__dataclass_fields__
    analyzer = create_analyzer(name, model, **{option: value for option, value in FEW.items() if option in known})
    return analyzer if analyzer.method.is_ready else analyzer.fit([images])


def certified(name: str) -> bool:
    entry = METHODS[name]
    return "complete" in entry.promises and name != "integrated_gradients"


CERTIFIED = [name for name in METHODS if certified(name)]


def refused(name: str, images: Tensor) -> bool:
    """True if a method does not apply to inputs of this shape, or only to transformers."""
    return name == "attention_rollout" or (name == "sobel" and images.ndim != 4)


SOME = (
    "gradient",
    "guided_backprop",
    "lrp.alpha_2_beta_1",
    "lrp.epsilon_gamma_box",
    "deeplift",
    "smoothgrad",
    "random",
)
"""Methods that explain every network; one network is explained by all methods."""


def fingerprint(model: nn.Module) -> list[object]:
    tensors = [*model.parameters(), *model.buffers()]
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in model.modules()]
    return [
        [m.training for m in model.modules()],
        [(id(t), t._version, t.requires_grad, t.grad is None, float(t.detach().double().sum())) for t in tensors],
        hooks,
        sorted(model.__dict__),
    ]


def test_logits_of_the_zoo_differ(caged) -> None:
    model, images = caged
    logits = model(images).detach()
    spread = 1e-2 * float(logits.std())
    assert float((logits[0] - logits[1]).abs().max()) > spread
    assert float((logits[:, 0] - logits[:, 1]).abs().max()) > spread


def test_relevance_sums_to_the_promised_value(caged) -> None:
    model, images = caged
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AmplificationWarning)
        for name in CERTIFIED:
            if refused(name, images):
                continue
            explanation = ready(name, model, images).explain(images, 1)
            assert explanation.residual is not None, name
            size = explanation.relevance.flatten(1).abs().sum(1).maximum(explanation.logits[:, 1].abs())
            assert (explanation.residual.abs() < 1e-9 * size.clamp(min=1e-3)).all(), (name, explanation.residual, size)
            assert explanation.relevance.shape == images.shape


@pytest.mark.filterwarnings("ignore:conductance")  # few steps miss its sum
def test_a_batch_equals_its_images_one_by_one(caged, animal) -> None:
    model, images = caged
    for name in METHODS if animal == "shortcut" else SOME:
        if refused(name, images):
            continue
        analyzer = ready(name, model, images)
        many = analyzer.analyze(images)
        alone = torch.cat([analyzer.analyze(image[None]) for image in images])
        torch.testing.assert_close(many, alone, rtol=1e-9, atol=1e-9 * float(many.abs().max()), msg=name)


@pytest.mark.filterwarnings("ignore:conductance")  # few steps miss its sum
def test_methods_have_no_side_effects(caged, animal) -> None:
    model, images = caged
    model.train()
    images.requires_grad_()
    before, pixels, random = fingerprint(model), images.detach().clone(), torch.random.get_rng_state()
    for name in METHODS if animal == "shortcut" else SOME:
        if refused(name, images):
            continue
        relevance = ready(name, model, images).analyze(images)
        assert not relevance.requires_grad
        with pytest.raises(pellucid.core.errors.ShapeError):
            ready(name, model, images).analyze(images, torch.tensor([99, 0, 0]))
        assert fingerprint(model) == before, name
        assert torch.equal(images, pixels)
        assert images.grad is None
        assert images._version == 0
        assert torch.equal(torch.random.get_rng_state(), random)


def test_a_network_without_biases_absorbs_no_bias() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5, bias=False)]
    model, images = nn.Sequential(*layers).double(), torch.rand(2, 1, 8, 8).double()
    for name in CERTIFIED:
        explanation = create_analyzer(name, model).explain(images, 1)
        if explanation.absorbed:
            assert not explanation.absorbed["bias"].any()
            assert not explanation.absorbed["constant"].any()


def test_the_derivative_rules_equal_the_gradient_without_rectifiers() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 5)).double()
    images = torch.rand(2, 1, 8, 8).double()
    gradient = create_analyzer("gradient", model).analyze(images, 1)
    for name in ("guided_backprop", "deconvnet"):
        torch.testing.assert_close(create_analyzer(name, model).analyze(images, 1), gradient)


def test_derivatives_of_every_operation_agree_with_autograd(caged) -> None:
    """With derivatives in place of rules, propagation over the tape gives the gradient."""
    from pellucid.engine.composites import Step
    from pellucid.engine.model import frozen
    from pellucid.engine.relevance import propagate
    from pellucid.engine.rules import Derivative

    model, images = caged
    with frozen(model):
        result = propagate(model, images[:1], (Step(Derivative()),), lambda logits: [torch.ones_like(logits)])[0]
    leaf = images[:1].clone().requires_grad_()
    expected = torch.autograd.grad(model(leaf).sum(), leaf)[0]
    torch.testing.assert_close(result.relevance, expected, rtol=1e-8, atol=1e-10)
