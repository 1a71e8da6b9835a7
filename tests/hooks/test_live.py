"""The hook `live`: the network as a program that agrees with it, or the reason why there is none."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from pellucid import create_analyzer
from pellucid.core.budget import Budget
from pellucid.core.preprocessing import Preprocessing
from pellucid.engine.programs.interpreter import Outcome, run_program
from pellucid.engine.programs.program import Program
from pellucid.hooks import Artifact, Scene, live
from pellucid.hooks._strokes import stroke_style
from pellucid.hooks.live import Live
from pellucid.models._adapted import adapted

Maker = Callable[..., Scene]


def program_of(artifact: Artifact) -> Program:
    record = artifact.numbers["program"]
    arrays = artifact.arrays
    return Program(
        tuple(record["input"]), record["steps"], arrays["weights"], arrays["indices"], record["multiply_adds"]
    )


def reason(scene: Scene, **options: int) -> str:
    (artifact,) = Live(**options).run(scene)
    assert artifact.name == "left_out"
    assert not artifact.arrays
    assert "\n" not in artifact.numbers["reason"]
    return artifact.numbers["reason"]


@pytest.mark.parametrize("channels", [1, 3])
def test_the_program_is_the_network(channels: int, make_scene: Maker) -> None:
    scene = make_scene(channels=channels, size=(9, 11))
    (artifact,) = Live().run(scene)
    program, image = program_of(artifact), scene.test.floats([5])
    outcome = run_program(program, image[0].numpy(), 2)
    assert outcome.logits == pytest.approx(scene.logits[5].numpy(), abs=1e-5)
    for name, own in (("gradient", outcome.gradient), ("lrp.epsilon", outcome.relevance)):
        expected = create_analyzer(name, scene.model).analyze(image, 2)[0].numpy()
        assert np.abs(own - expected).max() <= 1e-5 * np.abs(expected).max()
    assert program.weights.dtype == np.float32


def test_examples_are_the_first_correct_image_of_each_class(make_scene: Maker) -> None:
    scene = make_scene()
    logits = torch.eye(4)[scene.test.labels] + 0.0
    wrong = int((scene.test.labels == 1).nonzero()[0])
    logits[wrong] = torch.eye(4)[2]
    scene = replace(scene, logits=logits)
    # the program disagrees with these logits, so only the choice is tested
    indices = live._examples(scene)
    assert scene.test.labels[indices].tolist() == [0, 1, 2]
    assert indices[1] == int((scene.test.labels == 1).nonzero()[1])


def test_a_wrapped_model_keeps_its_normalization_and_crop(make_scene: Maker) -> None:
    scene = make_scene()
    model = adapted(scene.model, Preprocessing((0.3,), (0.2,), resize=12, crop=(9, 9)))
    with torch.no_grad():
        logits = model.eval()(scene.test.floats())
    (artifact,) = Live().run(replace(scene, model=model, logits=logits))
    assert artifact.numbers["crop_share"] == 0.75
    outcome = run_program(program_of(artifact), scene.test.floats([0])[0].numpy())
    assert outcome.logits == pytest.approx(logits[0].numpy(), abs=1e-5)


def test_unsuitable_networks_are_left_out_with_a_reason(make_scene: Maker) -> None:
    scene = make_scene()
    count = sum(parameter.numel() for parameter in scene.model.parameters())
    assert reason(scene, weights=100) == f"it has {count:,} weights, and the report holds at most 100"
    assert reason(scene, multiply_adds=10).endswith("multiplications per image, and the report allows at most 10")
    assert "2 channels" in reason(make_scene(channels=2))
    assert reason(replace(scene, logits=scene.logits * torch.nan)) == "its logits are not finite"
    assert "normalization" in reason(replace(scene, test=replace(scene.test, scale=(-2.0, 2.0))))
    assert "budget" in reason(replace(scene, budget=Budget("tiny", images=2, classes=2, passes=20)))


def test_an_unknown_operation_is_named(make_scene: Maker) -> None:
    model = nn.Sequential(nn.LayerNorm(9), nn.Flatten(), nn.Linear(81, 4)).eval()
    assert reason(make_scene(model=model)) == "it uses layer_norm in '0', which the report does not support"


@pytest.mark.parametrize("part", ["logits", "gradient", "relevance"])
def test_a_program_that_disagrees_is_left_out(part: str, make_scene: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(program: Program, image: np.ndarray, target: int | None = None) -> Outcome:
        outcome = run_program(program, image, target)
        values = getattr(outcome, part).copy()
        values.flat[0] += 1e-3 * np.abs(values).max()
        return replace(outcome, **{part: values})

    monkeypatch.setattr(live, "run_program", wrong)
    assert "of its program differ from the network's by 1.0e-03" in reason(make_scene())


def test_logits_that_disagree_for_a_single_image_are_no_rounding(
    make_scene: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def wrong(program: Program, image: np.ndarray, target: int | None = None) -> Outcome:
        outcome = run_program(program, image, target)
        calls.append(image)
        return replace(outcome, logits=outcome.logits + 1.0) if len(calls) == 2 else outcome

    monkeypatch.setattr(live, "run_program", wrong)
    assert "the logits of its program differ" in reason(make_scene())


class Sorted(nn.Module):
    """A network that sorts its inputs: their order depends on the image, the program has that of one image."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(81, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x.flatten(1).sort(1)[0])


def test_a_program_that_fits_only_the_exported_image_is_left_out(make_scene: Maker) -> None:
    scene = make_scene(model=Sorted().eval())
    assert "the logits of its program differ" in reason(scene, checks=1)


def shapes(count: int, *, bright: bool) -> np.ndarray:
    """Return bars of 2×18 pixels, up to a pixel off the center of 24×24 pixels, on a plain background."""
    random = np.random.default_rng(0)
    images = np.zeros((count, 24, 24))
    for image in images:
        row, column = random.integers(2, 5), random.integers(10, 13)
        image[row : row + 18, column : column + 2] = 1
    return 1 - images if bright else images


@pytest.mark.parametrize("bright", [False, True])
def test_the_style_of_drawn_images_is_measured(bright: bool) -> None:
    style = stroke_style(shapes(100, bright=bright))
    assert style is not None
    assert style["background"] == (1.0 if bright else 0.0)
    assert style["box"] == 18
    # 2 · 36 / (40 · π/4)
    assert style["stroke"] == pytest.approx(2.29, abs=0.01)
    assert style["at"] == [11.5, 11.5]


def test_filled_shapes_are_not_taken_for_strokes() -> None:
    images = np.zeros((3, 28, 28))
    images[:, 2:26, 5:23] = 0.8
    style = stroke_style(images)
    assert style is not None
    assert (style["box"], style["stroke"]) == (24, 4.0)


def test_photographs_and_empty_images_have_no_style() -> None:
    assert stroke_style(np.random.default_rng(0).random((20, 12, 12))) is None
    assert stroke_style(np.zeros((5, 12, 12))) is None
    assert stroke_style(np.zeros((5, 3, 12))) is None
