from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from pellucid.attribution import create_analyzer
from pellucid.core.errors import PellucidError
from pellucid.hooks import Scene
from pellucid.hooks.hardest import METHOD, Hardest

Maker = Callable[..., Scene]


def test_images_are_sorted_by_decreasing_loss(make_scene: Maker) -> None:
    scene = make_scene()
    (artifact,) = Hardest(images=7).run(scene)
    probabilities = scene.logits.double().softmax(1).numpy()
    labels = scene.test.labels.numpy()
    losses = -np.log(probabilities[np.arange(60), labels])
    order = sorted(range(60), key=lambda index: -losses[index])[:7]
    numbers = artifact.numbers
    assert numbers["indices"] == order
    assert numbers["labels"] == labels[order].tolist()
    assert numbers["predictions"] == probabilities[order].argmax(1).tolist()
    assert numbers["losses"] == pytest.approx(losses[order], rel=1e-5)
    assert numbers["confidences"] == pytest.approx(probabilities[order].max(1), abs=1e-6)
    assert numbers["true_probabilities"] == pytest.approx(np.exp(-losses[order]), abs=1e-6)


def test_maps_explain_the_predicted_class(make_scene: Maker) -> None:
    scene = make_scene(channels=3)
    (artifact,) = Hardest().run(scene)
    numbers = artifact.numbers
    images, targets = scene.test.floats(numbers["indices"]), torch.tensor(numbers["predictions"])
    expected = create_analyzer(METHOD, scene.model).analyze(images, targets).numpy()
    assert numbers["method"] == METHOD
    np.testing.assert_array_equal(artifact.arrays["source"], images.numpy())
    np.testing.assert_allclose(artifact.arrays["relevance"], expected, rtol=1e-5, atol=1e-8)
    assert artifact.arrays["relevance"].dtype == np.float32
    limits = [float(np.quantile(np.abs(one.sum(0)), 0.998)) for one in expected]
    assert numbers["scale_limits"] == pytest.approx(limits, rel=1e-4)
    assert artifact.figure is not None
    shown = [axes.images[0] for axes in artifact.figure.axes if axes.images][1]
    assert shown.get_clim() == (-1.0, 1.0)
    np.testing.assert_allclose(shown.get_array()[:9, :9], expected[0].sum(0) / limits[0], rtol=1e-4, atol=1e-6)


def test_selected_classes_and_method(make_scene: Maker) -> None:
    scene = make_scene(chosen_classes=(2, 0), methods=("input_x_gradient", "gradient"))
    (artifact,) = Hardest(images=60).run(scene)
    assert set(artifact.numbers["labels"]) == {0, 2}
    assert artifact.numbers["chosen_classes"] == [2, 0]
    assert f"hardest test images of {scene.classes[2]}, {scene.classes[0]}: the " in artifact.caption
    assert artifact.numbers["method"] == "input_x_gradient"


class Detached(nn.Module):
    """Detaches part of its computation, which LRP refuses; gradients exist."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(81, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.flatten(1)
        return self.linear(flat * torch.from_numpy((flat.detach().numpy() > 0.2).astype("float32")))


def test_gradient_is_the_fallback_and_the_figure_says_so(
    make_scene: Maker,
) -> None:
    scene = make_scene(model=Detached())
    (artifact,) = Hardest().run(scene)
    assert artifact.numbers["method"] == "gradient"
    assert list(artifact.numbers["refused"]) == [METHOD]
    assert artifact.figure is not None
    assert any("does not apply" in text.get_text() for text in artifact.figure.texts)
    scene.model.register_forward_hook(lambda *_: torch.zeros(len(_[1][0]), 4))
    with pytest.raises(PellucidError, match="no method applies"):
        list(Hardest().run(scene))


def test_nan_losses_come_first(make_scene: Maker) -> None:
    scene = make_scene()
    logits = scene.logits.clone()
    logits[5] = torch.nan
    (artifact,) = Hardest(images=2).run(replace(scene, logits=logits))
    assert artifact.numbers["indices"][0] == 5
