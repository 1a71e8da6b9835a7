"""`--metadata` in runs, inspections and watched trainings: rows follow the images, resuming needs the same table."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import pellucid
from pellucid.cli import main
from pellucid.core.errors import ConfigError, SaveError
from pellucid.storage.store import Store

SMALL = "--dataset digits --epochs 1 --limit-train 240 --limit-test 80 --batch-size 64".split()


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Return a table with one row per digit of scikit-learn: its parity, its number and a hostile column."""
    path = tmp_path / "digits.csv"
    rows = [
        f"{'odd' if label % 2 else 'even'},image {row},<b>{row % 2}</b>"
        for row, label in enumerate(load_digits().target)
    ]
    path.write_text("\n".join(["parity,id,</script><script>alert(1)</script>", *rows]))
    return path


def read_json(path: Path) -> dict:
    return json.loads(path.read_text())


def numbers_of(save: Path) -> dict:
    (entry,) = [one for one in Store(save).manifest()["artifacts"] if (one["hook"], one["kind"]) == ("slices", "data")]
    return read_json(save / entry["path"])


def test_rows_of_a_limited_test_split(run_program, table, tmp_path):
    assert run_program(*SMALL, "--metadata", table, "--hooks", "slices,confusion_matrix") == 0
    record, numbers = read_json(Path("save/run.json")), numbers_of(Path("save"))
    assert record["config"]["metadata"] == str(table)
    assert (record["metadata"]["file"], record["metadata"]["rows"]) == ("digits.csv", 1797)
    assert record["metadata"]["columns"] == ["parity", "id", "</script><script>alert(1)</script>"]
    assert numbers["images"] == 80
    assert numbers["left_out"]["id"] == "none of its 80 values has 20 images"
    # the confusion matrix knows the labels: those of the table must be the same
    (entry,) = [
        one
        for one in Store(Path("save")).manifest()["artifacts"]
        if (one["name"], one["kind"], one["epoch"]) == ("confusion_matrix", "data", 1)
    ]
    counts = np.array(read_json(Path("save") / entry["path"])["counts"])
    wrong = counts.sum(1) - counts.diagonal()
    parity = {row["value"]: (row["images"], row["errors"]) for row in numbers["slices"] if row["column"] == "parity"}
    assert parity == {
        name: (counts[first::2].sum(), wrong[first::2].sum()) for first, name in enumerate(("even", "odd"))
    }
    page = Path("save/report.html").read_text()
    assert "<script>alert" not in page
    assert "Error rate by slice" in page


def test_metadata_adds_the_hook_to_the_default_ones(table, tmp_path):
    from pellucid.run.session import choose_hooks

    assert "slices" in choose_hooks("default", has_metadata=True)
    assert "slices" not in choose_hooks("default")
    assert list(choose_hooks("saliency", has_metadata=True)) == ["saliency"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.rsplit("\n", 1)[0], r"has 1,796 rows, but there are 1,797 .*digits"),
        (lambda _: "", "is empty"),
    ],
)
def test_a_wrong_table_ends_the_run_before_it_starts(change, message, run_program, table, capsys):
    import re

    table.write_text(change(table.read_text()))
    assert run_program(*SMALL, "--metadata", table) == 2
    assert re.search(message, " ".join(capsys.readouterr().err.split()))
    assert not Path("save/run.json").exists()


def test_a_missing_table_is_reported_before_the_data_is_downloaded(run_program, capsys):
    assert run_program("--dataset", "mnist", "--metadata", "none.parquet") == 2
    assert "--metadata none.parquet does not exist" in " ".join(capsys.readouterr().err.split())


def test_a_run_is_resumed_with_the_same_table_only(run_program, table, capsys):
    assert run_program(*SMALL, "--metadata", table, "--hooks", "slices") == 0
    expected = numbers_of(Path("save"))
    record = read_json(Path("save/run.json"))
    Path("save/run.json").write_text(json.dumps(record | {"status": "interrupted"}))
    moved, content = table.with_name("moved.csv"), table.read_text()
    table.rename(moved)
    assert main(["run", "--resume"]) == 2
    assert f"--metadata {table} does not exist" in " ".join(capsys.readouterr().err.split())
    table.write_text(content.replace("image 0", "image zero"))
    assert main(["run", "--resume"]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "the metadata has changed since the run started: it was digits.csv with the checksum" in told
    assert "start a new run without --resume" in told
    shutil.rmtree("save/plots/slices")
    assert main(["run", "--resume", "--metadata", str(moved)]) == 0
    assert numbers_of(Path("save")) == expected
    assert read_json(Path("save/run.json"))["metadata"]["file"] == "moved.csv"


def network() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    labels = torch.arange(500) % 2
    images = torch.rand(500, 1, 6, 6) / 2 + labels.view(-1, 1, 1, 1) / 2
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 2)), images, labels


def test_an_inspection_samples_the_rows_with_the_images(tmp_path):
    model, images, labels = network()
    columns = {"label": labels, "brightness": images.mean((1, 2, 3)), "name": [str(row) for row in range(500)]}
    run = pellucid.inspect(
        model, (images, labels), save=tmp_path, hooks="slices", budget="small", metadata=columns, seed=3
    )
    numbers = numbers_of(tmp_path)
    assert numbers["images"] == 256
    by_label = {row["value"]: row for row in numbers["slices"] if row["column"] == "label"}
    assert {value: row["images"] for value, row in by_label.items()} == {"0": 128, "1": 128}
    # an untrained network predicts one class for almost all images, so errors follow the labels
    accuracy = run.metrics[0]["test_accuracy"]
    assert sum(row["errors"] for row in by_label.values()) == round(256 * (1 - accuracy))
    assert read_json(tmp_path / "run.json")["metadata"]["rows"] == 500


def test_metadata_of_a_stream_is_refused(tmp_path):
    model, images, labels = network()

    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return zip(images, labels.tolist(), strict=True)

    with pytest.raises(ConfigError, match=r"Stream is a stream, whose images cannot be matched"):
        pellucid.inspect(model, Stream(), save=tmp_path, metadata={"label": labels})
    assert not (tmp_path / "run.json").exists()


def test_a_watched_training_continues_with_the_same_table(tmp_path):
    model, images, labels = network()
    options = {"save": tmp_path, "hooks": "slices", "budget": "small"}
    watcher = pellucid.watch(model, (images, labels), metadata={"label": labels}, **options)
    watcher.epoch()
    watcher.close("interrupted")
    for changed in ({"label": 1 - labels}, None):
        with pytest.raises(SaveError, match=r"the metadata has changed .* it was the table in memory .*resume=False"):
            pellucid.watch(model, (images, labels), metadata=changed, **options)
    with pellucid.watch(model, (images, labels), metadata={"label": labels.clone()}, **options) as watcher:
        assert watcher.last_epoch == 1
    assert {row["column"] for row in numbers_of(tmp_path)["slices"]} >= {"label"}
