"""Header of the report."""

import pytest

from pellucid.report import Material
from pellucid.report._head import head
from pellucid.report._page import render
from pellucid.storage.store import Store
from pretended_run import metrics_line, run_record


def test_header_lists_the_facts_of_a_run(store):
    top = head(Material(store))
    assert top.title == "Training report: cnn on Pets"
    assert dict(top.facts) == {
        "test accuracy": "80.00% (best checkpoint by validation, epoch 1)",
        "data": "Pets",
        "images": "1,500 training, 100 validation, 15 test; 1×4×4; 3 classes",
        "model": "cnn",
        "parameters": "76,810",
        "epochs": "2",
        "device": "cpu",
        "duration": "1:02:03 h",
        "seed": "3",
    }
    details = dict(top.details)
    assert details["git revision"] == "abc123"
    assert details["threads"] == "1"
    assert details["versions"] == "python 3.11, torch 2.9"
    assert details["settings"] == "save save, seed 3"
    assert (top.status, top.notes, top.failures) == ("finished", (), ())


@pytest.mark.parametrize(
    ("status", "note"),
    [
        (
            "running",
            "This run is still in progress; the report was written after epoch 1 of 2. Reload the page for updates.",
        ),
        ("interrupted", "This run was interrupted after epoch 1 of 2. Continue it with --resume."),
        ("failed", "This run failed after epoch 1 of 2. Continue it with --resume."),
        (None, "The status of this run is unknown; the report was written after epoch 1 of 2."),
    ],
)
def test_an_unfinished_run_is_described(status, note, tmp_path):
    store = Store(tmp_path)
    store.begin(run_record(status=status, test_accuracy=None))
    for epoch in (0, 1):
        store.add_metrics(metrics_line(epoch))
    top = head(Material(store))
    assert top.notes == (note,)
    assert dict(top.facts)["epochs"] == "1 of 2"
    assert dict(top.facts)["test accuracy"] == "45.00% (best checkpoint by validation, epoch 1)"
    assert note in render(Material(store)).replace("&#39;", "'")


def test_duration_of_a_resumed_run_includes_pauses(tmp_path):
    store = Store(tmp_path)
    store.begin(run_record(config={"resume": True}))
    facts = dict(head(Material(store)).facts)
    assert facts["duration (including pauses)"] == "1:02:03 h"
    assert "duration" not in facts


def test_notice_about_substituted_data_is_shown(tmp_path):
    store = Store(tmp_path)
    record = run_record()
    store.begin(
        record | {"dataset": record["dataset"] | {"notice": "MNIST could not be downloaded; using the digits."}}
    )
    assert head(Material(store)).notes == ("MNIST could not be downloaded; using the digits.",)


def test_failures_are_shown_with_their_logs(store):
    store.add_failure("tsne", 1, "ValueError: no points", "Traceback …\nValueError: no points")
    log = store.add_failure("saliency", 2, "gone", "")
    log.unlink()
    first, second = head(Material(store)).failures
    assert first == ("tsne, epoch 1: ValueError: no points", "Traceback …\nValueError: no points")
    assert second == ("saliency, epoch 2: gone", "The log errors/saliency_epoch_002.txt cannot be read.")
    assert "2 failures; the rest of the run completed." in render(Material(store))


def test_a_log_outside_the_folder_is_not_shown(store, tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    store.add_failure("tsne", 1, "x", "y")
    path = store.folder / "manifest.json"
    path.write_text(path.read_text().replace("errors/tsne_epoch_001.txt", "../secret.txt"))
    ((_, log),) = head(Material(store)).failures
    assert log == "The log ../secret.txt cannot be read."


def test_zero_settings_are_listed(store):
    store.write_run(
        run_record(config={"seed": 0, "learning_rate": 0.0, "resume": False, "mirror": [], "classes": None})
    )
    assert dict(head(Material(store)).details)["settings"] == "seed 0, learning_rate 0.0"


def test_long_log_shows_its_end(store):
    store.add_failure("tsne", 1, "x", "a" * 60_000 + "the end")
    ((_, log),) = head(Material(store)).failures
    assert log.startswith("[the first 10,007 characters are omitted]\naaa")
    assert log.endswith("aaathe end")
