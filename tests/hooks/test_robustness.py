"""The hook `robustness`: its numbers agree with the library, and every part that is missing has a reason."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.hooks.conftest import logits_of, make_images
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pellucid.core.budget import BUDGETS, Budget
from pellucid.core.contracts import ImageSet
from pellucid.diagnostics.robustness import CORRUPTIONS, Attack, MovementSearch, corruption_accuracy, first_order_radius
from pellucid.hooks import Scene
from pellucid.hooks._budget import SHARES
from pellucid.hooks.robustness import Robustness

Maker = Callable[..., Scene]
QUICK = Robustness(
    images=20,
    attacked=4,
    explained=2,
    attack=Attack(steps=5, starts=2, rounds=4, tolerance=0.2),
    search=MovementSearch(draws=2, steps=3),
)


def trained(make_scene: Maker, **changes) -> Scene:
    """Return a scene whose predictions are the labels of most images."""
    scene = make_scene(**changes)
    labels = scene.logits.argmax(1).clone()
    labels[0] = (labels[0] + 1) % 4
    return replace(scene, test=ImageSet(scene.test.pixels, labels, scale=scene.test.scale))


def test_numbers_agree_with_the_library(make_scene: Maker) -> None:
    scene = trained(make_scene)
    corrupted, adversarial, moved = QUICK.run(scene)
    assert (corrupted.name, adversarial.name, moved.name) == ("", "adversarial", "explanations")
    indices = torch.arange(20) * 60 // 20
    expected = corruption_accuracy(scene.model, scene.test.floats(indices), scene.test.labels[indices])
    for name in CORRUPTIONS:
        assert corrupted.numbers["accuracy"][name] == expected.accuracy(name).tolist()
        assert corrupted.numbers["low"][name] == expected.interval(name)[0].tolist()
    assert corrupted.numbers["left_out"] == {}
    # the first image is misclassified
    chosen = adversarial.numbers["indices"]
    assert len(chosen) == 4
    assert 0 not in chosen
    images, labels = scene.test.floats(chosen), scene.test.labels[chosen]
    for norm in ("l2", "linf"):
        numbers = adversarial.numbers[norm]
        estimate = first_order_radius(scene.model, images, labels, norm=norm).radius
        assert numbers["estimates"] == pytest.approx(estimate.tolist(), rel=1e-5)
        changed = torch.from_numpy(adversarial.arrays[f"adversarial_{norm}"])
        assert logits_of(scene.model, ImageSet(changed, labels)).argmax(1).tolist() == numbers["predictions"]
        assert (torch.tensor(numbers["predictions"]) != labels).all()
        change = (changed - images).flatten(1)
        size = change.norm(dim=1) if norm == "l2" else change.abs().amax(1)
        assert numbers["radii"] == pytest.approx(size.tolist(), rel=1e-4)
    np.testing.assert_array_equal(adversarial.arrays["source"], images.numpy())
    assert set(moved.numbers["methods"]) == {"gradient", "lrp.epsilon_plus_flat"}
    assert moved.numbers["radii"]["fixed"] == [0.02] * 2
    halves = [radius / 2 for radius in adversarial.numbers["linf"]["radii"][:2]]
    assert moved.numbers["radii"]["half_of_adversarial"] == pytest.approx(halves, rel=1e-4)


def test_methods_are_those_of_the_user(make_scene: Maker) -> None:
    *_, moved = QUICK.run(trained(make_scene, methods=("input_x_gradient", "gradient", "lrp.z")))
    assert set(moved.numbers["methods"]) == {"input_x_gradient", "gradient"}


def test_pixels_of_unknown_scale(make_scene: Maker) -> None:
    scene = make_scene(channels=3, size=(7, 12))
    test = ImageSet(scene.test.floats() * 4 - 2, scene.test.labels, scale=(-2.0, 2.0))
    test = ImageSet(test.pixels, logits_of(scene.model, test).argmax(1), scale=test.scale)
    scene = replace(scene, test=test, logits=logits_of(scene.model, test))
    artifacts = list(QUICK.run(scene))
    assert [one.name for one in artifacts] == ["", "adversarial", "explanations"]
    assert artifacts[1].numbers["pixel_range"] == (-2.0, 2.0)
    assert artifacts[2].numbers["radii"]["fixed"] == pytest.approx([0.08] * 2)
    assert artifacts[1].arrays["adversarial_linf"].min() >= -2


def test_missing_parts_have_a_reason(make_scene: Maker) -> None:
    scene = trained(make_scene)
    wrong = replace(scene, test=ImageSet(scene.test.pixels, (scene.logits.argmax(1) + 1) % 4))
    (artifact,) = QUICK.run(wrong)
    assert artifact.numbers["left_out"] == {"adversarial": "no test image is classified correctly."}
    assert "no test image is classified correctly" in artifact.caption
    assert artifact.numbers["accuracy"]["blur"][0] == 0

    class Cut(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.detach().flatten(1)[:, :4]

    (artifact,) = QUICK.run(_cut(scene, Cut()))
    assert "detach" in artifact.numbers["left_out"]["adversarial"]
    assert "\n" not in artifact.caption


def _cut(scene: Scene, model: nn.Module) -> Scene:
    logits = model(scene.test.floats())
    return replace(scene, model=model, logits=logits, test=ImageSet(scene.test.pixels, logits.argmax(1)))


@pytest.mark.slow
def test_images_with_nan_logits_are_not_attacked(make_scene: Maker) -> None:
    scene = trained(make_scene)
    logits = scene.logits.clone()
    logits[1:40] = torch.nan
    _, adversarial, *_ = QUICK.run(replace(scene, logits=logits))
    assert min(adversarial.numbers["indices"]) >= 40


@pytest.mark.slow
def test_two_and_many_classes(make_scene: Maker) -> None:
    for classes in (2, 40):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(81, 20), nn.ReLU(), nn.Linear(20, classes))
        scene, test = make_scene(), make_images(60, 1, (9, 9), 2)
        logits = logits_of(model, test)
        names = tuple(f"${label}" for label in range(classes))
        test = ImageSet(test.pixels, logits.argmax(1))
        scene = replace(scene, model=model, test=test, logits=logits, classes=names)
        corrupted, adversarial, *_ = QUICK.run(scene)
        assert corrupted.numbers["accuracy"]["noise"][0] == 1
        text = " ".join(" ".join(one.get_text() for one in adversarial.figure.texts).split())
        assert f"nearest of the {min(10, classes)} leading classes" in text


@pytest.mark.slow
@pytest.mark.parametrize("budget", [BUDGETS["small"], BUDGETS["default"]], ids=lambda budget: budget.name)
def test_the_hook_stays_within_its_share(make_scene: Maker, budget: Budget) -> None:
    scene = replace(trained(make_scene), budget=budget)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        scene.model(scene.test.floats([0]))
    unit = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        artifacts = list(Robustness().run(scene))
    assert 0 < counter.get_total_flops() / unit <= SHARES["robustness"] * budget.image_passes
    is_small = budget.name == "small"
    assert [one.name for one in artifacts][:2] == [""] if is_small else ["", "adversarial"]
    assert ("adversarial" in artifacts[0].numbers["left_out"]) == is_small


def test_a_tiny_budget_leaves_everything_out(make_scene: Maker) -> None:
    scene = replace(trained(make_scene), budget=Budget("tiny", images=2, classes=2, passes=20))
    (artifact,) = Robustness().run(scene)
    assert artifact.name == "left_out"
    assert "budget" in artifact.caption
