"""Relevance at the outputs of hidden layers: conservation, oracles, and refusals."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any, NamedTuple

import captum.attr as captum
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid import Contrast, Unit, create_analyzer
from pellucid.attribution import METHODS, LayerExplanations
from pellucid.core.errors import ConfigError, ModelError, PellucidError, ShapeError, UnknownName, UnsupportedOperation

pytestmark = pytest.mark.filterwarnings("ignore::pellucid.attribution.AmplificationWarning")

FAST = ("gradient", "integrated_gradients", "deeplift", "lrp.epsilon", "lrp.alpha_2_beta_1")
"""One method per way through the code runs in the quick tests; the others share it."""
REACHING = [name for name in METHODS.names() if METHODS[name].reaches_layers]
COMPLETE = [name for name in REACHING if name.startswith("lrp.") or name == "deeplift"]


def each(names: list[str]) -> list[object]:
    """Return the names as parameters, the slow ones marked."""
    return [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in names]


class Block(nn.Module):
    """A residual block, whose sum and rectifiers can work in place."""

    def __init__(self, width: int, *, inplace: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.act, self.relu = nn.ReLU(inplace), nn.ReLU(inplace)
        self.inplace = inplace

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.act(self.bn1(self.conv1(x)))))
        if self.inplace:
            out += x
        else:
            out = out + x
        return self.relu(out)


def residual(seed: int = 0, *, inplace: bool = True) -> nn.Sequential:
    """A random residual network with biases and batch norms in float64."""
    torch.manual_seed(seed)
    blocks = [Block(5, inplace=inplace), Block(5, inplace=inplace)]
    stem = [nn.Conv2d(1, 5, 3), nn.ReLU(inplace)]
    model = nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(20, 4)).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in ((module.running_mean, -0.2, 0.2), (module.running_var, 0.5, 1.5)):
                nn.init.uniform_(tensor, low, high)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.3, 0.3)
    return model.eval()


def some(count: int = 3) -> Tensor:
    return torch.rand(count, 1, 10, 10, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def output_of(model: nn.Module, layer: str, x: Tensor) -> Tensor:
    seen: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda _m, _i, out: seen.append(out.detach().clone()))
    with torch.no_grad():
        model(x)
    handle.remove()
    return seen[0]


CUTS = ["0", "1", "2", "2.relu", "3", "4", "5"]
INSIDE = ["2.conv1", "2.bn1", "2.act", "2.conv2", "2.bn2", "3.bn2"]


@pytest.mark.parametrize("name", each(COMPLETE))
def test_relevance_is_conserved_at_every_layer(name) -> None:
    model, x = residual(COMPLETE.index(name)), some()
    explained = create_analyzer(name, model).explain(x, 1, to=CUTS + INSIDE)
    assert isinstance(explained, LayerExplanations)
    whole = create_analyzer(name, model).explain(x, 1)
    for layer, one in explained.items():
        assert one.relevance.shape == output_of(model, layer, x).shape
        assert one.layer == layer
        sums = one.relevance.flatten(1).sum(1)
        if name == "deeplift":
            total = whole.expected
            if layer in CUTS:
                torch.testing.assert_close(sums, total, rtol=1e-9, atol=1e-12)
                torch.testing.assert_close(one.expected, total)
            continue
        absorbed = sum(one.absorbed.values())
        bypassed = one.details["bypassed"]
        torch.testing.assert_close(sums + absorbed + bypassed, model(x)[:, 1].detach(), rtol=1e-8, atol=1e-10)
        assert bool((one.residual.abs() <= 1e-4 * sums.abs().clamp(min=1e-6)).all())
        if layer in CUTS:
            assert not bypassed.any()


@pytest.mark.parametrize("name", each(REACHING))
def test_several_layers_equal_each_layer_alone(name) -> None:
    model, x = residual(), some(2)
    few = {"steps": 4, "samples": 3, "permutations": 2}
    known = {key: value for key, value in few.items() if key in {one.name for one in fields(METHODS[name])}}
    analyzer = create_analyzer(name, model, **known)
    if analyzer.method.needs_fit:
        analyzer.fit([some(4)])
    layers = ["2.bn2", "3"]
    together = analyzer.analyze(x, 1, to=layers)
    assert list(together) == layers
    for layer in layers:
        alone = analyzer.analyze(x, 1, to=layer)
        assert alone.shape == output_of(model, layer, x).shape
        assert not alone.requires_grad
        torch.testing.assert_close(together[layer], alone, rtol=1e-9, atol=1e-12)
        single = analyzer.analyze(x[1:], 1, to=layer)
        torch.testing.assert_close(single, alone[1:], rtol=1e-6, atol=1e-9)
    every = analyzer.analyze(x, "all", to=layers)
    assert every["3"].shape == (2, 4, *together["3"].shape[1:])
    torch.testing.assert_close(every["3"][:, 1], together["3"], rtol=1e-9, atol=1e-12)


def test_in_place_layers_do_not_disturb_gradients() -> None:
    x, layers = some(), CUTS[:-1] + INSIDE
    own = create_analyzer("input_x_gradient", residual(inplace=True)).analyze(x, 1, to=layers)
    plain = create_analyzer("input_x_gradient", residual(inplace=False)).analyze(x, 1, to=layers)
    for layer in layers:
        torch.testing.assert_close(own[layer], plain[layer], rtol=1e-9, atol=1e-12)


CAPTUM = {
    "input_x_gradient": ({}, captum.LayerGradientXActivation, {}),
    "integrated_gradients": ({"steps": 6}, captum.LayerIntegratedGradients, {"n_steps": 6}),
    "conductance": (
        {"steps": 6, "rule": "left"},
        captum.LayerConductance,
        {"n_steps": 6, "method": "riemann_trapezoid"},
    ),
    "internal_influence": ({"steps": 6}, captum.InternalInfluence, {"n_steps": 6}),
}


@pytest.mark.filterwarnings("ignore::pellucid.attribution.CompletenessWarning")
@pytest.mark.parametrize("layer", ["2.bn2", "2"])
@pytest.mark.parametrize("name", list(CAPTUM))
def test_agrees_with_captum(name, layer) -> None:
    model, x = residual(inplace=False), some()
    options, peer, peer_options = CAPTUM[name]
    own = create_analyzer(name, model, **options).analyze(x, 2, to=layer)
    theirs = peer(model, model.get_submodule(layer)).attribute(x, target=2, **peer_options)
    torch.testing.assert_close(own, theirs.detach(), rtol=1e-5, atol=1e-5 * float(theirs.detach().abs().max()))


@pytest.mark.filterwarnings("ignore:Setting forward, backward hooks:UserWarning")
def test_deeplift_agrees_with_captum() -> None:
    # no residual sums, and each rectifier once: captum's hooks need both
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 3))
    model, x = model.double().eval(), some()
    for layer in ("0", "1", "2"):
        own = create_analyzer("deeplift", model).analyze(x, 2, to=layer)
        theirs = captum.LayerDeepLift(model, model.get_submodule(layer)).attribute(x, torch.zeros_like(x), target=2)
        torch.testing.assert_close(own, theirs.detach(), rtol=1e-5, atol=1e-8)


def test_gradient_by_hand() -> None:
    model, x = residual(), some()
    values = model[:3](x).detach().requires_grad_()
    slope = torch.autograd.grad(model[3:](values.clone())[:, 1].sum(), values)[0]
    torch.testing.assert_close(create_analyzer("gradient", model).analyze(x, 1, to="2"), slope)
    product = create_analyzer("input_x_gradient", model).analyze(x, 1, to="2")
    torch.testing.assert_close(product, slope * values.detach())


def test_lrp_at_a_cut_is_that_of_the_rest_of_the_network() -> None:
    model, x = residual(), some()
    rest = nn.Sequential(*model[3:])
    own = create_analyzer("lrp.epsilon", model).analyze(x, 1, to="2")
    values = model[:3](x).detach()
    torch.testing.assert_close(own, create_analyzer("lrp.epsilon", rest).analyze(values, 1))


def test_occlusion_hides_channels() -> None:
    model, x = residual(), some()
    own = create_analyzer("occlusion", model).analyze(x, 1, to="2")
    values, rest = model[:3](x).detach(), model[3:]
    empty = model[:3](torch.zeros_like(x)).detach()
    score = rest(values.clone())[:, 1]
    for channel in range(5):
        hidden = values.clone()
        hidden[:, channel] = empty[:, channel]
        drop = (score - rest(hidden)[:, 1]).detach()
        torch.testing.assert_close(own[:, channel, 3, 2], drop)
        assert bool((own[:, channel] == own[:, channel, :1, :1]).all())


def test_shapley_values_of_channels_sum_to_the_change_of_the_logit() -> None:
    model, x = residual(), some()
    explained = create_analyzer("shapley_sampling", model, permutations=3).explain(x, 1, to="2")
    change = (model(x) - model(torch.zeros_like(x)))[:, 1].detach()
    torch.testing.assert_close(explained.relevance.flatten(1).sum(1), change)
    # a linear function: every order gives the same values, the weight times the change
    linear = nn.Sequential(nn.Conv2d(1, 3, 10), nn.Flatten(), nn.Linear(3, 2)).double()
    own = create_analyzer("shapley_sampling", linear, permutations=1).analyze(x, 1, to="0")
    moved = (linear[0](x) - linear[0](torch.zeros_like(x))).detach()
    torch.testing.assert_close(own.flatten(1), moved.flatten(1) * linear[2].weight[1].detach())


@pytest.mark.parametrize("segments", ["slic", torch.zeros(10, 10, dtype=torch.int64)])
def test_superpixels_and_masks_of_a_layer_are_refused(segments) -> None:
    with pytest.raises(UnsupportedOperation, match="a hidden layer into channels"):
        create_analyzer("shapley_sampling", residual(), segments=segments).analyze(some(), 1, to="2")


def test_deeplift_averages_references_at_a_layer() -> None:
    model, x, references = residual(), some(), some(5)[3:]
    explained = create_analyzer("deeplift", model, references=references).explain(x, 1, to=["2", "3.bn2"], strict=True)
    each = [create_analyzer("deeplift", model, baseline=one).explain(x, 1, to=["2", "3.bn2"]) for one in references]
    for layer in ("2", "3.bn2"):
        mean = torch.stack([one[layer].relevance for one in each]).mean(0)
        torch.testing.assert_close(explained[layer].relevance, mean)
    assert explained["3.bn2"].residual is None  # the skip connection bypasses it
    change = model(x)[:, 1] - model(references)[:, 1].mean()
    torch.testing.assert_close(explained["2"].relevance.flatten(1).sum(1), change.detach())


def test_integrated_gradients_refine_each_image() -> None:
    explained = create_analyzer("integrated_gradients", residual(), tolerance=1e-3, steps=200).explain(
        some(), 1, to="2.bn2", strict=True
    )
    assert bool((explained.residual.abs() <= explained.allowed).all())


def test_expected_gradients_start_at_the_references() -> None:
    model, x = residual(), some()
    own = create_analyzer("expected_gradients", model, samples=5, references=some(6)[3:], seed=3)
    rest = create_analyzer(
        "expected_gradients", nn.Sequential(*model[3:]), samples=5, references=model[:3](some(6)[3:]).detach(), seed=3
    )
    torch.testing.assert_close(own.analyze(x, 1, to="2"), rest.analyze(model[:3](x).detach(), 1))


def test_smoothgrad_is_the_mean_gradient_at_noisy_images() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(100, 4), nn.Softplus(), nn.Linear(4, 2)).double()
    x = some()
    quiet = create_analyzer("smoothgrad", model, noise_share=0.0, samples=2).analyze(x, 1, to="1")
    torch.testing.assert_close(quiet, create_analyzer("gradient", model).analyze(x, 1, to="1"))
    noisy = create_analyzer("smoothgrad.variance", model, samples=4).analyze(x, 1, to="1")
    assert noisy.shape == (3, 4)
    assert bool((noisy > 0).all())


class Packed(nn.Module):
    """A module whose output is packed by a function."""

    def __init__(self, inside: nn.Module, pack: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.inside, self.pack = inside, pack

    def forward(self, x: Tensor) -> Any:
        return self.pack(self.inside(x))


class Reused(nn.Module):
    """A module that is called twice, one without effect, one that returns a tuple, one a list, and tokens first."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.act, self.second = nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6)
        self.lstm, self.head = nn.LSTM(3, 3, batch_first=True), nn.Linear(6, 3)
        self.idle, self.unused, self.fixed = nn.Linear(4, 2), nn.Linear(2, 2), nn.Linear(2, 6)
        self.turned, self.listed = nn.Identity(), Packed(nn.Tanh(), lambda y: [y])

    def forward(self, x: Tensor) -> Tensor:
        self.idle(x)
        self.listed(x)
        hidden = self.act(self.second(self.act(self.first(x))) + self.fixed(torch.ones(1, 2, dtype=x.dtype)))
        tokens, _ = self.lstm(hidden.view(-1, 2, 3))
        return self.head(self.turned(tokens.transpose(0, 1)).transpose(0, 1).flatten(1))


@pytest.fixture
def reused() -> Reused:
    torch.manual_seed(0)
    return Reused().double().eval()


@pytest.mark.parametrize("name", ["gradient", "lrp.epsilon", "deeplift", "occlusion"])
def test_calls_of_a_module_are_told_apart(name, reused) -> None:
    x = torch.rand(3, 4, dtype=torch.float64)
    analyzer = create_analyzer(name, reused)
    maps = analyzer.analyze(x, 1, to=["act@0", "act@1"])
    assert maps["act@0"].shape == maps["act@1"].shape == (3, 6)
    assert not torch.allclose(maps["act@0"], maps["act@1"])
    with pytest.raises(ModelError, match="'act' is called 2 times .* 'act@0', 'act@1'"):
        analyzer.analyze(x, 1, to="act")
    with pytest.raises(ModelError, match="no 'act@2': the module is called 2 times"):
        analyzer.analyze(x, 1, to="act@2")


@pytest.mark.parametrize("name", ["gradient", "lrp.epsilon", "deeplift", "integrated_gradients"])
def test_layers_without_relevance_are_refused(name, reused) -> None:
    x, analyzer = torch.rand(3, 4, dtype=torch.float64), create_analyzer(name, reused)
    for layer, error, message in (
        ("missing", UnknownName, "missing"),
        ("unused", ModelError, "'unused' is not used"),
        ("listed", ModelError, "returns a list of 1, not a tensor; name a layer inside it"),
        ("turned", ShapeError, r"'turned' has shape \(2, .* first axis must hold the images"),
    ):
        with pytest.raises(error, match=message):
            analyzer.analyze(x, 1, to=layer)
    if name != "integrated_gradients":
        for layer in ("idle", "fixed"):
            with pytest.raises(PellucidError):
                analyzer.analyze(x[:1], 1, to=layer)


class Pair(NamedTuple):
    values: Tensor
    mean: Tensor


class Unpacked(nn.Module):
    """A network with a layer whose output is unpacked."""

    def __init__(self, pack: Callable[[Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = Packed(nn.Sequential(nn.Linear(4, 6), nn.ReLU()), pack)
        self.head, self.other = nn.Linear(6, 3), nn.Linear(1, 3)

    def forward(self, x: Tensor) -> Tensor:
        found = self.layer(x)
        first = found.values if isinstance(found, Pair) else found[0] if isinstance(found, tuple) else found
        return self.head(first) + self.other(first.mean(1, keepdim=True))


@pytest.mark.parametrize(
    "name",
    [
        "gradient", "input_x_gradient", "smoothgrad", "integrated_gradients", "conductance", "internal_influence",
        "deeplift", "lrp.epsilon", "lrp.gamma", "occlusion", "shapley_sampling",
    ],
)  # fmt: skip
@pytest.mark.parametrize("pack", [lambda y: (y, y.mean()), lambda y: (y, None), lambda y: Pair(y, y.mean())])
def test_the_first_entry_of_a_tuple_is_the_output(name: str, pack: Callable[[Tensor], Any]) -> None:
    x = torch.rand(3, 4, dtype=torch.float64)
    packed, plain = (create_analyzer(name, Unpacked(kind).double()) for kind in (pack, lambda y: y))
    own, other = packed.analyze(x, 1, to="layer"), plain.analyze(x, 1, to="layer")
    assert own.shape == (3, 6)
    torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-15)
    # the explained unit is in the same entry
    if name not in ("conductance", "internal_influence"):
        units = [each.analyze(x, Unit("layer", channel=2)) for each in (packed, plain)]
        torch.testing.assert_close(*units, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("name", ["lrp.epsilon", "deeplift", "integrated_gradients", "conductance"])
def test_recurrent_and_attention_layers_conserve_relevance(name: str, reused: "Reused") -> None:
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention, self.head = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))

    tokens, x = torch.rand(2, 5, 4, dtype=torch.float64), torch.rand(2, 4, dtype=torch.float64)
    for model, layer, images in ((Attending().double().eval(), "attention", tokens), (reused, "lstm", x)):
        create_analyzer(name, model).explain(images, 1, to=layer, strict=True)


@pytest.mark.parametrize("name", ["gradient", "integrated_gradients"])
def test_tokens_first_are_refused_for_as_many_images_as_tokens(name, reused) -> None:
    with pytest.raises(ShapeError, match="first axis must hold the images"):
        create_analyzer(name, reused).analyze(torch.rand(2, 4, dtype=torch.float64), 1, to="turned")


def test_bad_arguments_are_refused() -> None:
    model, x = residual(), some()
    analyzer = create_analyzer("gradient", model)
    for to in ([], [""], ""):
        with pytest.raises(ConfigError, match="expected the name of a layer"):
            analyzer.explain(x, to=to)
    with pytest.raises(ConfigError, match="named twice"):
        analyzer.explain(x, to=["2", "2"])
    for name in sorted(set(METHODS.names()) - set(REACHING)):
        with pytest.raises(ConfigError, match=f"{name!r} defines no relevance at hidden layers"):
            create_analyzer(name, model).explain(x, to="2")


def test_parts_of_a_function_with_one_rule_are_refused() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.gate, self.last = nn.Linear(4, 6), nn.Sigmoid(), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.first(x)
            return self.last(hidden * self.gate(hidden))

    with pytest.raises(UnsupportedOperation, match="part of an elementwise function"):
        create_analyzer("lrp.epsilon", Gated()).analyze(torch.rand(2, 4), 1, to="gate")


def test_gradients_cut_off_behind_a_layer_are_refused() -> None:
    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x).detach() + F.pad(x, (0, 2)))

    with pytest.raises(PellucidError):
        create_analyzer("gradient", Cut()).analyze(torch.rand(2, 4), 1, to="first")


class Overwritten(nn.Module):
    """A layer whose output is a view of a value that the model overwrites later."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.view, self.last = nn.Linear(6, 8), nn.Unflatten(1, (2, 4)), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        view = self.view(hidden)
        hidden.relu_()
        return self.last(view.flatten(1))


@pytest.mark.parametrize("name", ["gradient", "conductance", "internal_influence", "integrated_gradients", "occlusion"])
def test_outputs_in_memory_that_is_overwritten_are_refused(name) -> None:
    torch.manual_seed(0)
    model, x = Overwritten().double(), torch.rand(3, 6, dtype=torch.float64)
    analyzer = create_analyzer(name, model)
    for to in ("view", ["first", "view"]):
        for images in (x, x[:1]):
            with pytest.raises(UnsupportedOperation, match="'view' shares its memory with another value"):
                analyzer.analyze(images, 1, to=to)
    plain = nn.Sequential(model.first, nn.ReLU(), model.last)
    own, expected = analyzer.analyze(x, 1, to="first"), create_analyzer(name, plain).analyze(x, 1, to="0")
    torch.testing.assert_close(own, expected)


@pytest.mark.parametrize("name", ["integrated_gradients", "expected_gradients"])
def test_a_silent_layer_has_no_relevance_rather_than_an_error(name) -> None:
    # the logits change with the image, which reaches them past the layer, whose gradient is zero
    class Silent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last, self.skip = nn.Linear(4, 6), nn.Linear(6, 2), nn.Linear(4, 2)
            nn.init.constant_(self.first.bias, -9.0)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x).relu()) + self.skip(x)

    torch.manual_seed(0)
    x = torch.rand(3, 4)
    options = {"references": torch.rand(2, 4)} if name == "expected_gradients" else {}
    assert not create_analyzer(name, Silent(), **options).analyze(x, 1, to="first").any()


@pytest.mark.parametrize("name", ["occlusion", "shapley_sampling"])
def test_models_that_mix_a_batch_run_one_by_one_at_layers(name) -> None:
    class Mixing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.first(x).relu()
            return self.last(2 * hidden - hidden.mean(0, keepdim=True))

    torch.manual_seed(0)
    x, analyzer = torch.rand(3, 4), create_analyzer(name, Mixing())
    alone = torch.cat([analyzer.analyze(one[None], 1, to="first") for one in x])
    torch.testing.assert_close(analyzer.analyze(x, 1, to="first"), alone)


@pytest.mark.parametrize("name", ["integrated_gradients", "occlusion", "shapley_sampling"])
def test_layers_without_relevance_are_refused_before_the_work_at_others(name, reused) -> None:
    passes: list[int] = []
    reused.head.register_forward_hook(lambda *_: passes.append(1))
    with pytest.raises(ModelError, match="returns a list of 1"):
        create_analyzer(name, reused).analyze(torch.rand(3, 4, dtype=torch.float64), 1, to=["first", "listed"])
    assert len(passes) < 5


def test_hooks_are_removed_and_the_model_is_unchanged() -> None:
    model, x = residual(), some()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name in ("gradient", "lrp.epsilon", "integrated_gradients", "deeplift"):
        create_analyzer(name, model).analyze(x, to=["2", "3"])
        with pytest.raises(ShapeError):
            create_analyzer(name, model).analyze(x, 99, to="2")
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_flow_shows_what_skip_and_block_carry() -> None:
    model, x = residual(), some()
    explained = create_analyzer("lrp.epsilon", model).explain(x, 1, to=["1", "2.bn2", "2"])
    flow = explained.flow()
    assert list(flow.junctions) == ["2: sum", "3: sum"]
    block, skip = flow.junctions["2: sum"]
    assert (block.branch, skip.branch) == ("conv2", "skip")
    torch.testing.assert_close(block.relevance, explained["2.bn2"].relevance.flatten(1).sum(1))
    torch.testing.assert_close(block.total, model(x)[:, 1].detach())
    # the skip carries what bypasses the block
    torch.testing.assert_close(skip.relevance, explained["2.bn2"].details["bypassed"])
    torch.testing.assert_close(block.share, block.relevance / block.total)
    assert "2: sum ← skip" in repr(flow)
    assert len(flow.figure().axes) == 1
    assert "image 1" in flow.figure(image=1).texts[0].get_text()
    for image in (3, -1):
        with pytest.raises(ConfigError, match=f"image is {image}, but 3 were explained; give an index from 0 to 2"):
            flow.figure(image=image)
    with pytest.raises(UnknownName, match="no explained layer '3'. Available: 1, 2.bn2, 2"):
        explained["3"]


def test_flow_needs_a_layer_and_a_method_that_distributes() -> None:
    model, x = residual(), some()
    with pytest.raises(ConfigError, match="to='layer'"):
        create_analyzer("lrp.epsilon", model).explain(x).flow()
    with pytest.raises(ConfigError, match="does not distribute the logit"):
        create_analyzer("gradient", model).explain(x, to="2").flow()
    flow = create_analyzer("deeplift", model).explain(x, 1, to="2").flow()
    assert [row.junction for row in flow.rows] == ["2"]
    with pytest.raises(ConfigError, match="no paths meet"):
        flow.figure()
    products = create_analyzer("input_x_gradient", model)
    logits = model(x).detach()
    contrast = products.explain(x, Contrast(1, 0), to="2").flow().rows[0]
    torch.testing.assert_close(contrast.total, logits[:, 1] - logits[:, 0])
    torch.testing.assert_close(contrast.share * contrast.total, contrast.relevance)
    assert bool(products.explain(x, lambda own: own[:, 1], to="2").flow().rows[0].share.isnan().all())


def test_flow_splits_attention_by_head() -> None:
    torch.manual_seed(0)

    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Linear(4, 6), nn.Linear(6, 3)
            self.attention = nn.MultiheadAttention(6, 3, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x)
            return self.head((x + self.attention(x, x, x, need_weights=False)[0]).mean(1))

    model, x = Attends().double().eval(), torch.rand(2, 5, 4, dtype=torch.float64)
    explained = create_analyzer("lrp.epsilon", model).explain(x, 1, to="embed")
    heads = explained.flow().junctions["attention: heads"]
    assert [row.branch for row in heads] == ["head 0", "head 1", "head 2"]
    # the heads together have what the product of weights and values has, by hand: the output of attention before its
    # projection, whose bias is zero at first
    block = next(rows for name, rows in explained.flow().junctions.items() if name.endswith("sum"))
    carried = next(row.relevance for row in block if row.branch.startswith("attention"))
    torch.testing.assert_close(sum(row.relevance for row in heads), carried, rtol=1e-4, atol=1e-6)


def test_figures_show_the_map_of_a_layer() -> None:
    model, x = residual(), some()
    explained = create_analyzer("lrp.epsilon", model).explain(x[:1], 1, to=["2", "5"])
    texts = [text.get_text() for text in explained.figure().texts]
    assert "Output of 5" in texts
    assert texts.index("Output of 2") < next(n for n, text in enumerate(texts) if text.startswith("lrp.epsilon for"))
    assert "LayerExplanations(lrp.epsilon" in repr(explained)
