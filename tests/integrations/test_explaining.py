"""`pellucid.explain` and `pellucid explain` for models of timm and transformers, with their own preprocessing."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pellucid
from pellucid.attribution import create_analyzer
from pellucid.cli import main

timm = pytest.importorskip("timm", reason="timm is part of the extra `integrations`")
transformers = pytest.importorskip("transformers", reason="transformers is part of the extra `integrations`")

pytestmark = pytest.mark.integrations
NAMES = {0: "cat", 1: "dog", 2: "<b>owl"}


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def vit() -> torch.nn.Module:
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, image_size=32, patch_size=8,
        num_labels=3, id2label=NAMES, label2id={name: label for label, name in NAMES.items()},
    )  # fmt: skip
    return transformers.ViTForImageClassification(config).eval()


def processor() -> object:
    return transformers.ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.4] * 3, image_std=[0.3] * 3)


def test_vit_of_transformers(vit: torch.nn.Module, photo: Path) -> None:
    why = pellucid.explain(vit, photo, preprocess=processor())
    assert why.classes == ("cat", "dog", "<b>owl")
    expected = processor()(Image.open(photo), return_tensors="pt")["pixel_values"]  # type: ignore[operator]
    torch.testing.assert_close((why.inputs - 0.4) / 0.3, expected, atol=0.02, rtol=0)
    same = create_analyzer(why.method, vit, output="logits").explain((why.inputs - 0.4) / 0.3)
    torch.testing.assert_close(why.relevance, same.relevance, rtol=1e-3, atol=1e-6)
    assert "as expected" in why.verdict()
    assert "<b>owl" not in why._repr_html_()


def test_convnext_of_timm_knows_its_preprocessing(photo: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model("convnext_atto", num_classes=5).eval()
    why = pellucid.explain(model, photo, "gradient")
    config = timm.data.resolve_data_config({}, model=model)
    expected = timm.data.create_transform(**config)(Image.open(photo))[None]
    mean, std = (torch.tensor(config[name])[:, None, None] for name in ("mean", "std"))
    torch.testing.assert_close((why.inputs - mean) / std, expected, atol=0.05, rtol=0)
    own = create_analyzer("gradient", model).analyze((why.inputs - mean) / std)
    torch.testing.assert_close(why.relevance, own / std, rtol=1e-3, atol=1e-6)
    assert why.notes == ()


def test_command_with_a_local_folder(vit: torch.nn.Module, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photo.parent)
    vit.save_pretrained("vit")
    processor().save_pretrained("vit")  # type: ignore[attr-defined]
    assert main(["explain", "photo.png", "--model", "hf:vit", "--target", "dog", "--threads", "1"]) == 0
    page = Path("why.html").read_text()
    assert "photo.png: predictions of hf:" in page
    assert "mean 0.4, 0.4, 0.4, std 0.3, 0.3, 0.3" in page
    assert "<b>owl" not in page
