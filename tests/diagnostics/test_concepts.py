"""Reference images of channels, receptive fields, and explanations by channels."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pellucid
from pellucid.attribution import create_analyzer
from pellucid.core.errors import ConfigError, DataError, PellucidError, ShapeError
from pellucid.diagnostics._receptive import receptive_fields
from pellucid.diagnostics._references import Batch, collect
from pellucid.diagnostics.concepts import used_for


def small(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3, stride=2), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(45, 3))


def images(count: int = 40, size: int = 10) -> Tensor:
    return torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(3))


# --- receptive fields ------------------------------------------------------------------------------------------


class Strange(nn.Module):
    """Dilation, padding, pooling, a residual sum and a shift, whose receptive fields no formula gives."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 3, (3, 5), padding=(1, 2), dilation=(2, 1))
        self.second, self.end = nn.Conv2d(3, 3, 3, padding=1), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.pad(self.first(x), (0, 1, 2, 0)), 2)
        return self.end(x + torch.roll(F.relu(self.second(x)), 1, 3)).flatten(1)


@pytest.mark.parametrize(
    ("model", "layer", "shape"),
    [
        (small(), "3", (1, 1, 10, 10)),
        (nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.AvgPool2d(2), nn.Conv2d(2, 2, 3)), "2", (1, 1, 11, 8)),
        (Strange(), "end", (1, 2, 9, 8)),
        (nn.Sequential(nn.Conv1d(2, 3, 4, stride=2), nn.Conv1d(3, 3, 2)), "1", (1, 2, 13)),
        (nn.Sequential(nn.Conv3d(1, 2, 2), nn.MaxPool3d(2)), "1", (1, 1, 5, 4, 6)),
    ],
)
def test_receptive_fields_are_what_changes_of_single_pixels_reach(model, layer, shape) -> None:
    """Brute force: with all weights and pixels positive, changing a pixel changes every output that depends on it."""
    axis = 1
    fields = receptive_fields(model, torch.rand(shape), layer, axis=axis)
    model = model.double()
    for parameter in model.parameters():
        parameter.data = parameter.data.abs() + 0.1
    seen: list[Tensor] = []
    model.get_submodule(layer).register_forward_hook(lambda _m, _i, out: seen.append(out.detach().clone()))
    x = torch.rand(shape, dtype=torch.float64)
    model(x)
    count = x[0, 0].numel()
    touched = []
    for pixel in range(count):
        changed = x.clone()
        # a large value wins every maximum
        changed.view(1, shape[1], -1)[..., pixel] += 1e3
        model(changed)
        touched.append((seen[-1] != seen[0]).any(1).flatten())
    hits = torch.stack(touched).view(*shape[2:], -1)
    for position in range(hits.shape[-1]):
        places = hits[..., position].nonzero()
        low, high = places.amin(0), places.amax(0) + 1
        assert fields.boxes[position].tolist() == torch.stack([low, high], 1).tolist()
    assert not fields.are_whole


def test_global_operations_see_the_whole_image() -> None:
    class Squeeze(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.gate = nn.Conv2d(1, 2, 3), nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            return self.gate(x * x.mean((2, 3), keepdim=True).sigmoid()).flatten(1)

    assert receptive_fields(Squeeze(), torch.rand(1, 1, 6, 7), "gate").are_whole
    fields = receptive_fields(small(), torch.rand(1, 1, 10, 10), "5")
    assert fields.positions == ()
    assert fields.boxes.tolist() == [[[0, 9], [0, 9]]]  # the stride leaves out the last row and column


def test_tokens_of_a_transformer_see_their_patch_first_and_everything_later() -> None:
    class Patches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch, self.norm = nn.Conv2d(1, 8, 4, stride=4), nn.LayerNorm(8)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.after = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            tokens = self.norm(self.patch(x).flatten(2).transpose(1, 2))
            return self.after(tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]).mean(1)

    image = torch.rand(1, 1, 8, 12)
    first = receptive_fields(Patches(), image, "norm", axis=-1)
    assert first.boxes.tolist()[4] == [[4, 8], [4, 8]]
    assert receptive_fields(Patches(), image, "after", axis=-1).are_whole


def test_a_model_that_refuses_nan_counts_the_whole_image_and_says_so() -> None:
    class Careful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3)

        def forward(self, x: Tensor) -> Tensor:
            assert bool(x.isfinite().all()), "expected finite pixels"
            return self.conv(x).flatten(1)

    fields = receptive_fields(Careful(), torch.rand(1, 1, 6, 6), "conv")
    assert fields.are_whole
    assert "cannot be run with NaN" in fields.note


def test_a_model_that_mixes_the_images_of_a_batch_is_probed_one_image_at_a_time() -> None:
    class Mixing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x - x.mean(0, keepdim=True) * 0.1).flatten(1)

    assert receptive_fields(Mixing(), torch.rand(1, 1, 6, 6), "conv").boxes[0].tolist() == [[0, 3], [0, 3]]


# --- references ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [40, 7])
def test_references_are_the_images_with_the_largest_values(size) -> None:
    """Brute force over all images, whatever the size of the batches."""
    model, x = small(), images()
    analyzer = create_analyzer("lrp.epsilon", model)
    batches = [Batch(torch.arange(40)[n : n + size], x[n : n + size], None) for n in range(0, 40, size)]
    found = collect(analyzer, "1", batches, count=4)
    explained = analyzer.explain(x, to="1")
    values = {"relevance": explained.relevance.sum((2, 3)), "activation": explained.activations.amax((2, 3))}
    for by, own in values.items():
        ranking = getattr(found, by)
        for channel in range(6):
            order = own[:, channel].argsort(descending=True, stable=True)[:4]
            kept = order[own[order, channel] > 0]
            assert ranking.indices[channel].tolist() == kept.tolist() + [-1] * (4 - len(kept))
            torch.testing.assert_close(ranking.values[channel][: len(kept)], own[kept, channel])
    maps = {"relevance": explained.relevance, "activation": explained.activations}
    for by, own in maps.items():
        first = getattr(found, by)
        for channel in (0, 3):
            image, position = int(first.indices[channel, 0]), int(first.positions[channel, 0])
            assert position == int(own[image, channel].argmax())
    for label in range(3):
        chosen = explained.target == label
        assert int(found.images[label]) == int(chosen.sum())
        if bool(chosen.any()):
            expected = values["relevance"][chosen].mean(0)
            torch.testing.assert_close(found.mean_relevance[label], expected, rtol=1e-4, atol=1e-6)
    assert found.worst <= 1


def test_silent_channels_have_no_references() -> None:
    model = small()
    with torch.no_grad():
        model[0].bias[2] = -100  # never active
    found = pellucid.concepts(model, images(), "1", count=3)
    assert len(found.references(2)) == len(found.references(2, "activation")) == 0
    assert found.references(2).images.shape == (0, 1, 10, 10)
    assert used_for(found.mean_relevance[:, 2], found.explained, None) == "no evidence for any class"


def test_concepts_of_a_data_set() -> None:
    model, x = small(), images()
    labels = torch.arange(40) % 3
    found = pellucid.concepts(model, (x, labels), "3", count=4, classes=["a", "b", "c"], target="label")
    assert (found.images, found.channels, found.classes) == (40, 5, ("a", "b", "c"))
    assert found.explained.tolist() == [14, 13, 13]
    channel = int(found.mean_relevance.sum(0).argmax())
    references = found.references(channel, maps=True)
    torch.testing.assert_close(references.images, x[references.indices])
    # the second convolution has stride 2: receptive fields of 5×5 pixels
    assert {tuple(crop.shape) for crop in references.crops} == {(1, 5, 5)}
    top, left = references.boxes[0, :, 0].tolist()
    torch.testing.assert_close(references.crops[0], x[references.indices[0], :, top : top + 5, left : left + 5])
    own = found.analyzer.explain_channels(references.images, "3", channels=[channel])
    torch.testing.assert_close(references.maps, own.maps[:, 0])
    assert found.top(1, 2) == found.mean_relevance[1].argsort(descending=True)[:2].tolist()


def test_an_explanation_shows_each_channel_with_its_references(tmp_path) -> None:
    model, x = small(), images()
    found = pellucid.concepts(model, x, "1", count=3)
    why = found.explain(x[:2], 1, channels=3)
    with pytest.raises(ConfigError, match="'horse' is no class"):
        found.explain(x[:2], "horse")
    assert set(why.through.channels.flatten().tolist()) == set(why.references)
    torch.testing.assert_close(
        why.through.maps, found.analyzer.explain_channels(x[:2], "1", 1, channels=3).maps, rtol=1e-6, atol=1e-8
    )
    figure = why.figure(1)
    texts = [text.get_text() for text in figure.texts]
    assert "Why class 1: channels of 1" in texts
    share = float(why.through.shares[1, 0])
    assert f"channel {int(why.through.channels[1, 0])}" in texts
    assert f"{share:+.0%}".replace("-", "−") in texts
    assert why.save(tmp_path / "why.png").read_bytes()[:4] == b"\x89PNG"
    assert list(tmp_path.iterdir()) == [tmp_path / "why.png"]
    with pytest.raises(ConfigError, match=r"use one of the suffixes \.png, \.pdf, \.svg"):
        why.save(tmp_path / "why.html")
    with pytest.raises(ConfigError, match="index from 0 to 1"):
        why.figure(2)
    assert len(found.figure([0, 1], count=2).axes) == 1


def test_images_that_cannot_be_read_are_left_out_and_counted() -> None:
    class Broken(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 10

        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            picture = torch.full((1, 10, 10), torch.nan) if index == 4 else images(10)[index]
            return picture, -1 if index == 7 else index % 3

    found = pellucid.concepts(small(), Broken(), "1", target="label")
    assert found.images == 8
    assert found.notes == ("left out: 1 image that cannot be read", "left out: 1 image without a label")
    kept = found.relevance.indices
    assert not bool(((kept == 4) | (kept == 7)).any())


def test_normalized_models_get_displayed_images_and_pixels_back() -> None:
    model, x = small(), images()
    found = pellucid.concepts(model, ((x - 0.5) / 0.25, torch.zeros(40).long()), "1", mean=0.5, std=0.25)
    channel = int(found.mean_relevance.sum(0).argmax())
    references = found.references(channel)
    torch.testing.assert_close(references.images, x[references.indices], rtol=1e-4, atol=1e-5)
    why = found.explain((x[:1] - 0.5) / 0.25)
    torch.testing.assert_close(why.through.inputs, x[:1], rtol=1e-4, atol=1e-5)


def test_wrong_arguments_are_refused_before_any_work() -> None:
    model, x = small(), images()
    with pytest.raises(ConfigError, match="'gradient' does not propagate relevance"):
        pellucid.concepts(model, x, "1", method="gradient")
    with pytest.raises(ConfigError, match="count"):
        pellucid.concepts(model, x, "1", count=0)
    with pytest.raises(DataError, match="a stream"):
        pellucid.concepts(model, iter([(x[0], 0)]), "1")
    with pytest.raises(ShapeError, match="axis=1 or axis=-1"):
        pellucid.concepts(nn.Sequential(nn.Flatten(2), nn.Linear(4, 3), nn.Flatten()), torch.rand(4, 1, 2, 2), "1")
    for target, words in (("all", "not possible"), ("label", "has no labels"), ("horse", "no class 'horse'")):
        with pytest.raises(PellucidError, match=words):
            pellucid.concepts(model, x, "1", target=target)
    other = create_analyzer("lrp.epsilon", small(1))
    with pytest.raises(ConfigError, match="another model"):
        pellucid.concepts(model, x, "1", method=other)
    found = pellucid.concepts(model, x, "1")
    for wrong in (6, -1, True):
        with pytest.raises(ConfigError, match="no channel"):
            found.references(wrong)


@pytest.mark.filterwarnings("error")
def test_the_model_is_left_as_it_was() -> None:
    model = small().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = pellucid.concepts(model, images(), "1")
    found.references(0)
    assert model.training
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
    assert not model[1]._forward_hooks


def test_wrong_arguments_of_results_are_refused_by_name() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4))
    images = torch.rand(5, 1, 6, 6)
    found = pellucid.concepts(model, images, "1", classes=("cat", "dog", "cow", "hen"))
    assert found.top("dog") == found.top(1)
    wrong: list[tuple[Callable[[], Any], str]] = [
        (lambda: found.top(4), "4 is no class"),
        (lambda: found.top(-1), "-1 is no class"),
        (lambda: found.top("rat"), "'rat' is no class"),
        (lambda: found.top(1, 0), "count"),
        (lambda: pellucid.concepts(model, images, "1", classes=("cat", "dog")), "2 names, but the model has 4 classes"),
        (lambda: pellucid.concepts(model, images, "1", target=-1), "4 classes; pass 0 to 3"),
    ]
    for call, words in wrong:
        with pytest.raises(ConfigError, match=words):
            call()
