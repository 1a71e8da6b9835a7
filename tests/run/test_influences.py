"""`pellucid.influence` on a small run: its checkpoints, its data, and its errors."""

import inspect
import json
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import torch

import pellucid
from pellucid.cli import main
from pellucid.diagnostics import tracin, trak
from pellucid.errors import ConfigError, DataError, SaveError, ShapeError
from pellucid.run.influences import ONLY_BEST
from pellucid.storage.runs import load_data_of

SMALL = (
    "run --dataset digits --epochs 2 --limit-train 200 --limit-test 40 --batch-size 32 --threads 1 --hooks none"
).split()


pytestmark = pytest.mark.slow  # the run takes a few seconds


@pytest.fixture(scope="module")
def save(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("influences") / "save"
    assert main([*SMALL, "--save", str(folder)]) == 0
    return folder


def test_trak_uses_the_last_checkpoints_and_the_predicted_classes(save: Path) -> None:
    run = pellucid.load_run(save)
    data = load_data_of(save, run)
    result = pellucid.influence(run, [3, 17])
    assert result.targets.tolist() == run.model(data.test.floats([3, 17])).argmax(1).tolist()
    states = [pellucid.load_run(save, epoch=epoch).model.state_dict() for epoch in (1, 2)]
    expected = trak(
        run.model, states, data.train.pixels, data.train.labels, data.test.pixels[[3, 17]], result.targets
    )  # fmt: skip
    torch.testing.assert_close(result.scores, expected.scores, rtol=1e-3, atol=1e-5)
    assert (result.method, result.checkpoints, result.notes) == ("trak", 2, ())
    assert len(result.figure(classes=run.classes).axes) > 10


def test_tracin_weights_epochs_by_their_mean_learning_rates(save: Path) -> None:
    run = pellucid.load_run(save)
    data = load_data_of(save, run)
    result = pellucid.influence(save, data.test.floats([0, 1]), targets=[4, 5], method="tracin", projection=None)
    ends = [line["learning_rate"] for line in run.metrics]
    rates = [(before + after) / 2 for before, after in pairwise(ends)]
    assert result.learning_rates == pytest.approx(rates)
    states = [pellucid.load_run(save, epoch=epoch).model.state_dict() for epoch in (1, 2)]
    images, targets = data.test.floats([0, 1]), torch.tensor([4, 5])
    train = (data.train.pixels, data.train.labels)
    expected = tracin(run.model, states, *train, images, targets, learning_rates=rates, projection=None)
    torch.testing.assert_close(result.scores, expected.scores)


def test_selected_epochs_and_several_runs_are_used(save: Path) -> None:
    assert pellucid.influence(save, [0], epochs=[2]).checkpoints == 1
    twice = pellucid.influence([save, save], [0], epochs=[2])
    assert twice.checkpoints == 2


def test_a_run_without_checkpoints_uses_its_best_weights_and_says_so(save: Path, tmp_path: Path) -> None:
    folder = tmp_path / "save"
    shutil.copytree(save, folder)
    for path in (folder / "models").glob("epoch_*"):
        path.unlink()
    for method in ("trak", "tracin"):
        result = pellucid.influence(folder, [0], method=method)
        assert (result.checkpoints, result.notes) == (1, (ONLY_BEST,))
        assert result.scores.abs().max() > 0
    with pytest.raises(SaveError, match=r"lacks the weights of epoch 0 \(kept: none"):
        pellucid.influence(folder, [0], epochs=[0])


def test_changed_data_is_refused(save: Path, tmp_path: Path) -> None:
    folder = tmp_path / "save"
    shutil.copytree(save, folder)
    record = json.loads((folder / "run.json").read_text())
    record["dataset"]["sha256"] = "0" * 64
    (folder / "run.json").write_text(json.dumps(record))
    with pytest.raises(SaveError, match="has changed"):
        pellucid.influence(folder, [0])
    with pytest.raises(DataError, match="other checksums"):
        pellucid.influence([save, folder], [0])


def test_invalid_arguments_are_explained(save: Path) -> None:
    influence = inspect.unwrap(pellucid.influence)  # without the types of the tests
    run = pellucid.load_run(save)
    for images, message in (
        ([40], "0 to 39"),
        ([-1], "0 to 39"),
        ([], "list of indices"),
        (torch.rand(2, 28, 28), "list of indices"),
        (torch.rand(2, 3, 28, 28), r"the run's \(1, 28, 28\)"),
        (torch.zeros(2, 1, 28, 28).long(), "floats in"),
        (torch.ones(40, dtype=torch.bool), "truth values"),
        (["a"], "cannot be converted"),
    ):
        with pytest.raises(ShapeError, match=message):
            influence(run, images)
    with pytest.raises(DataError, match=r"range from 0 to 255; pass floats in \[0, 1\]"):
        influence(run, 255 * torch.eye(28)[None, None])
    for targets in ([1.7], [True], ["3"]):
        with pytest.raises(ShapeError, match="pass a class index|cannot be converted"):
            influence(run, [0], targets=targets)
    for epochs in (2, ["2"], [1.0]):
        with pytest.raises(ConfigError, match="pass a list of epochs"):
            influence(run, [0], epochs=epochs)
    with pytest.raises(ConfigError, match="epoch 2 more than once"):
        influence(run, [0], epochs=[2, 2])
    with pytest.raises(ConfigError, match="the argument projection of influence is 512"):
        influence(run, [0], projection=512)
    with pytest.raises(ConfigError, match="run is of type int"):
        influence(5, [0])
    with pytest.raises(ShapeError, match="pass one each"):
        influence(run, [0, 1], targets=[3])
    with pytest.raises(ConfigError, match="no run"):
        influence([], [0])
    with pytest.raises(ConfigError, match="one run"):
        influence([run, run], [0], method="tracin")
    with pytest.raises(ConfigError, match="at least one epoch"):
        influence(run, [0], epochs=[])
    with pytest.raises(SaveError, match="lacks the weights of epoch 9"):
        influence(run, [0], epochs=[9], method="tracin")
