"""The bounds of the z^B rule: the inputs they accept, and the rule's values computed by hand."""

import pytest
import torch
from torch import Tensor, nn

from pellucid import create_analyzer
from pellucid.core.errors import ConfigError
from pellucid.engine.weight_rules import Flat, ZBox

BOUNDED = ("lrp.z_box", "lrp.epsilon_gamma_box", "deep_taylor.bounded")
MEAN, STD = torch.tensor([0.5, 0.4, 0.3]).double(), torch.tensor([0.2, 0.25, 0.5]).double()


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 25, 3)
    ).double().eval()  # fmt: skip


def sample(count: int = 4) -> Tensor:
    return torch.rand(count, 3, 5, 5, generator=torch.Generator().manual_seed(1)).double()


def normalized(images: Tensor) -> Tensor:
    return (images - MEAN[:, None, None]) / STD[:, None, None]


class Normalizing(nn.Module):
    """A model with a normalization inside that flips the sign of one channel, so that low and high swap."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.std = nn.Buffer(STD * torch.tensor([1, -1, 1]))

    def forward(self, x: Tensor) -> Tensor:
        return self.model((x - MEAN[:, None, None]) / self.std[:, None, None])


def by_hand(model: nn.Sequential, images: Tensor, low: Tensor, high: Tensor, target: int) -> Tensor:
    """R_i = Σ_j (x_i w_ij − l_i w⁺_ij − h_i w⁻_ij) R_j / Σ_i (…) with a dense matrix; the z rule in the head."""
    size = images[0].numel()
    conv, head = model[0], model[3]
    unit = torch.eye(size).double().view(size, *images.shape[1:])
    w = (conv(unit) - conv.bias[:, None, None]).flatten(1).detach()  # (input, output)
    hidden = conv(images).relu().flatten(1)
    upper = hidden * head.weight[target]  # x_j w_j · logit / logit
    x, low, high = (value.expand(images.shape).flatten(1)[:, :, None] for value in (images, low, high))
    parts = x * w - low * w.clamp(min=0) - high * w.clamp(max=0)
    return (parts / parts.sum(1, keepdim=True) * upper[:, None]).sum(2).view_as(images).detach()


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (-4, 4),
        ([-3, -2.5, -1], [4.0, 3, 2]),
        ((0 - MEAN) / STD, (1 - MEAN) / STD),
        (((0 - MEAN) / STD)[:, None, None].numpy(), 3),
        (torch.linspace(-4, -3, 75).double().reshape(3, 5, 5), torch.full((1, 3, 5, 5), 5.0)),
    ],
    ids=["numbers", "lists", "tensors", "(C, 1, 1)", "one image"],
)
def test_the_rule_agrees_with_its_formula(low, high) -> None:
    model, images = network(), normalized(sample())
    shaped = []
    for bound in (low, high):
        tensor = torch.as_tensor(bound).double()
        shaped.append(tensor[:, None, None] if tensor.ndim == 1 else tensor)
    expected = by_hand(model, images, *shaped, target=1)
    result = create_analyzer("lrp.z_box", model, low=low, high=high).analyze(images, 1)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-6)
    by_rule = create_analyzer("lrp.z", model, rules={"first": ZBox(low, high)}).analyze(images, 1)
    torch.testing.assert_close(by_rule, result)


@pytest.mark.parametrize("name", BOUNDED)
def test_bounds_are_mapped_through_a_normalization_inside_the_model(name) -> None:
    model, images = network(), sample()
    inside = create_analyzer(name, Normalizing(model), low=[0, -0.5, 0], high=[1, 1, 1.5]).analyze(images, 2)
    std, low, high = STD * torch.tensor([1, -1, 1]), torch.tensor([0, -0.5, 0]), torch.tensor([1, 1, 1.5])
    ends = torch.stack([(low - MEAN) / std, (high - MEAN) / std]).sort(0).values
    outside = create_analyzer(name, model, low=ends[0], high=ends[1])
    moved = (images - MEAN[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(inside, outside.analyze(moved, 2))


@pytest.mark.parametrize("name", [*BOUNDED, "a rule"])
@pytest.mark.parametrize("wrong", ["normalized", "bytes", "one pixel of image 60"])
def test_images_outside_the_bounds_are_refused_before_the_model_runs(name, wrong) -> None:
    model, images = network(), sample(70)
    if wrong == "one pixel of image 60":
        images[60, 2, 0, 0] = 1.25
    else:
        images = normalized(images) if wrong == "normalized" else images * 255
    calls: list[int] = []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    rules = {"rules": {"first": ZBox(0, 1)}} if name == "a rule" else {}
    analyzer = create_analyzer("lrp.epsilon" if name == "a rule" else name, model, **rules)
    message = rf"lie between {images.min():.4g} and {images.max():.4g}, outside the bounds 0 to 1 .*low=\(0 - mean\) /"
    with pytest.raises(ConfigError, match=message):
        analyzer.analyze(images, 1)
    assert not calls


def test_the_channel_outside_its_own_bounds_is_named() -> None:
    images = normalized(sample())
    least, most = images[:, 1].min(), images[:, 1].max()
    analyzer = create_analyzer("lrp.z_box", network(), low=(0 - MEAN) / STD, high=[9, 0.5, 9])
    with pytest.raises(ConfigError, match=rf"between {least:.4g} and {most:.4g} in channel 1, outside .* -1.6 to 0.5"):
        analyzer.explain(images)


def test_rounding_at_the_border_is_tolerated() -> None:
    model, images = network().float(), torch.zeros(2, 3, 5, 5)
    images[1] = 1
    mean, std = MEAN.float(), STD.float()
    moved = images.sub(mean[:, None, None]).div(std[:, None, None])
    low, high = (0 - MEAN) / STD, (1 - MEAN) / STD  # in float64
    create_analyzer("lrp.z_box", model, low=low, high=high).analyze(moved, 0)
    with pytest.raises(ConfigError, match="outside the bounds"):
        create_analyzer("lrp.z_box", model, low=low, high=high).analyze(moved + 1e-4, 0)


def test_token_embeddings_are_checked_against_the_bounds() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 6), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)).double()
    ids = torch.tensor([[0, 1], [2, 3], [4, 5]])
    table = model[0].weight.detach()
    by_feature = create_analyzer("lrp.z_box", model, low=table.amin(0), high=table.amax(0)).analyze(ids, 1)
    above = create_analyzer("lrp.z_box", model[1:], low=table.amin(0).expand(2, 4), high=table.amax(0).expand(2, 4))
    torch.testing.assert_close(by_feature, above.analyze(table[ids], 1))
    used = table[ids]
    with pytest.raises(ConfigError, match=rf"embeddings of tokens lie between {used.min():.4g} and {used.max():.4g},"):
        create_analyzer("lrp.z_box", model).analyze(ids, 1)
    with pytest.raises(ConfigError, match="3 numbers, but the inputs .* have 4 channels"):
        create_analyzer("lrp.z_box", model, low=[-9, -9, -9], high=9).analyze(ids, 1)


@pytest.mark.parametrize("make", [ZBox, lambda low, high: create_analyzer("lrp.z_box", network(), low=low, high=high)])
@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        (1, 0, "low is 1 and high 0; low must be less"),
        (0, 0, "low must be less"),
        ([0, 1, 0], [1, 1, 1], r"low is 1 and high 1 at index \(1,\)"),
        ([0, 0], [1, 1, 1], "low has 2 channels and high 3"),
        (float("nan"), 1, "low holds NaN|low of LrpZBox is nan; expected a finite number"),
        (0, [1, torch.inf], "high holds inf at index|high of LrpZBox is "),
        (0, torch.tensor([1, torch.nan]), "high holds NaN at index 1|high of LrpZBox is .*NaN at index 1"),
        ([], 1, r"low is \[\]; expected a number"),
    ],
)  # fmt: skip
def test_invalid_bounds_are_refused_at_construction(make, low, high, message) -> None:
    with pytest.raises(ConfigError, match=message):
        make(low, high)


def test_bounds_that_do_not_fit_the_images_are_refused() -> None:
    for low, message in (
        ([0, 0], r"have 3\s+channels"),
        (torch.zeros(3, 4, 4), "does not broadcast to one input"),
        (torch.zeros(4, 3, 5, 5), "does not broadcast"),
        (torch.ones(3, 1, 1), "low must be less"),
    ):
        with pytest.raises(ConfigError, match=message):
            create_analyzer("lrp.z_box", network(), low=low, high=1).analyze(sample())


def test_different_boxes_for_the_same_images_are_refused() -> None:
    with pytest.raises(ConfigError, match="different bounds"):
        create_analyzer("lrp.z_box", network(), rules={"0": ZBox(-1, 2)}).analyze(sample())
    first = create_analyzer("lrp.z_box", network(), rules={"first": ZBox(-1, 2)}).analyze(sample())
    torch.testing.assert_close(first, create_analyzer("lrp.z_box", network(), low=-1, high=2).analyze(sample()))
    create_analyzer("lrp.z_box", network(), rules={"0": Flat()}).analyze(sample())


def test_rules_are_compared_hashed_and_printed_by_their_bounds() -> None:
    pairs = [(0, 1), ([0, 0, 0], 1), (torch.zeros(3, 2, 2), 1), (torch.zeros(3, 2, 2) - 1, 1)]
    rules = [ZBox(*pair) for pair in pairs]
    for n, one in enumerate(rules):
        assert [one == other for other in [ZBox(*pair) for pair in pairs]] == [n == m for m in range(len(pairs))]
        assert hash(one) == hash(ZBox(*pairs[n]))
    assert repr(ZBox(torch.tensor([0, 0.5]), 1)) == "ZBox(low=(0.0, 0.5), high=1, epsilon=1e-06)"
    assert len(repr(ZBox(torch.zeros(3, 99, 99), 1))) < 120


PIECES = {
    "chunk": lambda x: x.chunk(3, 1),
    "split": lambda x: x.split(1, dim=1),
    "tensor_split": lambda x: x.tensor_split(3, 1),
    "unbind": lambda x: [piece[:, None] for piece in x.unbind(1)],
    "slices": lambda x: [x[:, n : n + 1] for n in range(3)],
}


class ByChannel(nn.Module):
    """One convolution per color, on pieces of the image; the same function as one convolution with groups."""

    def __init__(self, grouped: nn.Conv2d, head: nn.Module, pieces) -> None:
        super().__init__()
        self.pieces = pieces
        self.head = head
        self.layers = nn.ModuleList(nn.Conv2d(1, 2, 3, padding=1).double() for _ in range(3))
        for n, layer in enumerate(self.layers):
            layer.load_state_dict(
                {"weight": grouped.weight[2 * n : 2 * n + 2].data, "bias": grouped.bias[2 * n : 2 * n + 2].data}
            )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([layer(piece) for layer, piece in zip(self.layers, self.pieces(x), strict=True)], 1))


@pytest.mark.parametrize("spelling", PIECES)
@pytest.mark.parametrize("is_constant", [False, True])
def test_every_piece_of_the_image_has_its_own_bounds(spelling, is_constant) -> None:
    torch.manual_seed(0)
    grouped = nn.Conv2d(3, 6, 3, padding=1, groups=3).double()
    head = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(6 * 25, 3)).double()
    images = torch.full((2, 3, 5, 5), 0.5).double() if is_constant else sample(2)  # pieces with equal values
    low, high = torch.tensor([0, -1, -2]).double(), torch.tensor([1, 2, 3]).double()
    options = {"low": low, "high": high}
    whole = create_analyzer("lrp.z_box", nn.Sequential(grouped, head).eval(), **options).analyze(images, 1)
    pieces = create_analyzer("lrp.z_box", ByChannel(grouped, head, PIECES[spelling]).eval(), **options)
    torch.testing.assert_close(pieces.analyze(images, 1), whole)
