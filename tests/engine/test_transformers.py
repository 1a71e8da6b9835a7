"""Every method on torchvision's ConvNeXt-Tiny, and on its Swin-T and ViT-B/16 with fewer blocks, at 64×64."""

import math
import time
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from pellucid import create_analyzer
from pellucid.attribution import METHODS, Analyzer, Explanation
from pellucid.attribution._explanation import without_warnings
from pellucid.core.errors import ModelError, UnsupportedOperation

pytestmark = pytest.mark.slow
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "convnext_tiny": lambda: torchvision.models.convnext_tiny(num_classes=10),
    # two of six blocks in the third stage, and six of twelve layers
    "swin_t": lambda: torchvision.models.SwinTransformer(
        [4, 4], 96, [2, 2, 2, 2], num_heads=[3, 6, 12, 24], window_size=[7, 7], num_classes=10
    ),
    "vit_b_16": lambda: torchvision.models.VisionTransformer(
        64, patch_size=16, num_layers=6, num_heads=12, hidden_dim=768, mlp_dim=3072, num_classes=10
    ),
}
FEW = {"samples": 2, "steps": 4, "places": 2, "halvings": 2}
FEW |= {"masks": 4, "permutations": 1, "patch": 32, "window": 32, "stride": 32, "top_channels": 8}
PATTERNS = dict.fromkeys(("pattern.attribution", "pattern.net"), "patterns are not defined for layer_norm")
NO_POOLING = {"cam": "needs a network that ends in global average pooling"}
NO_ATTENTION = {"attention_rollout": "has no attention layer"}
WINDOWS = {"attention_rollout": r"the tokens of 'features.1.0.attn'.* are those of windows"}
REFUSED = {
    "ConvNeXt": PATTERNS | NO_POOLING | NO_ATTENTION,
    "SwinTransformer": PATTERNS | WINDOWS,
    "VisionTransformer": PATTERNS | NO_POOLING,
}
"""The methods that do not apply to a network, with their error messages."""


def alive(model: nn.Module) -> nn.Module:
    """Scale the weights so that the signal keeps its size, as after training; with torchvision's, it fades."""
    generator = torch.Generator().manual_seed(0)

    def normal(parameter: Tensor, spread: float) -> None:
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "layer_scale" in name or "token" in name or "pos_embedding" in name:
                normal(parameter, 1)
            elif parameter.ndim > 1:
                normal(parameter, 1 / math.sqrt(parameter[0].numel()))
            elif not parameter.any():
                normal(parameter, 0.1)
    return model.eval()


def pictures(count: int) -> Tensor:
    coarse = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return F.interpolate(coarse, size=64) * torch.linspace(0.4, 1, count).view(-1, 1, 1, 1)


@pytest.fixture(scope="module", params=NETWORKS)
def seen(request) -> tuple[Analyzer, Tensor]:
    """One analyzer for all methods, so that the taint watch runs only once, and two images."""
    torch.manual_seed(0)
    return create_analyzer("gradient", alive(NETWORKS[request.param]())), pictures(2)


def explain(name: str, analyzer: Analyzer, images: Tensor, target: int | None = None) -> Explanation:
    known = METHODS[name].__dataclass_fields__
    analyzer.name, analyzer.method = name, METHODS[name](**{key: few for key, few in FEW.items() if key in known})
    if not analyzer.method.is_ready:
        analyzer.fit([pictures(3)])
    with without_warnings():  # deep networks amplify, and a few steps miss the sum
        return analyzer.explain(images, target)


def test_logits_differ_between_images_and_classes(seen) -> None:
    analyzer, images = seen
    with torch.no_grad():
        logits = analyzer.model(images)
    assert float((logits[0] - logits[1]).abs().max()) > 1e-2
    assert float(logits.std(1).min()) > 1e-2


def test_every_method_explains_them_and_keeps_its_guarantees(seen) -> None:
    analyzer, images = seen
    with torch.no_grad():
        logits = analyzer.model(images[:1])
    for name in METHODS:
        began = time.process_time()
        refusal = REFUSED[type(analyzer.model).__name__].get(name)
        if refusal is not None:
            with pytest.raises((UnsupportedOperation, ModelError), match=refusal):
                explain(name, analyzer, images[:1])
            continue
        explanation = explain(name, analyzer, images[:1])
        relevance, residual = explanation.relevance, explanation.residual
        assert relevance.shape == images[:1].shape, name
        assert bool(relevance.isfinite().all()), name
        is_empty = any("ReLU set their map to zero" in note for note in explanation.notes)
        assert float(relevance.std()) > 0 or name == "constant" or is_empty, name
        torch.testing.assert_close(explanation.logits, logits, rtol=1e-3, atol=1e-4)
        summary = ""
        if residual is not None and name not in ("integrated_gradients", "conductance"):
            size = explanation.logits.amax(1).abs().maximum(relevance.flatten(1).abs().sum(1) / 100)
            assert float(residual.abs() / size) < 1e-4, name
            summary = f"residual {float(residual.abs() / size):.1e}"
        print(f"{name:30} {time.process_time() - began:.2f} s  {summary}")


@pytest.mark.parametrize("name", ["lrp.epsilon", "deeplift"])
def test_attnlrp_and_deeplift_are_complete_for_each_image_of_a_batch(seen, name) -> None:
    analyzer, images = seen
    many = explain(name, analyzer, images)
    size = many.logits.amax(1).abs().maximum(many.relevance.flatten(1).abs().sum(1) / 100)
    assert (many.residual.abs() < 1e-4 * size).all()
    alone = explain(name, analyzer, images[1:])
    # rounding depends on the processor, and the epsilon rule magnifies it
    assert float((many.relevance[1:] - alone.relevance).abs().max()) < 3e-3 * float(alone.relevance.abs().max())


def test_every_block_matters_to_the_map(seen) -> None:
    analyzer, images = seen
    before = explain("lrp.epsilon", analyzer, images[:1], 1).relevance
    layers = [module for module in analyzer.model.modules() if isinstance(module, (nn.Conv2d, nn.Linear, nn.LayerNorm))]
    for layer in layers[:: len(layers) // 3]:
        with torch.no_grad():
            kept = layer.weight.clone()
            layer.weight[: max(1, len(kept) // 2)] *= 1.5
            after = explain("lrp.epsilon", analyzer, images[:1], 1).relevance
            layer.weight.copy_(kept)
        assert float((after - before).abs().max()) > 1e-4 * float(before.abs().max())
