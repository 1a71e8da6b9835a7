"""`--metadata` with Parquet, Arrow and Feather files, and data frames."""

import datetime as dt
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from architectures import required

from pellucid.core.errors import ConfigError, DataError
from pellucid.data._metadata import check_metadata, read_metadata

pytestmark = pytest.mark.integrations

HOSTILE = "</script><b>\u202e a.b"


def table() -> Any:
    pa = required("pyarrow")
    berlin = pa.timestamp("ns", tz="Europe/Berlin")
    moment = dt.datetime(2024, 1, 1, 10, tzinfo=dt.UTC)
    return pa.table(
        {
            HOSTILE: ["x", None, "y"],
            "site": pa.array(["A", "B", "A"]).dictionary_encode(),
            "large": pa.array(["p", "q", None], pa.large_string()),
            "whole": [1, 2, 3],
            "whole_or_null": [1, None, 3],
            "unsigned": pa.array([1, 2, 2**64 - 1], pa.uint64()),
            "float": [0.5, float("nan"), None],
            "decimal": [Decimal("1.50"), None, Decimal(2)],
            "truth": [True, False, True],
            "truth_or_null": [True, None, False],
            "moment": pa.array([moment, None, moment], berlin),
            "day": [dt.date(2024, 1, 1), dt.date(2024, 2, 1), None],
            "null": pa.nulls(3),
            "a": [{"b": 1}] * 3,
            "a.b": ["nested", "or", "not"],
            "list": [[1]] * 3,
            "image": [b"x"] * 3,
            "time": [dt.time(1)] * 3,
        }
    )


def write(folder: Path, name: str) -> Path:
    pa, path = required("pyarrow"), folder / name
    if path.suffix == ".parquet":
        required("pyarrow.parquet").write_table(table(), path, row_group_size=2)
        return path
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table().schema) as writer:
        writer.write_table(table(), max_chunksize=2)
    return path


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.feather"])
def test_types_of_columns(name: str, tmp_path: Path) -> None:
    check_metadata(write(tmp_path, name))
    metadata = read_metadata(tmp_path / name, [2, 0, 1], 3, "test images")
    plain = {column: values.tolist() for column, values in metadata.items()}
    assert plain[HOSTILE] == ["y", "x", None]
    assert plain["a.b"] == ["not", "nested", "or"]
    assert (plain["site"], plain["large"], plain["null"]) == (["A", "A", "B"], [None, "p", "q"], [None] * 3)
    assert (plain["whole"], plain["unsigned"]) == ([3, 1, 2], [2**64 - 1, 1, 2])
    assert (plain["truth"], plain["truth_or_null"]) == ([True, True, False], [False, True, None])
    np.testing.assert_array_equal(metadata["whole_or_null"], [3, 1, np.nan])
    np.testing.assert_array_equal(metadata["float"], [np.nan, 0.5, np.nan])
    np.testing.assert_array_equal(metadata["decimal"], [2, 1.5, np.nan])
    assert metadata["moment"].astype("datetime64[h]").astype(str).tolist() == ["2024-01-01T10", "2024-01-01T10", "NaT"]
    assert metadata["day"].astype("datetime64[D]").astype(str).tolist() == ["NaT", "2024-01-01", "2024-02-01"]
    assert set(metadata.left_out) == {"a", "list", "image", "time"}
    assert metadata.left_out["image"] == "its values are of type binary, which cannot be grouped"
    assert (metadata.rows, metadata.file) == (3, name)


def test_the_checksum_is_that_of_the_file(tmp_path: Path) -> None:
    from hashlib import sha256

    path = write(tmp_path, "a.parquet")
    assert read_metadata(path, [0], 3, "").sha256 == sha256(path.read_bytes()).hexdigest()


def test_invalid_files(tmp_path: Path) -> None:
    path = write(tmp_path, "a.parquet")
    with pytest.raises(ConfigError, match=r"has 3 rows, but there are 4 test images; expected one row for each"):
        read_metadata(path, [0], 4, "test images")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"a\.parquet cannot be read"):
        read_metadata(path, [0], 3, "test images")
    pa, parquet = required("pyarrow"), required("pyarrow.parquet")
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    parquet.write_table(twice, path)
    with pytest.raises(ConfigError, match="more than one column 'a'"):
        read_metadata(path, [0], 1, "test images")


def test_data_frames() -> None:
    pandas = required("pandas")
    frame = pandas.DataFrame(
        {
            "site": pandas.Categorical(["A", "B", None]),
            "count": pandas.array([1, None, 3], dtype="Int64"),
            "day": pandas.to_datetime(["2024-01-01", None, "2024-02-01"]),
        },
        index=[5, 6, 7],
    )
    metadata = read_metadata(frame, [2, 1], 3, "images")
    from pellucid.diagnostics._partition import partition

    names = {name: partition(values, bins=5, least=1).names for name, values in metadata.items()}
    assert names == {"site": ("B", "(missing)"), "count": ("3", "(missing)"), "day": ("2024-02-01", "(missing)")}
    arrow = read_metadata(table().select(["site", "whole"]), [1], 3, "images")
    assert (arrow["site"].tolist(), arrow["whole"].tolist()) == (["B"], [2])
