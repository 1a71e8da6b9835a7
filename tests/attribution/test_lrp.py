"""Layer-wise relevance propagation: each variant against its formula, one output neuron at a time.

Every layer with a kernel, a convolution too, is written as a matrix first, so that R_i = Σ_j … can be summed literally.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pellucid import create_analyzer
from pellucid.attribution import METHODS
from pellucid.engine.weight_rules import Flat

Shares = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Function from (x, weights of neuron j, its bias) to the share of R_j that each input receives."""


def stable(z: Tensor, epsilon: float) -> Tensor:
    return z + epsilon if z >= 0 else z - epsilon


def z(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return x * w / ((x * w).sum() + b)


def epsilon(value: float) -> Shares:
    return lambda x, w, b: x * w / stable((x * w).sum() + b, value)


def gamma(value: float) -> Shares:
    def shares(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        sign = torch.sign((x * w).sum() + b)  # contributions with the sign of the pre-activation are favored
        favoured, bias = (part + value * part * (part * sign > 0) for part in (x * w, b))
        return favoured / stable(favoured.sum() + bias, 1e-6)

    return shares


def alpha_beta(alpha: float, beta: float, *, bias: bool = True) -> Shares:
    def shares(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        upper, lower = (x * w).clamp(min=0), (x * w).clamp(max=0)
        above = upper.sum() + bias * b.clamp(min=0)
        below = lower.sum() + bias * b.clamp(max=0)
        return alpha * upper / stable(above, 1e-6) - beta * lower / stable(below, 1e-6)

    return shares


def w_square(bias: bool = False) -> Shares:
    return lambda x, w, b: w**2 / ((w**2).sum() + bias * b**2 + 1e-6)


def flat(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    seen = (w != 0).double()
    return seen / (seen.sum() + 1e-6)


def z_box(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """z^B rule for pixels in [−1, 1]."""
    parts = x * w + w.clamp(min=0) - w.clamp(max=0)
    return parts / (parts.sum() + 1e-6)


STRUCTURE = epsilon(1e-6)
"""Rule of most variants for average pooling."""


@dataclass(frozen=True)
class Rules:
    dense: Shares
    convolution: Shares
    first: Shares | None = None
    average: Shares = STRUCTURE

    def of(self, layer: nn.Module, is_first: bool) -> Shares:
        if is_first and self.first:
            return self.first
        return {nn.Linear: self.dense, nn.Conv2d: self.convolution, nn.AvgPool2d: self.average}[type(layer)]


def everywhere(rule: Shares, average: float = 1e-6, first: Shares | None = None) -> Rules:
    return Rules(rule, rule, first, epsilon(average))


BOX = {"low": -1, "high": 1}
Z_PLUS = alpha_beta(1, 0, bias=False)
TABLE: list[tuple[str, dict[str, Any], Rules]] = [
    ("lrp.z", {}, everywhere(z, 1e-7)),
    ("lrp.epsilon", {}, everywhere(epsilon(1e-7), 1e-7)),
    ("lrp.epsilon", {"epsilon": 0.25}, everywhere(epsilon(0.25))),
    ("lrp.gamma", {}, everywhere(gamma(0.25))),
    ("lrp.gamma", {"gamma": 2}, everywhere(gamma(2))),
    ("lrp.alpha_1_beta_0", {}, everywhere(alpha_beta(1, 0))),
    ("lrp.alpha_2_beta_1", {}, everywhere(alpha_beta(2, 1))),
    ("lrp.alpha_1_beta_0_ib", {}, everywhere(alpha_beta(1, 0, bias=False))),
    ("lrp.alpha_2_beta_1_ib", {}, everywhere(alpha_beta(2, 1, bias=False))),
    ("lrp.z_plus", {}, everywhere(Z_PLUS)),
    ("lrp.z_plus", {"bias": True}, everywhere(alpha_beta(1, 0))),
    ("lrp.w_square", {}, everywhere(w_square())),
    ("lrp.w_square", {"bias": True}, everywhere(w_square(bias=True))),
    ("lrp.flat", {}, everywhere(flat)),
    ("lrp.z_box", BOX, everywhere(z, 1e-7, z_box)),
    ("lrp.sequential_preset_a", {}, Rules(epsilon(0.1), alpha_beta(1, 0))),
    ("lrp.sequential_preset_a", {"epsilon": 0.5}, Rules(epsilon(0.5), alpha_beta(1, 0))),
    ("lrp.sequential_preset_b", {}, Rules(epsilon(0.1), alpha_beta(2, 1))),
    ("lrp.sequential_preset_a_flat", {}, Rules(epsilon(0.1), alpha_beta(1, 0), flat)),
    ("lrp.sequential_preset_b_flat", {}, Rules(epsilon(0.1), alpha_beta(2, 1), flat)),
    ("lrp.epsilon_plus_flat", {}, Rules(epsilon(1e-6), Z_PLUS, flat)),
    ("lrp.epsilon_gamma_box", BOX, Rules(epsilon(1e-6), gamma(0.25), z_box)),
    ("lrp.epsilon_gamma_box", {**BOX, "epsilon": 0.1, "gamma": 1}, Rules(epsilon(0.1), gamma(1), z_box)),
    ("lrp.epsilon", {"rules": {"first": Flat()}}, everywhere(epsilon(1e-7), 1e-7, flat)),
]


def by_hand(model: nn.Sequential, image: Tensor, target: int, rules: Rules) -> Tensor:
    """Compute the relevance of one image layer by layer, one output neuron at a time."""
    values = [image[None]]
    for layer in model:
        values.append(layer(values[-1]).detach())
    relevance = torch.zeros_like(values[-1])
    relevance[0, target] = values[-1][0, target]
    for place, layer in reversed(list(enumerate(model))):
        x = values[place]
        jacobian = torch.autograd.functional.jacobian(lambda x: layer(x).flatten(), x)  # noqa: B023
        matrix, arrived = jacobian.flatten(1), relevance.flatten()
        if isinstance(layer, nn.MaxPool2d):  # its Jacobian is 1 at each winner
            relevance = (arrived @ matrix).view_as(x)
        elif isinstance(layer, (nn.ReLU, nn.Flatten)):
            relevance = relevance.view_as(x)
        else:
            bias, rule = layer(torch.zeros_like(x)).detach().flatten(), rules.of(layer, place == 0)
            shares = [rule(x.flatten(), w, b) * r for w, b, r in zip(matrix, bias, arrived, strict=True)]
            relevance = torch.stack(shares).sum(0).view_as(x)
    return relevance[0]


def dense() -> tuple[nn.Sequential, tuple[int, ...]]:
    return nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 5)), (6,)


def convolutional() -> tuple[nn.Sequential, tuple[int, ...]]:
    layers = [nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 2), nn.ReLU()]
    layers += [nn.AvgPool2d(2, stride=1), nn.Flatten(), nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 5)]
    return nn.Sequential(*layers), (2, 8, 8)


@pytest.mark.parametrize("make", [dense, convolutional])
@pytest.mark.parametrize(("name", "options", "rules"), TABLE, ids=[f"{row[0]}-{row[1]}" for row in TABLE])
def test_equals_the_formula_neuron_by_neuron(make, name, options, rules) -> None:
    torch.manual_seed(0)
    model, shape = make()
    model.double()
    images = torch.rand(2, *shape, generator=torch.Generator().manual_seed(1)).double() * 2 - 1
    targets = [0, 3]
    maps = create_analyzer(name, model, **options).analyze(images, torch.tensor(targets))
    for image, target, relevance in zip(images, targets, maps, strict=True):
        expected = by_hand(model, image, target, rules)
        scale = float(expected.abs().max())
        assert scale > 0
        torch.testing.assert_close(relevance, expected, rtol=1e-8, atol=1e-9 * scale)


def test_every_variant_has_a_formula() -> None:
    assert {row[0] for row in TABLE} == {name for name in METHODS if name.startswith("lrp.")}


def test_gamma_lies_between_epsilon_and_z_plus() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 7, bias=False), nn.ReLU(), nn.Linear(7, 5, bias=False)).double()
    images = torch.rand(3, 6).double()
    targets = model(images).argmax(1)
    for value, name in ((0, "lrp.epsilon"), (1e9, "lrp.z_plus")):
        calm = create_analyzer("lrp.gamma", model, gamma=value).analyze(images, targets)
        torch.testing.assert_close(calm, create_analyzer(name, model).analyze(images, targets), rtol=1e-4, atol=1e-6)
