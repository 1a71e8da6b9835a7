"""The weights of every epoch, which `--keep-checkpoints` keeps."""

import json
from pathlib import Path

import pytest
import torch

import pellucid
from pellucid.cli import main
from pellucid.cli.run import parse_run
from pellucid.errors import SaveError
from pellucid.run import pipeline, session
from pellucid.storage.runs import load_data_of

SMALL = (
    "run --dataset digits --epochs 2 --limit-train 200 --limit-test 40 --batch-size 32 --threads 1 --hooks none"
).split()


def run_in(folder: Path, *more: str) -> Path:
    assert main([*SMALL, "--save", str(folder), *more]) == 0
    return folder


def kept(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "models").glob("epoch_*"))


@pytest.fixture(scope="module")
def save(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_in(tmp_path_factory.mktemp("checkpoints") / "save")


def test_every_epoch_loads_with_its_own_weights(save: Path) -> None:
    assert kept(save) == [f"epoch_{epoch:03d}.safetensors" for epoch in range(3)]
    best = pellucid.load_run(save)
    images = load_data_of(save, best).test
    for line in best.metrics:
        run = pellucid.load_run(save, epoch=line["epoch"])
        accuracy = (run.model(images.floats()).argmax(1) == images.labels).double().mean()
        assert accuracy == pytest.approx(line["test_accuracy"])
        assert run.epoch == line["epoch"]
    number = max(line["epoch"] for line in best.metrics if line["best"])
    best_weights = pellucid.load_run(save, epoch=number).model.state_dict()
    assert all(torch.equal(value, best_weights[name]) for name, value in best.model.state_dict().items())


def test_unknown_epoch_is_refused(save: Path) -> None:
    with pytest.raises(SaveError, match=r"has no epoch 7: its epochs are 0 to 2\."):
        pellucid.load_run(save, epoch=7)


def test_weights_that_were_not_kept_are_named(tmp_path: Path) -> None:
    save = run_in(tmp_path / "save", "--keep-checkpoints", "no")
    assert kept(save) == []
    assert json.loads((save / "run.json").read_text())["config"]["keep_checkpoints"] is False
    lines = [json.loads(line) for line in (save / "metrics.jsonl").read_text().splitlines()]
    best = max(line["epoch"] for line in lines if line["best"])
    other = next(line["epoch"] for line in lines if line["epoch"] != best)
    assert pellucid.load_run(save, epoch=best).epoch == best  # those are kept as the best weights
    with pytest.raises(SaveError, match=rf"did not keep the weights of epoch {other}, only the best ones"):
        pellucid.load_run(save, epoch=other)


def test_default_depends_on_the_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "MOST_KEPT_BYTES", 1000)
    assert kept(run_in(tmp_path / "large")) == []
    assert len(kept(run_in(tmp_path / "wanted", "--keep-checkpoints"))) == 3


def test_death_between_checkpoint_and_weights_is_repaired(save: Path, tmp_path: Path) -> None:
    finish = pipeline._finish_epoch

    def die(*given: object) -> None:
        if given[2].number == 1:  # type: ignore[attr-defined]
            raise SystemError
        finish(*given)  # type: ignore[arg-type]

    folder = tmp_path / "save"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "_finish_epoch", die)
        with pytest.raises(SystemError):
            pipeline.run(parse_run([*SMALL[1:], "--save", str(folder)]))
    assert kept(folder) == ["epoch_000.safetensors"]
    assert main(["run", "--resume", "--save", str(folder)]) == 0
    for name in kept(save):
        assert (folder / "models" / name).read_bytes() == (save / "models" / name).read_bytes()


def test_a_new_run_moves_the_weights_aside(tmp_path: Path) -> None:
    save = run_in(tmp_path / "save")
    run_in(save, "--keep-checkpoints=no", "--epochs", "1")
    assert kept(save) == []
    (previous,) = (save / "previous").iterdir()
    assert len(kept(previous)) == 3
    assert pellucid.load_run(previous, epoch=1).epoch == 1
