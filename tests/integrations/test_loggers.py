"""Trackers with their real libraries, in local stores, and what they read back."""

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from architectures import required
from learnable import lines_of
from PIL import Image

from pellucid.cli import main
from pellucid.storage.store import Store

pytestmark = [pytest.mark.integrations, pytest.mark.filterwarnings("ignore")]  # deprecations within the libraries

OWN_VARIABLES = ("TRACKIO_", "MLFLOW_", "WANDB_", "HF_")


@pytest.fixture(autouse=True)
def unconfigured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide the user's own settings, and their home folder, where nothing may be written."""
    for name in [*os.environ]:
        if name.startswith(OWN_VARIABLES):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def run(save: Path, *flags: str) -> None:
    common = ("--dataset", "digits", "--model", "mlp", "--limit-train", "60", "--limit-test", "30", "--threads", "1")
    assert main(["run", *common, "--hooks", "confusion_matrix", "--save", str(save), *flags]) == 0


def check_nothing_else_is_written(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} <= {"save", "home"}
    home = folder / "home"
    assert [path for path in home.rglob("*") if path.is_file() and "matplotlib" not in str(path)] == []


def expected_scores(save: Path) -> dict[tuple[str, int], float]:
    """Return the scores in metrics.jsonl by name and epoch, as the trackers call them."""
    return {
        (f"{part}/{name}", line["epoch"]): line[f"{part}_{name}"]
        for line in lines_of(save)
        for part in ("train", "validation", "test")
        for name in ("loss", "accuracy")
        if line[f"{part}_{name}"] is not None
    }


def figures(save: Path) -> dict[int, np.ndarray]:
    """Return the pictures of the confusion matrix by epoch."""
    listed = [entry for entry in Store(save).manifest()["artifacts"] if entry["kind"] == "figure"]
    return {entry["epoch"]: pixels(save / entry["path"]) for entry in listed}


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


TRACKIO_READER = """
import json, sys, trackio
from pathlib import Path
from trackio.sqlite_storage import SQLiteStorage
(run,) = trackio.Api().runs("pellucid")
reader = trackio.init(project="pellucid", name="reader", embed=False, auto_log_cpu=False)
reader.use_artifact("report:latest").download(sys.argv[1])
report = next(Path(sys.argv[1]).rglob("report.html")).read_text()
result = [run.name, run.config, SQLiteStorage.get_logs("pellucid", run.name), report]
Path(sys.argv[1], "result.json").write_text(json.dumps(result))
"""


def test_trackio(tmp_path: Path) -> None:
    required("trackio")
    save = tmp_path / "save"
    run(save, "--epochs", "2", "--log-to", "trackio")
    check_nothing_else_is_written(tmp_path)
    # in another process, because trackio reads the place of its store when it is imported
    environment = os.environ | {"TRACKIO_DIR": str(save / "logs" / "trackio")}
    command = [sys.executable, "-c", TRACKIO_READER, str(tmp_path / "download")]
    subprocess.run(command, env=environment, capture_output=True, check=True)
    name, config, logs, report = json.loads((tmp_path / "download" / "result.json").read_text())
    assert name.startswith("digits mlp 20")
    assert config["epochs"] == 2
    assert config["dataset_name"] == "digits"
    scores = {(key, entry["step"]): value for entry in logs for key, value in entry.items() if "/" in key}
    expected = expected_scores(save)
    assert {key: scores[key] for key in expected} == pytest.approx(expected)
    kept = {
        entry["step"]: pixels(save / "logs" / "trackio" / "media" / entry["confusion_matrix"]["file_path"])
        for entry in logs
        if "confusion_matrix" in entry
    }
    assert_same_pictures(kept, figures(save))
    assert report == (save / "report.html").read_text()


def assert_same_pictures(kept: dict[int, np.ndarray], expected: dict[int, np.ndarray]) -> None:
    assert kept.keys() == expected.keys() != set()
    for epoch, picture in expected.items():
        np.testing.assert_array_equal(kept[epoch], picture)


def test_mlflow(tmp_path: Path) -> None:
    required("sqlalchemy"), required("alembic")
    mlflow = required("mlflow")
    save = tmp_path / "save"
    run(save, "--epochs", "1", "--log-to", "mlflow")
    run(save, "--epochs", "2", "--resume")  # the flag is remembered, and the same run is continued
    check_nothing_else_is_written(tmp_path)
    client = mlflow.MlflowClient(f"sqlite:///{save / 'logs' / 'mlflow' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("pellucid")
    (logged,) = client.search_runs([experiment.experiment_id])
    assert logged.info.status == "FINISHED"
    assert logged.info.run_name.startswith("digits mlp 20")
    assert logged.data.params["dataset_name"] == "digits"
    expected = expected_scores(save)
    for key in {key for key, _ in expected}:
        history = [(point.step, point.value) for point in client.get_metric_history(logged.info.run_id, key)]
        once = {epoch: value for (name, epoch), value in expected.items() if name == key}
        assert len(history) == len(once)
        assert dict(history) == pytest.approx(once)
    assert {epoch for _, epoch in expected} == {0, 1, 2}
    kept = {}
    for artifact in client.list_artifacts(logged.info.run_id, "images"):
        if artifact.path.endswith(".png"):
            epoch = int(artifact.path.replace("%", "+").split("+step+")[1].split("+")[0])
            kept[epoch] = pixels(Path(client.download_artifacts(logged.info.run_id, artifact.path)))
    assert_same_pictures(kept, figures(save))
    report = client.download_artifacts(logged.info.run_id, "report.html")
    assert Path(report).read_text() == (save / "report.html").read_text()


def test_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    required("wandb")
    monkeypatch.setenv("WANDB_SERVICE", "3-1-unix-/nowhere")  # as in a program with a wandb run of its own
    from wandb.proto.wandb_internal_pb2 import Record

    save = tmp_path / "save"
    run(save, "--epochs", "2", "--log-to", "wandb")
    check_nothing_else_is_written(tmp_path)
    (offline,) = (save / "logs" / "wandb" / "wandb").glob("offline-run-*")
    (path,) = offline.glob("*.wandb")
    records = [Record.FromString(content) for content in wandb_records(path.read_bytes())]
    of_kind: Callable[[str], list[Any]] = lambda kind: [getattr(one, kind) for one in records if one.HasField(kind)]  # noqa: E731
    (about,) = of_kind("run")
    config = {item.key: json.loads(item.value_json) for item in about.config.update}
    assert (about.project, config["epochs"], config["dataset_name"]) == ("pellucid", 2, "digits")
    scores, kept = {}, {}
    for history in of_kind("history"):
        values = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in history.item}
        scores |= {(key, values["epoch"]): value for key, value in values.items()}
        if "confusion_matrix/path" in values:
            kept[values["epoch"]] = pixels(offline / "files" / values["confusion_matrix/path"])
    expected = expected_scores(save)
    assert {key: scores[key] for key in expected} == pytest.approx(expected)
    assert_same_pictures(kept, figures(save))
    (artifact,) = of_kind("artifact")
    (content,) = artifact.manifest.contents
    assert (artifact.type, content.path) == ("report", "report.html")
    assert Path(content.local_path).read_text() == (save / "report.html").read_text()
    assert [end.exit_code for end in of_kind("exit")] == [0]


def wandb_records(data: bytes) -> Iterator[bytes]:
    """Yield the records of a log in LevelDB's format: blocks of 32 KiB with fragments of records."""
    position, record = 7, b""  # after wandb's own header
    while position < len(data):
        left = 32768 - position % 32768
        if left < 7:  # too short for another header
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        record += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or its last fragment
            yield record
            record = b""


def test_an_unreachable_server_is_reported_and_the_run_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    required("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    run(tmp_path / "save", "--epochs", "1", "--log-to", "mlflow")
    output = capsys.readouterr().out
    assert output.count("logging to mlflow failed: open: MlflowException: ") == 1
    assert (tmp_path / "save" / "report.html").is_file()
    assert not (tmp_path / "save" / "logs" / "mlflow" / "mlflow.db").exists()
