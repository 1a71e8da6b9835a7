"""The hook `layers`, against the library's functions."""

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from pellucid import create_analyzer, layer_statistics
from pellucid.core.budget import Budget
from pellucid.core.contracts import ImageSet
from pellucid.diagnostics._representations import centered_gram, linear_cka
from pellucid.hooks import Scene
from pellucid.hooks._budget import Allowance
from pellucid.hooks._heads import attention_heads
from pellucid.hooks._kernels import MOST_VALUES, kernel_images
from pellucid.hooks.layers import MOST_ROWS, Layers

Maker = Callable[..., Scene]


class Attends(nn.Module):
    """A transformer block over the patches of an 8×8 image."""

    def __init__(self, heads: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches, self.attention = nn.Conv2d(1, 6, 4, 4), nn.MultiheadAttention(6, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 6))
        self.head = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.head((x + self.mlp(x)).mean(1))


def test_numbers_are_those_of_the_library(make_scene: Maker) -> None:
    scene = make_scene()
    (artifact,) = Layers(images=20).run(scene)
    indices = torch.arange(20) * 3
    expected = layer_statistics(scene.model, scene.test.floats(indices), scene.test.labels[indices])
    assert [row["title"] for row in artifact.numbers["layers"]] == [row.title for row in expected.rows]
    for row, own in zip(artifact.numbers["layers"], expected.rows, strict=True):
        for name in ("mean", "std", "zeros", "effective_rank", "gradient_norm", "gradient_rms"):
            assert row[name] == pytest.approx(getattr(own, name), rel=1e-4)
        assert row["dead"] == len(own.dead_units)
    assert artifact.figure is not None
    drawn = [text.get_text() for axes in artifact.figure.axes for text in axes.texts]
    for row in artifact.numbers["layers"]:
        assert f"{row['effective_rank']:.1f} of {row['rank_bound']}" in drawn
    json.dumps(artifact.numbers, allow_nan=False)


def test_dead_units_are_in_the_caption_and_the_scalars(make_scene: Maker) -> None:
    scene = make_scene()
    with torch.no_grad():
        scene.model[5].bias[:4] = -100  # layer 6 is the ReLU after it, with 16 units
    (artifact,) = Layers().run(scene)
    row = next(row for row in artifact.numbers["layers"] if row["name"] == "6")
    assert 4 <= row["dead"] < 16
    assert f"layer statistics of 60 test images. {row['dead']} of 16 units of 6 (ReLU)" in artifact.caption
    active = [row for row in artifact.numbers["layers"] if row["is_activation"]]
    assert artifact.scalars["dead_units"] == sum(row["dead"] for row in active) / sum(row["units"] for row in active)


def test_similarity_is_that_of_the_outputs(make_scene: Maker) -> None:
    scene = make_scene()
    (artifact,) = Layers().run(scene)
    assert artifact.numbers["cka_titles"] == ["0 (Conv2d)", "5 (Linear)", "7 (Linear)"]
    assert artifact.numbers["cka_previous"] is None
    outputs, x = [], scene.test.floats()
    with torch.no_grad():
        for layer in scene.model.eval():
            x = layer(x)
            if isinstance(layer, nn.Conv2d | nn.Linear):
                outputs.append(x.flatten(1).clone())
    grams = [centered_gram(output) for output in outputs]
    np.testing.assert_allclose(np.array(artifact.numbers["cka"]), linear_cka(grams, grams), atol=1e-4)


def test_epochs_are_compared_with_the_one_before_and_the_first(make_scene: Maker) -> None:
    scene, previous, grams, found = make_scene(), None, [], []
    x = scene.test.floats()
    for epoch in range(3):
        if epoch:
            with torch.no_grad():
                for parameter in scene.model.parameters():
                    parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(epoch))
        artifact = next(iter(Layers().run(replace(scene, epoch=epoch, previous=previous))))
        previous = artifact.arrays
        with torch.no_grad():
            grams.append(centered_gram(scene.model.eval()[:6](x)))
        found.append(artifact.numbers)
    assert found[0]["cka_first"] is None
    assert [one["first_epoch"] for one in found] == [0, 0, 0]
    assert found[1]["cka_previous"] == found[1]["cka_first"]
    for epoch, name, other in ((1, "cka_previous", 0), (2, "cka_previous", 1), (2, "cka_first", 0)):
        expected = linear_cka([grams[epoch]], [grams[other]])[0, 0]
        assert found[epoch][name][1] == pytest.approx(expected, abs=1e-4)
        assert expected < 0.999


def test_arrays_of_other_images_or_layers_are_not_compared(make_scene: Maker) -> None:
    scene = make_scene()
    (first,) = Layers().run(scene)
    for change in ({"kernel_images": first.arrays["kernel_images"][::-1]}, {"kernel_layers": np.array([1])}):
        (artifact,) = Layers().run(replace(scene, previous={**first.arrays, **change}))
        assert artifact.numbers["cka_previous"] is None
    (artifact,) = Layers().run(replace(scene, previous={"points": np.zeros(3)}))
    assert artifact.numbers["first_epoch"] == scene.epoch


@pytest.mark.parametrize("layers", [1, 4, 24, 200])
def test_kernels_are_small(layers: int, make_scene: Maker) -> None:
    test = ImageSet(torch.zeros(5000, 1, 2, 2, dtype=torch.uint8), torch.zeros(5000, dtype=torch.int64))
    count = len(kernel_images(test, layers))
    assert 90 <= count <= 128
    assert min(layers, 24) * count * (count - 1) // 2 <= MOST_VALUES


def test_transformers_have_heads_and_rollouts(make_scene: Maker) -> None:
    scene = make_scene(model=Attends(), size=(8, 8))
    main, heads = Layers().run(scene)
    assert main.numbers["attention"] == ["attention"]
    assert heads.name == "attention"
    assert heads.numbers["layers"] == ["attention"]
    assert heads.numbers["refused"] == {}
    assert heads.arrays["shares"].shape == (1, 2)
    assert heads.arrays["rollout"].shape == (5, 8, 8)
    # the sum over the heads is the share of the attention in the sum with the skip connection
    images = scene.test.floats(torch.arange(8) * len(scene.test) // 8)
    flow = create_analyzer("lrp.epsilon", scene.model).explain(images, to="patches").flow()
    block = next(rows for name, rows in flow.junctions.items() if name.endswith("sum"))
    share = next(row.mean_share for row in block if row.branch.startswith("attention"))
    # the bias of the projection, zero at first, absorbs nothing
    assert heads.arrays["shares"].sum() == pytest.approx(share, abs=1e-4)


def test_refusals_of_attention_are_named(make_scene: Maker) -> None:
    class Windowed(Attends):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            rows = self.patches(x).permute(0, 2, 3, 1).flatten(0, 1)
            return self.head(self.attention(rows, rows, rows)[0].unflatten(0, (-1, 2)).mean((1, 2)))

    scene = make_scene(model=Windowed(), size=(8, 8))
    heads = list(
        attention_heads(scene, layer_statistics(scene.model, scene.test.floats([0])), Allowance(scene, "layers"))
    )
    assert "attention_rollout" in heads[0].numbers["refused"]
    assert "Left out: attention_rollout, because" in heads[0].caption


def test_deep_networks_are_thinned_out(make_scene: Maker) -> None:
    deep = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), *(nn.Linear(8, 8) for _ in range(100)), nn.Linear(8, 4))
    (artifact,) = Layers(images=4).run(make_scene(model=deep, size=(4, 4), count=6))
    assert len(artifact.numbers["layers"]) == MOST_ROWS
    assert [artifact.numbers["layers"][place]["name"] for place in (0, -1)] == ["1", "102"]
    assert f"{MOST_ROWS} of 102 layers" in artifact.caption
    assert len(artifact.numbers["cka"]) == 24


def test_models_that_cannot_be_read_are_left_out_with_a_reason(make_scene: Maker) -> None:
    scene = make_scene(model=nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), nn.Flatten()))
    (artifact,) = Layers().run(scene)
    assert artifact.name == "left_out"
    assert "batch statistics" in artifact.numbers["reason"]
    (artifact,) = Layers().run(replace(make_scene(), model=nn.Flatten()))
    assert "no layer with weights" in artifact.numbers["reason"]


def test_a_budget_limits_the_images(make_scene: Maker) -> None:
    limited = replace(make_scene(), budget=Budget("tiny", images=40, classes=4, passes=40))
    (artifact,) = Layers().run(limited)
    assert 0 < artifact.numbers["images"] < 12
