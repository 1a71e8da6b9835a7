"""Densities in a save folder: fitted once, resumable, and refused for other images."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import pellucid
from pellucid.core.contracts import ImageSet
from pellucid.core.errors import SaveError, ShapeError, UnknownName
from pellucid.densities import DENSITIES, gaussian_mixture
from pellucid.storage.densities import DensityStore
from pellucid.training import descent

IMAGES = (torch.rand(200, 1, 5, 5, generator=torch.Generator().manual_seed(0)) * 255).byte()


@pytest.mark.parametrize("name", DENSITIES.names())
def test_a_density_is_fitted_once_and_loaded_afterwards(name: str, tmp_path: Path) -> None:
    images = IMAGES[:3].float() / 255
    first = pellucid.fit_density(name, IMAGES, save=tmp_path)
    path = tmp_path / "models" / f"{name}.safetensors"
    written = path.read_bytes()
    second = pellucid.fit_density(name, ImageSet(IMAGES, torch.zeros(200).long()), save=tmp_path)
    assert path.read_bytes() == written
    expected = pellucid.fit_density(name, IMAGES).log_density(images)
    for density in (first, second, pellucid.load_density(tmp_path, name)):
        assert torch.equal(density.log_density(images), expected)
    assert [file.name for file in (tmp_path / "models").iterdir()] == [f"{name}.safetensors"]


def test_an_interrupted_training_resumes_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pellucid.fit_density("vae", IMAGES).state()
    monkeypatch.setattr(descent, "SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    kind = DENSITIES["vae"]
    loss = kind._loss
    calls = []

    def fails_once(self, images, draws):
        calls.append(1)
        if len(calls) == 12:
            raise KeyboardInterrupt
        return loss(self, images, draws)

    monkeypatch.setattr(kind, "_loss", fails_once)
    with pytest.raises(KeyboardInterrupt):
        pellucid.fit_density("vae", IMAGES, save=tmp_path)
    assert [file.name for file in (tmp_path / "models").iterdir()] == ["vae.ckpt"]
    resumed = pellucid.fit_density("vae", IMAGES, save=tmp_path).state()
    assert len(calls) == 12 + 20 * 2 - 11
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    assert [file.name for file in (tmp_path / "models").iterdir()] == ["vae.safetensors"]


def test_other_images_another_seed_and_damage_are_refused(tmp_path: Path) -> None:
    pellucid.fit_density("gaussian_mixture", IMAGES, save=tmp_path)
    for images, seed in ((IMAGES[:50], 0), (IMAGES, 1)):
        with pytest.raises(SaveError, match="fitted to other images or with another seed"):
            pellucid.fit_density("gaussian_mixture", images, seed=seed, save=tmp_path)
    (tmp_path / "models" / "gaussian_mixture.safetensors").write_bytes(b"12345678 nonsense")
    with pytest.raises(SaveError, match="damaged or has another version"):
        pellucid.load_density(tmp_path, "gaussian_mixture")
    with pytest.raises(SaveError, match=r"holds no density 'vae'.*fit_density"):
        pellucid.load_density(tmp_path)


def test_wrong_images_and_names_are_refused() -> None:
    with pytest.raises(
        ShapeError, match=r"\(200, 25\) and dtype torch.uint8; expected \(image, channel, height, width\)"
    ):
        pellucid.fit_density("vae", IMAGES.flatten(1))
    with pytest.raises(ShapeError, match=r"values from 0 to 255; expected floats in \[0, 1\]"):
        pellucid.fit_density("vae", 255.0 * (IMAGES > 100))
    with pytest.raises(UnknownName, match="there is no density 'gaussian'; did you mean 'gaussian_mixture'"):
        pellucid.fit_density("gaussian", IMAGES)


def test_a_density_is_marked_as_in_earlier_versions(tmp_path: Path) -> None:
    """A stored density is only reused with the same mark."""
    pellucid.fit_density("gaussian_mixture", torch.arange(32, dtype=torch.uint8).reshape(2, 1, 4, 4), save=tmp_path)
    mark = b'"fitted to":"fe10b18adb417da5838f5c0aab157c89e31cdb3d5c712ae97897ffabdafd2247 0"'
    assert mark in (tmp_path / "models" / "gaussian_mixture.safetensors").read_bytes()


def filled(folder: Path, **changes: Any) -> DensityStore:
    """A store whose save folder is `folder/save`, with the data in `folder/data`."""
    return replace(DensityStore(IMAGES, 0, folder / "save", data=folder / "data"), **changes)


def test_a_second_run_fits_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = filled(tmp_path).get("gaussian_mixture")
    (kept,) = (tmp_path / "data/densities").iterdir()
    assert kept.read_bytes() == (tmp_path / "save/models/gaussian_mixture.safetensors").read_bytes()
    monkeypatch.setattr(DENSITIES["gaussian_mixture"], "fit", None)
    later = filled(tmp_path, save=tmp_path / "later")
    for density in (later.load("gaussian_mixture"), later.get("gaussian_mixture")):
        assert density is not None
        assert torch.equal(density.log_density(IMAGES / 255), first.log_density(IMAGES / 255))
    # the run keeps its own copy, whatever happens to the data
    shutil.rmtree(tmp_path / "data")
    restored = pellucid.load_density(tmp_path / "later", "gaussian_mixture")
    assert torch.equal(restored.log_density(IMAGES / 255), first.log_density(IMAGES / 255))


def test_a_fit_without_writing_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descent, "SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    store, checkpoints = filled(tmp_path), []
    density, content = store.fit("vae", checkpoints.append)
    assert torch.equal(store.get("vae", write=False).log_density(IMAGES / 255), density.log_density(IMAGES / 255))
    assert list(tmp_path.iterdir()) == []
    store.write_checkpoint("vae", checkpoints[3])
    assert store.fit("vae")[1] == content
    store.write("vae", content)
    assert [path.name for path in (tmp_path / "save/models").iterdir()] == ["vae.safetensors"]


def test_other_images_seeds_and_settings_are_kept_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path).get("gaussian_mixture")
    for number, change in enumerate(({"pixels": IMAGES[:150]}, {"seed": 1}, {})):
        if not change:
            monkeypatch.setattr(gaussian_mixture, "COMPONENTS", 2)
        store = filled(tmp_path, save=tmp_path / f"save_{number}", **change)
        assert store.load("gaussian_mixture") is None
        store.get("gaussian_mixture")
        assert len(list((tmp_path / "data/densities").iterdir())) == number + 2


def test_a_checkpoint_of_other_images_is_not_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descent, "SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    checkpoints: list[bytes] = []
    filled(tmp_path, pixels=IMAGES.flip(0)).fit("vae", checkpoints.append)
    store = filled(tmp_path)
    _, fresh = store.fit("vae")
    store.write_checkpoint("vae", checkpoints[3])
    assert store.fit("vae")[1] == fresh


def test_a_damaged_copy_with_the_data_is_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = filled(tmp_path).get("gaussian_mixture").log_density(IMAGES / 255)
    (kept,) = (tmp_path / "data/densities").iterdir()
    whole = kept.read_bytes()
    for number, damaged in enumerate((b"", b"12345678 nonsense", whole[:-4], whole[:-4] + b"\xff" * 4)):
        kept.write_bytes(damaged)
        again = filled(tmp_path, save=tmp_path / f"save_{number}").get("gaussian_mixture")
        assert torch.equal(again.log_density(IMAGES / 255), expected)
        assert "damaged" in capsys.readouterr().out
        assert kept.read_bytes() == whole


@pytest.mark.parametrize("obstacle", ["file", "link", "loop", "folder"])
def test_a_data_folder_that_cannot_be_used_does_not_stop_a_run(
    obstacle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, outside = tmp_path / "data/densities", tmp_path / "outside"
    (tmp_path / "data").mkdir()
    outside.mkdir()
    if obstacle == "file":
        place.write_bytes(b"a file of the user")
    elif obstacle == "folder":
        (place / (filled(tmp_path)._shared_path("gaussian_mixture") or "").removeprefix("densities/")).mkdir(
            parents=True
        )
    else:
        place.symlink_to(outside if obstacle == "link" else place)
    filled(tmp_path).get("gaussian_mixture")
    assert "cannot be written" in capsys.readouterr().out
    assert list(outside.iterdir()) == []
    pellucid.load_density(tmp_path / "save", "gaussian_mixture")


def test_a_density_without_a_recipe_stays_in_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing tells a changed fit of somebody else's density from the one that was stored."""
    monkeypatch.setattr(DENSITIES["gaussian_mixture"], "recipe", lambda: None)
    filled(tmp_path).get("gaussian_mixture")
    assert not (tmp_path / "data").exists()
    pellucid.load_density(tmp_path / "save", "gaussian_mixture")
