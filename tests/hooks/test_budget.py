"""Hooks under a budget: counted FLOPs stay within it, and everything left out is said."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest
import torch
from tests.hooks.conftest import logits_of, make_images
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pellucid.core.budget import BUDGETS, Budget
from pellucid.core.contracts import Artifact
from pellucid.hooks import HOOKS, Scene
from pellucid.hooks._budget import SHARES, Allowance
from pellucid.hooks._methods import bounded_options, price_of

Maker = Callable[..., Scene]


class Convolutional(nn.Module):
    """Two convolutions, a pooling and two linear layers, for color images of any size."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.ReLU())
        self.hidden, self.head = nn.Linear(16, 24), nn.Linear(24, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.head(self.hidden(self.features(images).mean((2, 3))).relu())
        return hidden


@pytest.fixture
def color_scene(make_scene: Maker) -> Callable[..., Scene]:
    """Create a scene of color images under a budget."""

    def make(budget: Budget | None, *, classes: int = 10, count: int = 60) -> Scene:
        model = Convolutional(classes)
        test = make_images(count, 3, (16, 16), classes)
        scene = make_scene(channels=3, size=(16, 16), model=Convolutional(4))
        names = tuple(f"class {label}" for label in range(classes))
        changes = {"test": test, "train": test, "logits": logits_of(model, test), "classes": names}
        return replace(scene, model=model, budget=budget, **changes)

    return make


def forward_flops(scene: Scene) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        scene.model(scene.test.floats([0]))
    return int(counter.get_total_flops())


def spent(scene: Scene, names: Iterable[str]) -> tuple[float, dict[str, list[Artifact]]]:
    """Return the FLOPs of hooks in forward passes of one image, and their artifacts."""
    with FlopCounterMode(display=False) as counter:
        artifacts = {name: list(HOOKS[name]().run(scene)) for name in names}
    return counter.get_total_flops() / forward_flops(scene), artifacts


def test_shares_add_up_and_belong_to_hooks():
    assert sum(SHARES.values()) <= 1 + 1e-9
    assert set(SHARES) - set(HOOKS) == {"logits", "embedding"}
    without = ("calibration", "confusion_matrix", "dynamics", "network", "projector", "slices", "tsne")
    assert set(HOOKS) - set(SHARES) == set(without)


@pytest.mark.slow
def test_all_hooks_together_stay_within_the_budget(color_scene):
    scene = color_scene(BUDGETS["small"])
    total, artifacts = spent(scene, HOOKS)
    # the logits of the scene cost one pass over its images
    assert total + len(scene.test) <= BUDGETS["small"].image_passes
    # and most of it is used
    assert total > 0.4 * BUDGETS["small"].image_passes
    # this scene has no recordings, and too few images for clusters
    left_out = {name for name, own in artifacts.items() if any(one.name == "left_out" for one in own)}
    assert left_out == {"dynamics", "slices"}


@pytest.mark.parametrize(
    "name",
    [
        "saliency",
        "hardest",
        "jacobian_maps",
        "jacobian_classes",
        "explanations",
        "prototypes.each_epoch",
        "influence",
        "layers",
    ],
)
def test_a_hook_stays_within_its_share(color_scene, name):
    budget = Budget("medium", images=100, classes=5, passes=20)
    scene = replace(color_scene(budget), methods=("gradient", "lrp.epsilon", "smoothgrad"))
    total, _ = spent(scene, [name])
    assert 0 < total <= SHARES[name] * budget.image_passes


def test_a_budget_that_is_too_small_leaves_out_hooks_with_a_reason(color_scene):
    budget = Budget("tiny", images=2, classes=2, passes=20)
    scene = replace(color_scene(budget), methods=("lrp.epsilon_plus_flat", "gradient"))
    total, artifacts = spent(scene, SHARES.keys() - {"logits", "embedding"})
    for name, own in artifacts.items():
        assert [one.name for one in own] == ["left_out"], name
        assert "budget" in own[0].caption
        assert own[0].numbers["reason"]
    # a hook learns the price of its work by doing it once
    assert total < 10 * budget.image_passes


def test_price_is_counted_in_forward_passes(color_scene):
    scene = color_scene(BUDGETS["small"])
    allowance = Allowance(scene, "explanations")
    before = allowance.left
    price = price_of(scene, allowance, "gradient", {})
    with FlopCounterMode(display=False) as counter:
        images = scene.test.floats([0]).requires_grad_()
        for parameter in scene.model.parameters():
            parameter.requires_grad_(False)
        scene.model(images).max().backward()
    # the analyzer evaluates the logits once more before it differentiates
    own = counter.get_total_flops() / forward_flops(scene)
    assert own <= price <= own + 1
    # the measurement itself is paid for, and one forward pass for the unit
    assert allowance.left == pytest.approx(before - price - 1)


def test_a_measured_price_is_charged_again(color_scene):
    scene = color_scene(BUDGETS["small"])
    first, second = Allowance(scene, "gallery"), Allowance(scene, "gallery")
    prices = [price_of(scene, one, "lrp.epsilon", {}) for one in (first, second)]
    assert prices[0] == prices[1] > 0
    assert first.left == second.left


def test_without_a_budget_nothing_is_measured_or_limited(color_scene):
    scene = color_scene(None)
    allowance = Allowance(scene, "gallery")
    with FlopCounterMode(display=False) as counter:
        assert allowance.price("anything", lambda: scene.model(scene.test.floats())) == 0
    assert counter.get_total_flops() == 0
    assert (allowance.images(7000), allowance.classes(12), allowance.affordable(0.0, 5)) == (7000, 12, 5)
    assert bounded_options(scene, "integrated_gradients") == {}


def test_affordable_leaves_room_for_checks(color_scene):
    allowance = Allowance(color_scene(BUDGETS["small"]), "saliency")
    allowance.left = 25.0
    assert allowance.affordable(10.0, 12) == 2
    assert allowance.affordable(10.0, 12, calls=3) == 1
    assert allowance.affordable(100.0, 12) == 0


def test_numbers_do_not_depend_on_the_hooks_before(color_scene):
    budget = Budget("medium", images=100, classes=5, passes=20)
    scenes = [replace(color_scene(budget), methods=("gradient", "lrp.epsilon", "smoothgrad")) for _ in range(2)]
    alone = spent(scenes[0], ["gallery"])[1]["gallery"]
    after = spent(scenes[1], ["explanations", "gallery"])[1]["gallery"]
    assert alone[0].numbers == after[0].numbers


@pytest.mark.parametrize("name", ["shapley_sampling", "rise", "occlusion"])
def test_expensive_methods_are_bounded(color_scene, name):
    scene = replace(color_scene(BUDGETS["small"]), methods=("gradient", name))
    total, artifacts = spent(scene, ["explanations"])
    (artifact,) = artifacts["explanations"]
    assert total <= SHARES["explanations"] * BUDGETS["small"].image_passes
    assert set(artifact.numbers["methods"]) | set(artifact.numbers["refused"]) == {"gradient", name}
    assert artifact.numbers["options"][name] == bounded_options(scene, name)


def test_methods_left_out_are_named(color_scene):
    budget = Budget("medium", images=100, classes=5, passes=20)
    scene = replace(color_scene(budget), methods=("gradient", "lrp.epsilon", "integrated_gradients"))
    artifact, *_ = spent(scene, ["gallery"])[1]["gallery"]
    left_out = artifact.numbers["left_out"]
    assert "integrated_gradients" in left_out
    assert "forward passes per image" in left_out["integrated_gradients"]
    assert "Omitted to stay within the budget" in artifact.caption
    assert set(left_out).isdisjoint(artifact.numbers["methods"])


def test_jacobians_of_a_budget_are_rows_of_the_full_ones(color_scene):
    scene = color_scene(Budget("medium", images=100, classes=3, passes=20))
    (limited,) = spent(scene, ["jacobian_maps"])[1]["jacobian_maps"]
    classes, indices = limited.numbers["jacobian_classes"], limited.numbers["indices"]
    assert len(classes) == 3
    full = torch.func.vmap(torch.func.jacrev(lambda x: scene.model(x[None])[0]))(scene.test.floats(indices))
    torch.testing.assert_close(torch.from_numpy(limited.arrays["jacobian"]), full[:, classes], rtol=1e-4, atol=1e-6)
    norms = torch.linalg.matrix_norm(full[:, classes].flatten(2).double(), 2)
    assert limited.numbers["spectral_norm"] == pytest.approx(norms.tolist(), rel=1e-4)
    assert limited.numbers["finite_difference_error"] < 1e-5


def test_prototypes_of_a_budget_are_of_the_classes_with_most_errors(color_scene):
    scene = color_scene(Budget("medium", images=100, classes=4, passes=40))
    (artifact,) = spent(scene, ["prototypes"])[1]["prototypes"]
    assert artifact.numbers["classes"] == scene.shown_classes(len(artifact.numbers["classes"]))
    assert set(artifact.numbers["left_out"]) == {"expert", "code"}
    assert artifact.numbers["refused"] == {}
    assert artifact.numbers["ways"]["l2"]["knobs"]["steps"] >= 24
    first = artifact.numbers["classes"][0]
    mean = scene.train.floats((scene.train.labels == first).nonzero().flatten()).mean(0)
    torch.testing.assert_close(torch.from_numpy(artifact.arrays["class_means"][0]), mean)


def test_embedding_has_the_images_of_the_budget(color_scene):
    scene = color_scene(Budget("medium", images=20, classes=5, passes=20))
    (artifact,) = spent(scene, ["tsne"])[1]["tsne"]
    assert len(artifact.arrays["points"]) == 20
    assert "20 test images" in artifact.caption
