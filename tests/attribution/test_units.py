"""Hidden units as targets, for every kind of method and for layers below them."""

import captum.attr as captum
import pytest
import torch
from torch import Tensor, nn

from pellucid import Unit, create_analyzer, prototypes
from pellucid.core.errors import ConfigError, ModelError, ShapeError, UnknownName


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(48, 5)]
    return nn.Sequential(*layers).double().eval()


@pytest.fixture
def x() -> Tensor:
    return torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


UNIT = Unit("2", channel=1, at=(1, 2))
AT_ALL = [Unit("2", 1), Unit("2", 1, "mean"), UNIT, Unit("5", 3)]


def activation(model: nn.Sequential, unit: Unit, x: Tensor) -> Tensor:
    """The unit's score, by hand."""
    output = model[: int(unit.layer) + 1](x)[:, unit.channel]
    if output.ndim == 1:
        return output
    if unit.at == "max":
        return output.amax((1, 2))
    return output.mean((1, 2)) if unit.at == "mean" else output[:, *unit.at]


@pytest.mark.parametrize("unit", AT_ALL, ids=str)
def test_gradient_is_that_of_the_activation(model, x, unit) -> None:
    leaf = x.clone().requires_grad_()
    slope = torch.autograd.grad(activation(model, unit, leaf).sum(), leaf)[0]
    explained = create_analyzer("gradient", model).explain(x, unit)
    torch.testing.assert_close(explained.relevance, slope)
    assert explained.explained == str(unit)
    assert explained.unit == "activation per unit of pixel value"
    assert explained.target.tolist() == [-1, -1, -1]


@pytest.mark.filterwarnings("ignore::pellucid.attribution.CompletenessWarning")
@pytest.mark.parametrize("unit", AT_ALL, ids=str)
@pytest.mark.parametrize("name", ["lrp.epsilon", "deeplift", "integrated_gradients"])
def test_relevance_sums_to_the_activation(model, x, unit, name) -> None:
    explained = create_analyzer(name, model).explain(x, unit, strict=name != "integrated_gradients")
    promised = activation(model, unit, x)
    if name != "lrp.epsilon":
        promised = promised - activation(model, unit, torch.zeros_like(x))
    total = explained.relevance.flatten(1).sum(1) + sum(explained.absorbed.values())
    torch.testing.assert_close(total, promised.detach(), rtol=5e-3, atol=5e-3)


@pytest.mark.filterwarnings("ignore::pellucid.attribution.CompletenessWarning", "ignore:Input Tensor:UserWarning")
def test_agrees_with_captum(model, x) -> None:
    selected = (1, 1, 2)
    for name, options, peer, peer_options in (
        ("gradient", {}, captum.NeuronGradient, {}),
        ("integrated_gradients", {"steps": 5}, captum.NeuronIntegratedGradients, {"n_steps": 5}),
    ):
        own = create_analyzer(name, model, **options).analyze(x, UNIT)
        theirs = peer(model, model[2]).attribute(x, selected, **peer_options)
        torch.testing.assert_close(own, theirs.detach(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["gradient", "lrp.epsilon", "deeplift", "occlusion"])
def test_layers_below_a_unit(model, x, name) -> None:
    # the network that ends at the unit's layer, and its output as the score
    ending = model[:3]
    own = create_analyzer(name, model).analyze(x, UNIT, to="0")
    theirs = create_analyzer(name, ending).analyze(x, lambda output: output[:, 1, 1, 2], to="0")
    torch.testing.assert_close(own, theirs)


def test_layers_above_a_unit_are_refused(model, x) -> None:
    with pytest.raises(ModelError, match="only after the explained unit"):
        create_analyzer("gradient", model).analyze(x, UNIT, to="5")


@pytest.mark.filterwarnings("ignore::pellucid.attribution.CompletenessWarning")
def test_passes_end_at_the_unit(model, x) -> None:
    calls = []
    model[5].register_forward_hook(lambda *_: calls.append(1))
    analyzer = create_analyzer("integrated_gradients", model, steps=8)
    analyzer.analyze(x, UNIT)
    assert len(calls) == 1  # the one whole pass, which checks that the layer is called once


def test_fitted_methods_explain_units(model, x) -> None:
    analyzer = create_analyzer("expected_gradients", model, samples=3).fit([x])
    assert analyzer.analyze(x, UNIT).shape == x.shape


def test_the_figure_names_the_unit(model, x) -> None:
    explained = create_analyzer("lrp.epsilon", model).explain(x[:1], UNIT)
    assert "unit 1 of 2 at (1, 2)" in " ".join(text.get_text() for text in explained.figure().texts)


def test_units_without_meaning_are_refused(model, x) -> None:
    analyzer = create_analyzer("gradient", model)
    for unit, error, message in (
        (Unit("nope", 1), UnknownName, "nope"),
        (Unit("2", 3), ShapeError, "no channel 3 in '2', whose output is .* index from 0 to 2"),
        (Unit("2", 1, (9, 0)), ShapeError, r"positions are \(4, 4\)"),
        (Unit("2", 1, (1,)), ShapeError, "one index per axis"),
        (Unit("2", 1, axis=0), ShapeError, "no channel axis"),
    ):
        with pytest.raises(error, match=message):
            analyzer.analyze(x, unit)
    with pytest.raises(ConfigError, match="layer of a unit is empty"):
        Unit("", 1)


def test_channels_of_sequences_need_an_axis() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.Flatten(), nn.Linear(30, 2)).double()
    x = torch.rand(2, 5, 4, dtype=torch.float64)
    with pytest.raises(ShapeError, match="axis=1 or axis=-1"):
        create_analyzer("gradient", model).analyze(x, Unit("0", 2))
    own = create_analyzer("gradient", model).analyze(x, Unit("0", 2, (3,), axis=-1))
    torch.testing.assert_close(own[:, 3], model[0].weight[2].detach().expand(2, 4))


def test_modules_called_twice_need_an_index() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.inner(self.inner(x).tanh()))

    model, x = Twice().double(), torch.rand(2, 4, dtype=torch.float64)
    with pytest.raises(ModelError, match="'inner@0', 'inner@1'"):
        create_analyzer("gradient", model).analyze(x, Unit("inner", 1))
    own = create_analyzer("gradient", model).analyze(x, Unit("inner@0", 1))
    torch.testing.assert_close(own, model.inner.weight[1].detach().expand(2, 4))


@pytest.mark.slow
def test_prototypes_maximize_units(model) -> None:
    model = model.float()
    units = [Unit("2", 1, "mean"), Unit("2", 0, (1, 2))]
    result = prototypes(model, units, image_shape=(1, 8, 8), steps=30)
    assert result.images.shape == (2, 1, 8, 8)
    noise = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for image, unit in zip(result.images, units, strict=True):
        own, best = (activation(model, unit, images).max().item() for images in (image[None], noise))
        assert own > best
    by_pair = prototypes(model, unit=("2", 1), image_shape=(1, 8, 8), steps=5)
    by_unit = prototypes(model, Unit("2", 1, "mean"), image_shape=(1, 8, 8), steps=5)
    torch.testing.assert_close(by_pair.images, by_unit.images)
    with pytest.raises(UnknownName):
        prototypes(model, Unit("nope", 1), image_shape=(1, 8, 8))
    with pytest.raises(ConfigError, match="only one of them"):
        prototypes(model, Unit("2", 1), unit=("2", 1), image_shape=(1, 8, 8))
