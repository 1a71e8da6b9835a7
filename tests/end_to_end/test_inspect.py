"""`pellucid inspect` and `pellucid.inspect` with networks and data as users have them: all hooks, under a budget."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.resnet import BasicBlock

import pellucid
from pellucid.cli.main import main
from pellucid.core.budget import BUDGETS, Budget
from pellucid.core.seeding import generator
from pellucid.storage.store import Store

CLASSES = [f"class {index}" for index in range(10)]


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Budget:
    """A third of the smallest budget, under its name."""
    budget = Budget("small", 80, BUDGETS["small"].classes, BUDGETS["small"].passes)
    monkeypatch.setitem(BUDGETS, "small", budget)
    return budget


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder like CIFAR-10: ten classes of color pictures, of 16×16, a stripe telling the class."""
    folder, draws = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for part, count in (("train", 8), ("test", 4)):
        for label, name in enumerate(CLASSES):
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = draws.integers(0, 128, (16, 16, 3), dtype=np.uint8)
                pixels[label : label + 2, :, label % 3] += 120
                Image.fromarray(pixels).save(folder / part / name / f"{number}.png")
    return folder


def hooks_of(save: Path) -> set[str]:
    return {entry["hook"] for entry in Store(save).manifest()["artifacts"]}


@pytest.mark.slow
def test_a_resnet_on_a_folder_of_ten_classes_makes_every_default_figure(photos, tmp_path, tiny):
    save = tmp_path / "save"
    arguments = ["--model", "torchvision:resnet18", "--dataset", f"folder:{photos}", "--save", str(save)]
    assert main(["inspect", *arguments, "--budget", "small", "--threads", "1"]) == 0
    assert Store(save).manifest()["failures"] == []
    expected = {"confusion_matrix", "saliency", "jacobian_maps", "explanations", "hardest", "tsne", "projector"}
    assert hooks_of(save) >= expected | {"gallery", "leaderboard", "prototypes"}
    record = json.loads((save / "run.json").read_text())
    assert (record["kind"], record["dataset"]["test_images"], record["dataset"]["train_images"]) == ("inspect", 40, 80)
    assert (save / "logs" / "test").is_dir()
    assert (save / "report.html").stat().st_size < 15_000_000


@pytest.mark.slow
def test_a_thousand_classes_stay_within_the_budget(tmp_path, tiny):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torchvision.models.ResNet(BasicBlock, [1, 1, 1, 1], num_classes=1000).eval()  # half of a ResNet-18
    draws = generator(0, "thousand classes")
    images, labels = torch.rand(64, 3, 16, 16, generator=draws), torch.randint(1000, (64,), generator=draws)
    image, forward = images[:1], FlopCounterMode(display=False)
    with forward, torch.no_grad():
        model(image)
    counter = FlopCounterMode(display=False)
    with counter:
        run = pellucid.inspect(model, (images, labels), save=tmp_path, budget="small", hooks="default")
    assert counter.get_total_flops() <= tiny.passes * tiny.images * forward.get_total_flops()
    assert len(run.classes) == 1000
    assert Store(tmp_path).manifest()["failures"] == []
    assert len(json.loads((tmp_path / "plots/confusion_matrix/epoch_000.json").read_text())["counts"]) == 1000
    figures = [one for one in Store(tmp_path).manifest()["artifacts"] if one["kind"] == "figure"]
    assert {one["hook"] for one in figures} >= {"confusion_matrix", "saliency", "explanations", "hardest", "tsne"}
    assert all("64" in one["caption"] or "image" in one["caption"] for one in figures)
    assert (tmp_path / "report.html").stat().st_size < 15_000_000


@pytest.mark.slow
def test_a_vision_transformer(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {"num_layers": 3, "num_heads": 4, "hidden_dim": 64, "mlp_dim": 128, "num_classes": 10}
        model = torchvision.models.VisionTransformer(image_size=64, patch_size=16, **sizes).eval()
        torch.nn.init.normal_(model.heads.head.weight)  # torchvision begins with zeros
    draws = generator(0, "transformer")
    images, labels = torch.randn(20, 3, 64, 64, generator=draws), torch.arange(20) % 10
    normalization = {"mean": [0.5] * 3, "std": [0.25] * 3}
    hooks = ["confusion_matrix", "saliency", "hardest", "tsne", "projector"]
    options = {"classes": CLASSES, "save": tmp_path, "budget": "small", "hooks": hooks}
    pellucid.inspect(model, (images, labels), **options, **normalization)
    assert Store(tmp_path).manifest()["failures"] == []
    assert hooks_of(tmp_path) == set(hooks)
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["model"]["embedding_layer"].endswith("heads.head")
    # relevance is per displayed pixel: the gradient of the normalized image, divided by std
    arrays = np.load(tmp_path / "plots" / "saliency" / "epoch_000.npz")
    first = pellucid.create_analyzer("gradient", model).analyze(images[:1], labels[:1])
    assert np.allclose(arrays["saliency"][:1], first / 0.25, rtol=1e-3, atol=1e-5)
