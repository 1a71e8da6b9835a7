"""The top of the page."""

import pytest

from pellucid.artifacts.store import Store
from pellucid.report._head import head
from pellucid.report._material import Material
from pellucid.report._page import render
from pretended_run import metrics_line, run_record


def test_what_is_known_of_a_run_stands_at_the_top(store):
    top = head(Material(store))
    assert top.title == "What has cnn learned of Pets?"
    assert dict(top.facts) == {
        "test accuracy": "80.00% (epoch 1, the best by validation)",
        "data": "Pets",
        "images": "1,500 training, 100 validation, 15 test of 1×4×4; 3 classes",
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
    ("status", "told"),
    [
        ("running", "This run is not finished: it was written after epoch 1 of 2. Load the page again to see more."),
        ("interrupted", "This run was interrupted after epoch 1 of 2; --resume goes on with it."),
        ("failed", "This run failed after epoch 1 of 2; --resume goes on with it."),
        (None, "It is not known how this run ended; what is here was written after epoch 1 of 2."),
    ],
)
def test_an_unfinished_run_says_so(status, told, tmp_path):
    store = Store(tmp_path)
    store.begin(run_record(status=status, test_accuracy=None))
    for epoch in (0, 1):
        store.add_metrics(metrics_line(epoch))
    top = head(Material(store))
    assert top.notes == (told,)
    assert dict(top.facts)["epochs"] == "1 of 2"
    assert dict(top.facts)["test accuracy"] == "45.00% (epoch 1, the best by validation)"
    assert told in render(Material(store)).replace("&#39;", "'")


def test_the_duration_of_a_resumed_run_is_told_as_what_it_is(tmp_path):
    store = Store(tmp_path)
    store.begin(run_record(config={"resume": True}))
    facts = dict(head(Material(store)).facts)
    assert facts["duration, pauses included"] == "1:02:03 h"
    assert "duration" not in facts


def test_other_data_than_asked_for_is_told(tmp_path):
    store = Store(tmp_path)
    record = run_record()
    store.begin(record | {"dataset": record["dataset"] | {"notice": "MNIST could not be had; these are the digits."}})
    assert head(Material(store)).notes == ("MNIST could not be had; these are the digits.",)


def test_failures_stand_with_their_logs(store):
    store.add_failure("tsne", 1, "ValueError: no points", "Traceback …\nValueError: no points")
    log = store.add_failure("saliency", 2, "gone", "")
    log.unlink()
    first, second = head(Material(store)).failures
    assert first == ("tsne, epoch 1: ValueError: no points", "Traceback …\nValueError: no points")
    assert second == ("saliency, epoch 2: gone", "The log errors/saliency_epoch_002.txt cannot be read.")
    assert "2 failed; the rest of the run went on." in render(Material(store))


def test_a_log_outside_the_folder_is_not_shown(store, tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    store.add_failure("tsne", 1, "x", "y")
    path = store.folder / "manifest.json"
    path.write_text(path.read_text().replace("errors/tsne_epoch_001.txt", "../secret.txt"))
    ((_, log),) = head(Material(store)).failures
    assert log == "The log ../secret.txt cannot be read."


def test_a_setting_of_zero_is_told(store):
    store.write_run(
        run_record(config={"seed": 0, "learning_rate": 0.0, "resume": False, "mirror": [], "classes": None})
    )
    assert dict(head(Material(store)).details)["settings"] == "seed 0, learning_rate 0.0"


def test_of_a_long_log_the_end_is_shown(store):
    store.add_failure("tsne", 1, "x", "a" * 60_000 + "the end")
    ((_, log),) = head(Material(store)).failures
    assert log.startswith("[10,007 characters before this are in the file]\naaa")
    assert log.endswith("aaathe end")
