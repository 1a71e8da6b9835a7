"""`pellucid.inspect` and `pellucid inspect`: every hook on a model that somebody else has trained."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import pellucid
from pellucid.cli.main import main
from pellucid.core.errors import DataError
from pellucid.core.seeding import generator
from pellucid.storage.store import Store

CLASSES = ["ant", "bee", "cat"]


def net(classes: int = 3) -> nn.Module:
    """Return a small network for color images; the command line finds it here."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, classes)
        )


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder with three classes of color pictures."""
    draws = np.random.default_rng(0)
    for part, count in (("train", 4), ("test", 3)):
        for name in CLASSES:
            folder = tmp_path / "photos" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = draws.integers(0, 256, (12, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "photos"


def inspected(photos: Path, save: Path, *more: str) -> int:
    """Run the command on the pictures, scaled to 10×10."""
    arguments = ["--model", "test_inspection:net", "--dataset", f"folder:{photos}", "--save", str(save)]
    return main(["inspect", *arguments, "--image-size", "10", "--crop", "10", "--threads", "1", *more])


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def record_of(save: Path) -> dict:
    return json.loads((save / "run.json").read_text())


def test_the_command_writes_the_save_folder_of_a_run(photos, tmp_path, capsys):
    save = tmp_path / "save"
    assert inspected(photos, save, "--hooks", "confusion_matrix,saliency,hardest", "--budget", "small") == 0
    record, [line] = record_of(save), Store(save).metrics()
    assert (record["kind"], record["status"], record["budget"]) == ("inspect", "finished", "small")
    assert record["model"]["name"] == "test_inspection:net"
    assert record["dataset"]["classes"] == CLASSES
    assert (record["dataset"]["test_images"], record["dataset"]["image_shape"]) == (9, [3, 10, 10])
    training = [line[name] for name in ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy")]
    assert (line["epoch"], training) == (0, [None] * 4)
    assert record["test_accuracy"] == line["test_accuracy"]
    hooks = {entry["hook"] for entry in Store(save).manifest()["artifacts"]}
    assert hooks == {"confusion_matrix", "saliency", "hardest"}
    page = (save / "report.html").read_text()
    assert "Inspection: test_inspection:net on" in page
    assert "Learning curves" not in page
    assert "untrained" not in page
    assert "report.html" in capsys.readouterr().out


def test_numbers_are_those_of_the_preprocessed_pictures(photos, tmp_path):
    save = tmp_path / "save"
    inspected(photos, save, "--hooks", "confusion_matrix", "--mean", "0.5,0.4,0.3", "--std", "0.2,0.2,0.2")
    logits, labels = [], []
    for label, name in enumerate(CLASSES):
        for number in range(3):
            with Image.open(photos / "test" / name / f"{number}.png") as opened:
                # the shorter side, then the middle of the longer one
                picture = opened.resize((13, 10), Image.Resampling.BILINEAR).crop((2, 0, 12, 10))
            pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
            mean, std = torch.tensor([0.5, 0.4, 0.3])[:, None, None], 0.2
            with torch.no_grad():
                logits.append(net()((pixels - mean)[None] / std)[0])
            labels.append(label)
    logits, labels = torch.stack(logits), torch.tensor(labels)
    counts = np.zeros((3, 3), int)
    np.add.at(counts, (labels.numpy(), logits.argmax(1).numpy()), 1)
    numbers = json.loads((save / "plots" / "confusion_matrix" / "epoch_000.json").read_text())
    assert numbers["counts"] == counts.tolist()
    [line] = Store(save).metrics()
    assert line["test_loss"] == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), rel=1e-4)


def test_a_built_in_network_gets_the_shape_of_the_preprocessed_images(photos, tmp_path):
    assert inspected(photos, tmp_path / "save", "--hooks", "none", "--model", "mlp") == 0
    record = record_of(tmp_path / "save")
    assert record["model"]["name"] == "mlp"
    assert record["dataset"]["image_shape"] == [3, 10, 10]


def test_weights_of_a_file_are_used(photos, tmp_path):
    model = net()
    with torch.no_grad():
        model[4].bias.copy_(torch.tensor([0.0, 100.0, 0.0]))  # always the second class
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    save = tmp_path / "save"
    inspected(photos, save, "--hooks", "none", "--weights", str(tmp_path / "weights.safetensors"))
    assert Store(save).metrics()[0]["test_accuracy"] == pytest.approx(1 / 3)


def test_an_earlier_run_is_moved_aside(photos, tmp_path):
    save = tmp_path / "save"
    for _ in range(2):
        assert inspected(photos, save, "--hooks", "none") == 0
    assert len(list((save / "previous").iterdir())) == 1


def test_the_function_takes_tensors_and_returns_a_run(tmp_path):
    draws = generator(0, "inspect")
    images, labels = torch.rand(12, 3, 10, 10, generator=draws), torch.arange(12) % 3
    model = net()
    run = pellucid.inspect(model, (images, labels), classes=CLASSES, save=tmp_path, hooks="saliency", budget="small")
    assert run.model is model
    assert run.classes == tuple(CLASSES)
    with torch.no_grad():
        accuracy = (model(images).argmax(1) == labels).float().mean().item()
    assert run.metrics[0]["test_accuracy"] == pytest.approx(accuracy)
    arrays = np.load(tmp_path / "plots" / "saliency" / "epoch_000.npz")
    expected = pellucid.create_analyzer("gradient", model).analyze(images[:3], labels[:3])
    assert np.allclose(arrays["saliency"], expected, atol=1e-6)


def test_images_of_unknown_normalization_are_drawn_on_a_stated_scale(tmp_path):
    images, labels = torch.randn(12, 3, 10, 10, generator=generator(0, "inspect")), torch.arange(12) % 3
    run = pellucid.inspect(net(), (images, labels), save=tmp_path, hooks="saliency,explanations", budget="small")
    record = record_of(tmp_path)
    assert record["model"]["preprocessing"]["scale"] == pytest.approx([images.min().item(), images.max().item()])
    assert "mean and std are unknown" in record["dataset"]["notice"]
    assert run.classes == ("0", "1", "2")
    source = np.load(tmp_path / "plots" / "saliency" / "epoch_000.npz")["source"]
    assert 0 <= source.min() < source.max() <= 1


def test_a_hook_that_fails_gives_exit_code_1(photos, tmp_path, monkeypatch):
    def fail(self: object, scene: object) -> None:
        raise ValueError("broken hook")

    monkeypatch.setattr("pellucid.hooks.confusion_matrix.ConfusionMatrix.run", fail)
    assert inspected(photos, tmp_path / "save", "--hooks", "confusion_matrix,saliency") == 1
    assert record_of(tmp_path / "save")["status"] == "finished"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "torchvision:resnet19"], "resnet18"),
        (["--model", "resnet18"], "there is no model"),
        (["--hooks", "salency"], "saliency"),
        (["--dataset", "folder:nowhere"], "nowhere"),
        (["--weights", "missing.safetensors"], "missing.safetensors"),
        (["--mean", "0.5"], "std"),
        (["--mean", "0.5,0.5", "--std", "0.5,0.5"], "2 values"),
        (["--class-names", "missing.txt"], "missing.txt"),
        (["--device", "gpu"], "gpu"),
        (["--budget", "tiny"], "tiny"),
    ],
)
def test_wrong_arguments_are_one_clear_error(photos, tmp_path, capsys, arguments, message):
    save = tmp_path / "save"
    try:
        code = inspected(photos, save, *arguments)
    except SystemExit as leaving:  # a value that the parser refuses
        code = leaving.code
    error = capsys.readouterr().err
    assert code == 2
    assert message in error
    assert "Traceback" not in error
    assert not (save / "run.json").exists()


def test_class_names_that_do_not_fit_are_refused_before_anything_is_written(photos, tmp_path, capsys):
    names = tmp_path / "names.txt"
    names.write_text("one\ntwo\nthree\nfour\n")
    assert inspected(photos, tmp_path / "save", "--class-names", str(names)) == 2
    assert "4 class names" in capsys.readouterr().err
    assert not (tmp_path / "save" / "run.json").exists()


def test_labels_beyond_the_logits_are_refused(tmp_path):
    images, labels = torch.rand(6, 3, 10, 10), torch.arange(6)
    with pytest.raises(DataError, match="labels go up to 5, but the model has 3 logits"):
        pellucid.inspect(net(), (images, labels), save=tmp_path / "save")


def test_an_inspected_folder_is_no_run_to_load(photos, tmp_path):
    save = tmp_path / "save"
    inspected(photos, save, "--hooks", "none")
    with pytest.raises(pellucid.errors.SaveError, match="stores no weights"):
        pellucid.load_run(save)


def test_ctrl_c_in_a_hook_leaves_a_report(photos, tmp_path, monkeypatch):
    def interrupt(self: object, scene: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pellucid.hooks.saliency.Saliency.run", interrupt)
    save = tmp_path / "save"
    assert inspected(photos, save, "--hooks", "confusion_matrix,saliency") == 130
    assert record_of(save)["status"] == "interrupted"
    assert "This inspection was interrupted" in (save / "report.html").read_text()
