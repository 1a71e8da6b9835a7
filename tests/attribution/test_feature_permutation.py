"""Feature permutation: the mean of captum's over all rotations of a batch, an explicit loop, and references."""

import captum.attr
import pytest
import torch
from torch import nn

from pellucid import create_analyzer, load_fitted, save_fitted
from pellucid.core.errors import ConfigError, ShapeError
from pellucid.core.seeding import generator

MASK = torch.arange(10)[:, None] // 4 * 3 + torch.arange(10) // 4


def test_the_mean_over_all_rotations_of_a_batch_agrees_with_captum(network, images, targets) -> None:
    total = torch.zeros_like(images)
    for shift in range(len(images)):

        def rotate(x: torch.Tensor, mask: torch.Tensor, shift: int = shift) -> torch.Tensor:
            return torch.where(mask.bool(), x.roll(shift, 0), x)

        method = captum.attr.FeaturePermutation(network, perm_func=rotate)
        total += method.attribute(images, target=targets, feature_mask=MASK[None, None])
    analyzer = create_analyzer("feature_permutation", network, segments=MASK, samples=100).fit([images])
    torch.testing.assert_close(analyzer.analyze(images, targets), total / len(images))


def test_few_samples_are_drawn_without_replacement(network, images) -> None:
    references = torch.rand(6, 1, 10, 10).double()
    options = {"segments": MASK, "samples": 2, "references": references, "seed": 4}
    explanation = create_analyzer("feature_permutation", network, **options).explain(images, 2)
    source = generator(4, "feature_permutation")
    for segment in range(9):
        first, second = torch.randperm(6, generator=source)[:2].tolist()
        assert first != second
        replaced = [torch.where(segment == MASK, references[index], images) for index in (first, second)]
        drop = network(images)[:, 2] - (network(replaced[0]) + network(replaced[1]))[:, 2] / 2
        ours = explanation.relevance[:, 0][:, segment == MASK]
        torch.testing.assert_close(ours, drop.detach()[:, None].expand_as(ours))
    assert explanation.evaluations.tolist() == [19] * 4


def test_a_reference_equal_to_the_image_changes_nothing(network, images) -> None:
    analyzer = create_analyzer("feature_permutation", network, references=images[:1])
    assert not analyzer.analyze(images[:1], 1).abs().gt(1e-12).any()


def test_several_inputs_take_references_in_their_structure() -> None:
    class Sum(nn.Module):
        def forward(self, image: torch.Tensor, age: torch.Tensor) -> torch.Tensor:
            return image.flatten(1).sum(1, keepdim=True) + 3 * age[:, None]

    image, age = torch.rand(2, 1, 2, 2).double(), torch.rand(2).double()
    others = torch.rand(5, 1, 2, 2).double(), torch.rand(5).double()
    analyzer = create_analyzer("feature_permutation", Sum(), references=others, patch=1)
    maps = analyzer.analyze((image, age), 0)
    torch.testing.assert_close(maps[0], image - others[0].mean(0))
    torch.testing.assert_close(maps[1], 3 * (age - others[1].mean()))


def test_references_are_required_saved_and_checked(network, images, tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"'feature_permutation' learns from data; call fit\(loader\)"):
        create_analyzer("feature_permutation", network).analyze(images)
    fitted = create_analyzer("feature_permutation", network, samples=2).fit([images])
    save_fitted(fitted, tmp_path / "fitted.safetensors")
    restored = load_fitted(create_analyzer("feature_permutation", network, samples=2), tmp_path / "fitted.safetensors")
    assert torch.equal(restored.analyze(images, 1), fitted.analyze(images, 1))
    with pytest.raises(ShapeError, match=r"feature_permutation has 2 references of \(1, 5, 5\)"):
        create_analyzer("feature_permutation", network, references=torch.rand(2, 1, 5, 5)).analyze(images)
