"""Channels of hidden layers: the choice of layers, references against a brute-force ranking, relevance and maps."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.hooks.conftest import logits_of, make_images
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pellucid.attribution import create_analyzer
from pellucid.core.budget import Budget
from pellucid.core.contracts import Artifact, ImageSet
from pellucid.hooks import Scene, _channels, concepts
from pellucid.hooks._budget import SHARES
from pellucid.hooks._channel_layers import choose_layers
from pellucid.hooks.concepts import ChannelConcepts
from unsupported import UNSUPPORTED

Maker = Callable[..., Scene]
METHOD = "lrp.epsilon_plus_flat"


def deep(channels: int = 1, classes: int = 4) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(channels, 5, 3), nn.ReLU(), nn.Conv2d(5, 6, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(54, classes)
    )  # fmt: skip


def scene_of(make_scene: Maker, model: nn.Module, *, channels: int = 1, count: int = 40, classes: int = 4) -> Scene:
    test = make_images(count, channels, (9, 9))
    names = tuple(f"class {label}" for label in range(classes))
    scene = make_scene(channels=channels, count=count, model=deep(channels))
    return replace(scene, model=model, test=test, train=test, logits=logits_of(model, test), classes=names)


def both(scene: Scene, **options: int) -> list[Artifact]:
    return list(ChannelConcepts(**options).run(scene))


def test_references_are_those_of_a_brute_force_ranking(make_scene: Maker) -> None:
    scene = scene_of(make_scene, deep())
    last, earlier = both(scene)
    assert (last.name, last.numbers["layer"], earlier.name, earlier.numbers["layer"]) == ("", "3", "earlier", "1")
    x, targets = scene.test.floats(), scene.logits.argmax(1)
    analyzer = create_analyzer(METHOD, scene.model)
    for artifact in (last, earlier):
        arrays, layer = artifact.arrays, artifact.numbers["layer"]
        at = [analyzer.explain(x[i : i + 1], targets[i : i + 1], to=layer) for i in range(len(x))]
        relevance = torch.cat([one.relevance.sum((2, 3)) for one in at])
        activation = torch.cat([one.activations.amax((2, 3)) for one in at])
        for name, values in (("relevance", relevance), ("activation", activation)):
            for row, channel in enumerate(arrays["channels"].tolist()):
                positive = [i for i in values[:, channel].argsort(descending=True).tolist() if values[i, channel] > 0]
                stored = arrays[f"{name}_indices"][row]
                assert stored[stored >= 0].tolist() == positive[:8]
                labels = arrays[f"{name}_labels"][row]
                assert labels[stored >= 0].tolist() == scene.test.labels[positive[:8]].tolist()
                np.testing.assert_allclose(
                    arrays[f"{name}_values"][row][stored >= 0], values[positive[:8], channel], rtol=1e-4, atol=1e-6
                )
        for label in range(4):
            own = relevance[targets == label]
            expected = own.mean(0)[arrays["channels"]] if len(own) else torch.zeros(len(arrays["channels"]))
            np.testing.assert_allclose(arrays["mean_relevance"][label], expected, rtol=1e-3, atol=1e-5)
        assert artifact.numbers["class_images"] == torch.bincount(targets, minlength=4).tolist()


def test_crops_are_the_receptive_fields_of_the_strongest_positions(make_scene: Maker) -> None:
    scene = scene_of(make_scene, deep())
    arrays = both(scene)[0].arrays
    # two convolutions of size 3, the second with stride 2: fields of 5×5 pixels, two apart
    assert arrays["crops"].shape[1:] == (5, 5, 1)
    assert len(arrays["crops"]) == arrays["activation_crops"].max() + 1
    values = scene.model[:4](scene.test.floats()).detach()
    for row, channel in enumerate(arrays["channels"].tolist()):
        for rank, index in enumerate(arrays["activation_indices"][row].tolist()):
            if index < 0:
                continue
            top, left = 2 * np.array(np.unravel_index(int(values[index, channel].argmax()), (3, 3)))
            assert arrays["activation_boxes"][row, rank].tolist() == [[top, top + 5], [left, left + 5]]
            crop = arrays["crops"][arrays["activation_crops"][row, rank]][:, :, 0]
            np.testing.assert_array_equal(crop, scene.test.pixels[index, 0, top : top + 5, left : left + 5])


def test_channel_relevance_and_maps_are_those_of_the_analyzer(make_scene: Maker) -> None:
    scene = scene_of(make_scene, deep())
    numbers, arrays = both(scene, images=6, maps=6)[0].numbers, both(scene, images=6, maps=6)[0].arrays
    assert len(numbers["indices"]) == 6
    analyzer = create_analyzer(METHOD, scene.model)
    x = scene.test.floats(numbers["indices"])
    for column in (0, 1):
        targets = torch.tensor(numbers["classes"])[:, column]
        at, pixels = analyzer.explain(x, targets, to="3"), analyzer.explain(x, targets)
        np.testing.assert_allclose(arrays["channel_relevance"][:, column], at.relevance.sum((2, 3)), atol=1e-5)
        sizes = np.abs(np.take_along_axis(arrays["channel_relevance"], arrays["map_channels"], 2))
        assert (np.diff(sizes, axis=2) <= 0).all()
        # all six channels together carry the whole map
        maps = arrays["maps"] / 127 * arrays["scales"][..., None, None]
        tolerance = 6 * float(arrays["scales"].max()) / 254 + 1e-5
        np.testing.assert_allclose(maps[:, column].sum(1), pixels.relevance.sum(1), atol=tolerance)
        logits = scene.logits[numbers["indices"]].gather(1, targets[:, None])[:, 0]
        np.testing.assert_allclose(np.array(numbers["totals"])[:, column], logits, rtol=1e-4, atol=1e-5)
    predicted = scene.logits[numbers["indices"]].argmax(1).tolist()
    assert [pair[0] for pair in numbers["classes"]] == predicted == numbers["predictions"]


def test_stored_channels_are_bounded(make_scene: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_channels, "LARGEST_CROPS", 2 * 4 * 25 * 3)
    artifact = both(scene_of(make_scene, deep()))[0]
    assert artifact.arrays["relevance_crops"].shape == (3, 4)
    assert artifact.arrays["mean_relevance"].shape == (4, 3)
    assert artifact.arrays["channel_relevance"].shape[2] == 6


@pytest.mark.parametrize("channels", [2, 3])
def test_crops_of_images_with_several_channels(make_scene: Maker, channels: int) -> None:
    artifact = both(scene_of(make_scene, deep(channels), channels=channels))[0]
    assert artifact.arrays["crops"].shape[3] == (3 if channels == 3 else 1)
    assert artifact.figure is not None


def test_thousand_classes(make_scene: Maker) -> None:
    scene = scene_of(make_scene, deep(classes=1000), classes=1000)
    last, _ = both(scene, images=5)
    assert last.arrays["mean_relevance"].shape == (1000, 6)
    assert np.array(last.numbers["classes"]).shape == (5, 2)
    json.dumps(last.numbers, allow_nan=False)


def test_one_logit(make_scene: Maker) -> None:
    scene = scene_of(make_scene, deep(classes=1), classes=1)
    scene = replace(scene, test=ImageSet(scene.test.pixels, torch.zeros(40, dtype=torch.int64)))
    assert np.array(both(scene, images=5)[0].numbers["classes"]).tolist() == [[0]] * 5


def test_hidden_layers_of_a_network_without_positions(make_scene: Maker) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(81, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 4))
    last, earlier = both(scene_of(make_scene, model))
    assert [one.numbers["layer"] for one in (last, earlier)] == ["4", "2"]
    assert last.numbers["shape"] == [8]
    assert last.numbers["is_whole"]
    assert last.arrays["crops"].shape[1:] == (9, 9, 1)
    assert last.caption.startswith("Bars, epoch 2: channels of layer 4: 8 channels, explained by")


class _Unsupported(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(81, 6), nn.Linear(6, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(UNSUPPORTED["unsupported_function"](self.hidden(images.flatten(1))))
        return out


def test_models_that_no_rule_applies_to_are_reported(make_scene: Maker) -> None:
    (artifact,) = both(scene_of(make_scene, _Unsupported()))
    assert artifact.name == "left_out"
    assert "unsupported_function" in artifact.numbers["reason"]


def test_models_without_hidden_layers_are_reported(make_scene: Maker) -> None:
    (artifact,) = both(scene_of(make_scene, nn.Sequential(nn.Flatten(), nn.Linear(81, 4))))
    assert artifact.name == "left_out"
    assert "no hidden layer" in artifact.caption


def test_a_single_image_is_reported(make_scene: Maker) -> None:
    (artifact,) = both(scene_of(make_scene, deep(), count=1))
    assert "two test images" in artifact.caption


class _Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.inside(x)


class _Tokens(nn.Module):
    """A transformer without attention: 9 tokens of 8 features, through residual blocks."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, 8, 3, 3)
        self.blocks = nn.Sequential(*(_Residual() for _ in range(blocks)))
        self.head = nn.Linear(8, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.blocks(self.embed(images).flatten(2).mT).mean(1))
        return out


class _ChannelLast(nn.Module):
    """Feature maps (batch, height, width, channel)."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.act, self.head = nn.Linear(1, 7), nn.ReLU(), nn.Linear(7, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.act(self.mix(images.permute(0, 2, 3, 1))).mean((1, 2)))
        return out


class _Parallel(nn.Module):
    """The last activation misses a part of the evidence, which skips it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.act, self.branch = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1)
        self.gate, self.head = nn.Sigmoid(), nn.Linear(4, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.act(self.stem(images))
        out: torch.Tensor = self.head((x + self.gate(self.branch(x))).mean((2, 3)))
        return out


def test_layers_carry_all_evidence() -> None:
    torch.manual_seed(0)
    images = torch.rand(2, 1, 9, 9)
    chosen: list[tuple[nn.Module, Sequence[tuple[str, int, tuple[int, ...]]]]] = [
        (_Tokens(4), [("blocks", 2, (9, 8)), ("blocks.1", 2, (9, 8))]),
        (_ChannelLast(), [("act", 3, (9, 9, 7)), ("mix", 3, (9, 9, 7))]),
        (_Parallel(), [("act", 1, (4, 7, 7)), ("stem", 1, (4, 7, 7))]),
        (nn.Sequential(nn.Flatten(), nn.Linear(81, 4)), []),
    ]
    for model, expected in chosen:
        assert [(one.name, one.axis, one.shape) for one in choose_layers(model, images)] == expected


def test_tokens_and_channel_last_maps_are_explained(make_scene: Maker) -> None:
    for model, channels in ((_Tokens(2), 8), (_ChannelLast(), 7)):
        last, *_ = both(scene_of(make_scene, model, count=12), images=3)
        assert last.name == "", last.caption
        assert last.arrays["channel_relevance"].shape == (3, 2, channels)


def test_the_hook_stays_within_its_share_of_a_budget(make_scene: Maker) -> None:
    scene = replace(scene_of(make_scene, deep()), budget=Budget("test", images=100, classes=5, passes=200))
    with FlopCounterMode(display=False) as unit, torch.no_grad():
        scene.model(scene.test.floats([0]))
    with FlopCounterMode(display=False) as counter:
        last, _ = both(scene)
    spent = counter.get_total_flops() / unit.get_total_flops()
    assert 0 < spent <= SHARES["concepts"] * scene.budget.image_passes
    assert 1 < last.numbers["images"] <= 40
    whole = both(replace(scene, budget=Budget("test", images=100, classes=5, passes=60)))[0]
    assert whole.numbers["is_whole"]
    assert "receptive fields" in whole.caption


def test_large_images_are_bounded(make_scene: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concepts, "PIXEL_VALUES", 10 * 81)
    last = both(scene_of(make_scene, deep()))[0]
    assert last.numbers["images"] == 10
    assert "10 of 40 test images" in last.caption
