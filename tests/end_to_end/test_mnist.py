"""The whole pipeline on MNIST."""

import re

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import pellucid
from pellucid.data import Request, load_data

HOOKS = ("confusion_matrix", "jacobian_classes", "jacobian_maps", "projector", "saliency", "tsne")
"""Hooks of each epoch whose numbers are checked; test_data_and_models.py runs all."""


@pytest.fixture(scope="module")
def save(tmp_path_factory, mnist_files):
    """A run of two epochs on 4,000 training and 600 test images."""
    from pellucid.cli import main

    folder = tmp_path_factory.mktemp("mnist") / "save"
    arguments = ["--mirror", mnist_files, "--dataset", "mnist", "--epochs", 2, "--save", folder, "--threads", 1]
    arguments += ["--methods", "gradient", "--hooks", ",".join([*HOOKS, "prototypes"])]
    assert main(["run", *map(str, [*arguments, "--limit-train", 4000, "--limit-test", 600, "--batch-size", 64])]) == 0
    return folder


@pytest.fixture(scope="module")
def test_images(save):
    return load_data("mnist", Request(save / "data"), limit_train=4000, limit_test=600).test


def read_json(path):
    import json

    return json.loads(path.read_text())


def test_every_documented_file_exists(save):
    for name in ("models/best.safetensors", "models/last.ckpt", "metrics.jsonl", "manifest.json", "run.json"):
        assert (save / name).stat().st_size > 0, name
    assert list((save / "data").rglob("*.gz"))
    assert not list(save.rglob("*.tmp"))
    assert not (save / "errors").exists()
    for hook in HOOKS:
        for epoch in range(3):
            stem = save / "plots" / hook / f"epoch_{epoch:03d}"
            assert stem.with_suffix(".json").is_file()
            assert stem.with_suffix(".png").is_file() == (hook != "projector")
            assert stem.with_suffix(".npz").is_file() == (
                hook in ("jacobian_classes", "jacobian_maps", "saliency", "tsne")
            )


def test_prototypes_are_written_once_with_saved_densities(save):
    assert [path.name for path in sorted((save / "plots/prototypes").iterdir())] == [
        f"epoch_002.{ending}" for ending in ("json", "npz", "png")
    ]
    numbers = read_json(save / "plots/prototypes/epoch_002.json")
    assert list(numbers["ways"]) == ["l2", "expert", "code"]
    assert set(numbers["densities"]) == {"gaussian_mixture", "vae"}
    run = pellucid.load_run(save)
    images = np.load(save / "plots/prototypes/epoch_002.npz")["images"]
    assert images.shape == (3, 10, 1, 28, 28)
    with torch.no_grad():
        log_probability = run.model(torch.from_numpy(images[1])).log_softmax(1).diagonal()
    assert numbers["ways"]["expert"]["log_probability"] == pytest.approx(log_probability.tolist(), rel=1e-3, abs=1e-5)
    for prior in ("expert", "code"):
        assert pellucid.prototypes(run.model, [3], prior=prior, steps=2).images.shape == (1, 1, 28, 28)
    assert not list((save / "models").glob("vae.ckpt"))


def test_manifest_lists_exactly_the_files(save):
    manifest = read_json(save / "manifest.json")
    assert manifest["version"] == 1
    assert manifest["failures"] == []
    for entry in manifest["artifacts"]:
        assert set(entry) == {"hook", "epoch", "name", "path", "kind", "caption", "numbers"}
        assert (save / entry["path"]).is_file()
        assert entry["kind"] in ("figure", "film", "arrays", "embedding", "data", "log")
        assert "MNIST" in entry["caption"]
    listed = {entry["path"] for entry in manifest["artifacts"]}
    assert {str(path.relative_to(save)) for path in (save / "plots").rglob("*.*")} <= listed
    kinds = {(entry["hook"], entry["epoch"]) for entry in manifest["artifacts"] if entry["kind"] == "embedding"}
    assert kinds == {("projector", epoch) for epoch in range(3)}


def test_metrics_have_the_documented_keys_and_improve(save):
    lines = pellucid.load_run(save).metrics
    assert [line["epoch"] for line in lines] == [0, 1, 2]
    for line in lines:
        assert set(line) == {
            *("epoch", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy"),
            *("test_loss", "test_accuracy", "learning_rate", "best", "most_common_confusion", "timing"),
        }
        assert set(line["timing"]) == {"seconds", "images_per_second"}
    assert lines[0]["train_loss"] is None
    assert lines[0]["test_accuracy"] < 0.3 < 0.9 < lines[2]["test_accuracy"]


def test_run_json_describes_the_run(save):
    record = read_json(save / "run.json")
    assert record["status"] == "finished"
    assert record["dataset"]["requested"] == record["dataset"]["name"] == "mnist"
    sizes = [record["dataset"][f"{part}_images"] for part in ("train", "validation", "test")]
    assert sizes == [3667, 333, 600]
    assert record["dataset"]["classes"] == [str(digit) for digit in range(10)]
    assert re.fullmatch("[0-9a-f]{64}", record["dataset"]["sha256"])
    assert record["model"]["name"] == "small_cnn"
    assert record["model"]["embedding_layer"] == "10"
    assert record["config"]["batch_size"] == 64
    assert record["threads"] == 1
    assert record["versions"]["torch"] == torch.__version__.split("+")[0]
    assert set(record["timing"]) == {"started", "finished"}
    best = [line for line in pellucid.load_run(save).metrics if line["best"]][-1]
    assert record["test_accuracy"] == best["test_accuracy"]


def test_saved_model_reproduces_accuracy_and_counts(save, test_images):
    run = pellucid.load_run(save)
    assert not run.model.training
    with torch.no_grad():
        predictions = run.model(test_images.floats()).argmax(1)
    right = (predictions == test_images.labels).sum().item()
    assert right / 600 == read_json(save / "run.json")["test_accuracy"]
    best = [line["epoch"] for line in run.metrics if line["best"]][-1]
    numbers = read_json(save / f"plots/confusion_matrix/epoch_{best:03d}.json")
    counts = np.zeros((10, 10), dtype=int)
    np.add.at(counts, (test_images.labels.numpy(), predictions.numpy()), 1)
    assert numbers["counts"] == counts.tolist()
    assert numbers["accuracy"] == right / 600
    assert numbers["recall"] == pytest.approx(np.diag(counts) / counts.sum(1))


def test_saliency_is_the_gradient_of_the_saved_model(save, test_images):
    run = pellucid.load_run(save)
    best = [line["epoch"] for line in run.metrics if line["best"]][-1]
    arrays = np.load(save / f"plots/saliency/epoch_{best:03d}.npz")
    numbers = read_json(save / f"plots/saliency/epoch_{best:03d}.json")
    assert np.array_equal(arrays["delta"], arrays["saliency"] - arrays["baseline"])
    assert np.array_equal(arrays["overlay"], arrays["delta"] * arrays["source"])
    model = run.model.double()
    indices = numbers["indices"]
    images = test_images.floats(indices).double()
    assert np.array_equal(arrays["source"], test_images.floats(indices).numpy())
    generator = np.random.default_rng(0)
    for name, place in (("saliency", images), ("baseline", torch.zeros_like(images))):
        for row, label in enumerate(test_images.labels[indices].tolist()):
            for _ in range(3):
                y, x = generator.integers(4, 24, 2)
                step = torch.zeros_like(place[row : row + 1])
                step[0, 0, y, x] = 1e-6
                with torch.no_grad():
                    above, below = model(place[row : row + 1] + step), model(place[row : row + 1] - step)
                slope = (above - below)[0, label].item() / 2e-6
                assert arrays[name][row, 0, y, x] == pytest.approx(slope, abs=2e-4)


def test_jacobian_maps_agree_with_finite_differences(save):
    for epoch in range(3):
        numbers = read_json(save / f"plots/jacobian_maps/epoch_{epoch:03d}.json")
        array = np.load(save / f"plots/jacobian_maps/epoch_{epoch:03d}.npz")["jacobian"]
        assert array.shape == (10, 10, 1, 28, 28)
        flat = array.reshape(10, 10, -1).astype(np.float64)
        assert numbers["frobenius_norm"] == pytest.approx(np.sqrt((flat**2).sum((1, 2))), rel=1e-4)
        assert numbers["spectral_norm"] == pytest.approx([np.linalg.norm(one, 2) for one in flat], rel=1e-4)
        assert numbers["finite_difference_error"] is None or numbers["finite_difference_error"] < 1e-4


def test_tsne_starts_from_the_previous_epoch(save):
    points = [np.load(save / f"plots/tsne/epoch_{epoch:03d}.npz")["points"] for epoch in range(3)]
    numbers = read_json(save / "plots/tsne/epoch_002.json")
    assert points[0].shape == (600, 2)
    assert numbers["trustworthiness"] > 0.9
    assert numbers["knn_accuracy"] > 0.8
    agreement = [np.corrcoef(points[1][:, axis], points[2][:, axis])[0, 1] for axis in (0, 1)]
    assert min(agreement) > 0.5


def test_figures_are_valid_pngs(save):
    for path in (save / "plots").rglob("*.png"):
        with Image.open(path) as picture:
            picture.load()
            assert picture.width > 300
            assert len(picture.convert("RGB").getcolors(1_000_000)) > 20


def test_tensorboard_has_scalars_figures_graph_and_projector(save):
    events = EventAccumulator(str(save / "logs"), size_guidance={"images": 0})
    events.Reload()
    lines = pellucid.load_run(save).metrics
    for part in ("train", "validation", "test"):
        scores = EventAccumulator(str(save / "logs" / part))
        scores.Reload()
        for quantity in ("loss", "accuracy"):
            values = [(line["epoch"], line[f"{part}_{quantity}"]) for line in lines if line["epoch"] or part != "train"]
            shown = [(event.step, event.value) for event in scores.Scalars(quantity)]
            assert shown == [(epoch, pytest.approx(value)) for epoch, value in values]
    for hook in ("confusion_matrix", "saliency", "jacobian_maps", "tsne"):
        pictures = events.Images(hook)
        assert [picture.step for picture in pictures] == [0, 1, 2]
        assert pictures[2].encoded_image_string == (save / f"plots/{hook}/epoch_002.png").read_bytes()
    assert events.Graph().node
    header = (save / "logs/projector/epoch_002/metadata.tsv").read_text().splitlines()
    assert header[0] == "label\tprediction\tcorrect\tconfidence"
    assert len(header) == 601
    assert (save / "logs/projector_config.pbtxt").read_text().count("embeddings {") == 3
