"""Several methods on the same images: equal maps, fewer forward passes."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pellucid import Unit
from pellucid.attribution import METHODS, create_analyzer
from pellucid.attribution._explanation import without_warnings
from pellucid.attribution._together import explain_together, images_per_pass
from pellucid.core.errors import ConfigError, UnsupportedOperation

X = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Counted(nn.Module):
    """Counts its forward passes of whole batches."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.passes = network, 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += len(x) > 1
        result: Tensor = self.network(x)
        return result


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU())
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3)).eval()


@pytest.mark.parametrize("target", [None, 1, "all", torch.tensor([0, 1, 2, 0, 1])])
def test_maps_are_those_of_each_method_alone(target: object) -> None:
    model = network()
    names = [name for name in METHODS.names() if create_analyzer(name, model).method.is_ready]
    # attention rollout is for transformers
    skipped = ("rise", "shapley", "occlusion", "simple_taylor", "attention_rollout")
    cheap = [name for name in names if not name.startswith(skipped)]
    _, together = explain_together([create_analyzer(name, model) for name in cheap], X, target)  # type: ignore[arg-type]
    for name, shared in zip(cheap, together, strict=True):
        with without_warnings():
            alone = create_analyzer(name, model).explain(X, target)  # type: ignore[arg-type]
        assert torch.equal(shared.relevance, alone.relevance), name
        assert torch.equal(shared.target, alone.target), name
        assert shared.residual is None if alone.residual is None else torch.equal(shared.residual, alone.residual), name


@pytest.mark.parametrize(
    ("names", "passes"),
    [
        # plain, recorded
        (["lrp.epsilon", "lrp.z", "deep_taylor", "guided_backprop", "deconvnet"], 2),
        # plain, differentiated
        (["gradient", "input_x_gradient", "sensitivity"], 2),
        (["gradient", "lrp.epsilon"], 3),
        # the path and the baseline on top
        (["gradient", "lrp.epsilon", "integrated_gradients"], 3 + 64 + 1),
    ],
)
def test_forward_passes_are_shared(names: list[str], passes: int) -> None:
    model = Counted(network()).eval()
    analyzers = [create_analyzer(name, model) for name in names]
    explain_together(analyzers, X)
    model.passes = 0
    explain_together(analyzers, X)
    assert model.passes == passes


def test_nothing_is_kept_for_other_images_or_weights() -> None:
    model = network()
    analyzers = [create_analyzer(name, model) for name in ("gradient", "lrp.epsilon")]
    images = X.clone()
    first = explain_together(analyzers, images)
    images += 0.1
    with torch.no_grad():
        model[-1].weight *= 2
    second = explain_together(analyzers, images)
    assert not torch.equal(first[0], second[0])
    for name, shared in zip(("gradient", "lrp.epsilon"), second[1], strict=True):
        assert torch.equal(shared.relevance, create_analyzer(name, network_like(model)).explain(images).relevance)


def network_like(model: nn.Module) -> nn.Module:
    copy = network()
    copy.load_state_dict(model.state_dict())
    return copy


def test_passes_to_layers_and_units_are_kept_apart() -> None:
    model, unit = network(), Unit("3", channel=2)
    calls: list[dict[str, Any]] = [{"to": "2"}, {}, {"to": ["0", "2"]}, {"to": "2"}, {"target": unit}, {}]
    calls += [{"target": unit, "to": "2"}, {"target": "all", "to": "2"}, {"to": "2"}]
    analyzers = [create_analyzer(name, model) for name in ("lrp.epsilon", "gradient", "excitation_backprop")]
    explain_together(analyzers, X)
    with analyzers[0]._subject.keeping_passes():
        for call in calls:
            for analyzer in analyzers:
                shared, alone = analyzer.analyze(X, **call), create_analyzer(analyzer.name, model).analyze(X, **call)
                for one, other in zip(_maps(shared), _maps(alone), strict=True):
                    assert torch.equal(one, other), (analyzer.name, call)


def _maps(result: Tensor | dict[str, Tensor]) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result.values())


def test_methods_share_the_pass_to_a_layer() -> None:
    model = Counted(network()).eval()
    analyzers = [create_analyzer(name, model) for name in ("lrp.epsilon", "lrp.z")]
    explain_together(analyzers, X)
    with analyzers[0]._subject.keeping_passes():
        model.passes = 0
        for analyzer in analyzers:
            analyzer.analyze(X, 1, to="network.2")
    assert model.passes == 2  # plain, recorded


def test_one_class_is_explained_by_all_methods() -> None:
    model = network()
    logits, explained = explain_together([create_analyzer(name, model) for name in ("gradient", "cam")], X)
    for one in explained:
        assert torch.equal(one.target, logits.argmax(1))


def test_mistakes() -> None:
    model = network()
    with pytest.raises(ConfigError, match="got no methods"):
        explain_together([], X)
    with pytest.raises(ConfigError, match="another model or another output"):
        explain_together([create_analyzer("gradient", model), create_analyzer("gradient", network())], X)
    with pytest.raises(UnsupportedOperation, match="cam needs"):
        flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
        explain_together([create_analyzer("gradient", flat), create_analyzer("cam", flat)], X)


def test_the_batch_suits_every_method() -> None:
    model = network()
    both = [create_analyzer(name, model) for name in ("gradient", "lrp.epsilon")]
    assert images_per_pass(both, X) == min(images_per_pass([one], X) for one in both)
