import numpy as np
import pytest
import torch

from pellucid.evaluation.sparseness import Sparseness


def test_the_value_is_the_gini_index(network, by_name):
    method = by_name(network, "gradient")
    result = Sparseness().measure(network, method).values
    for value, relevance in zip(result, method.relevance, strict=True):
        sizes = relevance.abs().flatten().numpy()
        gini = np.abs(sizes[:, None] - sizes).mean() / (2 * sizes.mean())
        assert float(value) == pytest.approx(gini, rel=1e-10)


def test_a_single_pixel_is_sparse_and_a_constant_map_is_not(network, given):
    def one(images, _):
        maps = torch.zeros_like(images)
        maps[0, 0, 3, 3] = -5.0
        maps[1] = 2.0
        return maps

    result = Sparseness().measure(network, given(network, one)).values
    torch.testing.assert_close(result, torch.tensor([1 - 1 / 64, 0.0, 0.0]).double(), atol=1e-12, rtol=0)
