"""`pellucid explain --dataset`: a whole data set from the command line."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zarr
from PIL import Image

from pellucid.cli import main
from pellucid.core import terminal

DIGITS = ("--model", "small_cnn", "--dataset", "digits", "--limit", "40", "--threads", "1")


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    terminal.console.cache_clear()
    yield
    terminal.console.cache_clear()  # a process of another rank is silent


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    draws = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(6):
            size = (12 + number, 16, 3)
            pixels = draws.integers(0, 255, size, dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.png")
    (tmp_path / "photos" / "cat" / "0.png").write_bytes(b"no picture")
    return tmp_path / "photos"


def test_a_data_set_is_explained_and_continued(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", *DIGITS, "--methods", "gradient,lrp.epsilon", "--shard", "16"]) == 0
    assert "40 images explained, in 3 of 3 shards." in capsys.readouterr().out
    group = zarr.open_group("maps.zarr", mode="r")
    assert group["relevance"].shape == (40, 2, 1, 28, 28)
    assert not np.isnan(group["relevance"][:]).any()
    Path("maps.zarr/completed/c.1").unlink()
    assert main(["explain", *DIGITS, "--methods", "gradient,lrp.epsilon", "--shard", "16"]) == 0
    assert "16 images explained, in 1 of 3 shards." in capsys.readouterr().out
    assert main(["explain", *DIGITS, "--methods", "gradient,lrp.epsilon", "--shard", "16"]) == 0
    assert "Nothing to do: no shard was missing." in capsys.readouterr().out
    assert main(["explain", *DIGITS, "--methods", "gradient", "--shard", "16"]) != 0
    assert "was begun with other settings: methods.lrp.epsilon is" in capsys.readouterr().err


def test_a_dry_run_states_size_and_cost_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", *DIGITS, "--methods", "gradient", "--target", "all", "--dry-run"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "40 of 359 in digits, 1×28×28" in text
    assert "relevance float32 image 40 × attribution 1 × class 10 × channel 1 × height 28 × width 28 1.25 MB" in text
    assert "Forward passes: about 2 per image, 80 in total" in text
    assert "images/s, so one process takes" in text
    assert not list(tmp_path.glob("*.zarr"))


def test_pictures_of_all_sizes_and_an_unreadable_one(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--model", "small_cnn", "--dataset", f"folder:{pictures}", "--image-size", "16", "--crop", "16")
    assert main(["explain", *flags, "--methods", "gradient", "--target", "dog", "--out", "pets.zarr"]) == 0
    assert "1 of these images have no results; the variable `error` says why." in capsys.readouterr().out
    group = zarr.open_group("pets.zarr", mode="r")
    assert group["key"][:].tolist() == [f"{name}/{number}.png" for name in ("cat", "dog") for number in range(6)]
    assert [number for number, reason in enumerate(group["error"][:]) if reason] == [0]
    assert set(group["target"][:].tolist()) == {-1, 1}
    assert group["class"][:].tolist() == ["cat", "dog"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "gradient,gradint"], "no method 'gradint'; did you mean 'gradient'"),
        (["--methods", "pattern.net"], "pattern.net learns from data"),
        (["--target", "eleven"], "there is no class 'eleven'. Available: 0, 1,"),
        (["--target", "12"], "the model has 10 classes; pass 0 to 9"),
        (["--embedding-layer", "no"], "no"),
        (["--out", "nonsense://a/b.zarr"], "nonsense://a/b.zarr cannot be opened: ValueError: Protocol not known"),
        (["--limit", "none"], "--limit must be a whole number"),
        (["--shard", "0"], "--shard must be at least 1"),
    ],
)
def test_mistakes_exit_with_2_before_anything_is_written(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", *DIGITS, *arguments]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.glob("*.zarr"))


def test_errors_of_other_processes_are_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["explain", *DIGITS, "--target", "eleven"]) == 2
    assert "process 1: there is no class 'eleven'" in capsys.readouterr().err
