from pathlib import Path

import numpy as np
import pytest
import torch

from pellucid.core.errors import DataError, SaveError
from pellucid.run.to_disk import index
from pellucid.run.to_disk.index import write_index
from pellucid.storage.sharded import Address
from pretended_store import CLASSES, values, write_store

parquet = pytest.importorskip("pyarrow.parquet")


def written(folder: Path) -> str:
    return write_index(Address.of(folder))


def test_the_table_has_a_row_per_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "ROWS_PER_GROUP", 7)  # two shards
    rows = write_store(tmp_path / "maps.zarr")
    assert written(tmp_path / "maps.zarr") == str(tmp_path / "maps.parquet")
    file = parquet.ParquetFile(tmp_path / "maps.parquet")
    assert [file.metadata.row_group(number).num_rows for number in range(2)] == [12, 8]
    table = file.read().to_pylist()
    probabilities = torch.from_numpy(rows["logits"]).softmax(1).max(1).values
    for number, row in enumerate(table):
        label, prediction = rows["label"][number], rows["prediction"][number]
        has = rows["error"][number] == ""
        assert (row["index"], row["key"], row["shard"]) == (number, f"image {number}.png", number // 6)
        assert row["error"] == rows["error"][number]
        assert row["label"] == (None if label < 0 else label)
        assert row["label_name"] == (None if label < 0 else CLASSES[label])
        assert row["prediction_name"] == (CLASSES[prediction] if has else None)
        assert row["target"] == (prediction if has else None)
        assert row["is_correct"] == (label == prediction if has and label >= 0 else None)
        assert row["expected.gradient"] is None
        if has:
            assert row["probability"] == pytest.approx(probabilities[number].item(), rel=1e-6)
            assert row["residual.lrp.epsilon"] == rows["residual"][number, 1]
            assert row["expected.lrp.epsilon"] == rows["expected"][number, 1]
        else:
            assert row["probability"] is row["residual.lrp.epsilon"] is None
    assert (
        list(tmp_path.iterdir()) == [tmp_path / "maps.zarr", tmp_path / "maps.parquet"]
        or len(list(tmp_path.iterdir())) == 2
    )


def test_equal_stores_have_equal_tables(tmp_path: Path) -> None:
    for name in ("one.zarr", "two.zarr"):
        write_store(tmp_path / name)
        written(tmp_path / name)
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()


def test_a_current_table_is_left_alone(tmp_path: Path) -> None:
    write_store(tmp_path / "maps.zarr")
    written(tmp_path / "maps.zarr")
    table = tmp_path / "maps.parquet"
    first = table.stat().st_ino
    assert written(tmp_path / "maps.zarr") == str(table)
    assert table.stat().st_ino == first
    (tmp_path / "maps.zarr" / "completed" / "c.1").unlink()
    assert written(tmp_path / "maps.zarr") == ""
    write_store(tmp_path / "maps.zarr")  # a shard that was computed again
    written(tmp_path / "maps.zarr")
    second = table.stat().st_ino
    assert second != first
    table.write_bytes(b"not our table")
    with pytest.raises(SaveError, match="is not the index of a store"):
        written(tmp_path / "maps.zarr")
    assert table.read_bytes() == b"not our table"


def test_sums_of_all_classes_are_lists(tmp_path: Path) -> None:
    rows = write_store(tmp_path / "maps.zarr", values(target_all=True))
    written(tmp_path / "maps.zarr")
    table = parquet.read_table(tmp_path / "maps.parquet").to_pylist()
    np.testing.assert_array_equal(table[4]["residual.lrp.epsilon"], rows["residual"][4, 1])
    assert table[3]["residual.lrp.epsilon"] is None
    assert "target" not in table[0]


def test_nothing_is_written_for_a_damaged_shard(tmp_path: Path) -> None:
    write_store(tmp_path / "maps.zarr")
    (tmp_path / "maps.zarr" / "logits" / "c.1.0").unlink()
    with pytest.raises(DataError, match="logits of shard 1"):
        written(tmp_path / "maps.zarr")
    assert list(tmp_path.iterdir()) == [tmp_path / "maps.zarr"]


def test_without_pyarrow_a_notice_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_store(tmp_path / "maps.zarr")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    place = Address.of(tmp_path / "maps.zarr")
    assert write_index(place) == ""
    assert capsys.readouterr().out == ""
    assert write_index(place, is_announced=True) == ""
    assert "pellucid[parquet]" in capsys.readouterr().out


def test_stores_without_keys_have_no_table(tmp_path: Path) -> None:
    write_store(tmp_path / "maps.zarr", {"jacobian": np.zeros((5, 3, 1, 2, 2), np.float32)})
    assert written(tmp_path / "maps.zarr") == ""
    assert written(tmp_path / "maps.zarr") == ""
