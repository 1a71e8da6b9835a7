"""Densities in a save folder: fitted once, resumable, and refused for other images."""

from pathlib import Path

import pytest
import torch

import pellucid
from pellucid.core.contracts import ImageSet
from pellucid.core.errors import SaveError, ShapeError, UnknownName
from pellucid.densities import DENSITIES
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
