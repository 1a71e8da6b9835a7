"""Prototypes of networks trained on MNIST depend on the network, and are neither class means nor training images."""

import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pellucid
from pellucid.core.contracts import DataSplits
from pellucid.data import Request, load_data
from pellucid.data._loaders import batches
from pellucid.densities import Density, held_out
from pellucid.models import build_model
from pellucid.synthesis import Prior, Prototypes, objective
from pellucid.synthesis.code import Code
from pellucid.synthesis.expert import Expert
from pellucid.synthesis.l2 import L2

pytestmark = pytest.mark.slow

PRIOR_NAMES = ("l2", "expert", "code")


@dataclass
class Setting:
    data: DataSplits
    networks: list[nn.Module]
    priors: dict[str, Prior]
    prototypes: dict[str, Prototypes] = field(default_factory=dict)
    seconds: float = 0.0
    others: dict[str, Prototypes] = field(default_factory=dict)

    def of_second_network(self, name: str) -> Prototypes:
        """Search once for all tests."""
        if name not in self.others:
            self.others[name] = pellucid.prototypes(self.networks[1], prior=self.priors[name])
        return self.others[name]


def train(data: DataSplits, seed: int) -> nn.Module:
    """Train for one pass over 12,000 images, to a test accuracy above 96%."""
    model = build_model("cnn", (1, 28, 28), 10, seed)
    steps = len(data.train) // 64
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, steps)
    for pixels, labels in list(batches(data.train, 64, seed=seed, epoch=1))[:steps]:
        optimizer.zero_grad()
        F.cross_entropy(model(pixels.float() / 255), labels).backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@pytest.fixture(scope="module")
def setting(mnist_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Setting:
    request = Request(tmp_path_factory.mktemp("data"), mirrors=(str(mnist_files),))
    data = load_data("mnist", request, limit_train=12_000, limit_test=2000)
    networks = [train(data, seed) for seed in (0, 1)]
    densities: dict[str, Density] = {
        name: pellucid.fit_density(name, data.train) for name in ("gaussian_mixture", "vae")
    }
    priors: dict[str, Prior] = {
        "l2": L2(image_shape=(1, 28, 28)),
        "expert": Expert(density=densities["gaussian_mixture"]),
        "code": Code(density=densities["vae"]),
    }
    setting = Setting(data, networks, priors)
    started = time.process_time()
    for name, prior in priors.items():
        setting.prototypes[name] = pellucid.prototypes(networks[0], prior=prior)
    setting.seconds = time.process_time() - started
    return setting


def class_means(data: DataSplits) -> Tensor:
    images = data.train.floats()
    return torch.stack([images[data.train.labels == label].mean(0) for label in range(10)])


def cosine_distances(images: Tensor, others: Tensor) -> Tensor:
    return 1 - F.normalize(images.flatten(1), dim=1) @ F.normalize(others.flatten(1), dim=1).T


def test_all_classes_and_priors_take_less_than_30_seconds_on_one_core(setting: Setting) -> None:
    assert setting.seconds < 30


@pytest.mark.parametrize(("name", "bound"), [("l2", 0.99), ("expert", 0.95), ("code", 0.95)])
def test_the_network_is_confident(name: str, bound: float, setting: Setting) -> None:
    with torch.no_grad():
        own = setting.networks[0](setting.prototypes[name].images).softmax(1).diagonal()
    assert own.min() > bound
    log_probability = setting.prototypes[name].log_probability
    assert log_probability is not None
    torch.testing.assert_close(log_probability.exp(), own, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["expert", "code"])
def test_an_independently_trained_network_agrees(name: str, setting: Setting) -> None:
    with torch.no_grad():
        second = setting.networks[1](setting.prototypes[name].images).softmax(1).diagonal()
    assert second.min() > 0.75
    assert second.mean() > 0.9


@pytest.mark.parametrize(("name", "number"), [("l2", 0), ("l2", 1), ("expert", 0), ("code", 0)])
def test_the_objective_exceeds_that_of_means_at_any_brightness_and_of_all_training_images(
    name: str, number: int, setting: Setting
) -> None:
    network, prior = setting.networks[number], setting.priors[name]
    reached = (setting.of_second_network(name) if number else setting.prototypes[name]).objective
    means = class_means(setting.data)
    brightness = torch.linspace(0, 1, 41).view(-1, 1, 1, 1, 1) * (means / means.amax((1, 2, 3), keepdim=True))
    of_means = objective(network, torch.cat([brightness.flatten(0, 1), means]), None, prior)
    best = of_means.view(42, 10, 10).amax(0).diagonal()
    assert (reached > best).all(), reached - best
    for label in range(10):
        images = setting.data.train.floats((setting.data.train.labels == label).nonzero().flatten())
        assert reached[label] > objective(network, images, [label], prior).max()


@pytest.mark.parametrize("name", PRIOR_NAMES)
def test_prototypes_are_neither_class_means_nor_training_images(name: str, setting: Setting) -> None:
    images = setting.prototypes[name].images
    assert cosine_distances(images, class_means(setting.data)).diagonal().min() >= 0.02  # at any brightness
    assert cosine_distances(images, setting.data.train.floats()).min() >= 0.02  # of any class


@pytest.mark.parametrize("name", PRIOR_NAMES)
def test_prototypes_depend_on_the_network_and_are_reproducible(name: str, setting: Setting) -> None:
    first, prior = setting.prototypes[name].images, setting.priors[name]
    other = setting.of_second_network(name).images
    # two networks that are certain of the same likely image both choose it, and change it little
    assert (first - other).abs().amax((1, 2, 3)).min() > 0.02
    short = replace(prior, steps=12)
    untrained = build_model("cnn", (1, 28, 28), 10, seed=5).eval()
    random, again = (pellucid.prototypes(untrained, prior=short).images for _ in range(2))
    assert torch.equal(random, again)
    assert cosine_distances(first, random).diagonal().mean() > 0.1


def test_densities_predict_held_out_images(setting: Setting) -> None:
    """Bits per dim are below those of one Gaussian per pixel (7.3 or more), and no worse than in earlier versions."""
    expert, code = setting.priors["expert"], setting.priors["code"]
    assert isinstance(expert, Expert)
    assert isinstance(code, Code)
    mixture, vae = (held_out(one.density, setting.data.test.pixels) for one in (expert, code))
    assert mixture.bits_per_dim < 6.95
    assert vae.bits_per_dim < 6.95
