from itertools import permutations

import numpy as np
import pytest
import torch

from pellucid.evaluation._curves import places
from pellucid.evaluation.selectivity import Selectivity


def slow_area(case, image, order, output):
    """Follow the definition patch by patch: set 3×3 pixels to zero, and read the score after each."""
    x, target = case.images[image : image + 1].clone(), case.targets[image]

    def score():
        logits = case.model(x)[0]
        return float((logits.softmax(0) if output == "probability" else logits)[target])

    scores = [score()]
    for patch in order:
        row, column = divmod(patch, 2)
        x[:, :, 3 * row : 3 * row + 3, 3 * column : 3 * column + 3] = 0
        scores.append(score())
    return np.trapezoid(scores, dx=1 / len(order))


@pytest.mark.parametrize("output", ["logit", "probability"])
@pytest.mark.parametrize("is_recomputed", [False, True])
def test_input_x_gradient_is_optimal_on_a_linear_model(linear, by_name, output, is_recomputed):
    metric = Selectivity(patch_pixels=3, output=output, is_recomputed=is_recomputed)
    result = metric.measure(linear, by_name(linear, "input_x_gradient"))
    for image in range(3):
        areas = [slow_area(linear, image, order, output) for order in permutations(range(4))]
        if output == "logit":
            assert float(result.values[image]) == pytest.approx(min(areas), abs=1e-12)
            assert float(result.beside["least relevant first"][image]) == pytest.approx(max(areas), abs=1e-12)
        assert min(abs(float(result.values[image]) - area) for area in areas) < 1e-12


def test_relevance_is_recomputed_on_the_remaining_pixels(network, by_name):
    method = by_name(network, "gradient")
    result = Selectivity(patch_pixels=4, is_recomputed=True).measure(network, method)
    remaining = network.images.clone()
    gone, scores = [[] for _ in remaining], [network.score(remaining)]
    for _ in range(4):
        relevance = method(remaining, network.targets)
        for image, one in enumerate(relevance):
            sums = {
                patch: float(one[:, 4 * (patch // 2) :, 4 * (patch % 2) :][:, :4, :4].sum())
                for patch in range(4)
                if patch not in gone[image]
            }
            patch = max(sums, key=sums.get)
            gone[image].append(patch)
            remaining[image, :, 4 * (patch // 2) : 4 * (patch // 2) + 4, 4 * (patch % 2) : 4 * (patch % 2) + 4] = 0
        scores.append(network.score(remaining))
    expected = torch.trapezoid(torch.stack(scores, 1), dx=0.25, dim=1)
    torch.testing.assert_close(result.values, expected)


def test_ties_are_broken_at_random_and_equally_for_all_images():
    ranks = places(torch.zeros(2, 5, 4), torch.Generator().manual_seed(0))
    assert sorted(ranks[0].flatten().tolist()) == list(range(20))
    assert ranks[0].flatten().tolist() != list(range(20))
    assert torch.equal(ranks[0], ranks[1])
