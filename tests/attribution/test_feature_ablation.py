"""Feature ablation: equal to captum, and to occlusion with windows that do not overlap; masks, superpixels."""

import captum.attr
import pytest
import torch
from torch import nn

from pellucid import create_analyzer
from pellucid.attribution._segments import superpixels_of
from pellucid.core.errors import ConfigError, ShapeError, UnsupportedOperation

MASK = torch.randint(7, (10, 10), generator=torch.Generator().manual_seed(0)) * 3 - 5


def test_agrees_with_captum(network, images, targets) -> None:
    _, labels = MASK.unique(return_inverse=True)
    theirs = captum.attr.FeatureAblation(network).attribute(
        images, target=targets, feature_mask=labels[None, None], baselines=0.3
    )
    ours = create_analyzer("feature_ablation", network, segments=MASK, baseline=0.3).analyze(images, targets)
    torch.testing.assert_close(ours, theirs)


def test_patches_equal_occlusion_without_overlap(network, images, targets) -> None:
    ours = create_analyzer("feature_ablation", network, patch=(2, 5)).analyze(images, targets)
    occluded = create_analyzer("occlusion", network, window=(2, 5), stride=(2, 5)).analyze(images, targets)
    torch.testing.assert_close(ours, occluded)


@pytest.mark.parametrize("name", ["shapley_sampling", "kernel_shap", "lime", "feature_ablation"])
def test_a_mask_of_patches_equals_the_patches(network, images, name) -> None:
    mask = torch.arange(10)[:, None] // 5 * 2 + torch.arange(10) // 5
    by_mask = create_analyzer(name, network, segments=mask.to(torch.int32)).analyze(images, 1)
    assert torch.equal(by_mask, create_analyzer(name, network, patch=5).analyze(images, 1))
    with_channels = create_analyzer(name, network, segments=mask[None]).analyze(images, 1)
    assert torch.equal(by_mask, with_channels)


def test_channels_can_be_segments() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).double()
    x = torch.rand(2, 3, 2, 2).double()
    mask = torch.arange(3)[:, None, None].expand(3, 2, 2)
    relevance = create_analyzer("feature_ablation", model, segments=mask).analyze(x, 1)
    terms = (model[1].weight[1].detach() * x.flatten(1)).view(2, 3, 4).sum(2)
    torch.testing.assert_close(relevance, terms[:, :, None, None].expand(2, 3, 2, 2))


def test_invalid_masks_are_refused(network, images) -> None:
    for mask in (MASK.float(), MASK[:5], MASK[None, None], torch.zeros(2, 10, 10, dtype=torch.int64)):
        with pytest.raises(
            ShapeError, match=r"segments is a mask of shape .*expected integer labels of shape \(10, 10\)"
        ):
            create_analyzer("feature_ablation", network, segments=mask).analyze(images)
    with pytest.raises(ConfigError, match="the option segments of FeatureAblation is 'quick'"):
        create_analyzer("feature_ablation", network, segments="quick")


class Sum(nn.Module):
    def forward(self, image: torch.Tensor, age: torch.Tensor) -> torch.Tensor:
        return torch.stack([image.flatten(1).sum(1) + age, age], 1)


@pytest.mark.parametrize("segments", ["slic", MASK])
def test_several_inputs_and_tokens_refuse_other_segments(segments) -> None:
    inputs = torch.rand(2, 1, 10, 10), torch.rand(2)
    with pytest.raises(UnsupportedOperation, match=r"segments is .*for a single input of floats.*segments='grid'"):
        create_analyzer("feature_ablation", Sum(), segments=segments).analyze(inputs, 0)
    model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 2))
    with pytest.raises(UnsupportedOperation, match="token ids into tokens"):
        create_analyzer("feature_ablation", model, segments=segments).analyze(torch.tensor([[1, 2, 3]]), 0)
    with pytest.raises(ConfigError, match="patch is 2, but each token is one segment"):
        create_analyzer("feature_ablation", model, patch=2).analyze(torch.tensor([[1, 2, 3]]), 0)


def test_each_token_is_a_segment() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 2)).double()
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    terms = (model[0](ids) * model[2].weight[1].view(3, 4)).sum(2).detach()
    ablated = create_analyzer("feature_ablation", model).analyze(ids, 1)
    torch.testing.assert_close(ablated, terms[..., None].expand(2, 3, 4))
    for name in ("kernel_shap", "shapley_sampling"):
        torch.testing.assert_close(create_analyzer(name, model).analyze(ids, 1).sum(2), terms)


def colored(count: int, size: int = 24) -> torch.Tensor:
    """Images of four colored quarters with noise."""
    source = torch.Generator().manual_seed(5)
    quarters = torch.rand(count, 3, 2, 2, generator=source).double()
    whole = torch.nn.functional.interpolate(quarters, size=size, mode="nearest")
    return (whole + 0.05 * torch.rand(count, 3, size, size, generator=source)).clamp(0, 1)


@pytest.mark.integrations
def test_superpixels_respect_edges_and_differ_between_images() -> None:
    pytest.importorskip("skimage")
    images = colored(2)
    first, second = (superpixels_of(image, 16) for image in images)
    assert first.shape == (3, 24, 24)
    assert 8 <= int(first.max()) + 1 <= 24
    assert torch.equal(first[0], first[2])
    assert not torch.equal(first, second)
    quarter = (torch.arange(24)[:, None] >= 12) * 2 + (torch.arange(24) >= 12)
    crossing = [label for label in first[0].unique() if len(quarter[first[0] == label].unique()) > 1]
    assert not crossing
    assert torch.equal(superpixels_of(images[0] * 100 - 3, 16), first)  # whatever the range of the values


@pytest.mark.integrations
@pytest.mark.parametrize("name", ["shapley_sampling", "kernel_shap", "lime", "feature_ablation"])
def test_superpixels_of_a_batch_equal_those_of_each_image(name) -> None:
    pytest.importorskip("skimage")
    torch.manual_seed(0)
    images, baseline = colored(3), colored(3).flip(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(196, 3)).double()
    analyzer = create_analyzer(name, model, segments="slic", superpixels=9, baseline=baseline)
    together = analyzer.explain(images, "all")
    for number in range(3):
        single = create_analyzer(name, model, segments="slic", superpixels=9, baseline=baseline[[number]])
        alone = single.explain(images[[number]], "all")
        torch.testing.assert_close(alone.relevance[0], together.relevance[number])
        assert int(alone.evaluations) == int(together.evaluations[number])
        index = superpixels_of(images[number], 9)
        by_mask = create_analyzer(name, model, segments=index, baseline=baseline[[number]])
        torch.testing.assert_close(by_mask.analyze(images[[number]], "all"), alone.relevance)


def test_superpixels_need_gray_or_color_images_and_scikit_image(monkeypatch) -> None:
    with pytest.raises(ShapeError, match=r"the images are \(2, 8, 8\); SLIC needs"):
        superpixels_of(torch.rand(2, 8, 8), 4)
    monkeypatch.setitem(__import__("sys").modules, "skimage", None)
    monkeypatch.delitem(__import__("sys").modules, "skimage.segmentation", raising=False)
    with pytest.raises(ConfigError, match=r"segments='slic' needs .*skimage"):
        superpixels_of(torch.rand(1, 8, 8), 4)
