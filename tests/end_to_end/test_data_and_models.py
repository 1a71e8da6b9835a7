"""Other data and models: digits, color image folders, user-defined functions and no network."""

import json
import re
import sys

import numpy as np
import pytest
from PIL import Image

import pellucid

SAVE = """.lock .pellucid films/explanations.webp films/saliency.webp films/tsne.webp logs/events
    logs/test/events logs/train/events logs/validation/events
    logs/projector/epoch_NNN/metadata.tsv logs/projector/epoch_NNN/sprite.png
    logs/projector/epoch_NNN/tensors.tsv logs/projector_config.pbtxt manifest.json metrics.jsonl
    models/best.safetensors models/epoch_NNN.safetensors models/gaussian_mixture.safetensors models/last.ckpt
    models/vae.safetensors
    plots/confusion_matrix/epoch_NNN.json plots/confusion_matrix/epoch_NNN.png
    plots/confusion_matrix/epoch_NNN_images.json plots/confusion_matrix/epoch_NNN_images.npz
    plots/dynamics/epoch_NNN.json plots/dynamics/epoch_NNN.npz plots/dynamics/epoch_NNN.png
    plots/dynamics/epoch_NNN_classes.json plots/dynamics/epoch_NNN_classes.npz plots/dynamics/epoch_NNN_classes.png
    plots/explanations/epoch_NNN.json plots/explanations/epoch_NNN.npz plots/explanations/epoch_NNN.png
    plots/gallery/epoch_NNN.json plots/gallery/epoch_NNN.npz
    plots/gallery/epoch_NNN_pairs.json plots/gallery/epoch_NNN_pairs.npz plots/hardest/epoch_NNN.json
    plots/hardest/epoch_NNN.npz plots/hardest/epoch_NNN.png plots/jacobian_classes/epoch_NNN.json
    plots/jacobian_classes/epoch_NNN.npz plots/jacobian_classes/epoch_NNN.png
    plots/jacobian_classes_all/epoch_NNN.json plots/jacobian_classes_all/epoch_NNN.npz
    plots/jacobian_classes_all/epoch_NNN.png plots/jacobian_maps/epoch_NNN.json
    plots/jacobian_maps/epoch_NNN.npz plots/jacobian_maps/epoch_NNN.png
    plots/label_errors/epoch_NNN.json plots/label_errors/epoch_NNN.npz plots/label_errors/epoch_NNN.png
    plots/label_errors/epoch_NNN_scores.npz plots/leaderboard/epoch_NNN.json
    plots/leaderboard/epoch_NNN.png plots/live/epoch_NNN.json plots/live/epoch_NNN.npz
    plots/projector/epoch_NNN.json plots/prototypes/epoch_NNN.json
    plots/prototypes/epoch_NNN.npz plots/prototypes/epoch_NNN.png plots/saliency/epoch_NNN.json
    plots/saliency/epoch_NNN.npz plots/saliency/epoch_NNN.png plots/tsne/epoch_NNN.json plots/tsne/epoch_NNN.npz
    plots/tsne/epoch_NNN.png recordings/epoch_NNN.npz report.html run.json summary.png"""
"""The files of a default run, which others script against."""


FEW_IMAGES = ("--limit-train", 200, "--limit-test", 40)


def files_in(save):
    """Return the paths of all files below a save folder, with the epochs and TensorBoard's process names left out."""
    paths = {path.relative_to(save).as_posix() for path in save.rglob("*") if path.is_file()}
    return {re.sub(r"epoch_\d+", "epoch_NNN", re.sub(r"events\.out\..*", "events", path)) for path in paths}


def read_json(path):
    return json.loads(path.read_text())


@pytest.mark.slow
def test_default_run_without_network_uses_the_digits(run_program, tmp_path, capsys):
    assert run_program("--epochs", 1, *FEW_IMAGES, "--methods", "gradient,lrp.epsilon") == 0
    output = capsys.readouterr().out
    assert "Notice:" in output
    assert "127.0.0.1:9" in output
    record = read_json(tmp_path / "save/run.json")
    assert (record["dataset"]["requested"], record["dataset"]["name"]) == ("auto", "digits")
    assert "digits" in record["dataset"]["notice"]
    assert "tensorboard --logdir=save/logs" in output
    assert "http://localhost:6006" in output
    assert all("digits" in entry["caption"] for entry in read_json(tmp_path / "save/manifest.json")["artifacts"])
    found, expected = files_in(tmp_path / "save"), set(SAVE.split())
    assert expected - found == set()
    # a new hook may add plots, and the names of densities depend on the data
    assert [path for path in found - expected if not path.startswith(("plots/", "data/densities/"))] == []


@pytest.mark.slow
def test_digits_reach_97_percent_accuracy(run_program, tmp_path):
    assert run_program("--dataset", "digits", "--hooks", "saliency") == 0
    record = read_json(tmp_path / "save/run.json")
    assert record["test_accuracy"] >= 0.97
    assert record["epochs"] == 10
    shown = {path.name for path in (tmp_path / "save/plots/saliency").glob("*.png")}
    assert shown == {f"epoch_{epoch:03d}.png" for epoch in (0, 1, 2, 5, 10)}


@pytest.fixture
def color_folder(tmp_path):
    """Three classes that differ in color; the test images have other sizes."""
    generator = np.random.default_rng(0)
    for part, count, size in (("train", 30, (20, 16)), ("test", 6, (24, 24))):
        for label, name in enumerate(("<red>", "$green$", "blue_sky")):
            folder = tmp_path / "photos" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 120, (*size, 3), dtype=np.uint8)
                pixels[..., label] += 130
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "photos"


@pytest.mark.slow
def test_color_image_folder(run_program, tmp_path, color_folder):
    arguments = ("--dataset", f"folder:{color_folder}", "--image-size", 16, "--batch-size", 4, "--epochs", 1)
    few = ("--classes", "blue_sky,0", "--methods", "gradient,lrp.epsilon")
    assert run_program(*arguments, *few, "--save", "out") == 0
    run = pellucid.load_run(tmp_path / "out")
    assert run.classes == ("$green$", "<red>", "blue_sky")
    assert run.metrics[-1]["test_accuracy"] > 0.8
    numbers = read_json(tmp_path / "out/plots/saliency/epoch_001.json")
    assert [run.classes[label] for label in numbers["labels"]] == ["blue_sky", "$green$"]
    assert np.load(tmp_path / "out/plots/saliency/epoch_001.npz")["saliency"].shape == (2, 3, 16, 16)


MODULE = """
import torch
from torch import nn
from torch.nn.functional import relu

class Awkward(nn.Module):
    def __init__(self, pixels, classes):
        super().__init__()
        self.last, self.first = nn.Linear(16, classes), nn.Linear(pixels, 16)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x):
        return self.last(self.dropout(relu(self.first(x.flatten(1) - 0.5))))

def network(image_size, classes):
    return Awkward(image_size[0] * image_size[1], classes)

def stripes():
    images = torch.zeros(64, 1, 12, 10)
    images[:32, :, ::2] = 1
    images[32:, :, :, ::2] = 1
    noise = torch.rand(64, 1, 12, 10, generator=torch.Generator().manual_seed(0)) * 0.3
    labels = torch.arange(64) // 32
    whole = torch.utils.data.TensorDataset((images * 0.7 + noise), labels)
    return whole, torch.utils.data.Subset(whole, range(0, 64, 4)), ["across", "down"]
"""


def test_user_defined_model_and_data(run_program, tmp_path):
    (tmp_path / "own_of_test.py").write_text(MODULE)
    try:
        arguments = ("--dataset", "own_of_test:stripes", "--model", "own_of_test:network", "--batch-size", 2)
        hooks = (
            "--hooks",
            "confusion_matrix,saliency,explanations,tsne,projector",
            "--methods",
            "gradient,lrp.epsilon",
        )
        assert run_program(*arguments, "--epochs", 1, *hooks) == 0
        run = pellucid.load_run(tmp_path / "save", trust=True)
    finally:
        sys.modules.pop("own_of_test", None)
    record = read_json(tmp_path / "save/run.json")
    assert record["model"]["embedding_layer"] == "last"
    assert record["dataset"]["image_shape"] == [1, 12, 10]
    assert run.classes == ("across", "down")
    assert run.metrics[-1]["test_accuracy"] == 1.0
    assert np.load(tmp_path / "save/plots/tsne/epoch_001.npz")["points"].shape == (16, 2)


def test_embedding_layer_flag_selects_the_layer(run_program, tmp_path):
    small = ("--dataset", "digits", "--epochs", 1, "--limit-train", 100, "--limit-test", 60)
    assert run_program(*small, "--model", "mlp", "--embedding-layer", "3", "--hooks", "projector") == 0
    rows = (tmp_path / "save/logs/projector/epoch_001/tensors.tsv").read_text().splitlines()
    assert (len(rows), len(rows[0].split("\t"))) == (60, 300)
    assert read_json(tmp_path / "save/run.json")["model"]["embedding_layer"] == "3"


@pytest.mark.slow
@pytest.mark.parametrize(
    "methods",
    [
        "gradient,random,pattern.net,expected_gradients",
        "lrp.epsilon,deeplift,occlusion,grad_cam,Saliency,lrp.sequential_preset_a",
        "constant",
    ],
)
def test_methods_are_shown_by_every_hook(methods, run_program, tmp_path):
    few = ("--dataset", "digits", "--limit-train", 200, "--limit-test", 10, "--epochs", 1)
    hooks = "explanations,gallery,hardest,leaderboard"
    assert run_program(*few, "--hooks", hooks, "--methods", methods) == 0
    assert read_json(tmp_path / "save/manifest.json")["failures"] == []
    shown = read_json(tmp_path / "save/plots/explanations/epoch_001.json")["methods"]
    assert shown == methods.split(",")
