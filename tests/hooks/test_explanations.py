from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from pellucid.attribution import METHODS, create_analyzer
from pellucid.core.errors import PellucidError
from pellucid.evaluation import DEFAULT_METHODS
from pellucid.hooks import Scene
from pellucid.hooks.explanations import Explanations

Maker = Callable[..., Scene]


def test_default_methods_span_the_families() -> None:
    assert len(set(DEFAULT_METHODS)) == 12
    assert all(name in METHODS for name in DEFAULT_METHODS)
    assert {METHODS[name].family for name in DEFAULT_METHODS} == {"gradient", "backward", "relevance"}


def test_maps_match_the_method_for_the_predicted_class(make_scene: Maker) -> None:
    scene = make_scene(methods=("gradient", "input_x_gradient", "occlusion"))
    (artifact,) = Explanations().run(scene)
    numbers = artifact.numbers
    assert numbers["methods"] == ["gradient", "input_x_gradient", "occlusion"]
    assert numbers["targets"] == scene.logits[numbers["indices"]].argmax(1).tolist()
    images, targets = scene.test.floats(numbers["indices"]), torch.tensor(numbers["targets"])
    np.testing.assert_array_equal(artifact.arrays["source"], images.numpy())
    leaf = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(scene.model.eval()(leaf).gather(1, targets[:, None]).sum(), leaf)
    np.testing.assert_allclose(artifact.arrays["gradient"], gradient.numpy(), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(artifact.arrays["input_x_gradient"], (gradient * images).numpy(), rtol=1e-5, atol=1e-7)
    assert not np.allclose(artifact.arrays["occlusion"], artifact.arrays["gradient"])


def test_residuals_are_recorded_if_a_sum_is_promised(make_scene: Maker) -> None:
    (artifact,) = Explanations().run(make_scene(methods=("gradient", "lrp.epsilon")))
    residuals = artifact.numbers["residuals"]
    assert residuals["gradient"] is None
    assert len(residuals["lrp.epsilon"]) == len(artifact.numbers["indices"])
    assert max(map(abs, residuals["lrp.epsilon"])) < 1e-4


def test_each_method_has_its_own_scale_centered_at_zero(make_scene: Maker) -> None:
    (artifact,) = Explanations().run(make_scene(channels=3, methods=("gradient", "input_x_gradient")))
    assert artifact.figure is not None
    shown = [axes.images[0] for axes in artifact.figure.axes if axes.images][1]
    assert shown.get_clim() == (-1.0, 1.0)
    summed = artifact.arrays["gradient"][0].sum(0) / artifact.numbers["scale_limits"]["gradient"]
    np.testing.assert_allclose(shown.get_array()[:9, :9], summed, rtol=1e-5)


class Detached(nn.Module):
    """Detaches part of its computation, which LRP refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(81, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.flatten(1)
        return self.linear(flat * torch.from_numpy((flat.detach().numpy() > 0.2).astype("float32")))


def test_refused_method_is_named_and_the_others_are_shown(make_scene: Maker) -> None:
    (artifact,) = Explanations().run(make_scene(model=Detached(), methods=("gradient", "lrp.epsilon")))
    assert artifact.numbers["methods"] == ["gradient"]
    assert set(artifact.numbers["refused"]) == {"lrp.epsilon"}
    with pytest.raises(PellucidError, match="no method applies to this model"):
        list(Explanations().run(make_scene(model=Detached(), methods=("lrp.epsilon",))))


def test_methods_are_fitted_to_training_images(make_scene: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pellucid.hooks._methods.FITTED_IMAGES", 40)
    methods = ("gradient", "pattern.attribution", "expected_gradients")
    scene = make_scene(count=90, methods=methods)
    train = scene.test[list(range(80))]
    (artifact,) = Explanations().run(replace(scene, train=train))
    assert artifact.numbers["methods"] == list(methods)
    fitted = create_analyzer("pattern.attribution", scene.model).fit([train.floats(list(range(0, 80, 2)))])
    numbers = artifact.numbers
    expected = fitted.analyze(scene.test.floats(numbers["indices"]), torch.tensor(numbers["targets"]))
    np.testing.assert_allclose(artifact.arrays["pattern.attribution"], expected.numpy(), rtol=1e-4, atol=1e-6)
    (without,) = Explanations().run(replace(scene, train=None))
    assert set(without.numbers["refused"]) == {"pattern.attribution", "expected_gradients"}
    assert "learns from data" in without.numbers["refused"]["pattern.attribution"]
