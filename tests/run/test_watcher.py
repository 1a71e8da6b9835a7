"""`pellucid.watch`: a user's training loop, which must not notice that it is watched."""

import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import pellucid
from pellucid.core.errors import ConfigError, DataError, ModelError, SaveError
from pellucid.core.seeding import generator
from pellucid.run import watcher as watcher_module
from pellucid.storage.store import Store

CLASSES = ["cat", "dog", "<owl>"]


def images_and_labels(count: int = 30) -> tuple[torch.Tensor, torch.Tensor]:
    draws = generator(0, "watcher")
    labels = torch.arange(count) % 3
    # the class decides the brightest third of the image, so that a few steps learn something
    images = torch.rand(count, 1, 6, 6, generator=draws) * 0.5
    for index, label in enumerate(labels.tolist()):
        images[index, :, 2 * label : 2 * label + 2] += 0.5
    return images, labels


class Small(nn.Module):
    """A network with everything that a forward pass can change: batch norm, dropout and a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3))
        self.head = nn.Linear(4 * 36, 3)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.head(self.body(x).flatten(1))


def new_model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return Small()


def train_one_epoch(model: nn.Module, optimizer: torch.optim.Optimizer) -> float:
    images, labels = images_and_labels()
    model.train()
    for batch in torch.randperm(len(images)).split(10):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images[batch]), labels[batch])
        loss.backward()
        optimizer.step()
    return loss.item()


def watched(save: Path, model: nn.Module, **options: object) -> pellucid.Watcher:
    options = {"hooks": "confusion_matrix", "budget": "small", "classes": CLASSES, **options}
    return pellucid.watch(model, images_and_labels(), save=save, **options)


def lines_of(save: Path) -> list[dict]:
    return [json.loads(line) for line in (save / "metrics.jsonl").read_text().splitlines()]


def record_of(save: Path) -> dict:
    return json.loads((save / "run.json").read_text())


@pytest.mark.parametrize("hooks", ["confusion_matrix,saliency,tsne", "none"])
def test_training_is_bit_identical_with_and_without_it(tmp_path, hooks):
    states = []
    for is_watched in (True, False):
        model = new_model()
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        torch.manual_seed(1), np.random.seed(1)
        watcher = watched(tmp_path / "save", model, hooks=hooks) if is_watched else None
        for _ in range(2):
            loss = train_one_epoch(model, optimizer)
            if watcher is not None:
                watcher.epoch(train_loss=loss)
        if watcher is not None:
            watcher.close()
        # not Python's own state, from which the type checks of the test run draw
        draws = (torch.rand(3).tolist(), np.random.rand())
        states.append((model.state_dict(), draws, [parameter.grad for parameter in model.parameters()]))
    (first, first_draws, first_gradients), (second, second_draws, second_gradients) = states
    assert all(torch.equal(first[name], second[name]) for name in second)  # buffers, too
    assert first_draws == second_draws
    assert all(torch.equal(*pair) for pair in zip(first_gradients, second_gradients, strict=True))


def test_a_watched_model_keeps_mode_gradients_flags_and_hooks(tmp_path):
    model = new_model()
    model.train()
    model.body[3].eval()  # a part in another mode
    model.head.bias.requires_grad_(False)
    F.cross_entropy(model(torch.rand(4, 1, 6, 6)), torch.arange(4) % 3).backward()
    gradients = {name: None if one.grad is None else one.grad.clone() for name, one in model.named_parameters()}
    calls = int(model.calls)
    with watched(tmp_path / "save", model, hooks="saliency") as watcher:
        watcher.epoch()
    assert [module.training for module in model.modules()] == [True, True, True, True, True, False, True]
    assert not model.head.bias.requires_grad
    assert model.head.weight.requires_grad
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == (gradients[name] is None)
        assert parameter.grad is None or torch.equal(parameter.grad, gradients[name])
    assert int(model.calls) == calls
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_metrics_are_those_of_the_model_on_the_test_images(tmp_path):
    model, save = new_model(), tmp_path / "save"
    images, labels = images_and_labels()
    with watched(save, model) as watcher:
        train_one_epoch(model, torch.optim.SGD(model.parameters(), 0.1))
        watcher.epoch(train_loss=torch.tensor(0.25), validation_accuracy=0.5, learning_rate=0.1, grad_norm=2)
        model.eval()
        with torch.no_grad():
            logits = model(images)
    untrained, line = lines_of(save)
    assert [untrained["epoch"], line["epoch"]] == [0, 1]
    assert line["test_loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    assert line["test_accuracy"] == pytest.approx((logits.argmax(1) == labels).float().mean().item())
    given = ("train_loss", "train_accuracy", "validation_accuracy", "learning_rate", "given")
    assert [line[name] for name in given] == [0.25, None, 0.5, 0.1, {"grad_norm": 2}]
    assert untrained["train_loss"] is None
    record = record_of(save)
    assert (record["kind"], record["status"], record["test_accuracy"]) == ("watch", "finished", line["test_accuracy"])
    assert record["dataset"]["classes"] == CLASSES


def test_each_epoch_leaves_pictures_and_a_report(tmp_path):
    model, save = new_model(), tmp_path / "save"
    with watched(save, model) as watcher:
        watcher.epoch()
        assert (save / "report.html").is_file()  # while the training goes on
        assert not (save / "summary.png").exists()
        assert record_of(save)["status"] == "running"
    figures = [entry["path"] for entry in Store(save).manifest()["artifacts"] if entry["kind"] == "figure"]
    assert figures == [f"plots/confusion_matrix/epoch_{epoch:03d}.png" for epoch in (0, 1)]
    assert (save / "summary.png").is_file()
    page = (save / "report.html").read_text()
    assert "Training report: Small" in page
    assert "<owl>" not in page


def test_without_a_schedule_round_epochs_and_the_last_are_shown(tmp_path):
    save = tmp_path / "save"
    with watched(save, new_model()) as watcher:
        for _ in range(7):
            watcher.epoch()
    shown = {entry["epoch"] for entry in Store(save).manifest()["artifacts"] if entry["kind"] == "figure"}
    assert shown == {0, 1, 2, 3, 4, 5, 7}
    assert [line["epoch"] for line in lines_of(save)] == list(range(8))


def test_a_schedule_of_its_own(tmp_path):
    save = tmp_path / "save"
    with watched(save, new_model(), every=2) as watcher:
        for _ in range(4):
            watcher.epoch()
    shown = {entry["epoch"] for entry in Store(save).manifest()["artifacts"] if entry["kind"] == "figure"}
    assert shown == {0, 2, 4}


def train_and_watch(save: Path, model: nn.Module, epochs: int, **options: object) -> None:
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with watched(save, model, **options) as watcher:
        for _ in range(epochs):
            train_one_epoch(model, optimizer)
            watcher.epoch()


def test_a_restart_from_a_checkpoint_continues_in_the_same_folder(tmp_path):
    model, save = new_model(), tmp_path / "save"
    train_and_watch(save, model, 2)
    started = record_of(save)["timing"]["started"]
    train_and_watch(save, model, 2)  # the weights are those of epoch 2
    assert [line["epoch"] for line in lines_of(save)] == [0, 1, 2, 3, 4]
    assert record_of(save)["timing"]["started"] == started
    assert not (save / "previous").exists()


def test_a_restart_from_an_earlier_checkpoint_repeats_the_later_epochs(tmp_path):
    model, save = new_model(), tmp_path / "save"
    train_and_watch(save, model, 1)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    train_and_watch(save, model, 2)
    later = lines_of(save)[2]["weights"]
    restarted = new_model()
    restarted.load_state_dict(weights)
    with watched(save, restarted) as watcher:
        assert watcher.last_epoch == 1
        assert [line["epoch"] for line in lines_of(save)] == [0, 1]  # not those that are about to be repeated
        [aside] = (save / "previous").iterdir()  # where nothing is lost
        assert [line["epoch"] for line in lines_of(aside)] == [2, 3]
        assert (aside / "plots/confusion_matrix/epoch_003.png").is_file()
        assert not (save / "plots/confusion_matrix/epoch_003.png").exists()
        train_one_epoch(restarted, torch.optim.SGD(restarted.parameters(), 0.05))
        watcher.epoch()
    assert [line["epoch"] for line in lines_of(save)] == [0, 1, 2]
    assert lines_of(save)[2]["weights"] != later


def test_a_training_from_scratch_moves_the_earlier_one_aside(tmp_path):
    save = tmp_path / "save"
    train_and_watch(save, new_model(), 1)
    train_and_watch(save, new_model(), 1)
    assert [line["epoch"] for line in lines_of(save)] == [0, 1]
    [previous] = (save / "previous").iterdir()
    assert len(lines_of(previous)) == 2


def test_an_interrupted_training_is_continued_with_unknown_weights(tmp_path, capsys):
    model, save = new_model(), tmp_path / "save"
    with pytest.raises(RuntimeError, match="out of memory"), watched(save, model) as watcher:
        watcher.epoch()
        raise RuntimeError("out of memory")
    assert record_of(save)["status"] == "failed"
    train_one_epoch(model, torch.optim.SGD(model.parameters(), 0.1))  # a checkpoint amid an epoch
    with watched(save, model) as watcher:
        assert watcher.last_epoch == 1
    assert "whose weights were others; pass resume=False for a new training" in capsys.readouterr().out
    with watched(save, model, resume=False) as watcher:
        assert watcher.last_epoch == 0


def test_other_test_images_start_a_new_run_or_are_refused(tmp_path):
    model, save = new_model(), tmp_path / "save"
    train_and_watch(save, model, 1)
    images, labels = images_and_labels()
    with pytest.raises(SaveError, match="other test images"):
        pellucid.watch(model, (images.flip(0), labels), save=save, hooks="none", classes=CLASSES, resume=True)
    with pellucid.watch(model, (images.flip(0), labels), save=save, hooks="none", classes=CLASSES) as watcher:
        assert watcher.last_epoch == 0


def test_ctrl_c_is_recorded(tmp_path):
    save = tmp_path / "save"
    with pytest.raises(KeyboardInterrupt), watched(save, new_model()):
        raise KeyboardInterrupt
    assert record_of(save)["status"] == "interrupted"
    assert "This training was interrupted" in (save / "report.html").read_text()
    assert (save / "summary.png").is_file()


def test_a_failing_hook_does_not_stop_the_training(tmp_path, monkeypatch, capsys):
    def fail(self: object, scene: object) -> None:
        raise ValueError("broken hook")

    monkeypatch.setattr("pellucid.hooks.confusion_matrix.ConfusionMatrix.run", fail)
    save = tmp_path / "save"
    with watched(save, new_model(), hooks="confusion_matrix,saliency") as watcher:
        watcher.epoch()
    failures = Store(save).manifest()["failures"]
    assert [(one["hook"], one["epoch"]) for one in failures] == [("confusion_matrix", 0), ("confusion_matrix", 1)]
    assert (save / "plots" / "saliency" / "epoch_001.png").is_file()
    assert "broken hook" in capsys.readouterr().out


def test_a_model_that_fails_later_does_not_stop_the_training(tmp_path):
    model, save = new_model(), tmp_path / "save"
    with watched(save, model) as watcher:
        model.head = nn.Linear(7, 3)  # a mistake of the user
        watcher.epoch()
        model.head = nn.Linear(4 * 36, 3)
        watcher.epoch()
    assert [line["epoch"] for line in lines_of(save)] == [0, 2]
    assert "evaluation" in {one["hook"] for one in Store(save).manifest()["failures"]}


def test_no_unexpected_error_ends_the_training(tmp_path, monkeypatch, capsys):
    model, save = new_model(), tmp_path / "save"
    with watched(save, model) as watcher:
        with monkeypatch.context() as context:
            context.setattr(watcher_module, "frozen", out_of_memory)
            watcher.epoch()
        assert "watching failed at epoch 1: OutOfMemoryError" in capsys.readouterr().out
        watcher.epoch()
        model.half()  # a model that is converted before the watcher is closed
    assert [(one["hook"], one["epoch"]) for one in Store(save).manifest()["failures"]] == [
        ("watch", 1),
        ("evaluation", 2),
    ]
    assert record_of(save)["status"] == "finished"
    assert (save / "plots" / "confusion_matrix" / "epoch_002.png").is_file()


def test_an_unexpected_error_at_the_end_is_recorded(tmp_path, monkeypatch):
    save = tmp_path / "save"
    with watched(save, new_model()):
        monkeypatch.setattr(watcher_module, "make_films", out_of_memory)
    assert record_of(save)["status"] == "failed"
    with watched(save, new_model(), resume=False):  # the folder is released
        pass


def out_of_memory(*_: object) -> None:
    raise torch.cuda.OutOfMemoryError("CUDA out of memory")


def test_hooks_that_a_killed_process_left_out_run_at_its_restart(tmp_path, capsys):
    model, save = new_model(), tmp_path / "save"
    train_and_watch(save, model, 1, hooks="confusion_matrix,saliency")
    manifest = json.loads((save / "manifest.json").read_text())
    kept = [one for one in manifest["artifacts"] if (one["hook"], one["epoch"]) != ("saliency", 1)]
    (save / "manifest.json").write_text(json.dumps(manifest | {"artifacts": kept}))
    (save / "plots" / "saliency" / "epoch_001.png").unlink()
    before = (save / "plots" / "confusion_matrix" / "epoch_001.png").stat().st_mtime_ns
    with watched(save, model, hooks="confusion_matrix,saliency") as watcher:
        assert watcher.last_epoch == 1
        assert (save / "plots" / "saliency" / "epoch_001.png").is_file()
    assert (save / "plots" / "confusion_matrix" / "epoch_001.png").stat().st_mtime_ns == before
    assert "continuing after epoch 1" in capsys.readouterr().out


def test_a_watcher_that_is_left_open_is_closed_when_the_program_ends(tmp_path):
    program = """
import sys, torch, pellucid
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))
data = (torch.rand(8, 1, 4, 4), torch.arange(8) % 2)
watcher = pellucid.watch(model, data, save=sys.argv[1], hooks="none")
watcher.epoch()
"""
    ended = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "save"], capture_output=True, text=True, check=True
    )
    assert not ended.stderr
    assert record_of(tmp_path / "save")["status"] == "interrupted"
    assert not (tmp_path / "save" / ".owner.json").exists()


def test_a_training_that_diverges_has_no_accuracy(tmp_path):
    model, save = new_model(), tmp_path / "save"
    with watched(save, model) as watcher:
        nn.init.constant_(model.head.bias, math.nan)
        watcher.epoch()
    assert [line["epoch"] for line in lines_of(save)] == [0]
    assert "returns NaN for 30 of 30 test images" in Store(save).manifest()["failures"][0]["error"]


def test_a_save_folder_that_is_gone_stops_the_watcher_but_not_the_training(tmp_path):
    model, save = new_model(), tmp_path / "save"
    with watched(save, model) as watcher:
        save.rename(tmp_path / "moved")
        with pytest.warns(RuntimeWarning, match="has stopped watching: the save folder"):
            watcher.epoch()
        train_one_epoch(model, torch.optim.SGD(model.parameters(), 0.1))
        watcher.epoch()  # does nothing
    assert not save.exists()


def test_processes_other_than_the_first_do_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(watcher_module, "is_first_process", lambda: False)
    with watched(tmp_path / "save", new_model()) as watcher:
        watcher.epoch(train_loss=1.0)
    assert not (tmp_path / "save").exists()


def test_a_compiled_model_under_autocast_is_watched_in_full_precision(tmp_path):
    model, save = new_model(), tmp_path / "save"
    compiled = torch.compile(model, backend="eager")
    images, labels = images_and_labels()
    with (
        watched(save, compiled, hooks="confusion_matrix,saliency") as watcher,
        torch.autocast("cpu", torch.bfloat16),
    ):
        compiled(images)
        watcher.epoch()
    model.eval()
    with torch.no_grad():
        exact = F.cross_entropy(model(images), labels).item()
    assert lines_of(save)[1]["test_loss"] == pytest.approx(exact, rel=1e-6)
    assert record_of(save)["model"]["name"] == "Small"
    assert not Store(save).manifest()["failures"]


def test_a_model_whose_output_has_logits(tmp_path):
    class Outputs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = new_model()

        def forward(self, x: torch.Tensor) -> SimpleNamespace:
            return SimpleNamespace(logits=self.inner(x), loss=None)

    save = tmp_path / "save"
    with watched(save, Outputs(), hooks="confusion_matrix,saliency,tsne") as watcher:
        watcher.epoch()
    assert not Store(save).manifest()["failures"]


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_have_the_channels_that_the_model_takes(tmp_path, channels):
    model = nn.Sequential(nn.Conv2d(channels, 2, 3), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8, 3))
    pictures = [Image.new(mode, (8, 8), "white") for mode in ("L", "RGB", "RGB")]
    with pellucid.watch(model, (pictures, [0, 1, 2]), save=tmp_path / "save", hooks="none"):
        pass
    assert record_of(tmp_path / "save")["dataset"]["image_shape"] == [channels, 8, 8]


def test_derivatives_are_per_displayed_pixel(tmp_path):
    model, save = new_model(), tmp_path / "save"
    images, labels = images_and_labels()
    normalized = (images - 0.4) / 0.2
    options = {"hooks": "saliency", "classes": CLASSES, "save": save, "mean": [0.4], "std": [0.2], "budget": "small"}
    with pellucid.watch(model, (normalized, labels), **options):
        pass
    arrays = np.load(save / "plots" / "saliency" / "epoch_000.npz")
    first = [int((labels == label).nonzero()[0]) for label in range(3)]
    expected = pellucid.create_analyzer("gradient", model).analyze(normalized[first], labels[first]) / 0.2
    assert np.allclose(arrays["source"], images[first], atol=1e-6)
    assert np.allclose(arrays["saliency"], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"classes": ["a", "b"]}, DataError, "2 class names"),
        ({"hooks": "tsnee"}, pellucid.errors.UnknownName, "tsne"),
        ({"methods": ["gradiet"], "hooks": "none"}, pellucid.errors.UnknownName, "gradient"),
        ({"budget": "tiny"}, pellucid.errors.UnknownName, "small"),
        ({"every": 0}, ConfigError, "every"),
        ({"seed": -1}, ConfigError, "seed"),
        ({"mean": [0.5]}, ConfigError, "std"),
        ({"classes": "cdo"}, ConfigError, "expected a list of names"),
        ({"embedding_layer": "haed"}, pellucid.errors.UnknownName, "head"),
    ],
)
def test_invalid_choices_are_refused_before_anything_is_written(tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        watched(tmp_path / "save", new_model(), **options)
    assert not (tmp_path / "save").exists()


def test_models_that_do_not_fit_are_refused_before_anything_is_written(tmp_path):
    save = tmp_path / "save"
    for model, message in (
        (nn.Sequential(nn.Flatten(), nn.Linear(7, 3)), "cannot map images"),
        (nn.Sequential(nn.Conv2d(1, 3, 3)), "must return logits"),
        (new_model().to(torch.bfloat16), "bfloat16"),
        (nn.Sequential(new_model(), nn.Softmax(1)), "probabilities, which sum to 1"),
        (nn.Sequential(nn.Flatten(), nn.Linear(36, 1)), "a single logit"),
    ):
        with pytest.raises(ModelError, match=message):
            watched(save, model)
    assert not save.exists()


def test_metrics_and_numbers_of_epochs_are_checked(tmp_path):
    with watched(tmp_path / "save", new_model(), hooks="none") as watcher:
        for arguments in ((-1,), (True,)):
            with pytest.raises(ConfigError, match="number"):
                watcher.epoch(*arguments)
        with pytest.raises(ConfigError, match="train_loss"):
            watcher.epoch(train_loss=torch.ones(2))
        watcher.epoch(5)
        assert watcher.last_epoch == 5
    with pytest.raises(ConfigError, match="closed"):
        watcher.epoch()


def test_a_folder_with_files_of_the_user_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(SaveError, match=r"thesis\.txt"):
        watched(tmp_path, new_model())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["thesis.txt"]


def test_a_model_that_was_trained_before_starts_at_its_epoch(tmp_path):
    model, save = new_model(), tmp_path / "save"
    with watched(save, model, start_epoch=7) as watcher:
        watcher.epoch()
    assert [line["epoch"] for line in lines_of(save)] == [7, 8]
    figures = [entry["path"] for entry in Store(save).manifest()["artifacts"] if entry["kind"] == "figure"]
    assert figures == [f"plots/confusion_matrix/epoch_{epoch:03d}.png" for epoch in (7, 8)]
    with pytest.raises(ConfigError, match="start_epoch"):
        watched(save, model, start_epoch=-1)


def test_ctrl_c_in_a_hook_leaves_a_report(tmp_path, monkeypatch):
    def interrupt(self: object, scene: object) -> None:
        raise KeyboardInterrupt

    save = tmp_path / "save"
    watcher = watched(save, new_model(), hooks="confusion_matrix,saliency")
    (save / "report.html").unlink()
    monkeypatch.setattr("pellucid.hooks.saliency.Saliency.run", interrupt)
    with pytest.raises(KeyboardInterrupt):
        watcher.epoch()
    assert record_of(save)["status"] == "interrupted"
    assert "This training was interrupted" in (save / "report.html").read_text()
