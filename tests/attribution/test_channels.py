"""Relevance through single channels of a layer: closed forms, zennit, conservation, counted passes and refusals."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from zennit.composites import LayerMapComposite
from zennit.rules import Epsilon, Gamma, Pass, ZPlus
from zennit.types import Activation, Convolution, Linear

from pellucid import Unit, create_analyzer, engine
from pellucid.core.errors import ConfigError, ShapeError, UnknownName

pytestmark = pytest.mark.filterwarnings("ignore::pellucid.attribution.AmplificationWarning")

CUTS, INSIDE = ("0", "1", "2", "3", "3.relu", "4"), ("2.bn1", "2.conv2")


class Block(nn.Module):
    """A residual block with batch norms."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1, self.conv2 = nn.Conv2d(5, 5, 3, padding=1), nn.BatchNorm2d(5), nn.Conv2d(5, 5, 1)
        self.relu = nn.ReLU()
        nn.init.uniform_(self.bn1.running_var, 0.5, 1.5)
        nn.init.uniform_(self.bn1.weight, 0.5, 1.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(x + self.conv2(torch.relu(self.bn1(self.conv1(x)))))


def residual() -> nn.Sequential:
    torch.manual_seed(1)
    layers = [nn.Conv2d(1, 5, 3), nn.ReLU(inplace=True), Block(), Block(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(20, 4)).double().eval()


def some(count: int, size: int = 8) -> Tensor:
    return torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def plain(seed: int = 0) -> nn.Sequential:
    """A random network without branches, in float64."""
    torch.manual_seed(seed)
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 5, 2), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(20, 4)),
    ).double()


def test_a_channel_carries_its_terms_of_a_linear_network() -> None:
    """f = Σ_c v_c Σ_i w_ci x_i: the map of channel c is v_c w_c ⊙ x."""
    model = nn.Sequential(nn.Linear(5, 3, bias=False), nn.Linear(3, 2, bias=False)).double()
    x = torch.rand(2, 5, dtype=torch.float64)
    through = create_analyzer("lrp.z", model).explain_channels(x, "0", 1, channels=[2, 0, 1])
    first, second = model[0].weight, model[1].weight
    expected = torch.stack([second[1, c] * first[c] * x for c in (2, 0, 1)], 1)
    torch.testing.assert_close(through.maps, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(through.relevance.gather(1, through.channels), expected.sum(2), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(through.shares.sum(1), torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize(
    ("name", "options", "rule"),
    [
        ("lrp.epsilon", {"epsilon": 1e-6}, Epsilon(1e-6)),
        ("lrp.gamma", {"gamma": 0.25}, Gamma(0.25, 1e-6)),
        ("lrp.z_plus", {}, ZPlus(zero_params="bias")),
    ],
)
def test_maps_are_those_of_zennit_with_a_masked_gradient(name, options, rule) -> None:
    model, x = plain(), some(3)
    through = create_analyzer(name, model, **options).explain_channels(x, "1", 2, channels=[4, 0, 5])
    composite = LayerMapComposite([(Activation, Pass()), (Convolution, rule), (Linear, rule)])
    for place, channel in enumerate((4, 0, 5)):
        mask = torch.zeros(6, 1, 1, dtype=torch.float64)
        mask[channel] = 1
        handle = model[1].register_forward_hook(
            lambda _m, _i, out, mask=mask: out.register_hook(lambda slope: slope * mask) and None
        )
        with composite.context(model) as ruled:
            leaf = x.clone().requires_grad_()
            logits = ruled(leaf)
            (own,) = torch.autograd.grad(logits, leaf, torch.eye(4, dtype=torch.float64)[2] * logits.detach())
        handle.remove()
        torch.testing.assert_close(through.maps[:, place], own, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        *(("lrp.epsilon", layer) for layer in (*CUTS, *INSIDE)),
        *((name, layer) for name in ("lrp.gamma", "lrp.alpha_2_beta_1", "lrp.epsilon_plus_flat") for layer in "23"),
        *(("lrp.gamma", layer) for layer in INSIDE),
    ],
)
def test_maps_of_all_channels_sum_to_the_share_of_the_layer(name, layer) -> None:
    """Where all paths pass the layer, that is the whole map; within a branch, the rest is what bypasses it."""
    model, x = residual(), some(2)
    analyzer = create_analyzer(name, model)
    through = analyzer.explain_channels(x, layer, 1, channels=list(range(5)))
    whole = analyzer.explain(x, 1).relevance
    at_layer = analyzer.explain(x, 1, to=layer)
    torch.testing.assert_close(through.relevance, at_layer.relevance.sum((2, 3)), rtol=1e-9, atol=1e-11)
    assert through.residual is not None
    assert through.allowed is not None
    assert bool((through.residual.abs() <= through.allowed).all())
    if layer in CUTS:
        torch.testing.assert_close(through.maps.sum(1), whole, rtol=1e-8, atol=1e-10)
    else:
        assert not torch.allclose(through.maps.sum(1), whole, rtol=1e-2)


def test_the_most_relevant_channels_come_first() -> None:
    model, x = plain(), some(4)
    analyzer = create_analyzer("lrp.epsilon", model)
    through = analyzer.explain_channels(x, "4", channels=3)
    order = through.relevance.argsort(dim=1, descending=True)[:, :3]
    assert through.channels.tolist() == order.tolist()
    assert through.maps.shape == (4, 3, 1, 8, 8)
    # one row of indices per image gives the same maps, and so does each image alone
    rows = analyzer.explain_channels(x, "4", channels=order)
    torch.testing.assert_close(rows.maps, through.maps)
    alone = torch.cat([analyzer.explain_channels(one[None], "4", channels=3).maps for one in x])
    torch.testing.assert_close(alone, through.maps, rtol=1e-8, atol=1e-12)
    assert analyzer.explain_channels(x, "4", channels=99).maps.shape[1] == 5


def test_channels_per_image_follow_their_images_over_several_batches() -> None:
    model = nn.Sequential(nn.Linear(4, 3, bias=False), nn.ReLU(), nn.Linear(3, 2, bias=False)).double()
    x = torch.rand(300, 4, dtype=torch.float64)
    which = torch.arange(300)[:, None] % 3
    analyzer = create_analyzer("lrp.epsilon", model)
    every = analyzer.explain_channels(x, "1", 0, channels=[0, 1, 2]).maps
    own = analyzer.explain_channels(x, "1", 0, channels=which).maps
    torch.testing.assert_close(own[:, 0], every[torch.arange(300), which[:, 0]])


class Tokens(nn.Module):
    """A token model, whose hidden values are (batch, token, feature)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.inner, self.last = nn.Embedding(9, 6), nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.last(torch.relu(self.inner(self.embed(ids))).mean(1))


def test_tokens_need_the_axis_of_their_features() -> None:
    model, ids = Tokens().double(), torch.tensor([[1, 2, 3], [4, 0, 8]])
    analyzer = create_analyzer("lrp.epsilon", model)
    with pytest.raises(ShapeError, match=r"\(2, 3, 5\)|\(1, 3, 5\).*axis=1 or axis=-1"):
        analyzer.explain_channels(ids, "inner", 1)
    through = analyzer.explain_channels(ids, "inner", 1, channels=range(5), axis=-1)
    assert through.maps.shape == (2, 5, 3, 6)
    torch.testing.assert_close(through.maps.sum(1), analyzer.analyze(ids, 1), rtol=1e-8, atol=1e-10)


class Pair(nn.Module):
    """A model of two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.last = nn.Linear(3, 4), nn.Linear(2, 4), nn.Linear(4, 2)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.last(torch.relu(self.left(a) + self.right(b)))


def test_maps_of_several_inputs_have_their_structure() -> None:
    class Named(Pair):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.ReLU()

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.last(self.act(self.left(a) + self.right(b)))

    model = Named().double()
    inputs = {"a": torch.rand(3, 3, dtype=torch.float64), "b": torch.rand(3, 2, dtype=torch.float64)}
    analyzer = create_analyzer("lrp.epsilon", model)
    through = analyzer.explain_channels(inputs, "act", 0, channels=[0, 1, 2, 3])
    whole = analyzer.analyze(inputs, 0)
    assert through.maps["b"].shape == (3, 4, 2)
    for name in inputs:
        torch.testing.assert_close(through.maps[name].sum(1), whole[name], rtol=1e-8, atol=1e-10)


def test_a_hidden_unit_is_explained_through_the_channels_below_it() -> None:
    model, x = plain(), some(2)
    unit = Unit("4", channel=1, at="mean")
    analyzer = create_analyzer("lrp.epsilon", model)
    through = analyzer.explain_channels(x, "1", unit, channels=range(6))
    torch.testing.assert_close(through.maps.sum(1), analyzer.analyze(x, unit), rtol=1e-8, atol=1e-10)


class Counted(TorchDispatchMode):
    """Counts convolutions and their backward passes."""

    def __init__(self) -> None:
        super().__init__()
        self.forward, self.backward = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> object:
        name = func.name()
        self.forward += name in ("aten::convolution", "aten::mkldnn_convolution")
        self.backward += name == "aten::convolution_backward"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("name", "most"), [("lrp.epsilon", 1), ("lrp.epsilon_plus_flat", 1), ("lrp.gamma", 2)])
def test_a_channel_costs_no_forward_pass_and_one_or_two_backward_passes(name, most) -> None:
    """The forward pass and the denominators are shared; γ distributes positive and negative units separately."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(8, 8, 3, padding=1) for _ in range(4)]
    below = [part for layer in layers for part in (layer, nn.ReLU())]
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), *below, nn.Flatten(), nn.Linear(8 * 36, 3)).double()
    x, analyzer = torch.rand(2, 1, 6, 6, dtype=torch.float64), create_analyzer(name, model)
    counts = []
    for channels in (1, 8):
        analyzer.explain_channels(x, "9", 0, channels=1)  # checks of the first call
        with Counted() as counted:
            analyzer.explain_channels(x, "9", 0, channels=channels)
        counts.append((counted.forward, counted.backward))
    (few, one), (many, eight) = counts
    assert few == many
    assert eight - one <= 7 * 5 * most


def test_wrong_choices_are_refused_by_name() -> None:
    model, x = plain(), some(2)
    analyzer = create_analyzer("lrp.epsilon", model)
    with pytest.raises(ConfigError, match="'integrated_gradients' does not propagate relevance by rules"):
        create_analyzer("integrated_gradients", model).explain_channels(x, "1")
    with pytest.raises(ConfigError, match="target='all'"):
        analyzer.explain_channels(x, "1", "all")
    with pytest.raises(ConfigError, match="from 0 to 5"):
        analyzer.explain_channels(x, "1", channels=[6])
    with pytest.raises(ConfigError, match="channels is 0"):
        analyzer.explain_channels(x, "1", channels=0)
    for wrong in (1.5, [True], [], "3", [0.5]):
        with pytest.raises(ConfigError, match="expected a number of channels"):
            analyzer.explain_channels(x, "1", channels=wrong)
    with pytest.raises(ShapeError, match="one row of indices"):
        analyzer.explain_channels(x, "1", channels=torch.zeros(3, 2, dtype=torch.long))
    with pytest.raises(ShapeError, match="axis=7 is no channel axis"):
        analyzer.explain_channels(x, "1", axis=7)
    with pytest.raises(UnknownName):
        analyzer.explain_channels(x, "nowhere")
    for layer in ("", ["1", "3"]):
        with pytest.raises(ConfigError, match="name of (a|one) layer"):
            analyzer.explain_channels(x, layer)


def test_the_model_and_its_gradients_are_left_as_they_were() -> None:
    model, x = plain().train(), some(2)
    before = [parameter.clone() for parameter in model.parameters()]
    create_analyzer("lrp.epsilon", model).explain_channels(x, "1")
    assert model.training
    assert all(torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert not model[1]._forward_hooks


def _halves(first: Any, second: Any, changed: dict[str, Any]) -> Any:
    """Return a rule of two rules, half of the relevance each, the second for a changed node."""

    def rule(node: Any, relevance: Tensor, account: Any) -> list[Tensor]:
        other = replace(node, **{name: change(node) for name, change in changed.items()})
        parts = first(node, relevance / 2, account), second(other, relevance / 2, account)
        return [parts[0][0] + parts[1][0]]

    return rule


@pytest.mark.parametrize(
    "rule",
    [
        _halves(engine.WSquare(), engine.Flat(), {}),
        _halves(engine.WSquare(), engine.WSquare(bias=True), {}),
        _halves(engine.Epsilon(bias=False), engine.Epsilon(bias=False), {"weight": lambda node: node.weight.abs()}),
        _halves(engine.Gamma(0.2), engine.Gamma(0.2), {"x": lambda node: node.x.abs()}),
    ],
)
def test_a_rule_made_of_several_keeps_their_denominators_apart(rule: Any) -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3, groups=2), nn.Flatten(), nn.Linear(24, 3))
    analyzer = create_analyzer("lrp.epsilon", model.double(), rules={"convolution": rule})
    images = torch.randn(2, 2, 6, 6, dtype=torch.float64)
    through = analyzer.explain_channels(images, "2", 1, channels=list(range(6)))
    whole = analyzer.analyze(images, 1)
    torch.testing.assert_close(through.maps.sum(1), whole, rtol=1e-9, atol=1e-9 * float(whole.abs().max()))
