"""Opening and aligning the models of a comparison, without training any."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pellucid.cli import main
from pellucid.config import CompareConfig
from pellucid.core.contracts import ImageSet
from pellucid.core.errors import ConfigError, SaveError
from pellucid.run.alignment import align, common_classes
from pellucid.run.compared import Loaded, Outcome, parse_place
from pellucid.run.comparing import compare
from pellucid.run.comparison_maps import _correlation
from pellucid.run.settings import group, names_of


def loaded(labels: list[int], pixels: list[int] | None = None, **changes: Any) -> Loaded:
    """Return a model with uniformly shaded images, or without images."""
    images = None
    if pixels is not None:
        shades = torch.tensor(pixels, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 4, 4)
        images = ImageSet(shades.clone(), torch.tensor(labels))
    values = np.array(labels)
    record = {
        "config": {"model": "cnn"},
        "seed": 0,
        "epochs": 2,
        "dataset": {"name": "pets", "title": "Pets", "sha256": "a"},
    }
    given: dict[str, Any] = {
        "folder": Path("a"),
        "epoch": None,
        "weights_epoch": 1,
        "record": record,
        "metrics": [{"epoch": 1}],
        "classes": ("cat", "dog"),
        "outcome": Outcome(values, values, np.ones(len(values)), np.zeros(len(values))),
        "positions": None,
        "images": images,
    }
    return Loaded(**{**given, **changes})


def with_record(model: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"record": {**loaded([0]).record, **changes}, **model}


# --- names ---------------------------------------------------------------------------------------------------------


def test_a_folder_whose_name_has_an_at_sign_wins(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    assert parse_place(f"{tmp_path}/run@2") == (tmp_path / "run", 2)
    (tmp_path / "run@2").mkdir()
    assert parse_place(f"{tmp_path}/run@2") == (tmp_path / "run@2", None)
    assert parse_place(f"{tmp_path}/run@2@3") == (tmp_path / "run@2", 3)


def test_names_are_short_and_unique() -> None:
    one, two, three = (loaded([0], folder=Path(name)) for name in ("x/save", "y/save", "x/save"))
    epoch = loaded([0], folder=Path("x/save"), epoch=2)
    assert names_of([one, two, three, epoch]) == ["x/save", "y/save", "x/save (2)", "x/save, epoch 2"]
    assert names_of([epoch, one]) == ["epoch 2", "best epoch"]


def test_runs_that_differ_only_in_their_seed_share_a_setting() -> None:
    def run(folder: str, seed: int, **config: Any) -> Loaded:
        settings = {"model": "cnn", "seed": seed, "save": folder, "hooks": folder, "limit_train": None, **config}
        record = {**loaded([0]).record, "config": settings, "seed": seed}
        return loaded([0], folder=Path(folder), record=record)

    models = [run("a", 0), run("b", 1), run("c", 0, learning_rate=0.1), run("d", 1)]
    settings, setting_of = group(models, names_of(models))
    assert setting_of == [0, 0, 1, 0]
    assert [setting.models for setting in settings] == [(0, 1), (2,)]  # d has the seed of b: a copy is no other seed
    assert [setting.name for setting in settings] == ["a (2 seeds)", "c"]


def test_a_run_that_ended_early_is_no_other_seed_of_a_finished_one() -> None:
    def run(folder: str, seed: int, status: str, reached: int, epoch: int | None = None) -> Loaded:
        record = {**loaded([0]).record, "seed": seed, "epochs": 10, "status": status}
        metrics = [{"epoch": number} for number in range(reached + 1)]
        return loaded([0], folder=Path(folder), record=record, metrics=metrics, epoch=epoch)

    whole, other, short = run("a", 0, "finished", 10), run("b", 1, "finished", 10), run("c", 2, "interrupted", 3)
    assert group([whole, other, short], ["a", "b", "c"])[1] == [0, 0, 1]
    same_epoch = [run("a", 0, "finished", 10, 2), run("c", 2, "interrupted", 3, 2)]
    assert group(same_epoch, ["a", "c"])[1] == [0, 0]


def test_epochs_of_a_run_are_different_settings() -> None:
    models = [loaded([0], epoch=1), loaded([0], epoch=2)]
    assert group(models, names_of(models))[1] == [0, 1]


def test_settings_unknown_to_an_older_version_do_not_count() -> None:
    old = loaded([0], record={**loaded([0]).record, "config": {"model": "cnn"}})
    new = loaded([0], record={**loaded([0]).record, "config": {"model": "cnn", "crop": None}, "seed": 1})
    assert group([old, new], ["a", "b"])[1] == [0, 0]


# --- common test images --------------------------------------------------------------------------------------------


def test_images_are_matched_by_their_pixels_and_labels() -> None:
    first = loaded([0, 1, 1, 0, 1], [10, 20, 20, 30, 40])
    second = loaded([1, 0, 1, 1, 0], [20, 30, 20, 50, 10])
    rows, notes = align([first, second])
    assert [own.tolist() for own in rows] == [[0, 1, 2, 3], [4, 0, 2, 1]]  # equal images keep their order
    assert notes == [
        "The models have different test images; the comparison covers the 4 that all of them have (of 5 each)."
    ]


def test_the_same_pixels_with_another_label_are_another_image() -> None:
    rows, _ = align([loaded([0, 1, 0], [1, 2, 3]), loaded([0, 1, 1], [1, 2, 3])])
    assert rows[0].tolist() == [0, 1]


def test_other_pixels_are_matched_by_position_if_the_labels_agree() -> None:
    labels = [0, 1, 1, 0, 1, 0]
    first = loaded(labels, [1, 2, 3, 4, 5, 6], positions=np.arange(6))
    second = loaded(labels[2:], [13, 14, 15, 16], positions=np.arange(2, 6))
    rows, notes = align([first, second])
    assert [own.tolist() for own in rows] == [[2, 3, 4, 5], [0, 1, 2, 3]]
    assert "matched by their position" in notes[0]
    disagreeing = loaded([1, 0, 0, 1], [13, 14, 15, 16], positions=np.arange(2, 6))
    with pytest.raises(ConfigError, match="no test images of Pets in common"):
        align([first, disagreeing])


def test_without_pixels_equal_checksums_prove_equal_images() -> None:
    rows, notes = align([loaded([0, 1, 1]), loaded([0, 1, 1], [1, 2, 3])])
    assert (rows[1].tolist(), notes) == ([0, 1, 2], [])
    other = loaded([0, 1, 1], **with_record({}, dataset={"name": "pets", "title": "Pets", "sha256": "b"}))
    with pytest.raises(ConfigError, match="no test images of Pets in common"):
        align([loaded([0, 1, 1]), other])


def test_other_data_is_refused_by_name() -> None:
    other = loaded([0, 1], [8, 9], **with_record({}, dataset={"name": "zoo", "title": "Zoo", "sha256": "b"}))
    with pytest.raises(ConfigError, match="their data sets are Pets, Zoo"):
        align([loaded([0, 1], [1, 2]), other])


def test_other_classes_are_refused_and_numbers_take_names() -> None:
    assert common_classes([loaded([0], classes=("0", "1")), loaded([0])]) == ("cat", "dog")
    with pytest.raises(ConfigError, match=r"different classes: cat, dog and dog, cat"):
        common_classes([loaded([0]), loaded([0], classes=("dog", "cat"))])
    with pytest.raises(ConfigError, match="different classes"):
        common_classes([loaded([0]), loaded([0], classes=("0", "1", "2"))])


def test_maps_of_a_dead_network_have_no_rank_correlation() -> None:
    maps = np.random.default_rng(0).normal(size=(3, 4, 4))
    dead, broken = np.zeros((3, 4, 4)), np.full((3, 4, 4), np.inf)
    assert _correlation(maps, maps) == pytest.approx(1)
    for other in (dead, broken):
        assert np.isnan(_correlation(maps, other)).all()
        assert np.isnan(_correlation(other, other)).all()


# --- mistakes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["save"], "expected at least two runs to compare, got 1; pass two save folders"),
        (["a", "b", "--out", "page.pdf"], "--out page.pdf is not an HTML file"),
        (["a", "b", "--images", "2"], "--images must be at least 4, got 2"),
        (["a", "b", "--methods", "gradent"], "no method 'gradent'; did you mean 'gradient'"),
        (["a", "b", "--device", "gpu"], "invalid --device 'gpu'"),
        (["nowhere", "b"], "there is no run in nowhere: there is no such folder"),
    ],
)
def test_mistakes_are_named(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *arguments]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_the_library_names_mistakes_too(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pass a list of at least two runs"):
        compare("save")
    with pytest.raises(ConfigError, match="the argument images of compare is 1"):
        compare(["a", "b"], images=1)
    (tmp_path / "run.json").write_text(json.dumps({"kind": "run"}))
    with pytest.raises(SaveError, match="has not finished an epoch"):
        compare([tmp_path, tmp_path])


def test_the_output_folder_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="its parent folder does not exist"):
        CompareConfig(("a", "b"), out=tmp_path / "nowhere" / "page.html")
