"""Tables with one row per test image: CSV files and columns in memory."""

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pellucid.core.errors import ConfigError, DataError
from pellucid.data import Request, load_data
from pellucid.data._metadata import check_metadata, read_metadata
from pellucid.data._sample import sample_data


def csv(folder: Path, text: str, name: str = "a.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


def test_kinds_of_csv_columns(tmp_path: Path) -> None:
    text = (
        "\ufeffsite,age,zip,is_old,day,seen,note\r\n"
        'Köln,1.5,02139,true,2024-01-01,2024-01-01T10:00:00+02:00,"a, ""b"""\r\n'
        ",,10001,,,,\n"
        "\n"
        " Bern ,-2e1,00501,FALSE,2023-12-31,2023-12-31T00:00:00Z,nan\n"
    )
    metadata = read_metadata(csv(tmp_path, text), [2, 0, 1], 3, "test images")
    assert metadata["site"].tolist() == ["Bern", "Köln", None]
    np.testing.assert_array_equal(metadata["age"], [-20, 1.5, np.nan])
    assert metadata["zip"].tolist() == ["00501", "02139", "10001"]
    assert metadata["is_old"].tolist() == [False, True, None]
    assert metadata["day"].astype(str).tolist() == ["2023-12-31T00:00:00.000000", "2024-01-01T00:00:00.000000", "NaT"]
    assert metadata["seen"][1] == np.datetime64("2024-01-01T08:00:00")
    assert metadata["note"].tolist() == ["nan", 'a, "b"', None]
    assert (metadata.rows, metadata.file, len(metadata)) == (3, "a.csv", 7)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("a,b\n1\n", r"has 1 cells in row 0, but 2 columns"),
        ("a,a\n1,2\n", "more than one column 'a'"),
        ('a\n"open\n', "not a valid CSV"),
        ("a\n1\n2\n", r"a.csv has 2 rows, but there are 3 test images; expected one row for each, in their order\.$"),
        ("a\n1\n", "rows for all of them, not just for the 1 in use"),
    ],
)
def test_invalid_files(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises((ConfigError, DataError), match=message):
        read_metadata(csv(tmp_path, text), [1], 3, "test images")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_bytes(b"a\n\xff\n")
    with pytest.raises(DataError, match=r"b\.csv is not a valid CSV file in UTF-8"):
        read_metadata(tmp_path / "b.csv", [0], 1, "test images")
    with pytest.raises(ConfigError, match=r"none\.csv does not exist; pass a .parquet, .arrow, .feather or .csv file"):
        check_metadata(tmp_path / "none.csv")
    with pytest.raises(ConfigError, match="is not a file"):
        check_metadata(str(tmp_path))
    with pytest.raises(ConfigError, match="unsupported suffix"):
        check_metadata(csv(tmp_path, "a\n", "a.xlsx"))
    with pytest.raises(ConfigError, match="metadata is of type int"):
        check_metadata(3)


def test_arrow_files_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"--metadata with a \.parquet file needs .*pyarrow"):
        check_metadata(csv(tmp_path, "", "a.parquet"))


def test_columns_in_memory() -> None:
    columns = {"a": torch.tensor([1, 2]), "b": np.array([[1], [2]]), 3: ("x", None), "c": [b"1", b"2"]}
    metadata = read_metadata(columns, torch.tensor([1]), 2, "images")
    assert (list(metadata), metadata["a"].tolist(), metadata["3"].tolist()) == (["a", "b", "3", "c"], [2], [None])
    assert metadata.file is None
    again = read_metadata(dict(columns), [0], 2, "images")
    assert again.sha256 == metadata.sha256 != read_metadata({**columns, 3: ["y", None]}, [0], 2, "").sha256
    for wrong, message in (
        ({"a": [1]}, "the metadata column 'a' has 1 rows, but there are 2 images"),
        ({"a": "xy"}, "of type str"),
        ({}, "no columns"),
        ({1: [1, 2], "1": [1, 2]}, "more than one column '1'"),
    ):
        with pytest.raises(ConfigError, match=message):
            read_metadata(wrong, [0], 2, "images")


def numbered(count: int) -> torch.utils.data.Dataset:
    """Return images that hold their own number."""
    pixels = torch.stack([torch.full((1, 2, 2), number, dtype=torch.uint8) for number in range(count)])
    return torch.utils.data.TensorDataset(pixels, torch.arange(count) % 3)


def as_function() -> object:
    return numbered(60), numbered(200), ("a", "b", "c")


@pytest.mark.parametrize("limit", [None, 31, 200])
def test_rows_follow_limits(limit: int | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("pellucid.core.importing.load_function", lambda *_: as_function)
    data = load_data("mine:data", Request(tmp_path), limit_test=limit)
    assert (len(data.test), data.test_total) == (min(limit or 200, 200), 200)
    metadata = read_metadata({"number": np.arange(200)}, data.test_positions, data.test_total, "test images")
    assert metadata["number"].tolist() == data.test.pixels[:, 0, 0, 0].tolist()


@pytest.mark.parametrize("layout", ["split", "whole"])
@pytest.mark.parametrize("limit", [None, 5])
def test_rows_follow_the_split_of_a_folder(layout: str, limit: int | None, tmp_path: Path) -> None:
    for part in ("train", "test") if layout == "split" else ("",):
        for label, name in enumerate("ab"):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(20):
                value = 100 * label + number + 50 * (part == "train")
                Image.fromarray(np.full((4, 4), value, np.uint8)).save(tmp_path / part / name / f"{number:02d}.png")
    data = load_data(f"folder:{tmp_path}", Request(tmp_path), limit_test=limit)
    assert data.test_total == 40
    rows = [100 * label + number for label in range(2) for number in range(20)]
    metadata = read_metadata({"value": rows}, data.test_positions, data.test_total, "images")
    assert metadata["value"].tolist() == data.test.pixels[:, 0, 0, 0].tolist()
    assert len(data.test) == (limit or {"split": 40, "whole": 8}[layout])


@pytest.mark.parametrize("limit", [None, 50])
def test_rows_of_the_digits_follow_scikit_learn(limit: int | None, tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    data = load_data("digits", Request(tmp_path), limit_test=limit)
    assert data.test_total == 1797
    metadata = read_metadata({"target": bunch.target, "mean": bunch.images.mean((1, 2))}, data.test_positions, 1797, "")
    assert metadata["target"].tolist() == data.test.labels.tolist()
    # resizing keeps the mean gray level
    np.testing.assert_allclose(metadata["mean"] / 16, data.test.floats().mean((1, 2, 3)).numpy(), atol=0.02)


@pytest.mark.parametrize("limit", [200, 40])
def test_rows_follow_a_sample(limit: int) -> None:
    sample = sample_data(numbered(200), limit=limit)
    assert sample.indices is not None
    metadata = read_metadata({"number": range(200)}, sample.indices, 200, "images")
    assert metadata["number"].tolist() == sample.images.pixels[:, 0, 0, 0].tolist()


def test_cells_at_the_limits(tmp_path: Path) -> None:
    large = csv(tmp_path, "a,b\n1152921504606846976,9007199254740993\n1152921504606846977,\n")
    metadata = read_metadata(large, [0, 1], 2, "test images")
    assert metadata["a"].tolist() == [2**60, 2**60 + 1]
    assert metadata["b"].tolist() == [2**53 + 1, None]
    early = csv(tmp_path, "a\n0001-01-01T00:00:00+05:00\n2020-01-01T00:00:00+00:00\n")
    assert read_metadata(early, [0], 2, "test images")["a"].tolist() == ["0001-01-01T00:00:00+05:00"]
    # a minute with quadratic backtracking
    digits = csv(tmp_path, "a\n" + "1" * 100_000 + "x\n1\n")
    started = time.perf_counter()
    assert read_metadata(digits, [1], 2, "test images")["a"].tolist() == ["1"]
    assert time.perf_counter() - started < 5


def test_repeated_columns_and_numbers_of_a_feather_file(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    feather = pytest.importorskip("pyarrow.feather")
    columns = [pa.array([2**60, None, 2**60 + 1]), pa.array([1, 2, 3])]
    feather.write_feather(pa.Table.from_arrays(columns, names=["a", "a"]), tmp_path / "a.feather")
    with pytest.raises(ConfigError, match="more than one column 'a'"):
        read_metadata(tmp_path / "a.feather", [0], 3, "test images")
    feather.write_feather(pa.Table.from_arrays(columns, names=["a", "b"]), tmp_path / "a.feather")
    assert read_metadata(tmp_path / "a.feather", [0, 1, 2], 3, "test images")["a"].tolist() == [2**60, None, 2**60 + 1]
