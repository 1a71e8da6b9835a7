"""`summary.png`: what it shows, with whatever parts a run has, and when it is written."""

import io

import numpy as np
import pytest
from PIL import Image

from pellucid.evaluation import METRICS, Evaluation
from pellucid.evaluation._evaluation import Scores
from pellucid.plots.summary import Explained, Plane, Summary, Tile, summary
from pellucid.report import Material, write_report
from pellucid.report._mistakes import _most_confident
from pellucid.report._summary import summary_parts, write_summary
from pellucid.storage.lock import locked
from pellucid.storage.store import Store
from pretended_run import CLASSES, keep, run_record, write_run

SIZE = (1200, 630)


def leaderboard():
    """A leaderboard that recommends deeplift."""
    noise = 0.01 * np.random.default_rng(0).standard_normal((3, 30))
    means = {"gradient": 0.5, "deeplift(steps=3)": 0.1, "random": 0.9}
    scores = {
        (name, "deletion"): Scores((mean + own).tolist(), {}, {})
        for (name, mean), own in zip(means.items(), noise, strict=True)
    }
    return Evaluation(tuple(means), {"deletion": METRICS["deletion"]().about()}, scores, 30, 0).to_dict()


def gallery():
    """Three images, of which the second and the third are misclassified; the third more confidently."""
    draw = np.random.default_rng(1)
    return {
        "arrays": {
            "source": draw.integers(0, 256, (3, 1, 6, 5), dtype=np.uint8),
            "maps": draw.integers(-127, 128, (2, 3, 3, 6, 5), dtype=np.int8),
            "scales": np.ones((2, 3, 3), np.float32),
        },
        "numbers": {
            "methods": ["gradient", "deeplift"],
            "indices": [4, 8, 15],
            "labels": [0, 1, 2],
            "predictions": [0, 2, 1],
            "confidences": [0.99, 0.6, 0.8],
            "classes": [0, 1, 2],
        },
    }


def embedding():
    draw = np.random.default_rng(2)
    labels = draw.integers(0, 3, 40)
    return {"arrays": {"points": draw.normal(size=(40, 2))}, "numbers": {"labels": labels.tolist()}}


@pytest.fixture
def whole_run(tmp_path):
    store = write_run(tmp_path / "save", test_accuracy=0.6)
    keep(store, "leaderboard", 2, numbers=leaderboard())
    keep(store, "gallery", 2, **gallery())
    keep(store, "tsne", 1, **embedding())
    return store


def test_the_parts_are_those_of_the_run(whole_run):
    parts = summary_parts(Material(whole_run))
    assert (parts.title, parts.number) == ("cnn on Pets", "60.00%")
    assert parts.meaning[:2] == ("test accuracy", "6 of 15 misclassified")
    assert parts.sentences == ("Most faithful explanation: deeplift, better than every control.",)
    assert [(one.label, one.prediction) for one in parts.mistakes[:1]] == [(CLASSES[2], CLASSES[1])]
    assert all(one.label != one.prediction for one in parts.mistakes)
    assert np.array_equal(parts.plane.points, embedding()["arrays"]["points"])


def test_the_most_confident_mistake_is_explained_by_the_recommended_method(whole_run):
    explained = summary_parts(Material(whole_run)).explained
    arrays = gallery()["arrays"]
    assert (explained.method, explained.tile.label, explained.tile.prediction) == ("deeplift", CLASSES[2], CLASSES[1])
    assert np.array_equal(explained.tile.image, arrays["source"][2, 0])
    expected = arrays["maps"][1, 2, 1] / 127  # deeplift, the third image, the predicted class
    limit = np.quantile(np.abs(expected), 0.995)
    np.testing.assert_allclose(explained.relevance, np.clip(expected / limit, -1, 1))


def test_the_explained_image_is_not_repeated_among_the_mistakes(whole_run):
    record = gallery()
    record["numbers"]["indices"] = [0, 1, int(_first_mistake(whole_run))]
    keep(whole_run, "gallery", 2, **record)
    before = summary_parts(Material(write_run(whole_run.folder.parent / "other"))).mistakes
    assert len(summary_parts(Material(whole_run)).mistakes) == len(before) - 1


def _first_mistake(store):
    material = Material(store)
    record = material.numbers(material.entries("confusion_matrix", "data", "images")[material.best_epoch])
    wrong = [n for n, label in enumerate(record["labels"]) if label != record["predictions"][n]]
    return record["indices"][max(wrong, key=lambda number: record["confidences"][number])]


@pytest.mark.parametrize(
    ("labels", "shown"), [([0] * 6, [5, 4, 3, 2]), ([0, 1, 2, 2, 2, 2], [5, 4, 1, 0]), ([*range(6)], [5, 4, 3, 2])]
)
def test_four_mistakes_are_shown_from_as_many_cells_as_possible(labels, shown):
    numbers = {"indices": list(range(6)), "labels": labels, "predictions": [9] * 6}
    numbers["confidences"] = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    chosen = _most_confident([], {"thumbnails": np.zeros((6, 4, 4, 1), np.uint8)}, numbers)
    assert [one.index for one in chosen] == shown


def test_missing_parts_are_left_out(tmp_path):
    store = Store(tmp_path)
    store.begin(run_record(test_accuracy=None, status="finished", model={}, dataset={}))
    parts = summary_parts(Material(store))
    assert (parts.number, parts.mistakes, parts.explained, parts.plane) == ("", (), None, None)
    with Image.open(write_summary(tmp_path)) as picture:
        assert picture.size == SIZE


@pytest.mark.parametrize(
    ("hook", "change"),
    [
        ("gallery", {"numbers": {"methods": ["other"], "labels": [0], "predictions": [1], "confidences": [1.0]}}),
        ("gallery", {"arrays": {"maps": np.zeros((1, 1))}}),
        ("gallery", {"numbers": gallery()["numbers"] | {"predictions": [0, 1, 2]}}),  # no mistake
        ("tsne", {"arrays": {"points": np.full((40, 2), np.nan)}}),
        ("tsne", {"numbers": {"labels": [0, -1]}, "arrays": {"points": np.zeros((2, 2))}}),
    ],
)
def test_invalid_parts_are_left_out(hook, change, whole_run):
    whole = {"gallery": gallery(), "tsne": embedding()}[hook]
    keep(whole_run, hook, {"gallery": 2, "tsne": 1}[hook], **(whole | change))
    parts = summary_parts(Material(whole_run))
    assert (parts.explained if hook == "gallery" else parts.plane) is None
    assert parts.number == "60.00%"
    assert write_summary(whole_run.folder).is_file()


def test_it_is_written_with_the_report_of_a_run_that_has_ended(whole_run):
    write_report(whole_run.folder)
    with Image.open(whole_run.folder / "summary.png") as picture:
        assert picture.size == SIZE
        pixels = np.asarray(picture.convert("RGB"))
    assert (pixels[:, :20] == 255).all()  # the margin is white
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100


def test_none_is_written_during_the_run(whole_run):
    whole_run.write_run(whole_run.run() | {"status": "running"})
    with locked(whole_run.folder):
        write_report(whole_run.folder)
        assert not (whole_run.folder / "summary.png").exists()
    # the process is gone
    assert write_summary(whole_run.folder).is_file()


def test_a_new_run_moves_it_aside_and_a_resumed_one_removes_it(whole_run):
    write_report(whole_run.folder)
    content = (whole_run.folder / "summary.png").read_bytes()
    aside = whole_run.move_previous_run()
    assert (aside / "summary.png").read_bytes() == content
    whole_run.begin(run_record())
    write_report(whole_run.folder)
    whole_run.begin(run_record(status="running"))
    assert not (whole_run.folder / "summary.png").exists()


def rgb(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    with Image.open(buffer) as picture:
        return np.asarray(picture.convert("RGB"))


LONG = "a class <name> with $40$ characters & more 猫"
PHOTO = np.random.default_rng(0).random((224, 200, 3))


@pytest.mark.parametrize(
    ("mistakes", "is_explained", "is_embedded"),
    [(0, False, False), (1, False, True), (0, True, False), (4, True, True), (4, False, False)],
)
def test_nothing_is_drawn_across_the_margin(mistakes, is_explained, is_embedded):
    tile = Tile(PHOTO, LONG, LONG)
    plane = Plane(np.random.default_rng(0).normal(size=(50, 2)), np.arange(50) % 40, [LONG] * 1000, "Embedding " * 20)
    figure = summary(
        Summary(
            title=f"{LONG} " * 5,
            number="100.00%",
            meaning=("test accuracy", LONG * 5, LONG * 5),
            sentences=(f"{LONG} " * 3,) * 9,
            mistakes=(tile,) * mistakes,
            explained=Explained(tile, PHOTO[..., 0] * 2 - 1, "lrp.epsilon_plus_flat") if is_explained else None,
            plane=plane if is_embedded else None,
        )
    )
    pixels = rgb(figure)
    assert pixels.shape == (630, 1200, 3)
    frame = np.ones(pixels.shape[:2], bool)
    frame[20:-20, 36:-36] = False
    assert (pixels[frame] == 255).all()
