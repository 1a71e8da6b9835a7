"""`pellucid compare` on real runs: two seeds, two epochs, other networks, inspections and runs without data."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pellucid
from pellucid.cli import main
from pellucid.core.errors import ConfigError, SaveError
from pellucid.storage.runs import load_data_of

pytestmark = pytest.mark.slow

SMALL = "run --dataset digits --epochs 2 --batch-size 32 --threads 1 --limit-train 500 --hooks".split()


def run_in(folder: Path, *more: str, hooks: str = "confusion_matrix") -> Path:
    assert main([*SMALL, hooks, "--save", str(folder), *more]) == 0
    return folder


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_in(tmp_path_factory.mktemp("runs") / "first", hooks="confusion_matrix,tsne")


@pytest.fixture(scope="module")
def second(first: Path) -> Path:
    return run_in(first.parent / "second", "--seed", "1")


@pytest.fixture(scope="module")
def mlp(first: Path) -> Path:
    return run_in(first.parent / "mlp", "--model", "mlp", "--mean", "0.3", "--std", "0.4")


def page_data(page: Path) -> dict[str, Any]:
    found = re.findall(r'<script type="application/json" id="data-(\w+)">(.*?)</script>', page.read_text(), re.DOTALL)
    return {name: json.loads(text) for name, text in found}


def correct(folder: Path, epoch: int | None = None) -> tuple[torch.Tensor, list[bytes]]:
    """Return which test images a model classifies correctly, and the bytes of each."""
    run = pellucid.load_run(folder, epoch=epoch)
    test = load_data_of(folder, run).test
    return run.model(test.floats()).argmax(1) == test.labels, [pixels.numpy().tobytes() for pixels in test.pixels]


def test_two_epochs(first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "compare.html"
    assert main(["compare", f"{first}@1", f"{first}@2", "--out", str(page), "--images", "20"]) == 0
    one, two = (correct(first, epoch)[0] for epoch in (1, 2))
    data = page_data(page)
    assert data["runs"]["names"] == ["epoch 1", "epoch 2"]
    images = data["runs"]["pairs"][0]["images"]
    assert (images["first_only"], images["second_only"]) == (int((one & ~two).sum()), int((two & ~one).sum()))
    assert images["difference"] == pytest.approx(float(one.double().mean() - two.double().mean()))
    assert list(data) == ["runs", "curves", "disagreements", "confusion", "agreement", "layers", "embedding"]
    assert [run["marks"] for run in data["curves"]["runs"]] == [
        [{"epoch": 1, "name": "epoch 1"}, {"epoch": 2, "name": "epoch 2"}]
    ]
    printed = capsys.readouterr().out
    assert "epoch 1" in printed
    assert page.as_uri() in printed


def test_two_seeds_are_compared_on_their_common_test_images(first: Path, second: Path) -> None:
    comparison = pellucid.compare([first, second], images=20)
    (one, pixels), (_, others) = correct(first), correct(second)
    shared = [index for index, content in enumerate(pixels) if content in others]
    # an image that occurs twice in one set and once in the other is in common once
    assert abs(len(comparison.labels) - len(shared)) <= 2
    assert 30 < len(comparison.labels) < 150
    assert [pixels[index] for index in comparison.indices] == [
        content for index in comparison.indices if (content := pixels[index]) in others
    ]
    expected = float(np.mean([bool(one[index]) for index in comparison.indices]))
    assert comparison.accuracy(0) == pytest.approx(expected)
    assert comparison.settings[0].models == (0, 1)
    assert comparison.verdict()[0].startswith("first and second differ only in their seed")
    assert not any("more accurate" in sentence for sentence in comparison.verdict())
    assert "have different test images" in comparison.notes[0]
    assert [one.method for one in comparison.between_seeds] == [one.method for one in comparison.pairs[0].agreement]


def test_other_networks_and_normalizations(first: Path, mlp: Path, tmp_path: Path) -> None:
    comparison = pellucid.compare([first, mlp], images=20, methods=["gradient", "lrp.epsilon"])
    (pair,) = comparison.pairs
    assert [one.method for one in pair.agreement] == ["gradient", "lrp.epsilon"]
    assert len(pair.layers[0]) > len(pair.layers[1])
    assert comparison.accuracy(1) == pytest.approx(float(correct(mlp)[0].double().mean()))
    data = page_data(comparison.save(tmp_path / "page.html"))
    differing = dict(data["runs"]["differing"])
    assert differing["model"] == ["small_cnn", "mlp"]
    assert differing["mean"] == ["–", "0.3"]


def test_a_copy_differs_by_nothing(first: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(first, tmp_path / "copy"))
    comparison = pellucid.compare([first, copy], images=10, methods="gradient")
    (pair,) = comparison.pairs
    assert (pair.accuracy.difference, pair.p, len(pair.disagreements.rows)) == (0, 1, 0)
    assert pair.agreement[0].mean == 1
    np.testing.assert_allclose(pair.layers[2].diagonal(), 1, atol=1e-9)
    assert comparison.verdict()[0] == "first and copy have the same settings and seed, and identical predictions."


def test_a_run_and_an_inspection_of_it(first: Path, tmp_path: Path) -> None:
    inspected = tmp_path / "inspected"
    arguments = [
        "--model",
        f"run:{first}",
        "--dataset",
        "digits",
        "--save",
        str(inspected),
        "--hooks",
        "confusion_matrix",
    ]
    assert main(["inspect", *arguments]) == 0
    comparison = pellucid.compare([first, inspected], images=10, methods="gradient")
    (pair,) = comparison.pairs
    assert len(comparison.labels) == len(correct(first)[0])
    assert (pair.accuracy.difference, pair.agreement[0].mean) == (0, 1)
    assert comparison.models[1].seed is None
    with pytest.raises(ConfigError, match="is an inspection, which has no epochs; omit @1"):
        pellucid.compare([first, f"{inspected}@1"])


def test_without_the_data_the_stored_predictions_are_compared(first: Path, mlp: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(mlp, tmp_path / "moved"))
    (moved / "models" / "best.safetensors").unlink()
    comparison = pellucid.compare([first, moved], images=10, methods="gradient")
    (pair,) = comparison.pairs
    whole = pellucid.compare([first, mlp], images=10, methods="gradient").pairs[0]
    assert pair.accuracy == whole.accuracy
    assert (pair.agreement, pair.layers, pair.disagreements.maps) == ((), None, None)
    assert comparison.notes[0].startswith(
        f"Only the stored predictions of {moved} are compared, not its maps and layers:"
    )
    page = comparison.save(tmp_path / "page.html")
    assert "agreement" not in page_data(page)
    shutil.rmtree(moved / "plots" / "confusion_matrix")
    with pytest.raises(SaveError, match=r"best.safetensors is missing|plots/confusion_matrix"):
        pellucid.compare([first, moved])


def test_weights_that_were_not_kept_are_named(first: Path, tmp_path: Path) -> None:
    lean = run_in(tmp_path / "lean", "--keep-checkpoints", "no", hooks="none")
    best = max(line["epoch"] for line in pellucid.load_run(lean).metrics if line["best"])
    with pytest.raises(SaveError, match="did not keep the weights of epoch"):
        pellucid.compare([first, f"{lean}@{(best + 1) % 3}"])
    with pytest.raises(SaveError, match="has no epoch 9: its epochs are 0 to 2"):
        pellucid.compare([f"{first}@9", first])
