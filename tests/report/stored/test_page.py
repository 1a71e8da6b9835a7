"""The page of a store: its numbers, and every kind of store."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pellucid import open_explanations
from pellucid.cli import main
from pellucid.core.errors import DataError
from pellucid.report.stored import survey, write_stored_report
from pellucid.report.stored._maps import EDGES, Extreme, Extremes, MeanMaps, relative_residuals
from pretended_store import CLASSES, values, write_store


def surveyed(folder: Path, rows: dict[str, Any] | None = None, **options: Any) -> tuple[Any, dict[str, Any]]:
    rows = write_store(folder / "maps.zarr", rows, **options)
    return survey(open_explanations(folder / "maps.zarr")), rows


def test_counts_agree_with_the_rows(tmp_path: Path) -> None:
    made, rows = surveyed(tmp_path)
    has, known = rows["error"] == "", (rows["label"] >= 0) & (rows["error"] == "")
    assert (made.images, made.unreadable, made.readable, made.labeled) == (20, 2, 18, known.sum())
    assert made.reasons == {"damaged <i>file</i> 3": 1, "damaged <i>file</i> 11": 1}
    assert made.right == (rows["label"] == rows["prediction"])[known].sum()
    counts = np.zeros((3, 3), int)
    for label, prediction in zip(rows["label"][known], rows["prediction"][known], strict=True):
        counts[label, prediction] += 1
    np.testing.assert_array_equal(made.confusion, counts)
    np.testing.assert_array_equal(made.hits, counts.diagonal())
    np.testing.assert_array_equal(made.predictions, np.bincount(rows["prediction"][has], minlength=3))
    for (label, prediction), key in made.wrong_keys.items():
        both = (rows["label"] == label) & (rows["prediction"] == prediction) & has
        assert key == rows["key"][np.flatnonzero(both)[0]]


def test_mean_maps_are_means_by_predicted_class(tmp_path: Path) -> None:
    made, rows = surveyed(tmp_path)
    for label in range(3):
        chosen = rows["relevance"][rows["prediction"] == label].sum(2)  # over the channels
        assert made.means.counts[label] == len(chosen)
        np.testing.assert_allclose(made.means.means[0, label], chosen.mean(0), atol=1e-6)
        np.testing.assert_allclose(made.means.means[1, label], np.abs(chosen).mean(0), atol=1e-6)


def test_maps_of_all_classes_are_those_of_the_prediction(tmp_path: Path) -> None:
    made, rows = surveyed(tmp_path, values(target_all=True))
    chosen = rows["relevance"][rows["prediction"] == 1][:, :, 1].sum(2)
    np.testing.assert_allclose(made.means.means[0, 1], chosen.mean(0), atol=1e-6)


def test_residuals_and_extremes_agree_with_sorting(tmp_path: Path) -> None:
    made, rows = surveyed(tmp_path)
    assert list(made.histograms) == ["lrp.epsilon"]
    has = np.flatnonzero(rows["error"] == "")
    relative = np.abs(rows["residual"][has, 1]) / np.maximum(np.abs(rows["expected"][has, 1]), 0.01)
    for edge in (1e-9, 0.1, 1.0, 10.0):
        place = np.flatnonzero(np.isclose(EDGES, edge))[0]
        assert made.histograms["lrp.epsilon"][: place + 1].sum() == (relative < edge).sum()
    order = np.argsort(relative, kind="stable")
    assert [one.index for one in made.smallest["lrp.epsilon"].images] == has[order][:6].tolist()
    assert [one.index for one in made.largest["lrp.epsilon"].images] == has[order[::-1]][:6].tolist()
    first = made.largest["lrp.epsilon"].images[0]
    np.testing.assert_allclose(first.maps, rows["relevance"][first.index].sum(1), rtol=1e-6)


def test_extremes_of_equal_values_are_the_first() -> None:
    found = Extremes(1)
    for start in (0, 4, 8):
        found.add(
            np.zeros(4), lambda number, start=start: Extreme(start + number, "", 0, 0, 1.0, 0.0, 0.0, np.zeros(1))
        )
    assert [one.index for one in found.images] == list(range(6))


def test_a_promised_sum_near_zero_counts_as_the_floor() -> None:
    assert relative_residuals(np.array([0.0, -4.0]), np.array([1e-3, 1.0])).tolist() == [0.1, 0.25]


def test_large_maps_are_averaged_over_areas() -> None:
    maps = np.random.default_rng(0).normal(size=(5, 2, 8, 12))
    means = MeanMaps((2, 3), 2, 2)
    means.add(maps, np.array([1, 1, 1, 1, 1]))
    areas = maps.mean(0).reshape(2, 2, 4, 3, 4).mean((2, 4))
    np.testing.assert_allclose(means.means[0, 1], areas, atol=1e-6)
    assert not means.means[:, 0].any()


def page_of(folder: Path) -> str:
    return Path(write_stored_report(folder / "maps.zarr")).read_text("utf-8")


def sections(page: str) -> list[str]:
    return re.findall(r'<section id="(\w+)"', page)


def test_the_page_shows_the_numbers_and_escapes_names(tmp_path: Path) -> None:
    rows = write_store(tmp_path / "maps.zarr")
    page = page_of(tmp_path)
    assert sections(page) == ["mean_maps", "residuals", "extremes", "confusion", "overview"]
    known = (rows["label"] >= 0) & (rows["error"] == "")
    share = (rows["label"] == rows["prediction"])[known].mean()
    assert f"{share:.2%} of {known.sum()}" in page
    assert "No sum is promised by gradient, which is left out." in page
    assert "damaged &lt;i&gt;file&lt;/i&gt; 3" in page
    for hostile in ("<i>file", "<b>owl", "net </script>"):
        assert hostile not in page
    assert "&lt;b&gt;owl&lt;/b&gt;" in page
    frames = json.loads(re.search(r'id="data-mean_maps">(.*?)</script>', page)[1])["sheets"][0]["frames"]["0"]
    assert [row["text"] for row in frames["rows"]] == list(CLASSES)
    assert [block["signed"] for block in frames["blocks"]] == [True, False, True, False]


def test_an_incomplete_store_says_so(tmp_path: Path) -> None:
    write_store(tmp_path / "maps.zarr", without=(1, 3))
    page = page_of(tmp_path)
    assert "The store is not complete: 8 of 20 images are in missing shards" in page


@pytest.mark.parametrize("missing", [(0, 1, 2, 3), ()])
def test_pages_of_stores_without_results(tmp_path: Path, missing: tuple[int, ...]) -> None:
    rows = values()
    rows["error"][:] = "unreadable"
    rows["prediction"][:] = rows["target"][:] = -1
    for name in ("logits", "relevance", "expected", "residual"):
        rows[name][:] = np.nan
    write_store(tmp_path / "maps.zarr", rows, without=missing)
    assert sections(page_of(tmp_path)) == ["overview"]


def chosen(*names: str, **options: Any) -> dict[str, Any]:
    return {name: array for name, array in values(**options).items() if name in names}


NUMBERS = ("key", "error", "label", "logits", "prediction")
KINDS = {
    "logits": (chosen(*NUMBERS), ["confusion", "overview"]),
    "all classes": (values(target_all=True), ["mean_maps", "residuals", "extremes", "confusion", "overview"]),
    "color": (values(shape=(3, 130, 90)), ["mean_maps", "residuals", "extremes", "confusion", "overview"]),
    "five channels": (values(shape=(5, 4, 6)), ["mean_maps", "residuals", "extremes", "confusion", "overview"]),
    "one image": (values(1), ["mean_maps", "residuals", "extremes", "confusion", "overview"]),
    "Jacobian": ({"jacobian": np.random.default_rng(0).normal(size=(7, 3, 1, 4, 4))}, ["mean_maps", "overview"]),
    "other Jacobian": ({"jacobian": np.zeros((7, 3, 1, 2, 2))}, ["mean_maps", "overview"]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_pages_of_every_kind_of_store(tmp_path: Path, kind: str) -> None:
    rows, expected = KINDS[kind]
    write_store(tmp_path / "maps.zarr", rows)
    page = page_of(tmp_path)
    assert sections(page) == expected
    assert "NaN" not in page.partition("<section")[2].partition("<script>")[0]


def test_unlabeled_images_have_no_accuracy(tmp_path: Path) -> None:
    rows = values()
    rows["label"][:] = -1
    write_store(tmp_path / "maps.zarr", rows)
    page = page_of(tmp_path)
    assert sections(page) == ["mean_maps", "residuals", "extremes", "overview"]
    assert "accuracy" not in page.partition("<main")[0].partition("<header")[2]


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    write_store(tmp_path / "maps.zarr")
    (tmp_path / "maps.zarr" / "residual" / "c.2.0").unlink()
    with pytest.raises(DataError, match="residual of shard 2 is damaged"):
        write_stored_report(tmp_path / "maps.zarr")
    assert not (tmp_path / "maps.html").exists()


def test_the_command_writes_the_page_beside_the_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_store(tmp_path / "maps.zarr")
    assert main(["report", str(tmp_path / "maps.zarr")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "maps.html")
    assert (tmp_path / "maps.html").is_file()
    assert main(["report", str(tmp_path / "nothing.zarr")]) == 2
    assert "is not a store of explanations" in capsys.readouterr().err
