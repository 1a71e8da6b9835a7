"""Properties of every prior: images in [0, 1], an unmodified model, reproducible images, a correct objective."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import pellucid
from pellucid.core.errors import ConfigError, PellucidError, ShapeError, UnknownName, UnsupportedOperation
from pellucid.synthesis import PRIORS, Prior, objective

NAMES = PRIORS.names()


@pytest.fixture
def make_prior(mixture, vae):
    def make(name: str, **options: Any) -> Prior:
        needed = {"l2": {"image_shape": (1, 8, 8)}, "expert": {"density": mixture}, "code": {"density": vae}}[name]
        return PRIORS[name](**{"steps": 40, **needed, **options})

    return make


@pytest.mark.parametrize("name", NAMES)
def test_scores_match_the_network_output_for_the_images(name, network, make_prior) -> None:
    prior = make_prior(name)
    result = pellucid.prototypes(network, prior=prior)
    assert result.images.shape == (3, 1, 8, 8)
    assert 0 <= result.images.min() <= result.images.max() <= 1
    assert result.prior == name
    assert result.classes.tolist() == [0, 1, 2]
    with torch.no_grad():
        logits = copy.deepcopy(network).eval()(result.images)
    torch.testing.assert_close(result.logit, logits.diagonal())
    torch.testing.assert_close(result.log_probability, logits.log_softmax(1).diagonal(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(result.objective, result.log_probability + prior.weight * result.log_prior)
    assert result.history.shape == (3, 40 + round(40 * prior.refined_share))
    assert (result.objective >= result.history[:, -1] - 1e-6).all()
    assert result.log_probability.exp().min() > 0.9


def test_prototypes_have_a_higher_objective_than_all_images_of_the_data(network, bars, make_prior) -> None:
    """Check `expert`, whose search starts at modes; the slow tests cover the others on MNIST."""
    prior = make_prior("expert", steps=150)
    result = pellucid.prototypes(network, prior=prior)
    images, labels = bars
    of_data = objective(network, images, None, prior)
    means = torch.stack([images[labels == label].mean(0) for label in range(3)])
    for label in range(3):
        assert result.objective[label] > of_data[labels == label, label].max()
        assert result.objective[label] > objective(network, means[label][None], [label], prior)


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_determines_the_images(name, network, make_prior) -> None:
    prior = make_prior(name, steps=8)
    first = pellucid.prototypes(network, prior=prior, seed=3)
    torch.manual_seed(5)
    second = pellucid.prototypes(network, prior=prior, seed=3)
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.history, second.history)
    assert not torch.equal(first.images, pellucid.prototypes(network, prior=prior, seed=4).images)


@pytest.mark.parametrize("name", NAMES)
def test_the_model_is_not_modified(name, network, make_prior) -> None:
    model = copy.deepcopy(network).train()
    model[5].eval()
    model[0].weight.grad = grad = torch.ones_like(model[0].weight)
    model[0].bias.requires_grad_(False)
    state, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    with torch.no_grad():
        pellucid.prototypes(model, [1], prior=make_prior(name, steps=3))
        pellucid.prototypes(model, prior=make_prior(name, steps=3), unit=("3", 2))
    assert [module.training for module in model.modules()] == modes
    assert model[0].weight.grad is grad
    assert bool((grad == 1).all())
    assert [p.requires_grad for p in model.parameters()] == [p is not model[0].bias for p in model.parameters()]
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("name", NAMES)
def test_another_network_gives_other_images(name, network, make_prior) -> None:
    other = copy.deepcopy(network)
    nn.init.normal_(other[6].weight, generator=torch.Generator().manual_seed(1))
    first, second = (pellucid.prototypes(model, prior=make_prior(name)).images for model in (network, other))
    assert (first - second).abs().amax((1, 2, 3)).min() > 0.05


@pytest.mark.parametrize("name", NAMES)
def test_diversity_gives_different_images_of_a_class(name, network, make_prior) -> None:
    result = pellucid.prototypes(network, [2, 0], prior=make_prior(name, repulsion=1.0), diversity=3)
    assert result.classes.tolist() == [2, 2, 2, 0, 0, 0]
    assert result.log_probability.exp().min() > 0.8
    for group in result.images.view(2, 3, -1):
        distances = torch.pdist(nn.functional.normalize(group, dim=1))
        assert distances.min() > 0.1


def test_models_in_double_precision_are_supported(network, make_prior) -> None:
    for name in NAMES:
        result = pellucid.prototypes(copy.deepcopy(network).double(), [0], prior=make_prior(name, steps=4))
        assert result.images.shape == (1, 1, 8, 8)


# --- units ---------------------------------------------------------------------------------------------------------


def test_channels_are_maximized_and_reported_as_a_hook_sees_them(network, make_prior) -> None:
    result = pellucid.prototypes(network, prior=make_prior("l2", steps=60), unit=("1", [0, 3]))
    assert result.log_probability is None
    assert result.classes.tolist() == [0, 3]
    seen = []
    model = copy.deepcopy(network).eval()
    model[1].register_forward_hook(lambda _module, _inputs, output: seen.append(output.clone()))
    with torch.no_grad():
        model(result.images)
        model(torch.rand(100, 1, 8, 8))
    activations, of_noise = seen[0].mean((2, 3)), seen[1].mean((2, 3))
    torch.testing.assert_close(result.logit, torch.stack([activations[0, 0], activations[1, 3]]))
    assert (result.logit > of_noise[:, [0, 3]].amax(0)).all()


def test_a_function_of_the_outputs_is_maximized(network, make_prior) -> None:
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, x):
            return {"logits": self.network(x)}

    result = pellucid.prototypes(
        Wrapped(),
        prior=make_prior("l2", weight=0.0, steps=60),
        unit=lambda outputs: outputs["logits"][:, 1] - outputs["logits"][:, 0],
    )
    assert result.classes.tolist() == [-1]
    with torch.no_grad():
        logits = copy.deepcopy(network).eval()(result.images)
    torch.testing.assert_close(result.objective, logits[:, 1] - logits[:, 0])
    assert result.objective > 5


# --- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"classes": [3]}, ShapeError, "there is no class 3; the model has 3"),
        ({"classes": []}, ShapeError, "no class was given"),
        ({"classes": torch.tensor([0.5])}, ShapeError, "are not indices"),
        ({"unit": ("nowhere", 0)}, UnknownName, "there is no layer 'nowhere'"),
        ({"unit": ("3", 8)}, ShapeError, "there is no channel 8; layer '3' has 8"),
        ({"unit": ("3", 0), "classes": 1}, ConfigError, "both classes and unit"),
        ({"unit": lambda logits: logits}, ShapeError, "return one number per image"),
        (
            {"unit": lambda logits: logits.detach()[:, 0]},
            UnsupportedOperation,
            "no gradient with respect to the images",
        ),
        ({"diversity": 0}, ConfigError, "diversity=0"),
        ({"prior": "l3"}, UnknownName, "there is no prior 'l3'"),
        ({"prior": "l2", "strength": 3}, ConfigError, "the prior 'l2' has no option 'strength'"),
        ({"prior": "l2", "image_shape": (3, 8, 8)}, PellucidError, r"rejects images of shape \(2, 3, 8, 8\)"),
        ({"prior": "l2", "image_shape": (1, 8, 8), "steps": 0}, ConfigError, "steps=0; the option must be at least 1"),
        ({"prior": "l2"}, ConfigError, "give image_shape="),
        ({"prior": "expert"}, ConfigError, "needs a density of the data; give images="),
        (
            {"prior": "code", "density": "gaussian_mixture", "images": torch.rand(9, 1, 8, 8)},
            ConfigError,
            "no latent space",
        ),
    ],
)
def test_invalid_arguments_are_refused(arguments, kind, message, network, make_prior) -> None:
    arguments = {"prior": make_prior("l2"), **arguments}
    with pytest.raises(kind, match=message):
        pellucid.prototypes(network, **arguments)


@pytest.mark.parametrize(
    ("end", "kind", "message"),
    [
        (nn.Softmax(1), UnsupportedOperation, "ends in a softmax"),
        (nn.Linear(3, 1), ShapeError, "a single logit"),
        (nn.Unflatten(1, (3, 1)), ShapeError, r"returned shape \(2, 3, 1\)"),
    ],
    ids=str,
)
def test_outputs_that_are_not_logits_are_refused(end, kind, message, network, make_prior) -> None:
    with pytest.raises(kind, match=message):
        pellucid.prototypes(nn.Sequential(network, end), prior=make_prior("l2"))


def test_a_layer_that_does_not_run_is_refused(network, make_prior) -> None:
    model = copy.deepcopy(network)
    model.unused = nn.Linear(1, 1)
    model.forward = lambda x: network(x)  # type: ignore[method-assign]
    with pytest.raises(PellucidError, match="the layer 'unused' does not run"):
        pellucid.prototypes(model, prior=make_prior("l2"), unit=("unused", 0))
