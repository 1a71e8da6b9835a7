"""Random networks of supported operations are explained completely; an unsupported operation is refused by name."""

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pellucid import create_analyzer
from pellucid.attribution import AmplificationWarning
from pellucid.core.errors import UnsupportedOperation
from unsupported import UNSUPPORTED

CHANNELS = 4
METHODS = (
    "lrp.alpha_2_beta_1",
    "lrp.gamma",
    "lrp.epsilon_plus_flat",
    "lrp.w_square",
    "excitation_backprop",
    "deeplift",
)
"""Each network is explained by one of these in addition to lrp.epsilon."""

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu_": lambda x: F.relu(x, inplace=True),
    "gelu": F.gelu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "elu": F.elu,
    "hardswish": F.hardswish,
    "leaky_relu": F.leaky_relu,
    "mish": F.mish,
    "relu6": F.relu6,
    "softplus": F.softplus,
}
POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "max": lambda x: F.max_pool2d(x, 3, 1, 1),
    "average": lambda x: F.avg_pool2d(x, 3, 1, 1),
    "half": lambda x: F.interpolate(F.max_pool2d(x, 2), scale_factor=2),
    "adaptive": lambda x: F.interpolate(F.adaptive_max_pool2d(x, 3), size=8),
}
NORMS = ("batch", "group", "layer", "none", "none")
WIRINGS = ("plain", "residual", "in_place_residual", "reuse", "concat", "gate", "branch", "view", "slice")


class Stage(nn.Module):
    """A convolution with a norm, an activation and optional pooling, wired in one of several ways."""

    def __init__(self, plan: tuple[str, str, str, str, bool], generator: torch.Generator) -> None:
        super().__init__()
        norm, self.activation, self.pool, self.wiring, has_bias = plan
        self.conv = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=has_bias)
        self.mix = nn.Conv2d(2 * CHANNELS, CHANNELS, 1)
        self.norm: nn.Module = nn.Identity()
        if norm == "batch":
            self.norm = nn.BatchNorm2d(CHANNELS)
            self.norm.running_mean.normal_(generator=generator)
            self.norm.running_var.uniform_(0.5, 2, generator=generator)
        elif norm != "none":
            self.norm = nn.GroupNorm(2, CHANNELS) if norm == "group" else nn.LayerNorm([CHANNELS, 8, 8])

    def main(self, x: Tensor) -> Tensor:
        x = ACTIVATIONS[self.activation](self.norm(self.conv(x)))
        return POOLS[self.pool](x) if self.pool != "none" else x

    def forward(self, x: Tensor) -> Tensor:
        y = self.main(x)
        match self.wiring:
            case "residual":
                return y + x
            case "in_place_residual":
                y += x
                return y
            case "reuse":
                return self.main(y)
            case "concat":
                return self.mix(torch.cat([x, y], 1))
            case "gate":
                return y * torch.sigmoid(y.mean((2, 3), keepdim=True))
            case "branch":
                return torch.stack([self.main(x), y]).sum(0)
            case "view":
                return y.flatten(2).transpose(1, 2).reshape(len(y), 8, 8, CHANNELS).permute(0, 3, 1, 2)
            case "slice":
                return torch.cat([y[:, 1:], x[:, :1]], 1)
        return y


stages = st.lists(
    st.tuples(
        st.sampled_from(NORMS),
        st.sampled_from(sorted(ACTIVATIONS)),
        st.sampled_from(["none", *sorted(POOLS)]),
        st.sampled_from(WIRINGS),
        st.booleans(),
    ),
    min_size=1,
    max_size=4,
)


class Foreign(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        return UNSUPPORTED[self.name](x)


def build(plans: list[tuple[str, str, str, str, bool]], seed: int) -> tuple[nn.Sequential, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    first = nn.Conv2d(2, CHANNELS, 3, padding=1)
    last = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * CHANNELS, 3))
    model = nn.Sequential(first, *(Stage(plan, generator) for plan in plans), last)
    return model.double().eval(), torch.rand(2, 2, 8, 8, generator=generator).double()


def drawn(examples: int) -> settings:
    return settings(
        max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )


def check(plans: list[tuple[str, str, str, str, bool]], seed: int) -> None:
    model, images = build(plans, seed)
    for name in ("lrp.epsilon", METHODS[seed % len(METHODS)]):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AmplificationWarning)
            explanation = create_analyzer(name, model).explain(images, 1)
        size = explanation.relevance.flatten(1).abs().sum(1).maximum(explanation.logits[:, 1].abs())
        assert (explanation.residual.abs() <= 1e-9 * size).all(), (name, explanation.residual, size)


def check_refused(plans: list[tuple[str, str, str, str, bool]], seed: int, foreign: str, place: int) -> None:
    model, images = build(plans, seed)
    layers = list(model)
    layers.insert(1 + place % len(plans), Foreign(foreign))
    for name in ("lrp.epsilon", "deeplift"):
        with pytest.raises(UnsupportedOperation, match=foreign.split()[0]):
            create_analyzer(name, nn.Sequential(*layers)).analyze(images)
    # only rectifiers matter to Guided Backprop: it takes the derivative of all other operations
    assert create_analyzer("guided_backprop", nn.Sequential(*layers)).analyze(images).isfinite().all()


@drawn(12)
@given(plans=stages, seed=st.integers(0, 99))
def test_some_random_networks_are_complete(plans, seed) -> None:
    check(plans, seed)


@pytest.mark.slow
@pytest.mark.timeout(900)
@drawn(150)
@given(plans=stages, seed=st.integers(0, 10**6))
def test_150_random_networks_are_complete(plans, seed) -> None:
    """No network is refused, and none exceeds the tolerance."""
    check(plans, seed)


@pytest.mark.slow
@drawn(100)
@given(plans=stages, seed=st.integers(0, 10**6), foreign=st.sampled_from(sorted(UNSUPPORTED)), place=st.integers(0, 9))
def test_100_unsupported_operations_are_refused_by_name(plans, seed, foreign, place) -> None:
    check_refused(plans, seed, foreign, place)


@drawn(25)
@given(plans=stages, seed=st.integers(0, 99), foreign=st.sampled_from(sorted(UNSUPPORTED)), place=st.integers(0, 9))
def test_an_unsupported_operation_is_refused_by_name(plans, seed, foreign, place) -> None:
    check_refused(plans, seed, foreign, place)
