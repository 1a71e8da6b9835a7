"""Films made of a save folder that is written by hand, and by whole runs."""

import io
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pellucid import films, pipeline
from pellucid.artifacts.picture import to_png
from pellucid.artifacts.store import Store
from pellucid.cli import main
from pellucid.core.contracts import Artifact
from pellucid.core.errors import WriteError
from pellucid.films import FILMS, LAST_MS, STEPS
from pellucid.hooks._hook import Hook
from pellucid.plots.scatter import scatter

QUICK = (
    "--dataset digits --epochs 2 --limit-train 120 --limit-test 40 --batch-size 32 "
    "--threads 1 --methods gradient --hooks saliency,tsne"
).split()


def shown(content: bytes) -> list[tuple[np.ndarray, int]]:
    """Each frame and its milliseconds."""
    found = []
    with Image.open(io.BytesIO(content)) as picture:
        for number in range(picture.n_frames):
            picture.seek(number)
            picture.load()
            found.append((np.asarray(picture.convert("RGB")), picture.info["duration"]))
    return found


def png(shade: int, size: tuple[int, int] = (30, 20)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "save")
    store.begin({"dataset": {"title": "Dots", "classes": ["a", "b"]}})
    return store


def keep(store: Store, hook: str, epoch: int, picture: bytes | None = None, **parts: dict) -> None:
    store.keep(store.pack(hook, epoch, Artifact("a caption", **parts), picture))


def test_the_pictures_of_the_epochs_follow_one_another(store: Store) -> None:
    for epoch, size in ((10, (30, 20)), (0, (30, 25)), (2, (30, 20))):
        keep(store, "saliency", epoch, png(epoch * 20, size))
    film = FILMS["saliency"](store)
    assert film is not None
    assert film.epoch == 10
    assert film.artifact.numbers == {"epochs": [0, 2, 10], "seconds": 4.5}
    assert film.artifact.caption.startswith("Dots, epochs 0 to 10: ")
    frames = shown(film.content)
    assert [milliseconds for _, milliseconds in frames] == [1000, 1000, LAST_MS]
    assert [int(pixels[0, 0, 0]) for pixels, _ in frames] == [0, 40, 200]
    assert {pixels.shape for pixels, _ in frames} == {(25, 30, 3)}


@pytest.mark.parametrize("name", list(FILMS))
def test_one_epoch_or_none_is_no_film(name: str, store: Store) -> None:
    assert FILMS[name](store) is None
    keep(store, "saliency", 1, png(1))
    keep(store, "prototypes", 1, png(1))
    keep(store, "prototypes", 2, png(1))  # made at the end of two runs; only each_epoch is a development
    keep_points(store, 0, np.zeros((5, 2)))
    assert FILMS[name](store) is None


def test_prototypes_of_each_epoch_make_the_film_prototypes(store: Store) -> None:
    for epoch in (0, 1):
        keep(store, "prototypes.each_epoch", epoch, png(epoch * 99))
    film = FILMS["prototypes"](store)
    assert film is not None
    assert len(shown(film.content)) == 2


def keep_points(store: Store, epoch: int, points: np.ndarray, first: int = 0, **numbers: list[int]) -> None:
    count = len(points)
    told = {"labels": [n % 2 for n in range(count)], "predictions": [n % 2 for n in range(count)]}
    told |= {"indices": list(range(first, first + count))} | numbers
    keep(store, "tsne", epoch, arrays={"points": points.astype(np.float32)}, numbers=told)


POINTS = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.5, 0.5]])


def test_points_wander_from_each_epochs_places_to_the_next_on_one_scale(store: Store, monkeypatch) -> None:
    drawn = []

    def watch(points, labels, predictions, *rest):
        drawn.append((points, predictions, rest[1][0], rest[2]))
        return scatter(points, labels, predictions, *rest)

    monkeypatch.setattr(films, "scatter", watch)
    keep_points(store, 0, POINTS, predictions=[0] * 5)
    keep_points(store, 3, POINTS * 4 + 2)
    film = FILMS["tsne"](store)
    assert film is not None
    assert film.artifact.numbers["epochs"] == [0, 3]
    assert len(drawn) == STEPS + 1
    np.testing.assert_array_equal(drawn[0][0], POINTS.astype(np.float32))
    np.testing.assert_allclose(drawn[-1][0], POINTS * 4 + 2)
    np.testing.assert_allclose(drawn[STEPS // 2][0], POINTS * 2.5 + 1, rtol=1e-6)
    lengths = [np.abs(after[0] - before[0]).max() for before, after in pairwise(drawn)]
    assert max(lengths[0], lengths[-1]) < min(lengths[3:7])  # slow at both ends
    assert all((extent.min(0) == 0).all() and (extent.max(0) == 6).all() for *_, extent in drawn)
    assert ["epoch 0" in title for _, _, title, _ in drawn] == [True] * 5 + [False] * 6
    assert "epoch 3" in drawn[-1][2]
    assert [bool((told == 0).all()) for _, told, _, _ in drawn] == [True] * 5 + [False] * 6
    frames = shown(film.content)
    assert [milliseconds for _, milliseconds in frames] == [550, *[50] * (STEPS - 1), LAST_MS]


def test_a_frame_is_the_scatter_plot_to_within_the_shades(store: Store) -> None:
    keep_points(store, 0, POINTS)
    keep_points(store, 1, POINTS[::-1])
    film = FILMS["tsne"](store)
    assert film is not None
    note = "t-SNE of the embedding of 5 test images. Errors are ringed."
    title = "Dots, epoch 1: how the network arranges the classes"
    figure = scatter(POINTS[::-1], np.arange(5) % 2, np.arange(5) % 2, ["a", "b"], (title, note))
    figure.set_dpi(films.MORPH_DOTS_PER_INCH)
    expected = io.BytesIO()
    figure.savefig(expected, format="png", dpi=films.MORPH_DOTS_PER_INCH)
    last = shown(film.content)[-1][0].astype(int)
    assert np.abs(last - np.asarray(Image.open(expected).convert("RGB")).astype(int)).max() <= 9
    assert (last[0, 0] == 255).all()


def test_epochs_that_show_other_images_than_the_last_are_left_out(store: Store) -> None:
    keep_points(store, 0, POINTS, first=7)
    keep_points(store, 1, POINTS)
    assert FILMS["tsne"](store) is None
    keep_points(store, 2, POINTS * 2)
    film = FILMS["tsne"](store)
    assert film is not None
    assert film.artifact.numbers["epochs"] == [1, 2]


class Broken(Hook):
    def run(self, scene):
        raise ZeroDivisionError


def entries(save: Path, kind: str) -> list[dict]:
    return [entry for entry in json.loads((save / "manifest.json").read_text())["artifacts"] if entry["kind"] == kind]


def test_a_run_ends_with_films_of_its_pictures_the_failed_epoch_left_out(tmp_path: Path, monkeypatch) -> None:
    save = tmp_path / "save"
    run_hook = pipeline._run_hook

    def fail_once(session, board, name, hook, scene):
        if (name, scene.epoch) == ("saliency", 2):
            hook = Broken()
        run_hook(session, board, name, hook, scene)

    monkeypatch.setattr(pipeline, "_run_hook", fail_once)
    assert main(["run", *QUICK, "--save", str(save)]) == 1  # of the hook; the film does not hide it
    assert [failed["hook"] for failed in json.loads((save / "manifest.json").read_text())["failures"]] == ["saliency"]
    told = {entry["hook"]: entry for entry in entries(save, "film")}
    assert {name: (entry["path"], entry["epoch"]) for name, entry in told.items()} == {
        "saliency": ("films/saliency.webp", 1),
        "tsne": ("films/tsne.webp", 2),
    }
    frames = shown((save / "films/saliency.webp").read_bytes())
    for (pixels, _), epoch in zip(frames, (0, 1), strict=True):
        with Image.open(save / f"plots/saliency/epoch_{epoch:03d}.png") as picture:
            expected = np.asarray(picture.convert("RGB"))
        np.testing.assert_array_equal(pixels[: expected.shape[0], : expected.shape[1]], expected)
    assert len(shown((save / "films/tsne.webp").read_bytes())) <= 2 * STEPS + 1


@pytest.mark.slow
def test_a_run_cut_short_before_its_films_makes_them_when_resumed(tmp_path: Path, monkeypatch) -> None:
    save, whole = tmp_path / "save", tmp_path / "whole"
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "_keep_films", lambda store: (_ for _ in ()).throw(KeyboardInterrupt))
        assert main(["run", *QUICK, "--save", str(save)]) == 130
    assert not (save / "films").exists()
    assert main(["run", "--resume", "--save", str(save)]) == 0
    assert main(["run", *QUICK, "--save", str(whole)]) == 0
    assert entries(save, "film") == entries(whole, "film") != []
    for name in ("saliency", "tsne"):
        assert (save / f"films/{name}.webp").read_bytes() == (whole / f"films/{name}.webp").read_bytes()


def test_a_film_that_cannot_be_made_is_kept_as_a_failure_and_the_others_are_made(store: Store) -> None:
    for epoch in (0, 1):
        keep(store, "saliency", epoch, png(epoch * 99))
        keep(store, "explanations", epoch, png(epoch * 99))
        store.add_metrics({"epoch": epoch})
    (store.folder / "plots/saliency/epoch_001.png").write_bytes(b"damaged")
    (store.folder / "plots/explanations/epoch_001.png").write_bytes(png(7))
    pipeline._keep_films(store)
    (failure,) = store.manifest()["failures"]
    assert (failure["hook"], failure["epoch"]) == ("films", 1)
    assert failure["error"].startswith("saliency: UnidentifiedImageError: ")
    assert "Traceback" in (store.folder / failure["log"]).read_text()
    assert [entry["hook"] for entry in entries(store.folder, "film")] == ["explanations"]


@pytest.mark.slow
def test_a_full_disk_is_told_and_the_films_come_with_the_resume(tmp_path: Path, monkeypatch, capsys) -> None:
    save = tmp_path / "save"
    with monkeypatch.context() as patch:
        write = Store.keep

        def full(self, packed):
            if any(path.startswith("films/") for path, _ in packed.files):
                raise WriteError("films/saliency.webp cannot be written: the disk is full.")
            write(self, packed)

        patch.setattr(Store, "keep", full)
        assert main(["run", *QUICK, "--save", str(save)]) != 0
    assert "the disk is full" in capsys.readouterr().err
    assert json.loads((save / "run.json").read_text())["status"] == "failed"
    assert main(["run", "--resume", "--save", str(save)]) == 0
    assert {entry["hook"] for entry in entries(save, "film")} == {"saliency", "tsne"}


def test_pictures_are_those_of_the_plots(store: Store) -> None:
    """What `to_png` writes, a film shows to the last bit."""
    figures = [scatter(POINTS * n, np.arange(5) % 2, np.arange(5) % 2, ["a", "b"], (f"{n}", "")) for n in (1, 2)]
    for epoch, figure in enumerate(figures):
        keep(store, "explanations", epoch, to_png(figure))
    film = FILMS["explanations"](store)
    assert film is not None
    for (pixels, _), figure in zip(shown(film.content), figures, strict=True):
        np.testing.assert_array_equal(pixels, np.asarray(Image.open(io.BytesIO(to_png(figure))).convert("RGB")))
