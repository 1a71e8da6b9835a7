"""Densities of a run, and the budget of its hooks."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pellucid.config import DataConfig, HookConfig, RunConfig
from pellucid.core.budget import BUDGETS
from pellucid.run.session import prepare
from pellucid.training.distributed import World


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
    scene = prepare(config, World()).scene(0, torch.zeros(20, 10))
    assert scene.budget == (None if budget is None else BUDGETS["small"])
    assert config.flat()["budget"] == budget
