"""Simple Taylor decomposition: compared with a fine grid search, and on networks with known roots."""

from copy import deepcopy

import torch
from torch import Tensor, nn

from pellucid import create_analyzer


class Parabola(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        mean = x.flatten(1).mean(1, keepdim=True)
        return torch.cat([mean**2 - 0.25, mean + 3], 1)


def test_finds_the_nearest_root() -> None:
    images = torch.tensor([0.75, 0.25]).double()[:, None, None, None].expand(2, 1, 2, 2)
    explanation = create_analyzer("simple_taylor", Parabola()).explain(images, 0)
    assert explanation.details["root_found"].tolist() == [True, False]
    # image 0: x̃ = 0.5, slope 1, distance 0.25; image 1: no root on the line to 0, where the slope is 0
    sums = explanation.relevance.flatten(1).sum(1)
    torch.testing.assert_close(sums, torch.tensor([0.25, 0.0]).double(), rtol=1e-5, atol=1e-5)
    assert any("baseline" in note for note in explanation.notes)


def test_linear_logit_with_a_root_is_distributed_completely(images) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(100, 1)).double()
    with torch.no_grad():
        model[1].bias.copy_(-model(images).mean() / 2)
    explanation = create_analyzer("simple_taylor", model, halvings=45).explain(images, 0)
    f, empty = model(images)[:, 0].detach(), model[1].bias.detach()
    crossing = torch.sign(f) != torch.sign(empty)
    assert torch.equal(explanation.details["root_found"], crossing)
    assert crossing.any()
    expected = torch.where(crossing, f, f - empty)
    torch.testing.assert_close(explanation.relevance.flatten(1).sum(1), expected, rtol=1e-9, atol=1e-12)


def test_equals_a_fine_grid_search(network, images) -> None:
    shares = torch.linspace(0, 1, 4001).double().view(-1, 1, 1, 1)
    model, baseline, found = deepcopy(network), 0.3, []
    with torch.no_grad():  # half of the logits are positive, and some lines to the baseline cross zero
        model[-1].bias -= model(images / 2 + baseline / 2).mean(0)
    for target in (0, 3):
        options = {"baseline": baseline, "places": 64}
        explanation = create_analyzer("simple_taylor", model, **options).explain(images, target)
        for n, image in enumerate(images):
            path = image + shares * (baseline - image)
            with torch.no_grad():
                signs = torch.sign(model(path)[:, target])
            crossed = (signs != signs[0]).nonzero().flatten()
            assert bool(explanation.details["root_found"][n]) == bool(len(crossed))
            place = int(crossed[0]) if len(crossed) else 4000
            found.append(len(crossed) > 0)
            leaf = path[place].clone().requires_grad_()
            expected = torch.autograd.grad(model(leaf[None])[0, target], leaf)[0] * (image - leaf.detach())
            scale = float(expected.abs().max())
            torch.testing.assert_close(explanation.relevance[n], expected, rtol=1e-3, atol=1e-3 * scale)
    assert set(found) == {True, False}
