"""The gradient: compared with central differences and captum."""

import captum.attr
import pytest
import torch
from torch import Tensor, nn

from pellucid import create_analyzer
from pellucid.attribution import _subject
from pellucid.attribution.gradient import Gradient
from pellucid.core.errors import ModelError, ShapeError


def gradient(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    return create_analyzer("gradient", model).analyze(images, targets)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.ReLU(inplace=True),
        nn.Conv2d(2, 4, 3),
        nn.BatchNorm2d(4),
        nn.Tanh(),
        nn.Dropout(),
        nn.Flatten(),
        nn.Linear(64, 3),
    )


def central_differences(model: nn.Module, images: Tensor, targets: Tensor, step: float = 1e-6) -> Tensor:
    """One float64 forward pass per pixel and sign: slow but obviously correct."""
    model, images = model.double().eval(), images.double()
    result = torch.zeros_like(images)
    rows = torch.arange(len(images))
    with torch.no_grad():
        for place in torch.ones(images.shape[1:]).nonzero():
            shift = torch.zeros_like(images)
            shift[(slice(None), *place)] = step
            slope = (model(images + shift) - model(images - shift))[rows, targets] / (2 * step)
            result[(slice(None), *place)] = slope
    return result


IMAGES = torch.rand(5, 2, 6, 6, generator=torch.Generator().manual_seed(1)) + 0.01
TARGETS = torch.tensor([0, 1, 2, 1, 0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_central_differences(dtype: torch.dtype) -> None:
    expected = central_differences(network(), IMAGES, TARGETS)
    relevance = gradient(network().to(dtype), IMAGES.to(dtype), TARGETS)
    assert relevance.dtype == dtype
    torch.testing.assert_close(relevance.double(), expected, rtol=1e-4, atol=1e-6)


def test_model_in_training_mode_is_unchanged() -> None:
    model, images = network().train(), IMAGES.clone()
    model[1].weight.grad = grad = torch.ones_like(model[1].weight)
    state = torch.get_rng_state()
    gradient(model, images, TARGETS)
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model[1].weight.grad is grad
    assert bool((grad == 1).all())
    assert model[1].bias.grad is None
    assert int(model[2].num_batches_tracked) == 0
    assert torch.equal(images, IMAGES)
    assert images.grad is None
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_works_where_gradients_are_off(context: type) -> None:
    expected = gradient(network(), IMAGES, TARGETS)
    model = network()
    with context():
        relevance = gradient(model, IMAGES.clone(), TARGETS)
    assert torch.equal(relevance, expected)


def test_a_batch_equals_its_images_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network().double()
    whole = gradient(model, IMAGES.double(), TARGETS)
    alone = torch.cat([gradient(model, IMAGES[[i]].double(), TARGETS[[i]]) for i in range(5)])
    monkeypatch.setattr(Gradient, "images_at_once", 2)
    monkeypatch.setattr(_subject, "MOST_PASSES_IN_ONE", 1)
    chunked = gradient(model, IMAGES.double(), TARGETS)
    torch.testing.assert_close(whole, alone, rtol=0, atol=1e-14)
    torch.testing.assert_close(whole, chunked, rtol=0, atol=1e-14)


def test_empty_batch_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"the images are \(0, 2, 6, 6\)"):
        gradient(network(), IMAGES[:0], TARGETS[:0])


@pytest.mark.parametrize("target", [-1, 3])
def test_class_out_of_range_is_reported(target: int) -> None:
    with pytest.raises(ShapeError, match=rf"target has classes {target}…{target}, but the model has 3"):
        gradient(network(), IMAGES[:1], torch.tensor([target]))


def test_logits_without_gradient_are_refused() -> None:
    class Detached(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.detach().flatten(1)

    with pytest.raises(ModelError, match="no gradient"):
        gradient(Detached(), IMAGES, TARGETS)


@pytest.mark.filterwarnings("ignore")  # captum warns about setting gradients
@pytest.mark.parametrize(("name", "options"), [("gradient", {}), ("gradient", {"absolute": True}), ("Saliency", {})])
def test_agrees_with_captum(network, images, targets, name, options) -> None:
    saliency = captum.attr.Saliency(network)
    is_absolute = name == "Saliency" or "absolute" in options
    theirs = saliency.attribute(images.clone().requires_grad_(), target=targets, abs=is_absolute).detach()
    ours = create_analyzer(name, network, **options).analyze(images, targets)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-15)


def test_baseline_gradient_is_subtracted(network, images) -> None:
    baseline = torch.rand(1, 10, 10, generator=torch.Generator().manual_seed(9)).double()
    classes = network(images).argmax(1)  # also explained at the baseline, whatever is predicted there
    expected = central_differences(network, images, classes)
    expected -= central_differences(network, baseline.expand_as(images), classes)
    relevance = create_analyzer("gradient.baseline", network, baseline=baseline).analyze(images)
    torch.testing.assert_close(relevance, expected, rtol=1e-6, atol=1e-8)


def test_closed_form_with_a_gray_baseline(squares) -> None:
    x = torch.tensor([0.5, -1.0, 2.0, 0.1]).double()
    relevance = create_analyzer("gradient.baseline", squares, baseline=0.3).analyze(x.view(1, 1, 2, 2), 0).flatten()
    torch.testing.assert_close(relevance, squares.a[0].detach() * (x - 0.3), rtol=1e-12, atol=1e-15)


def test_small_model_runs_more_images_per_pass() -> None:
    small, wide = nn.Sequential(nn.Flatten(), nn.Linear(784, 3)), nn.Conv2d(1, 64, 3)
    images = torch.rand(300, 1, 28, 28)
    assert _subject.Subject(small).images_per_pass(images, 64) == 256
    assert _subject.Subject(small).images_per_pass(images[:50], 64) == 64
    assert _subject.Subject(wide).images_per_pass(images, 64) == 64
