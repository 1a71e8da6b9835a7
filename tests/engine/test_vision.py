"""torchvision's networks at 64×64, with a narrow VGG: informative logits, conservation, agreement of all code paths."""

import warnings
from collections.abc import Iterable, Iterator

import pytest
import torch
from torch import Tensor, nn

from pellucid import create_analyzer
from pellucid.attribution import METHODS, AmplificationWarning, Analyzer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::pellucid.attribution._explanation.AmplificationWarning"),
]
SAMPLED = ("integrated_gradients", "shapley_sampling")
CERTIFIED = [name for name in METHODS if "complete" in METHODS[name].promises and name not in SAMPLED]
SOME = ("lrp.epsilon", "lrp.epsilon_plus_flat", "lrp.alpha_2_beta_1", "lrp.gamma", "excitation_backprop", "deeplift")


def analyzers(model: nn.Module, names: Iterable[str]) -> Iterator[tuple[str, Analyzer]]:
    """Yield one analyzer with one method after the other, so that the taint watch runs only once."""
    analyzer = create_analyzer("gradient", model)
    for name in names:
        analyzer.name, analyzer.method = name, METHODS[name]()
        yield name, analyzer


def test_logits_differ_between_images_and_classes(seen) -> None:
    model, images = seen
    with torch.no_grad():
        logits = model(images)
    assert float((logits[0] - logits[1]).abs().max()) > 1e-2
    assert float(logits.std(1).min()) > 1e-2


def test_conservative_rules_conserve_in_float64(seen, vision_name) -> None:
    model, images = seen
    for name, analyzer in analyzers(model, CERTIFIED if vision_name == "resnet18" else SOME):
        explanation = analyzer.explain(images[:1], 1)
        size = explanation.relevance.abs().sum().maximum(explanation.logits[0, 1].abs())
        assert float(explanation.residual.abs()) <= 1e-9 * float(size), (name, explanation.residual, size)


def test_common_rules_conserve_in_float32(seen) -> None:
    model, images = seen
    model.float()
    try:
        for name, analyzer in analyzers(model, SOME):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", AmplificationWarning)
                explanation = analyzer.explain(images.float(), 1)
            size = explanation.relevance.flatten(1).abs().sum(1)
            allowed = 1e-4 * explanation.logits[:, 1].abs().maximum(size / 100)
            print(name, (explanation.residual.abs() / allowed).tolist())
            assert (explanation.residual.abs() < allowed).all(), name
    finally:
        model.double()


def blocks(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]


def test_every_block_matters_to_the_map(seen) -> None:
    model, images = seen
    analyzer = create_analyzer("lrp.epsilon_plus_flat", model)
    before = analyzer.analyze(images[:1], 1)
    for layer in blocks(model)[:: max(1, len(blocks(model)) // 6)]:
        with torch.no_grad():
            kept = layer.weight.clone()
            layer.weight[: max(1, len(kept) // 2)] *= 1.5
            after = analyzer.analyze(images[:1], 1)
            layer.weight.copy_(kept)
        assert float((after - before).abs().max()) > 1e-9 * float(before.abs().max())


def test_a_batch_equals_its_images_one_by_one(seen) -> None:
    model, images = seen
    for _, analyzer in analyzers(model, ("lrp.epsilon_plus_flat", "deeplift", "guided_backprop")):
        many = analyzer.analyze(images)
        alone = torch.cat([analyzer.analyze(image[None]) for image in images])
        torch.testing.assert_close(many, alone, rtol=1e-8, atol=1e-8 * float(many.abs().max()))


def test_the_tape_gives_the_gradient(seen) -> None:
    from pellucid.engine.composites import Step
    from pellucid.engine.model import frozen
    from pellucid.engine.relevance import propagate
    from pellucid.engine.rules import Derivative

    model, images = seen
    with frozen(model):
        result = propagate(model, images[:1], (Step(Derivative()),), lambda logits: [torch.ones_like(logits)])[0]
    leaf: Tensor = images[:1].clone().requires_grad_()
    expected = torch.autograd.grad(model(leaf).sum(), leaf)[0]
    torch.testing.assert_close(result.relevance, expected, rtol=1e-7, atol=1e-9 * float(expected.abs().max()))
