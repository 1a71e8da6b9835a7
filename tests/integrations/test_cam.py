"""Class activation maps of transformers from timm and Hugging Face, against Grad-CAM written by hand."""

from collections.abc import Callable

import pytest
import torch
from architectures import required
from torch import Tensor, nn

from pellucid import create_analyzer

pytestmark = pytest.mark.integrations


def grad_cam(score: Callable[[Tensor], Tensor], layer: nn.Module, images: Tensor, skip: int, grid: tuple) -> Tensor:
    """Compute Grad-CAM from the tokens after the first `skip` of a layer's output, before ReLU and interpolation."""
    seen: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        output.retain_grad()
        seen.append(output)

    handle = layer.register_forward_hook(keep)
    score(images.clone().requires_grad_()).sum().backward()
    handle.remove()

    def maps(tokens: Tensor) -> Tensor:
        return tokens[:, skip:].transpose(1, 2).unflatten(2, grid)

    return (maps(seen[0].detach()) * maps(seen[0].grad).mean((2, 3), keepdim=True)).sum(1)


def drawn(model: nn.Module) -> nn.Module:
    """Draw all weights anew, since some models start with a head of zeros."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    return model.double().eval()


TIMM = [
    ("vit_tiny_patch16_224", {"img_size": (32, 48)}, "blocks.1.norm1", 1, (2, 3)),
    ("deit_tiny_distilled_patch16_224", {"img_size": (32, 48)}, "blocks.1.norm1", 2, (2, 3)),
    ("cait_xxs24_224", {"img_size": (32, 48)}, "blocks_token_only.1.norm1", 1, (2, 3)),
    ("mixer_s32_224", {"img_size": 64}, "norm", 0, (2, 2)),
]


@pytest.mark.parametrize(("name", "options", "layer", "skip", "grid"), TIMM, ids=[row[0] for row in TIMM])
def test_timm(name, options, layer, skip, grid) -> None:
    timm = required("timm")
    small = {} if "mixer" in name else {"depth": 2}
    model = drawn(timm.create_model(name, num_classes=3, **options, **small))
    if "mixer" in name:
        model.blocks = model.blocks[:1]
    size = options["img_size"] if isinstance(options["img_size"], tuple) else (options["img_size"],) * 2
    images = torch.rand(2, 3, *size).double()
    explanation = create_analyzer("grad_cam", model, relu=False).explain(images, 1)
    expected = grad_cam(lambda x: model(x)[:, 1], model.get_submodule(layer), images, skip, grid)
    assert repr(layer) in explanation.notes[0]
    torch.testing.assert_close(explanation.details["map"], expected)


SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "num_labels": 3}
SWIN = {"embed_dim": 8, "depths": [2, 2], "num_heads": [2, 2], "window_size": 4, "num_labels": 3, "patch_size": 4}
HUGGING_FACE = [
    ("ViT", {**SIZES, "image_size": (16, 24), "patch_size": 8}, "vit.layers.1.layernorm_before", 1, (2, 3)),
    ("Dinov2", {**SIZES, "image_size": 16, "patch_size": 8}, "dinov2.layernorm", 1, (2, 2)),
    ("Swin", {**SWIN, "image_size": 32}, "swin.layernorm", 0, (4, 4)),
]


@pytest.mark.parametrize(
    ("name", "options", "layer", "skip", "grid"), HUGGING_FACE, ids=[row[0] for row in HUGGING_FACE]
)
def test_hugging_face(name, options, layer, skip, grid) -> None:
    transformers = required("transformers")
    config = getattr(transformers, f"{name}Config")(**options)
    model = drawn(getattr(transformers, f"{name}ForImageClassification")(config))
    size = options["image_size"] if isinstance(options["image_size"], tuple) else (options["image_size"],) * 2
    images = torch.rand(2, 3, *size).double()
    explanation = create_analyzer("grad_cam", model, output="logits", relu=False).explain(images, 1)
    name = explanation.notes[0].split("'")[1]
    # the modules' names differ between versions
    assert name.rsplit(".", 1)[1] == layer.rsplit(".", 1)[1]
    expected = grad_cam(lambda x: model(x).logits[:, 1], model.get_submodule(name), images, skip, grid)
    torch.testing.assert_close(explanation.details["map"], expected)


def test_beit_reads_the_sum_after_its_last_block() -> None:
    transformers = required("transformers")
    config = transformers.BeitConfig(**SIZES, image_size=16, patch_size=8)
    model = drawn(transformers.BeitForImageClassification(config))
    images = torch.rand(2, 3, 16, 16).double()
    explanation = create_analyzer("grad_cam", model, output="logits", relu=False).explain(images, 1)
    tokens = model.beit(images).last_hidden_state.detach().requires_grad_()
    pooled = model.beit.pooler(tokens)
    slopes = torch.autograd.grad(model.classifier(pooled)[:, 1].sum(), tokens)[0]

    def maps(values: Tensor) -> Tensor:
        return values[:, 1:].transpose(1, 2).unflatten(2, (2, 2))

    expected = (maps(tokens.detach()) * maps(slopes).mean((2, 3), keepdim=True)).sum(1)
    torch.testing.assert_close(explanation.details["map"], expected)
