"""LayerCAM: its formula, loop by loop, at several layers."""

import pytest
import torch

from pellucid import create_analyzer


@pytest.mark.parametrize("layer", ["0", "1", "2", "3", None])
def test_equals_the_formula(network, images, layer) -> None:
    explanation = create_analyzer("layer_cam", network, layer=layer).explain(images, 1)
    after = 5 if layer is None else int(layer) + 1
    maps = network[:after](images).detach().requires_grad_()
    slope = torch.autograd.grad(network[after:](maps)[:, 1].sum(), maps)[0]
    expected = torch.zeros(len(images), *maps.shape[2:]).double()
    for k in range(maps.shape[1]):
        expected += slope[:, k].clamp(min=0) * maps[:, k].detach()
    torch.testing.assert_close(explanation.details["map"], expected, rtol=1e-9, atol=1e-14)
    assert bool((explanation.relevance >= 0).all())
