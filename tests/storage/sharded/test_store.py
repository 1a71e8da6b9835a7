"""Stores that many processes fill: whole shards, marks last, one owner of the settings, and nothing lost."""

import errno
import os
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from pellucid.core.errors import SaveError
from pellucid.storage.sharded import Address, Layout, ShardedStore, Variable

ROWS = np.random.default_rng(0).normal(size=(10, 2, 3, 8, 8)).astype(np.float32)
LAST = 8
"""Number of renames and syncs of a shard with three variables and its mark."""
KEYS = np.array([f"träin/{number}.png" for number in range(10)], dtype=object)


def layout(setting: int = 1, images: int | None = 10, shard: int = 4) -> Layout:
    variables = (
        Variable("relevance", "float32", ("image", "method", "channel", "height", "width"), (2, 3, 8, 8), 1),
        Variable("key", "str"),
        Variable("label", "int64", attributes={"long_name": "true class"}),
        Variable("method", "str", ("method",), values=np.array(["a", "b"], dtype=object)),
    )
    attributes = {"images": images, "shard": shard, "settings": {"methods": {"a": {"steps": setting}}}}
    return Layout(images, shard, variables, attributes | {"provenance": {"machine": str(uuid.uuid4())}})


def rows(number: int) -> dict[str, np.ndarray]:
    part = slice(4 * number, 4 * number + 4)
    return {"relevance": ROWS[part], "key": KEYS[part], "label": np.arange(10)[part]}


@pytest.fixture(params=["folder", "memory"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Address]:
    if request.param == "folder":
        yield Address.of(tmp_path / "maps.zarr")
        return
    place = Address.of(f"memory://{uuid.uuid4().hex}/maps.zarr")
    yield place
    import fsspec

    fsspec.filesystem("memory").rm(place.text.removeprefix("memory:/"), recursive=True)


def test_shards_come_back_and_missing_ones_are_seen_as_such(address: Address) -> None:
    store = ShardedStore.join(address, layout())
    assert store.completed().tolist() == []
    store.write(2, rows(2), "third")
    store.write(0, rows(0), "first")
    read = ShardedStore.open(address)
    assert read.completed().tolist() == [0, 2]
    assert [read.is_complete(number) for number in range(3)] == [True, False, True]
    assert [read.mark(number) for number in range(3)] == ["first", None, "third"]
    assert [list(read.rows_of(number)) for number in (0, 2)] == [[0, 1, 2, 3], [8, 9]]
    relevance = read.group["relevance"]
    np.testing.assert_array_equal(relevance[:4], ROWS[:4])
    np.testing.assert_array_equal(relevance[8:], ROWS[8:])
    assert np.isnan(relevance[4:8]).all()
    assert read.group["label"][:].tolist() == [0, 1, 2, 3, -1, -1, -1, -1, 8, 9]
    assert read.group["key"][:].tolist() == [*KEYS[:4], "", "", "", "", *KEYS[8:]]
    assert read.group["method"][:].tolist() == ["a", "b"]
    assert relevance.metadata.dimension_names == ("image", "method", "channel", "height", "width")


def test_a_large_row_is_sharded_so_that_one_method_of_few_images_can_be_read(tmp_path: Path) -> None:
    large = Layout(
        64, 32, (Variable("relevance", "float32", ("image", "method", "y", "x"), (3, 128, 128), 1),),
        {"images": 64, "shard": 32},
    )  # fmt: skip
    store = ShardedStore.join(Address.of(tmp_path / "m.zarr"), large)
    values = np.random.default_rng(1).normal(size=(32, 3, 128, 128)).astype(np.float32)
    store.write(1, {"relevance": values}, "mark")
    array = store.group["relevance"]
    assert array.shards == (32, 3, 128, 128)
    assert array.chunks == (16, 1, 128, 128)
    np.testing.assert_array_equal(array[40, 2], values[8, 2])
    assert sorted(path.name for path in (tmp_path / "m.zarr" / "relevance").iterdir()) == ["c.1.0.0.0", "zarr.json"]


def test_a_second_process_joins_and_another_job_is_refused_with_the_difference(address: Address) -> None:
    ShardedStore.join(address, layout()).write(1, rows(1), "second")
    assert ShardedStore.join(address, layout()).completed().tolist() == [1]
    with pytest.raises(SaveError, match=r"other settings: methods\.a\.steps is 1 there and 2 here"):
        ShardedStore.join(address, layout(2))
    with pytest.raises(SaveError, match="shard is 4 there and 5 here"):
        ShardedStore.join(address, layout(shard=5))


def test_processes_that_begin_at_once_agree_on_one_job(address: Address) -> None:
    """Two different jobs race for an empty address: one of them gets it, and the other one is refused."""
    outcomes: list[Any] = [None] * 8
    barrier = threading.Barrier(8)
    layouts = [layout(0), layout(1)]
    assert all(one.metadata for one in layouts)  # made here, since filters of warnings are not for threads

    def begin(number: int) -> None:
        barrier.wait()
        try:
            outcomes[number] = ShardedStore.join(address, layouts[number % 2])
        except SaveError as error:
            outcomes[number] = str(error)

    threads = [threading.Thread(target=begin, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winner = ShardedStore.open(address).attributes["settings"]["methods"]["a"]["steps"]
    for number, outcome in enumerate(outcomes):
        if number % 2 == winner:
            assert isinstance(outcome, ShardedStore), outcome
        else:
            # without conditional writes, a loser may notice only when it writes
            assert isinstance(outcome, str) or address.folder is None
            if isinstance(outcome, ShardedStore):
                with pytest.raises(SaveError, match="vanished or been replaced"):
                    outcome.write(0, rows(0), "wrong")


def test_a_store_whose_creation_was_interrupted_is_completed(address: Address) -> None:
    files = layout().metadata
    address.create("zarr.json", files["zarr.json"])
    store = ShardedStore.join(address, layout())
    store.write(0, rows(0), "first")
    np.testing.assert_array_equal(ShardedStore.open(address).group["relevance"][:4], ROWS[:4])
    assert store.group["method"][:].tolist() == ["a", "b"]


def test_the_bytes_of_a_shard_do_not_depend_on_when_or_how_often_it_is_written(tmp_path: Path) -> None:
    contents = []
    for name, order in (("one", [0, 1, 2]), ("two", [2, 1, 1, 0, 2])):
        store = ShardedStore.join(Address.of(tmp_path / name), layout())
        for number in order:
            store.write(number, rows(number), f"mark {number}")
        files = [path for path in (tmp_path / name).rglob("*") if path.is_file() and path.parent != tmp_path / name]
        contents.append({str(path.relative_to(tmp_path / name)): path.read_bytes() for path in files})
    assert contents[0] == contents[1]
    assert len(contents[0]) == 3 * 4 + 6


def test_rows_that_hold_only_fill_values_are_written_too(tmp_path: Path) -> None:
    """A missing file would otherwise look like a lost one."""
    store = ShardedStore.join(Address.of(tmp_path), layout())
    empty = {"relevance": np.full((4, 2, 3, 8, 8), np.nan, np.float32), "key": KEYS[:4], "label": np.full(4, -1)}
    store.write(0, empty, "mark")
    assert (tmp_path / "label" / "c.0").is_file()
    assert (tmp_path / "relevance" / "c.0.0.0.0.0").is_file()


def test_a_vanished_or_replaced_store_is_not_written_to(tmp_path: Path) -> None:
    folder = tmp_path / "maps.zarr"
    store = ShardedStore.join(Address.of(folder), layout())
    store.write(0, rows(0), "first")
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(SaveError, match="has vanished or been replaced.*repeat the call"):
        store.write(1, rows(1), "second")
    assert not folder.exists()
    ShardedStore.join(Address.of(folder), layout(2))
    with pytest.raises(SaveError, match="has vanished or been replaced"):
        store.write(1, rows(1), "second")
    assert ShardedStore.open(Address.of(folder)).completed().tolist() == []
    (tmp_path / "elsewhere").rename(tmp_path / "back")
    assert ShardedStore.join(Address.of(tmp_path / "back"), layout()).completed().tolist() == [0]


def test_a_store_that_vanishes_during_a_write_is_named_as_the_reason(tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / "maps.zarr"
    store = ShardedStore.join(Address.of(folder), layout())

    def vanish(*_: Any) -> None:
        folder.rename(tmp_path / "elsewhere")
        raise SaveError("a file cannot be written: No such file or directory")

    monkeypatch.setattr(Address, "sync", vanish)
    with pytest.raises(SaveError, match="has vanished or been replaced"):
        store.write(0, rows(0), "first")


@pytest.mark.parametrize("fault", range(1, LAST + 1))
def test_a_disk_that_fails_at_any_file_leaves_no_mark(
    fault: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ShardedStore.join(Address.of(tmp_path / "maps.zarr"), layout())
    store.write(0, rows(0), "first")
    calls = 0
    replace, fsync = Path.replace, os.fsync

    def failing(call: Any) -> Any:
        def count(*arguments: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == fault:
                raise OSError(errno.ENOSPC, "No space left on device")
            return call(*arguments)

        return count

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", failing(replace))
        patch.setattr(os, "fsync", failing(fsync))
        with pytest.raises(SaveError, match="the disk is full; free some space. Finished shards are intact"):
            store.write(1, rows(1), "second")
    # once the mark is in place, only its way to the disk can fail
    assert store.completed().tolist() == ([0, 1] if fault == LAST else [0])
    assert not list(tmp_path.rglob("*.partial"))
    store.write(1, rows(1), "second")
    np.testing.assert_array_equal(ShardedStore.open(store.address).group["relevance"][:8], ROWS[:8])


def test_other_folders_are_refused_and_stay_untouched(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").write_text("precious")
    with pytest.raises(SaveError, match=r"contains other files \(thesis.txt\)"):
        ShardedStore.join(Address.of(tmp_path / "thesis"), layout())
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["thesis.txt"]
    zarr.create_array(tmp_path / "array", shape=(3,), dtype="float32")
    for content in (None, b"{", b"[]", b'{"node_type": "group", "zarr_format": 3, "attributes": []}'):
        if content is not None:
            (tmp_path / "array" / "zarr.json").write_bytes(content)
        with pytest.raises(SaveError, match=r"holds a zarr\.json of something else"):
            ShardedStore.join(Address.of(tmp_path / "array"), layout())
    with pytest.raises(SaveError, match="is not a store of explanations"):
        ShardedStore.open(Address.of(tmp_path / "nothing"))
    with pytest.raises(SaveError, match="cannot be opened"):
        Address.of("nonsense://bucket/maps.zarr").read("zarr.json")


def test_the_length_grows_for_readers_shard_by_shard(address: Address) -> None:
    store = ShardedStore.join(address, layout(images=None))
    for number, length in ((0, 4), (1, 8), (2, 10)):
        store.write(number, rows(number), f"mark {number}")
        store.resize(length)
        for consolidated in (True, False):
            group = zarr.open_group(
                address.zarr_store(read_only=True), mode="r", use_consolidated=consolidated, zarr_format=3
            )
            np.testing.assert_array_equal(group["relevance"][:], ROWS[:length])
            assert group["completed"].shape == (number + 1,)


def test_addresses() -> None:
    assert Address.of("s3://bucket/a/maps.zarr/").sibling("maps.parquet").text == "s3://bucket/a/maps.parquet"
    assert Address.of("file:///a/maps.zarr").folder == Path("/a/maps.zarr")
    assert Address.of("~/maps.zarr").folder == Path("~/maps.zarr").expanduser()
    assert Address.of("s3://bucket/maps.zarr").folder is None
