"""Films of a hand-written save folder and of complete runs."""

import io
import json
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pellucid.cli import main
from pellucid.core.contracts import Artifact
from pellucid.core.errors import WriteError
from pellucid.hooks import Hook
from pellucid.plots.scatter import move_points, scatter
from pellucid.run import schedule
from pellucid.run.hook_runner import Failure, HookRunner, make_films
from pellucid.storage import films
from pellucid.storage.films import FILMS, LAST_MS, STEPS
from pellucid.storage.pictures import SHARP, to_png
from pellucid.storage.store import Store

QUICK = (
    "--dataset digits --epochs 2 --limit-train 120 --limit-test 40 --batch-size 32 "
    "--threads 1 --methods gradient --hooks saliency,tsne"
).split()


def shown(content: bytes) -> list[tuple[np.ndarray, int]]:
    """Return each frame with its duration in milliseconds."""
    frames = []
    with Image.open(io.BytesIO(content)) as picture:
        for number in range(picture.n_frames):
            picture.seek(number)
            picture.load()
            frames.append((np.asarray(picture.convert("RGB")), picture.info["duration"]))
    return frames


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


def test_film_shows_the_pictures_in_epoch_order(store: Store) -> None:
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
def test_fewer_than_two_epochs_make_no_film(name: str, store: Store) -> None:
    assert FILMS[name](store) is None
    keep(store, "saliency", 1, png(1))
    keep(store, "prototypes", 1, png(1))
    keep(store, "prototypes", 2, png(1))  # from the end of two runs; only each_epoch follows the training
    keep_points(store, 0, np.zeros((5, 2)))
    assert FILMS[name](store) is None


def test_prototypes_of_each_epoch_make_the_prototypes_film(store: Store) -> None:
    for epoch in (0, 1):
        keep(store, "prototypes.each_epoch", epoch, png(epoch * 99))
    film = FILMS["prototypes"](store)
    assert film is not None
    assert len(shown(film.content)) == 2


def keep_points(store: Store, epoch: int, points: np.ndarray, first: int = 0, **numbers: list[int]) -> None:
    count = len(points)
    record = {"labels": [n % 2 for n in range(count)], "predictions": [n % 2 for n in range(count)]}
    record |= {"indices": list(range(first, first + count))} | numbers
    keep(store, "tsne", epoch, arrays={"points": points.astype(np.float32)}, numbers=record)


POINTS = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.5, 0.5]])


def test_points_are_interpolated_between_epochs_on_one_scale(store: Store, monkeypatch) -> None:
    drawn, placed = [], []

    def watch(points, labels, predictions, *rest):
        drawn.append((predictions, rest[1][0], rest[2]))
        return scatter(points, labels, predictions, *rest)

    def watch_moves(figure, points, **rest):
        placed.append((points, rest["predictions"]))
        move_points(figure, points, **rest)

    monkeypatch.setattr(films, "scatter", watch)
    monkeypatch.setattr(films, "move_points", watch_moves)
    keep_points(store, 0, POINTS, predictions=[0] * 5)
    keep_points(store, 3, POINTS * 4 + 2)
    film = FILMS["tsne"](store)
    assert film is not None
    assert film.artifact.numbers["epochs"] == [0, 3]
    assert len(placed) == STEPS + 1
    np.testing.assert_array_equal(placed[0][0], POINTS.astype(np.float32))
    np.testing.assert_allclose(placed[-1][0], POINTS * 4 + 2)
    np.testing.assert_allclose(placed[STEPS // 2][0], POINTS * 2.5 + 1, rtol=1e-6)
    lengths = [np.abs(after[0] - before[0]).max() for before, after in pairwise(placed)]
    assert max(lengths[0], lengths[-1]) < min(lengths[3:7])  # slow at both ends
    assert all((extent.min(0) == 0).all() and (extent.max(0) == 6).all() for *_, extent in drawn)
    assert [title for _, title, _ in drawn] == [f"Dots, epoch {epoch}: t-SNE embedding" for epoch in (0, 3)]
    assert [bool((predictions == 0).all()) for predictions, *_ in drawn] == [True, False]
    assert [bool((predictions == 0).all()) for _, predictions in placed] == [True] * 5 + [False] * 6
    frames = shown(film.content)
    assert [milliseconds for _, milliseconds in frames] == [550, *[50] * (STEPS - 1), LAST_MS]


def test_frame_equals_the_scatter_plot_up_to_color_quantization(store: Store) -> None:
    keep_points(store, 0, POINTS)
    keep_points(store, 1, POINTS[::-1])
    film = FILMS["tsne"](store)
    assert film is not None
    note = "t-SNE of 5 test images. Circled: misclassified."
    title = "Dots, epoch 1: t-SNE embedding"
    figure = scatter(POINTS[::-1], np.arange(5) % 2, np.arange(5) % 2, ["a", "b"], (title, note))
    figure.set_dpi(films.MORPH_DOTS_PER_INCH)
    expected = io.BytesIO()
    figure.savefig(expected, format="png", dpi=films.MORPH_DOTS_PER_INCH)
    last = shown(film.content)[-1][0].astype(int)
    assert np.abs(last - np.asarray(Image.open(expected).convert("RGB")).astype(int)).max() <= 9
    assert (last[0, 0] == 255).all()


def test_frames_of_moved_points_equal_figures_drawn_again() -> None:
    draws = np.random.default_rng(0)
    labels = draws.integers(0, 4, 200)
    predictions = np.where(draws.random(200) < 0.1, (labels + 1) % 4, labels)
    positions = [draws.normal(size=(200, 2)) + 3 * share * labels[:, None] for share in (0, 0.5, 1)]
    rest = ("abcd", ("title", "subtitle"), np.concatenate(positions))
    figure = scatter(positions[0], labels, predictions, *rest)
    move = partial(move_points, figure, labels=labels, predictions=predictions, classes="abcd")
    frames = [np.asarray(frame) for frame in films._rendered(figure, move, positions)]
    for points, frame in zip(positions, frames, strict=True):
        anew = scatter(points, labels, predictions, *rest)
        (expected,) = films._rendered(anew, lambda _: None, [points])
        np.testing.assert_array_equal(frame, np.asarray(expected))
    assert (frames[0] != frames[1]).any()


def test_epochs_with_other_images_than_the_last_are_omitted(store: Store) -> None:
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


def test_run_writes_films_without_the_failed_epoch(tmp_path: Path, monkeypatch) -> None:
    save = tmp_path / "save"
    run_one = HookRunner.run_one

    def fail_once(runner, name, hook, scene):
        if (name, scene.epoch) == ("saliency", 2):
            hook = Broken()
        return run_one(runner, name, hook, scene)

    monkeypatch.setattr(HookRunner, "run_one", fail_once)
    assert main(["run", *QUICK, "--save", str(save)]) == 1  # because of the hook; the film does not hide it
    assert [failed["hook"] for failed in json.loads((save / "manifest.json").read_text())["failures"]] == ["saliency"]
    by_hook = {entry["hook"]: entry for entry in entries(save, "film")}
    assert {name: (entry["path"], entry["epoch"]) for name, entry in by_hook.items()} == {
        "saliency": ("films/saliency.webp", 1),
        "tsne": ("films/tsne.webp", 2),
    }
    frames = shown((save / "films/saliency.webp").read_bytes())
    for (pixels, _), epoch in zip(frames, (0, 1), strict=True):
        with Image.open(save / f"plots/saliency/epoch_{epoch:03d}.png") as picture:
            # one pixel per dot
            expected = np.asarray(picture.convert("RGB").reduce(SHARP))
        np.testing.assert_array_equal(pixels[: expected.shape[0], : expected.shape[1]], expected)
    assert len(shown((save / "films/tsne.webp").read_bytes())) <= 2 * STEPS + 1


@pytest.mark.slow
def test_resumed_run_writes_the_missing_films(tmp_path: Path, monkeypatch) -> None:
    save, whole = tmp_path / "save", tmp_path / "whole"
    with monkeypatch.context() as patch:
        patch.setattr(schedule, "make_films", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert main(["run", *QUICK, "--serial", "--save", str(save)]) == 130
    assert not (save / "films").exists()
    assert main(["run", "--resume", "--save", str(save)]) == 0
    assert main(["run", *QUICK, "--save", str(whole)]) == 0
    assert entries(save, "film") == entries(whole, "film") != []
    for name in ("saliency", "tsne"):
        assert (save / f"films/{name}.webp").read_bytes() == (whole / f"films/{name}.webp").read_bytes()


def test_failed_film_is_recorded_and_does_not_stop_the_others(store: Store) -> None:
    for epoch in (0, 1):
        keep(store, "saliency", epoch, png(epoch * 99))
        keep(store, "explanations", epoch, png(epoch * 99))
        store.add_metrics({"epoch": epoch})
    (store.folder / "plots/saliency/epoch_001.png").write_bytes(b"damaged")
    (store.folder / "plots/explanations/epoch_001.png").write_bytes(png(7))
    made: list = []
    make_films(store, made.append)
    film, failure = made
    assert isinstance(failure, Failure)
    assert (failure.name, failure.epoch) == ("films", 1)
    assert failure.message.startswith("saliency: UnidentifiedImageError: ")
    assert "Traceback" in failure.log
    assert [entry["hook"] for entry in film.entries] == ["explanations"]


@pytest.mark.slow
def test_full_disk_is_reported_and_resume_writes_the_films(tmp_path: Path, monkeypatch, capsys) -> None:
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


def test_film_of_pictures_is_lossless(store: Store) -> None:
    """The frames equal the output of `to_png` bit for bit."""
    figures = [scatter(POINTS * n, np.arange(5) % 2, np.arange(5) % 2, ["a", "b"], (f"{n}", "")) for n in (1, 2)]
    for epoch, figure in enumerate(figures):
        keep(store, "explanations", epoch, to_png(figure))
    film = FILMS["explanations"](store)
    assert film is not None
    for (pixels, _), figure in zip(shown(film.content), figures, strict=True):
        np.testing.assert_array_equal(pixels, np.asarray(Image.open(io.BytesIO(to_png(figure))).convert("RGB")))


def test_film_of_sharp_pictures_has_one_pixel_per_dot(store: Store) -> None:
    figures = [scatter(POINTS * n, np.arange(5) % 2, np.arange(5) % 2, ["a", "b"], (f"{n}", "")) for n in (1, 2)]
    for epoch, figure in enumerate(figures):
        keep(store, "explanations", epoch, to_png(figure, SHARP))
    film = FILMS["explanations"](store)
    assert film is not None
    for (pixels, _), figure in zip(shown(film.content), figures, strict=True):
        sharp = np.asarray(Image.open(io.BytesIO(to_png(figure, SHARP))).convert("RGB")).astype(float)
        height, width, _ = sharp.shape
        means = sharp.reshape(height // 2, 2, width // 2, 2, 3).mean((1, 3))
        assert np.abs(pixels - means).max() <= 0.5
