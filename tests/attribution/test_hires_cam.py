"""HiResCAM: its formula, loop by loop, and its sum below a linear head."""

import pytest
import torch
from torch import nn

from pellucid import create_analyzer


@pytest.mark.parametrize("layer", ["0", "1", "3", None])
def test_equals_the_formula(network, images, layer) -> None:
    explanation = create_analyzer("hires_cam", network, layer=layer).explain(images, 1)
    after = 5 if layer is None else int(layer) + 1
    maps = network[:after](images).detach().requires_grad_()
    slope = torch.autograd.grad(network[after:](maps)[:, 1].sum(), maps)[0]
    expected = torch.zeros(len(images), *maps.shape[2:]).double()
    for k in range(maps.shape[1]):
        expected += slope[:, k] * maps[:, k].detach()
    torch.testing.assert_close(explanation.details["map"], expected, rtol=1e-9, atol=1e-14)
    positive = create_analyzer("hires_cam", network, layer=layer, relu=True).analyze(images, 1)
    assert bool((positive >= 0).all())


def test_positions_sum_to_the_logit_below_a_linear_head(images) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 3)).double()
    explanation = create_analyzer("hires_cam", model).explain(images, "all")
    total = explanation.details["map"].flatten(2).sum(2) + model[3].bias
    torch.testing.assert_close(total, explanation.logits + 0 * total)


def test_differs_from_grad_cam_where_positions_matter(network, images) -> None:
    both = [create_analyzer(name, network, relu=False).explain(images, 1) for name in ("hires_cam", "grad_cam")]
    first, second = (explanation.details["map"].flatten(1) for explanation in both)
    assert float(torch.cosine_similarity(first, second).max()) < 0.999
