"""Header of the report."""

from datetime import UTC, datetime

import pytest

from pellucid.report import Material
from pellucid.report._head import Activity, head
from pellucid.report._page import render
from pellucid.storage.lock import locked
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
        "duration": "1 h 2 min 3 s",
        "seed": "3",
    }
    details = dict(top.details)
    assert details["git revision"] == "abc123"
    assert details["threads"] == "1"
    assert details["versions"] == "python 3.11, torch 2.9"
    assert details["settings"] == "save save, seed 3"
    assert (top.status, top.notes, top.failures) == ("finished", (), ())


def unfinished(folder, **changes):
    """A run that has finished epoch 1 of 2."""
    store = Store(folder)
    store.begin(run_record(test_accuracy=None, **changes))
    for epoch in (0, 1):
        store.add_metrics(metrics_line(epoch))
    return store


@pytest.mark.parametrize(
    ("status", "shown", "note"),
    [
        ("interrupted", "interrupted", "This run was interrupted after epoch 1 of 2. Resume it with: {}"),
        ("running", "interrupted", "This run was interrupted after epoch 1 of 2. Resume it with: {}"),  # killed
        ("failed", "failed", "This run failed after epoch 1 of 2. Resume it with: {}"),
        (None, "None", "The status of this run is unknown; the report was written after epoch 1 of 2."),
    ],
)
def test_an_unfinished_run_is_described(status, shown, note, tmp_path):
    store = unfinished(tmp_path / "a run", status=status)
    note = note.format(f"python runner.py --resume --save '{store.folder}'")
    top = head(Material(store))
    assert (top.status, top.notes, top.activity) == (shown, (note,), None)
    assert dict(top.facts)["epochs"] == "1 of 2"
    assert dict(top.facts)["test accuracy"] == "45.00% (best checkpoint by validation, epoch 1)"
    assert note in render(Material(store)).replace("&#39;", "'")


@pytest.mark.parametrize(("epochs", "during"), [(2, "during epoch 2 of 2"), (1, "after the last epoch")])
def test_a_running_run_says_when_its_page_was_written_and_how_to_resume_it(epochs, during, tmp_path, monkeypatch):
    class Clock(datetime):
        @classmethod
        def now(cls, zone=None):
            return datetime(2026, 11, 29, 10, 5, 12, 99, tzinfo=zone)

    monkeypatch.setattr("pellucid.report._head.datetime", Clock)
    with locked(tmp_path / "save"):
        store = unfinished(tmp_path / "save", status="running", epochs=epochs)
        top, page = head(Material(store)), render(Material(store))
    command = f"python runner.py --resume --save {store.folder}"
    assert (top.status, top.notes) == ("running", ())
    assert top.activity == Activity(datetime(2026, 11, 29, 10, 5, 12, tzinfo=UTC), during, command)
    assert '<time id="written" datetime="2026-11-29T10:05:12+00:00">2026-11-29 10:05:12 UTC</time>' in page
    assert f"<code>{command}</code>" in page


@pytest.mark.parametrize(
    ("finished", "shown"), [("12:00:53", "53 s"), ("12:02:29", "2 min 29 s"), ("13:00:05", "1 h 0 min 5 s")]
)
def test_durations(finished, shown, tmp_path):
    store = Store(tmp_path)
    store.begin(run_record(timing={"started": "2026-01-31T12:00:00Z", "finished": f"2026-01-31T{finished}Z"}))
    assert dict(head(Material(store)).facts)["duration"] == shown


def test_duration_of_a_resumed_run_includes_pauses(tmp_path):
    store = Store(tmp_path)
    store.begin(run_record(config={"resume": True}))
    facts = dict(head(Material(store)).facts)
    assert facts["duration (including pauses)"] == "1 h 2 min 3 s"
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
