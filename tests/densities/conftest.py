"""Small noisy images with two kinds of bars."""

import pytest
import torch


def make_pixels(count: int = 400, side: int = 6, channels: int = 1) -> torch.Tensor:
    """Bytes: a bright row or column on a noisy background."""
    draws = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 60, (count, channels, side, side), generator=draws)
    pixels[: count // 2, :, side // 2] += 150
    pixels[count // 2 :, :, :, side // 2] += 150
    return pixels[torch.randperm(count, generator=draws)].byte()


@pytest.fixture(scope="session")
def all_pixels() -> torch.Tensor:
    return make_pixels()


@pytest.fixture
def pixels(all_pixels: torch.Tensor) -> torch.Tensor:
    return all_pixels
