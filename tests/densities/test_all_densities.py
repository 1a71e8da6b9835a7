"""Promises of every density, for every kind of images."""

import importlib

import pytest
import torch

from pellucid.densities import DENSITIES, held_out
from pellucid.training.descent import descend

DRAWS = torch.Generator().manual_seed(0)
SETS = {
    "two": torch.randint(256, (2, 1, 7, 5), generator=DRAWS).byte(),
    "identical": torch.randint(256, (1, 1, 6, 6), generator=DRAWS).byte().repeat(90, 1, 1, 1),
    "black": torch.zeros(50, 1, 5, 5).byte(),
    "color with a flat channel": torch.randint(256, (90, 3, 6, 4), generator=DRAWS).byte()
    * torch.tensor([1, 0, 1]).view(1, 3, 1, 1).byte(),
    "floats": torch.rand(90, 1, 5, 5, generator=DRAWS),
    "two values": torch.randint(2, (90, 1, 5, 5), generator=DRAWS).float(),
    "one pixel": torch.randint(256, (90, 1, 1, 1), generator=DRAWS).byte(),
    "large": torch.randint(256, (20, 3, 30, 30), generator=DRAWS).byte(),
    "two kinds, many copies": torch.tensor([0, 255]).byte().repeat(60).view(-1, 1, 1, 1).expand(-1, 1, 5, 5),
}


@pytest.mark.parametrize("images", SETS.values(), ids=SETS)
@pytest.mark.parametrize("name", DENSITIES.names())
def test_any_images_can_be_fitted_scored_and_stored(
    name: str, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pellucid.densities.vae.STEPS", 12)
    monkeypatch.setattr("pellucid.densities.vae.STEPS_OF_LARGE", 12)
    kind = DENSITIES[name]
    density = kind.fit(images, seed=0, minimise=descend, device=torch.device("cpu"))
    assert density.image_shape == tuple(images.shape[1:])
    assert held_out(density, images).bits_per_dim < 200
    floats = (images / 255 if images.dtype == torch.uint8 else images)[:3].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(density.log_density(floats).sum(), floats)
    assert torch.isfinite(gradient).all()
    likely = density.likely(5, 0)
    assert 0 <= likely.min() <= likely.max() <= 1
    assert torch.equal(kind.from_state(density.state()).log_density(floats), density.log_density(floats))
    assert all(torch.isfinite(value).all() for value in density.state().values())


@pytest.mark.parametrize("name", DENSITIES.names())
def test_the_recipe_names_every_setting(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A density stored with the data is reused only if it was fitted with the same settings."""
    module = importlib.import_module(f"pellucid.densities.{name}")
    settings = [key for key, value in vars(module).items() if key.isupper() and isinstance(value, int | float)]
    assert len(settings) > 5
    for key in settings:
        before = DENSITIES[name].recipe()
        monkeypatch.setattr(module, key, getattr(module, key) * 3 + 1)
        assert DENSITIES[name].recipe() != before, key
