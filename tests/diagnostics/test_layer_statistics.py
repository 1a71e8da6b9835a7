"""Layer statistics, against closed forms and independent loops."""

import copy
import json
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid import layer_statistics
from pellucid.core.errors import ConfigError, ShapeError, UnknownName, UnsupportedOperation
from pellucid.diagnostics import _layer_statistics, _layer_tally
from pellucid.diagnostics._layer_findings import STEEP


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def labels_for(images: Tensor, classes: int) -> Tensor:
    return torch.arange(len(images)) % classes


def convolutional(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.ReLU(inplace=True), nn.Conv2d(5, 4, 3, stride=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(36, 3),
    )  # fmt: skip


class Functional(nn.Module):
    """Activations without modules: as a function, a method, in place, and by clamping."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.block = nn.Sequential(nn.Linear(4, 6), nn.ReLU())
        self.second, self.last = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.block(x) - 0.1)
        x = x + self.second(x).relu_().clamp(min=0, max=0.5)
        x = torch.maximum(x - 0.2, torch.zeros(()))
        return self.last(torch.sigmoid(x).clamp(min=1e-6))


# ── which layers there are ───────────────────────────────────────────────────────────────────────────────────────────


def test_functional_activations_are_found():
    names = [row.title for row in layer_statistics(Functional(), random(9, 4)).rows]
    assert names == [
        "block.0 (Linear)",
        "block.1 (ReLU)",
        "(model): relu@0",
        "second (Linear)",
        "(model): relu@1",
        "(model): clamp",
        "(model): maximum",
        "(model): sigmoid",
        "last (Linear)",
    ]


def test_dead_units_do_not_depend_on_how_relu_is_written():
    weight, bias = random(8, 4), torch.tensor([0.0, -50, 0, 0, -50, -50, 0, 0])
    ways = {
        "module": nn.ReLU(),
        "in place": nn.ReLU(inplace=True),
        "relu6": nn.ReLU6(),
        "hardtanh": nn.Hardtanh(0, 3),
        "threshold": nn.Threshold(0, 0),
    }
    for act in ways.values():
        model = nn.Sequential(nn.Linear(4, 8), act, nn.Linear(8, 3))
        with torch.no_grad():
            model[0].weight.copy_(weight)
            model[0].bias.copy_(bias)
        row = layer_statistics(model, random(30, 4)).rows[1]
        assert row.dead_units == (1, 4, 5), act
        assert row.name == "1"

    class Written(nn.Module):
        def __init__(self, function) -> None:
            super().__init__()
            self.layer, self.function = copy.deepcopy(model[0]), function

        def forward(self, x: Tensor) -> Tensor:
            return self.function(self.layer(x))

    for function in (F.relu, torch.relu, torch.relu_, Tensor.relu, lambda x: x.clamp(min=0), lambda x: F.relu(x, True)):
        assert layer_statistics(Written(function), random(30, 4)).rows[1].dead_units == (1, 4, 5)


def test_a_module_called_twice_has_two_rows():
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu = nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(inplace=True)

        def forward(self, x: Tensor) -> Tensor:
            y = self.relu(self.conv(x))
            return self.relu(x + self.conv(y)).mean((2, 3))

    model, x = Residual(), random(6, 3, 4, 4)
    statistics = layer_statistics(model, x, labels_for(x, 3))
    assert [row.name for row in statistics.rows] == ["conv@0", "relu@0", "conv@1", "relu@1"]
    with torch.no_grad():
        first = model.conv(x).relu()
        second = (x + model.conv(first)).relu()
    assert statistics["relu@0"].mean == pytest.approx(float(first.mean()), rel=1e-5)
    assert statistics["relu@1"].mean == pytest.approx(float(second.mean()), rel=1e-5)


def test_units_are_channels_or_features():
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.mlp = nn.Conv1d(2, 7, 3), nn.Linear(7, 5)

        def forward(self, x: Tensor) -> Tensor:
            return F.gelu(self.mlp(F.relu(self.conv(x)).transpose(1, 2))).mean(1)

    rows = layer_statistics(Tokens(), random(4, 2, 11)).rows
    assert [(row.kind, row.shape, row.units) for row in rows] == [
        ("Conv1d", (7, 9), 7),
        ("relu", (7, 9), 7),
        ("Linear", (9, 5), 5),
        ("gelu", (9, 5), 5),
    ]


def test_token_ids_and_recurrent_layers():
    class Reads(nn.Module):
        def __init__(self, *, batch_first: bool) -> None:
            super().__init__()
            self.embed, self.first = nn.Embedding(9, 4), batch_first
            self.lstm, self.head = nn.LSTM(4, 5, batch_first=batch_first), nn.Linear(5, 2)

        def forward(self, ids: Tensor) -> Tensor:
            x = self.embed(ids)
            out = self.lstm(x if self.first else x.transpose(0, 1))[0]
            return self.head(out[:, -1] if self.first else out[-1])

    ids = torch.arange(28).view(7, 4) % 9
    statistics = layer_statistics(Reads(batch_first=True), ids, labels_for(ids, 2))
    assert [(row.name, row.units) for row in statistics.rows] == [("embed", 4), ("lstm", 5), ("head", 2)]
    assert all(row.gradient_norm > 0 and row.weight_gradient_norm > 0 for row in statistics.rows)
    other = layer_statistics(Reads(batch_first=False), ids)
    assert [row.name for row in other.rows] == ["embed", "head"]
    assert "not one row of features per image" in other.left_out["lstm"]


def test_parametrized_weights_belong_to_their_layer():
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)), nn.ReLU(), nn.Linear(3, 2))
    rows = layer_statistics(model, random(5, 4), torch.tensor([0, 1, 0, 1, 0])).rows
    assert [row.title for row in rows] == ["0 (Linear)", "1 (ReLU)", "2 (Linear)"]
    parts = [one for name, one in model.named_parameters() if name.startswith("0.")]
    assert rows[0].weight_norm == pytest.approx(math.sqrt(sum(float(one.detach().square().sum()) for one in parts)))


# ── values ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("count", [1, 5, 150])
def test_values_and_gradients_are_those_of_plain_loops(count):
    model = convolutional().eval()
    images = random(count, 2, 9, 9)
    labels = labels_for(images, 3)
    statistics = layer_statistics(model, images, labels)
    # image by image, in float64, with plain autograd
    plain = copy.deepcopy(model).double()
    plain[2] = nn.ReLU()
    outputs, norms, losses = {n: [] for n in (0, 2, 3, 4, 6)}, dict.fromkeys((0, 2, 3, 4, 6), 0.0), []
    for image, label in zip(images.double(), labels, strict=True):
        x, kept = image[None], {}
        for number, layer in enumerate(plain):
            x = layer(x)
            if number in outputs:
                x.retain_grad()
                kept[number] = x
        loss = F.cross_entropy(x, label[None])
        loss.backward()  # accumulates the gradients of the weights
        losses.append(float(loss.detach()))
        for number, value in kept.items():
            outputs[number].append(value.detach())
            norms[number] += float(value.grad.square().sum())
    assert statistics.loss == pytest.approx(sum(losses) / count, rel=1e-4)
    for row, number in zip(statistics.rows, outputs, strict=True):
        values = torch.cat(outputs[number])
        assert row.name == str(number)
        assert row.mean == pytest.approx(float(values.mean()), abs=1e-5)
        assert row.std == pytest.approx(float(values.std(correction=0)), rel=1e-4)
        assert row.zeros == pytest.approx(float((values == 0).double().mean()), abs=1e-3)
        assert (row.minimum, row.maximum) == pytest.approx((float(values.min()), float(values.max())), abs=1e-5)
        assert row.gradient_norm == pytest.approx(math.sqrt(norms[number] / count), rel=1e-3)
        assert row.gradient_rms == pytest.approx(row.gradient_norm / math.sqrt(values[0].numel()))
        if number in (0, 3, 6):
            own = list(plain[number].parameters())
            gradient = math.sqrt(sum(float((one.grad / count).square().sum()) for one in own))
            assert row.weight_gradient_norm == pytest.approx(gradient, rel=1e-3)
            weights = math.sqrt(sum(float(one.detach().square().sum()) for one in own))
            assert row.weight_norm == pytest.approx(weights, rel=1e-5)
            assert row.gradient_ratio == pytest.approx(gradient / weights, rel=1e-3)


def test_a_dead_unit_gets_no_gradient_and_permutation_keeps_the_counts():
    model, images = convolutional(), random(20, 2, 9, 9)
    with torch.no_grad():
        model[1].bias[:] = torch.tensor([0.3, -80, 0.2, -80, 0.1])
    labels = labels_for(images, 3)
    before = layer_statistics(model, images, labels)
    assert before["2"].dead_units == (1, 3)
    assert (before["0"].without_gradient, before["2"].without_gradient) == (2, 0)
    assert before["2"].dead == 0.4
    order = torch.tensor([3, 0, 4, 1, 2])
    with torch.no_grad():
        for name, value in (*model[0].named_parameters(), *model[1].named_parameters()):
            getattr(model[0] if value is getattr(model[0], name, None) else model[1], name).copy_(value[order].clone())
        model[3].weight.copy_(model[3].weight[:, order].clone())
    after = layer_statistics(model, images, labels)
    assert after["2"].dead_units == (0, 3)
    assert after["2"].effective_rank == pytest.approx(before["2"].effective_rank, rel=1e-5)
    assert after["4"].mean == pytest.approx(before["4"].mean, rel=1e-5)


@pytest.mark.parametrize(
    ("function", "edge"),
    [
        # |f′| = 1% of its maximum, solved by hand: tanh′ = 1 − tanh², σ′ = σ (1 − σ) with maximum 1/4
        (nn.Tanh(), math.atanh(math.sqrt(0.99))),
        (nn.Sigmoid(), math.log((0.5 + math.sqrt(0.25 - 0.0025)) / (0.5 - math.sqrt(0.25 - 0.0025)))),
        (nn.Hardtanh(), 1.0),
        (nn.Hardsigmoid(), 3.0),
        (nn.ReLU6(), 6.0),
    ],
    ids=lambda value: type(value).__name__,
)
def test_saturation_starts_where_the_slope_falls_to_one_percent(function, edge):
    values = torch.tensor([edge - 0.01, edge + 0.01, 0.5])
    row = layer_statistics(nn.Sequential(nn.Linear(3, 3), function), torch.zeros(4, 3)).rows[1]
    assert row.saturated_units == ()
    model = nn.Sequential(nn.Linear(3, 3), function)
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.copy_(values)
    row = layer_statistics(model, torch.zeros(4, 3)).rows[1]
    assert row.saturated_units == (1,)
    assert row.saturated == pytest.approx(1 / 3)


def test_saturation_needs_most_of_the_inputs():
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Tanh())
    with torch.no_grad():
        model[0].weight.fill_(1)
    for flat, expected in ((94, ()), (95, (0,))):
        images = torch.cat([torch.full((flat, 1), 9.0), torch.zeros(100 - flat, 1)])
        assert layer_statistics(model, images).rows[1].saturated_units == expected


@pytest.mark.parametrize("function", [nn.ReLU(), nn.LeakyReLU(), nn.PReLU(3)], ids=lambda one: type(one).__name__)
def test_rectifiers_without_a_ceiling_do_not_saturate(function):
    assert layer_statistics(nn.Sequential(nn.Linear(2, 3), function), random(9, 2)).rows[1].saturated_units is None


def test_effective_rank_of_a_layer_counts_its_directions():
    model = nn.Sequential(nn.Linear(6, 8, bias=False), nn.Linear(8, 7))
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].weight[:3, :3] = torch.eye(3)
    images = torch.cat([torch.eye(6), -torch.eye(6)])
    row = layer_statistics(model, images).rows[0]
    assert row.effective_rank == pytest.approx(3, rel=1e-5)
    assert row.rank_bound == 8
    assert layer_statistics(model, images[:4]).rows[0].rank_bound == 3


def test_batches_make_no_difference(monkeypatch):
    model, images = convolutional(), random(40, 2, 9, 9)
    labels = labels_for(images, 3)
    whole = layer_statistics(model, images, labels)
    monkeypatch.setattr(_layer_statistics, "IMAGES_AT_ONCE", 7)
    parts = layer_statistics(model, images, labels)
    for one, two in zip(whole.rows, parts.rows, strict=True):
        assert one.to_dict().keys() == two.to_dict().keys()
        for name, value in one.to_dict().items():
            wanted = pytest.approx(value, rel=1e-4, abs=1e-6) if isinstance(value, float) else value
            if name != "quantiles":
                assert two.to_dict()[name] == wanted, name
        assert two.quantiles == pytest.approx(one.quantiles, rel=1e-4, abs=1e-6)


def test_samples_are_spread_over_images_and_positions():
    chosen = _layer_tally.sampled_positions(300, 49)
    assert len(chosen) == len(set(chosen.tolist())) == _layer_tally.MOST_SAMPLES
    assert len({index % 49 for index in chosen.tolist()}) == 49
    assert len({index // 49 for index in chosen.tolist()}) > 250
    assert torch.equal(_layer_tally.sampled_positions(10, 3), torch.arange(30))


def test_bound_of_dead_units_is_the_rule_of_three():
    statistics = layer_statistics(nn.Linear(2, 2), random(300, 2))
    assert statistics.active_bound == pytest.approx(3 / 300, rel=0.01)
    # a unit active for exactly this share is missed by all images with probability 5%
    assert (1 - statistics.active_bound) ** 300 == pytest.approx(0.05)


# ── state, faults and findings ───────────────────────────────────────────────────────────────────────────────────────


def test_the_model_is_left_as_it_was():
    model = convolutional().train()
    model[3].eval()
    model[0].weight.grad = grad = torch.ones_like(model[0].weight)
    model[6].bias.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [one.training for one in model.modules()]
    images = random(8, 2, 9, 9)
    first = layer_statistics(model, images, labels_for(images, 3))
    assert [one.training for one in model.modules()] == modes
    assert model[0].weight.grad is grad
    assert bool((grad == 1).all())
    assert [one.requires_grad for one in model.parameters()] == [True] * 7 + [False]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in model.modules())
    # the frozen bias has a gradient all the same
    with torch.no_grad():
        assert layer_statistics(model, images, labels_for(images, 3)).to_dict() == first.to_dict()
    with pytest.raises(ShapeError, match="expects .batch, 2 channels"):
        layer_statistics(model, images[:, :1])
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in model.modules())
    assert [one.requires_grad for one in model.parameters()] == [True] * 7 + [False]


def test_values_that_are_not_finite_are_named():
    model = convolutional()
    with torch.no_grad():
        model[3].bias[2] = math.inf
    images = random(8, 2, 9, 9)
    statistics = layer_statistics(model, images, labels_for(images, 3))
    row = statistics["3"]
    assert row.nonfinite == 8 * 9
    assert math.isnan(row.mean)
    assert math.isnan(row.effective_rank)
    assert statistics["0"].nonfinite == 0
    assert math.isfinite(statistics["0"].mean)
    assert "3 (Conv2d), 4 (ReLU) and 6 (Linear) have outputs that are NaN or infinite." in [
        one.text for one in statistics.findings
    ]
    json.dumps(statistics.to_dict(), allow_nan=False)


def deep(scale: float) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [part for _ in range(6) for part in (nn.Linear(16, 16), nn.Tanh())]
    model = nn.Sequential(*layers, nn.Linear(16, 3))
    with torch.no_grad():
        for layer in model[:-1:2]:
            nn.init.orthogonal_(layer.weight).mul_(scale)
            layer.bias.zero_()
    return model


def test_findings_state_what_is_lost():
    images = 0.01 * random(30, 16)
    assert layer_statistics(deep(1.0), images, labels_for(images, 3)).findings == ()
    vanishing = layer_statistics(deep(0.05), images, labels_for(images, 3))
    (finding,) = vanishing.findings
    ratio = vanishing["12"].gradient_norm / vanishing["0"].gradient_norm
    assert ratio > STEEP
    assert finding.kind == "vanishing"
    assert finding.text.endswith(f"the norm at 0 (Linear) is {ratio:,.0f} times smaller than at 12 (Linear).")
    saturated = layer_statistics(deep(5000.0), images, labels_for(images, 3))
    kinds = {one.kind: one for one in saturated.findings}
    assert kinds["saturated"].is_severe
    assert "units of" in kinds["saturated"].text
    exploding = deep(1.0)
    with torch.no_grad():
        for layer in exploding[:-1:2]:
            layer.weight.mul_(5)
    tiny = layer_statistics(exploding, 1e-6 * images, labels_for(images, 3))
    assert [one.kind for one in tiny.findings] == ["exploding"]


def test_findings_name_dead_units():
    model, images = convolutional(), random(20, 2, 9, 9)
    with torch.no_grad():
        model[1].bias[:] = torch.tensor([0.3, -80, 0.2, -80, 0.1])
    assert [one.text for one in layer_statistics(model, images).findings] == ["2 of 5 units of 2 (ReLU) are dead."]
    with torch.no_grad():
        model[1].bias[:] = -80
    (finding,) = [one for one in layer_statistics(model, images).findings if one.kind == "dead"]
    assert finding.text.startswith("5 of 5 units of 2 (ReLU)")
    assert finding.is_severe


def test_positions_shared_by_all_images_are_left_out():
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.positions, self.head = nn.Embedding(5, 4), nn.Embedding(3, 4), nn.Linear(4, 2)

        def forward(self, ids: Tensor) -> Tensor:
            return self.head((self.tokens(ids) + self.positions(torch.arange(3)[None])).mean(1))

    statistics = layer_statistics(Positions(), torch.randint(5, (6, 3)))
    assert [row.name for row in statistics.rows] == ["tokens", "head"]
    assert statistics.left_out == {"positions": "it does not return one output for each image"}


def test_layers_can_be_chosen():
    model, images = convolutional(), random(5, 2, 9, 9)
    assert [row.name for row in layer_statistics(model, images, layers=3).rows] == ["0", "3", "6"]
    assert layer_statistics(model, images, layers=3).found == 5
    assert [row.name for row in layer_statistics(model, images, layers=["6", "2"]).rows] == ["2", "6"]
    with pytest.raises(UnknownName, match="'nine'"):
        layer_statistics(model, images, layers=["nine"])
    statistics = layer_statistics(model, images)
    assert math.isnan(statistics["0"].gradient_norm)
    assert statistics["0"].without_gradient is None
    assert "2 (ReLU)" in repr(statistics)
    with pytest.raises(UnknownName):
        statistics["nine"]


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_faults_are_explained():
    model, images = convolutional(), random(5, 2, 9, 9)
    with pytest.raises(ConfigError, match="at least one image"):
        layer_statistics(model, images[:0])
    with pytest.raises(ShapeError, match="one class index per image"):
        layer_statistics(model, images, torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ShapeError, match="range from 0 to 7"):
        layer_statistics(model, images, torch.tensor([0, 1, 2, 0, 7]))
    with pytest.raises(ShapeError, match=r"logits \(batch, class\)"):
        layer_statistics(model[:4], images, torch.zeros(5, dtype=torch.int64))
    with pytest.raises(UnsupportedOperation, match="batch statistics"):
        layer_statistics(nn.Sequential(nn.BatchNorm2d(2, track_running_stats=False), nn.Flatten()), images)
    with pytest.raises(UnsupportedOperation, match="ScriptModule"):
        layer_statistics(torch.jit.trace(model.eval(), images), images)


def test_half_precision_and_models_without_weights():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).to(torch.bfloat16)
    rows = layer_statistics(model, random(6, 4), torch.tensor([0, 1] * 3)).rows
    assert all(math.isfinite(row.gradient_norm) for row in rows)
    statistics = layer_statistics(nn.Sequential(nn.Flatten(), nn.Tanh()), random(6, 4), torch.tensor([0, 1] * 3))
    assert [row.name for row in statistics.rows] == ["1"]
    assert math.isnan(statistics.rows[0].gradient_norm)


@pytest.mark.parametrize("build", ["resnet18", "vit"])
def test_torchvision_networks(build):
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    if build == "resnet18":
        model, expected = models.resnet18(num_classes=4), ("layer1.0.relu@1", "ReLU", 64)
    else:
        model, expected = (
            models.VisionTransformer(32, 16, 2, 2, 8, 16, num_classes=4),
            ("encoder.layers.encoder_layer_1.mlp.1", "GELU", 16),
        )
    images = random(3, 3, 32, 32)
    statistics = layer_statistics(model, images, torch.tensor([0, 1, 2]))
    row = statistics[expected[0]]
    assert (row.kind, row.units) == expected[1:]
    assert statistics.left_out == {}
    places = [f"encoder.layers.encoder_layer_{number}.self_attention" for number in (0, 1)]
    assert list(statistics.attention) == ([] if build == "resnet18" else places)


class Centered(nn.Module):
    """A model whose features depend on the other images of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        features = torch.tanh(self.body(x))
        return self.head(features - features.mean(0, keepdim=True))


def test_a_model_that_mixes_a_batch_receives_the_images_one_by_one() -> None:
    model, images, labels = Centered(), torch.randn(9, 4), torch.arange(9) % 3
    statistics = layer_statistics(model, images, labels)
    with torch.no_grad():
        alone = torch.cat([model(image[None]) for image in images])
    assert statistics.loss == pytest.approx(float(F.cross_entropy(alone, labels)))
    assert statistics["head"].std == pytest.approx(float(alone.std(correction=0)), rel=1e-5)


@pytest.mark.parametrize(
    ("images", "options", "kind", "words"),
    [
        (torch.rand(2, 4), {"layers": 0}, ConfigError, "at least 1"),
        (torch.rand(2, 4), {"layers": True}, ConfigError, "whole number"),
        (torch.rand(2, 4), {"layers": []}, ConfigError, "name at least one layer"),
        (torch.rand(2, 4), {"layers": "head"}, UnknownName, "no layer 'head'"),
        (torch.rand(2, 6), {}, ShapeError, "Linear '0' expects 4 features"),
        (torch.zeros(2, 4, dtype=torch.uint8), {}, ShapeError, "uint8"),
    ],
)
def test_misfits_are_refused_by_name(images: Tensor, options: dict[str, Any], kind: Any, words: str) -> None:
    with pytest.raises(kind, match=words):
        layer_statistics(nn.Sequential(nn.Linear(4, 3)), images, **options)


def test_a_single_name_chooses_one_layer() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    assert [row.name for row in layer_statistics(model, torch.rand(2, 4), layers="1").rows] == ["1"]


def test_gradients_of_overwritten_values_are_refused_with_advice():
    class Overwriting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.first(x).relu()
            hidden += 1
            return self.last(hidden)

    images, labels = torch.rand(3, 4), torch.tensor([0, 1, 2])
    with pytest.raises(UnsupportedOperation, match="overwrites a value that its gradient needs.*or pass no labels"):
        layer_statistics(Overwriting(), images, labels)
    assert len(layer_statistics(Overwriting(), images).rows) == 3
