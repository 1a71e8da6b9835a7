"""Densities of a run, and what its hooks receive."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pellucid.config import DataConfig, HookConfig, RunConfig
from pellucid.core.budget import BUDGETS
from pellucid.data._loaders import training_batches
from pellucid.run.session import choose_hooks, prepare
from pellucid.storage.weights import pack_weights
from pellucid.training.distributed import World
from pellucid.training.loop import train


@pytest.mark.parametrize("data_dir", [None, "pictures", "pictures/below", "elsewhere", "link"])
def test_densities_are_kept_with_the_data_but_not_among_the_pictures_of_the_user(
    data_dir: str | None, tmp_path: Path
) -> None:
    """A folder below the pictures would be read as another class by the next run."""
    draws = np.random.default_rng(0)
    for name in ("one", "two"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(6):
            picture = draws.integers(256, size=(8, 8), dtype=np.uint8)
            Image.fromarray(picture).save(tmp_path / "pictures" / name / f"{number}.png")
    (tmp_path / "link").symlink_to(tmp_path / "pictures")
    before = sorted(tmp_path.rglob("*"))
    folder = None if data_dir is None else tmp_path / data_dir
    config = RunConfig(
        save=tmp_path / "save",
        data=DataConfig(dataset=f"folder:{tmp_path / 'pictures'}", data_dir=folder),
    )
    session = prepare(config, World())
    session.densities.get("gaussian_mixture")
    is_among = data_dir is not None and data_dir != "elsewhere"
    kept = [path for path in tmp_path.rglob("*.safetensors") if path.parent.name == "densities"]
    assert [path.parent.parent for path in kept] == ([] if is_among else [folder or tmp_path / "save/data"])
    assert (tmp_path / "save/models/gaussian_mixture.safetensors").is_file()
    pictures = [path for path in sorted(tmp_path.rglob("*")) if "pictures" in path.parts]
    assert pictures == [path for path in before if "pictures" in path.parts]


@pytest.mark.parametrize("budget", [None, "small"])
def test_hooks_receive_the_budget_of_the_run(budget: str | None, tmp_path: Path) -> None:
    config = RunConfig(
        save=tmp_path / "save",
        data=DataConfig(dataset="digits", limit_train=40, limit_test=20),
        show=HookConfig(budget=budget),
    )
    session = prepare(config, World())
    scene = session.scene(0, torch.zeros(20, 10), torch.zeros(len(session.data.validation), 10))
    assert scene.budget == (None if budget is None else BUDGETS["small"])
    assert config.flat()["budget"] == budget


def test_hooks_receive_the_same_validation_logits_after_a_resume(tmp_path: Path) -> None:
    config = RunConfig(
        save=tmp_path / "save",
        data=DataConfig(dataset="digits", limit_train=60, limit_test=20),
        show=HookConfig(hooks="none"),
    )
    session = prepare(config, World())
    session.store.begin({})

    def batches(epoch: int, step: int):
        return training_batches(session.data, 32, 0, 0, 1, epoch, step)

    recipe = replace(session.recipe, epochs=1, steps_per_epoch=2)
    *_, epoch = train(session.model, session.data, batches, recipe, device=session.device)
    scene = session.scene(1, epoch.test_logits, epoch.validation_logits)
    assert scene.validation is session.data.validation
    assert epoch.validation_logits.shape == (len(session.data.validation), 10)
    score = (epoch.validation_logits.argmax(1) == session.data.validation.labels).double().mean().item()
    assert score == epoch.validation.accuracy
    # as a run does for hooks that have not finished
    session.store.write_model(session.store.unfinished_name(1), pack_weights(session.model))
    session.store.write_model("best.safetensors", pack_weights(session.model))
    for parameter in session.model.parameters():
        parameter.data.zero_()
    for restored in (session.restored_scene(1), session.final_scene(), session.final_scene(epoch)):
        assert torch.equal(restored.validation_logits, epoch.validation_logits)
        assert torch.equal(restored.logits, epoch.test_logits)


def test_hooks_of_recordings_are_a_default_of_runs_only() -> None:
    assert "dynamics" in choose_hooks("default")
    elsewhere = choose_hooks("default", has_recordings=False)
    assert "dynamics" not in elsewhere
    assert list(elsewhere) == [name for name in choose_hooks("default") if name != "dynamics"]
    assert list(choose_hooks("dynamics", has_recordings=False)) == ["dynamics"]
