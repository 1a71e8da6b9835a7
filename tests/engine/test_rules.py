"""Agreement of the rules with zennit, in float64, on networks with every operation that the rules treat differently."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zennit import rules as zennit_rules
from zennit.attribution import Gradient
from zennit.canonizers import SequentialMergeBatchNorm
from zennit.composites import EpsilonGammaBox, EpsilonPlusFlat, ExcitationBackprop, LayerMapComposite
from zennit.composites import layer_map_base as zennit_base
from zennit.torchvision import ResNetCanonizer
from zennit.types import Linear

from pellucid import create_analyzer
from pellucid.attribution import CompletenessWarning
from pellucid.engine.rules import Epsilon
from pellucid.engine.weight_rules import AlphaBeta, Flat, Gamma, WSquare, ZPlus

AGREEMENT = 1e-6


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return (
        nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(6, 8, 3, stride=2, groups=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 8, 2, dilation=2, padding=1, bias=False),
            nn.ReLU(),
            nn.AvgPool2d(2, stride=1),
            nn.Flatten(),
            nn.Linear(32, 12),
            nn.ReLU(),
            nn.Linear(12, 5),
        )
        .double()
        .eval()
    )


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)).double()


def by_zennit(model: nn.Module, images: Tensor, composite: object, classes: Tensor, start: str = "logit") -> Tensor:
    def seed(logits: Tensor) -> Tensor:
        slope = F.one_hot(classes, logits.shape[1]).to(logits)
        return slope * logits.detach() if start == "logit" else slope

    with Gradient(model=model, composite=composite) as attributor:
        return attributor(images, seed)[1].detach()


RULES: list[tuple[object, Callable[[], object]]] = [
    (Epsilon(1e-6), lambda: zennit_rules.Epsilon(1e-6)),
    (Epsilon(0.25), lambda: zennit_rules.Epsilon(0.25)),
    (Gamma(0.25), lambda: zennit_rules.Gamma(0.25)),
    (AlphaBeta(2, 1), lambda: zennit_rules.AlphaBeta(2, 1)),
    (AlphaBeta(1, 0), lambda: zennit_rules.AlphaBeta(1, 0)),
    (AlphaBeta(2, 1, "none"), lambda: zennit_rules.AlphaBeta(2, 1, zero_params=["bias"])),
    (ZPlus(), lambda: zennit_rules.ZPlus()),
    (ZPlus(bias=False), lambda: zennit_rules.ZPlus(zero_params=["bias"])),
    (WSquare(bias=True), lambda: zennit_rules.WSquare()),
    (WSquare(), lambda: zennit_rules.WSquare(zero_params=["bias"])),
    (Flat(), lambda: zennit_rules.Flat()),
]


@pytest.mark.parametrize(("ours", "theirs"), RULES, ids=[repr(pair[0]) for pair in RULES])
def test_a_rule_everywhere_agrees_with_zennit(network, images, ours, theirs) -> None:
    composite = LayerMapComposite(layer_map=[*zennit_base(1e-6), (Linear, theirs())])
    analyzer = create_analyzer("lrp.epsilon", network, epsilon=1e-6, rules={"convolution": ours, "dense": ours})
    expected = by_zennit(network, images, composite, network(images).argmax(1))
    assert relative(analyzer.analyze(images), expected) < AGREEMENT


def test_composites_agree_with_zennit(network, images) -> None:
    classes = network(images).argmax(1)
    low, high = torch.full_like(images[:1], -5), torch.full_like(images[:1], 5)
    pairs = [
        (create_analyzer("lrp.epsilon_plus_flat", network), EpsilonPlusFlat(), "logit"),
        (create_analyzer("lrp.epsilon_gamma_box", network, low=-5, high=5), EpsilonGammaBox(low, high), "logit"),
        (create_analyzer("excitation_backprop", network), ExcitationBackprop(), "one"),
    ]
    for analyzer, composite, start in pairs:
        expected = by_zennit(network, images, composite, classes, start)
        assert relative(analyzer.analyze(images, classes), expected) < AGREEMENT


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(6, 4),
        nn.Conv1d(2, 4, 3, padding=1),
        nn.Conv3d(2, 4, 2, stride=2),
        nn.ConvTranspose1d(2, 4, 3, stride=2, output_padding=1),
        nn.ConvTranspose2d(2, 4, 3, stride=2, padding=1, groups=2),
        nn.Conv2d(2, 4, 3, padding="same"),
        nn.Conv2d(2, 4, 3, padding=(1, 0), dilation=(1, 2), stride=(2, 1)),
    ],
    ids=repr,
)
@pytest.mark.parametrize(("ours", "theirs"), RULES, ids=[repr(pair[0]) for pair in RULES])
def test_every_kind_of_layer_agrees_with_zennit(layer, ours, theirs) -> None:
    torch.manual_seed(0)
    dimensions = 0 if isinstance(layer, nn.Linear) else layer.weight.ndim - 2
    images = torch.randn(3, 6) if not dimensions else torch.randn(3, 2, *(6,) * dimensions)
    model = nn.Sequential(layer, nn.Flatten()).double().eval()
    composite = LayerMapComposite(layer_map=[*zennit_base(1e-6), (Linear, theirs())])
    analyzer = create_analyzer("lrp.epsilon", model, rules={"convolution": ours, "dense": ours})
    images = images.double()
    expected = by_zennit(model, images, composite, model(images).argmax(1))
    assert relative(analyzer.analyze(images), expected) < AGREEMENT


@pytest.mark.parametrize("groups", [1, 2])
def test_a_batch_norm_after_a_transposed_convolution_is_folded_by_group(groups) -> None:
    torch.manual_seed(0)
    layer, norm = nn.ConvTranspose2d(4, 6, 3, groups=groups), nn.BatchNorm2d(6)
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            tensor.normal_()
        norm.running_var.uniform_(0.5, 2)
    model = nn.Sequential(layer, norm, nn.Flatten()).double().eval()
    images = torch.randn(3, 4, 5, 5).double()
    explanation = create_analyzer("lrp.alpha_2_beta_1", model).explain(images, 7, strict=True)

    # by hand: the weight of the merged layer is the Jacobian, split into positive and negative contributions
    jacobian = torch.autograd.functional.jacobian(lambda x: model(x)[0, 7], images[:1])[0]
    bias = model(torch.zeros_like(images[:1]))[0, 7]
    contributions, logits = images * jacobian, model(images)[:, 7]
    for x, c, logit in zip(explanation.relevance, contributions, logits, strict=True):
        upper, lower = c.clamp(min=0), c.clamp(max=0)
        above, below = upper.sum() + bias.clamp(min=0) + 1e-6, lower.sum() + bias.clamp(max=0) - 1e-6
        torch.testing.assert_close(x, (2 * upper / above - lower / below) * logit, rtol=1e-9, atol=1e-12)


def test_resnet_agrees_with_zennit_and_its_canonizer(resnet, monkeypatch) -> None:
    """zennit's canonizer keeps the eps of a batch norm after merging; with eps set to 0, both agree."""
    model, images = resnet
    original = SequentialMergeBatchNorm.merge_batch_norm

    def merge_and_drop_eps(modules, batch_norm):
        original(modules, batch_norm)
        batch_norm.eps = 0.0

    monkeypatch.setattr(SequentialMergeBatchNorm, "merge_batch_norm", staticmethod(merge_and_drop_eps))
    classes = model(images).argmax(1)
    composite = EpsilonPlusFlat(canonizers=[ResNetCanonizer()])
    epsilons = [module.eps for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    expected = by_zennit(model, images, composite, classes)
    for module, eps in zip((m for m in model.modules() if isinstance(m, nn.BatchNorm2d)), epsilons, strict=True):
        module.eps = eps
    assert relative(create_analyzer("lrp.epsilon_plus_flat", model).analyze(images, classes), expected) < AGREEMENT


class Joined(nn.Module):
    """Three branches, concatenated before or after the batch norm."""

    def __init__(self, *, is_joined_first: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.is_joined_first = is_joined_first
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.ConvTranspose2d(3, 5, 3, padding=1)
        self.norm, self.last = nn.BatchNorm2d(12), nn.Linear(12 * 36, 3)
        for tensor in (self.norm.weight, self.norm.bias, self.norm.running_mean):
            tensor.data.normal_()
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.a(x), self.b(x), F.max_pool2d(x, 3, 1, 1)]
        norm = [self.norm.running_mean, self.norm.running_var, self.norm.weight, self.norm.bias]
        if self.is_joined_first:
            joined = self.norm(torch.cat(parts, 1))
        else:
            pieces = zip(parts, *(tensor.split([4, 5, 3]) for tensor in norm), strict=True)
            joined = torch.cat([F.batch_norm(*piece) for piece in pieces], 1)
        return self.last(joined.relu().flatten(1))


@pytest.mark.parametrize("method", ["lrp.epsilon", "lrp.alpha_2_beta_1", "lrp.gamma", "lrp.epsilon_plus_flat"])
def test_a_batch_norm_is_folded_through_a_concatenation(method) -> None:
    images = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(1)).double()
    joined, apart = (
        create_analyzer(method, Joined(is_joined_first=first).double().eval()).explain(images, 1, strict=True)
        for first in (True, False)
    )
    torch.testing.assert_close(joined.logits, apart.logits)
    torch.testing.assert_close(joined.relevance, apart.relevance, rtol=1e-9, atol=1e-12)
    for absorber, amount in apart.absorbed.items():
        torch.testing.assert_close(joined.absorbed[absorber], amount, rtol=1e-9, atol=1e-12)


class Functional(nn.Module):
    """Uses the weights of its layers without calling them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.hidden, self.last = nn.Conv2d(1, 3, 3), nn.Linear(48, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.conv.weight, self.conv.bias).relu().flatten(1)
        return (x @ self.hidden.weight.T).relu() @ self.last.weight.t()


def test_layers_are_identified_by_their_weights() -> None:
    torch.manual_seed(0)
    model, images = Functional().double().eval(), torch.rand(2, 1, 6, 6).double()
    plain = create_analyzer("lrp.epsilon", model).analyze(images, 1)
    for name in ("conv", "hidden", "last"):
        own = create_analyzer("lrp.epsilon", model, rules={name: Gamma(2.0)}).analyze(images, 1)
        assert relative(own, plain) > 1e-3, name
    every = create_analyzer("lrp.epsilon", model, rules={name: Epsilon(1e-7) for name in ("conv", "*d*", "last")})
    torch.testing.assert_close(every.analyze(images, 1), plain)


def test_alpha_and_beta_of_zero_distribute_nothing() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    analyzer = create_analyzer("lrp.epsilon", model, rules={"dense": AlphaBeta(0, 0)})
    with pytest.warns(CompletenessWarning):  # everything is lost, which is not what LRP promises
        assert not analyzer.explain(torch.rand(2, 1, 2, 2)).relevance.any()
