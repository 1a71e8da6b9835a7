"""The save folder."""

import json
from pathlib import Path

import numpy as np
import pytest

from pellucid.core.contracts import Artifact
from pellucid.core.errors import DataError, SaveError
from pellucid.storage.store import Store


@pytest.fixture
def store(tmp_path):
    (tmp_path / "save").mkdir()
    return Store(tmp_path / "save")


def artifact(value=1.0, name="", **options):
    return Artifact("a caption", name, arrays={"map": np.full((2, 2), value)}, numbers={"value": value}, **options)


def keep(store, hook, epoch, made, picture):
    store.keep(store.pack(hook, epoch, made, picture))


def test_manifest_omits_large_tables(store):
    numbers = {"counts": np.zeros((200, 200), int).tolist(), "accuracy": 0.5, "names": ["a", "b"]}
    keep(store, "confusion_matrix", 0, Artifact("a caption", numbers=numbers), b"png")
    picture, data = store.manifest()["artifacts"]
    assert picture["numbers"] == {"accuracy": 0.5, "names": ["a", "b"]}
    assert json.loads((store.folder / data["path"]).read_text()) == numbers


def test_artifact_has_files_and_manifest_entries(store):
    keep(store, "saliency", 3, artifact(), b"png")
    keep(store, "saliency", 3, artifact(name="extra"), None)
    folder = store.folder / "plots" / "saliency"
    names = ["epoch_003.json", "epoch_003.npz", "epoch_003.png", "epoch_003_extra.json", "epoch_003_extra.npz"]
    assert sorted(path.name for path in folder.iterdir()) == names
    entries = store.manifest()["artifacts"]
    assert [(entry["name"], entry["kind"]) for entry in entries] == [
        ("saliency", "figure"),
        ("saliency", "arrays"),
        ("saliency", "data"),
        ("extra", "arrays"),
        ("extra", "data"),
    ]
    assert entries[0] == {
        "hook": "saliency",
        "epoch": 3,
        "name": "saliency",
        "path": "plots/saliency/epoch_003.png",
        "kind": "figure",
        "caption": "a caption",
        "numbers": {"value": 1.0},
    }
    assert (store.folder / entries[0]["path"]).read_bytes() == b"png"
    assert json.loads((folder / "epoch_003.json").read_text()) == {"value": 1.0}


def test_equal_artifacts_give_equal_bytes_and_one_entry(store):
    keep(store, "tsne", 1, artifact(), None)
    first = (store.folder / "plots/tsne/epoch_001.npz").read_bytes(), (store.folder / "manifest.json").read_bytes()
    keep(store, "tsne", 1, artifact(), None)
    again = (store.folder / "plots/tsne/epoch_001.npz").read_bytes(), (store.folder / "manifest.json").read_bytes()
    assert first == again


def test_previous_arrays_come_from_the_last_earlier_epoch(store):
    assert store.previous_arrays("tsne", 5) is None
    for epoch in (0, 2, 7):
        keep(store, "tsne", epoch, artifact(float(epoch)), None)
    keep(store, "tsne", 4, artifact(40.0, name="other"), None)
    keep(store, "saliency", 4, artifact(41.0), None)
    assert store.previous_arrays("tsne", 0) is None
    assert store.previous_arrays("tsne", 5)["map"][0, 0] == 2
    assert store.previous_arrays("tsne", 7)["map"][0, 0] == 2
    assert store.previous_arrays("tsne", 8)["map"][0, 0] == 7


def test_failure_is_listed_until_the_hook_succeeds(store):
    log = store.add_failure("tsne", 2, "ValueError: no", "Traceback …")
    store.add_failure("tsne", 2, "ValueError: no again", "Traceback …")
    assert log == store.folder / "errors/tsne_epoch_002.txt"
    assert store.manifest()["failures"] == [
        {"hook": "tsne", "epoch": 2, "error": "ValueError: no again", "log": "errors/tsne_epoch_002.txt"}
    ]
    keep(store, "tsne", 2, artifact(), None)
    assert store.manifest()["failures"] == []


def test_metrics_have_one_line_per_epoch_in_order(store):
    for epoch, loss in ((0, 1.0), (2, 3.0), (1, 2.0), (2, float("nan"))):
        store.add_metrics({"epoch": epoch, "loss": loss})
    lines = (store.folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"epoch": 0, "loss": 1.0},
        {"epoch": 1, "loss": 2.0},
        {"epoch": 2, "loss": None},
    ]


def test_only_the_files_of_an_earlier_run_are_moved(store):
    assert store.move_previous_run() is None
    for round_number in range(2):
        store.write_run({"timing": {"started": "2026-01-02T03:04:05Z"}})
        store.add_metrics({"epoch": round_number})
        keep(store, "saliency", 0, artifact(), b"png")
        store.write_model("best.safetensors", b"weights")
        for kept in ("data/mnist", "docs"):
            (store.folder / kept).mkdir(parents=True, exist_ok=True)
        moved = store.move_previous_run()
        name = "2026-01-02T03-04-05Z" + ("-2" if round_number else "")
        assert moved == store.folder / "previous" / name
        assert (moved / "models/best.safetensors").read_bytes() == b"weights"
        assert json.loads((moved / "metrics.jsonl").read_text()) == {"epoch": round_number}
        assert sorted(path.name for path in store.folder.iterdir()) == ["data", "docs", "previous"]


def test_damaged_record_is_named_in_the_error(store):
    store.write_run({})
    (store.folder / "run.json").write_text('{"status": "runn')
    with pytest.raises(SaveError, match=r"run\.json is damaged"):
        store.run()
    assert store.move_previous_run() == store.folder / "previous" / "unknown"


def test_a_start_time_never_becomes_a_path(store):
    store.write_run({"timing": {"started": "../../../outside"}})
    assert store.move_previous_run() == store.folder / "previous" / "outside"


@pytest.mark.parametrize("name", ["../outside", "a b", "A", "a/b", "."])
def test_a_name_never_becomes_a_path(name, store):
    with pytest.raises(DataError, match="use lower-case letters, digits and underscores only"):
        store.pack("saliency", 0, artifact(name=name), None)


def test_invalid_artifact_is_refused_before_anything_is_written(store):
    with pytest.raises(TypeError, match="JSON"):
        store.pack("saliency", 0, Artifact("a caption", arrays={"a": np.zeros(2)}, numbers={"value": object()}), b"png")
    with pytest.raises(ValueError, match="allow_pickle"):
        store.pack("saliency", 0, Artifact("a caption", arrays={"a": np.array([object()])}), b"png")
    assert not list(store.folder.iterdir())


@pytest.mark.parametrize("content", ['{"epoch": 0}\n{"epo', '["a"]\n'])
def test_damaged_metrics_are_named_in_the_error(content, store):
    store.write_run({})
    (store.folder / "metrics.jsonl").write_text(content)
    with pytest.raises(SaveError, match=r"metrics\.jsonl is damaged"):
        store.metrics()


def test_begin_writes_the_manifest_and_removes_temporary_files(store):
    (store.folder / "plots" / "tsne").mkdir(parents=True)
    leftovers = [store.folder / ".pellucid-abc.tmp", store.folder / "plots" / "tsne" / ".pellucid-def.tmp"]
    others = [store.folder / ".notes.tmp", store.folder / "plots" / ".x.tmp"]
    for path in (*leftovers, *others):
        path.write_text("half")
    store.begin({"status": "running"})
    assert not any(path.exists() for path in leftovers)
    assert all(path.exists() for path in others)  # not ours
    assert json.loads((store.folder / "manifest.json").read_text()) == {"version": 1, "artifacts": [], "failures": []}


def test_interrupted_move_continues_into_the_same_folder(store, monkeypatch):
    store.write_run({"timing": {"started": "2026-01-02T03:04:05Z"}})
    store.add_metrics({"epoch": 0})
    store.write_model("best.safetensors", b"weights")
    rename, moved = Path.rename, []

    def cut(self, target):
        if len(moved) == 1:
            raise KeyboardInterrupt
        moved.append(rename(self, target))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", cut)
        with pytest.raises(KeyboardInterrupt):
            store.move_previous_run()
    with pytest.raises(SaveError, match="interrupted while moving its files to .* Move them back"):
        store.check_whole()
    store.move_previous_run()
    store.check_whole()
    (home,) = (store.folder / "previous").iterdir()
    assert sorted(path.name for path in home.iterdir()) == ["metrics.jsonl", "models", "run.json"]
