import pytest
import torch
from torch import nn

from pellucid.engine.model import LARGEST_TENSOR_BYTES, images_per_chunk


def test_the_largest_tensor_determines_the_chunk_size() -> None:
    wide = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 28 * 28, 10))
    assert images_per_chunk(wide, torch.zeros(64, 1, 28, 28)) == LARGEST_TENSOR_BYTES // (32 * 28 * 28 * 4)


@pytest.mark.parametrize("count", [0, 1])
def test_one_image_is_one_chunk(count: int) -> None:
    assert images_per_chunk(nn.Flatten(), torch.zeros(count, 1, 5, 5)) == 1


def test_an_image_above_the_limit_runs_alone() -> None:
    assert images_per_chunk(nn.Flatten(), torch.zeros(2, 1, 3000, 3000)) == 1


def test_images_are_not_written_to() -> None:
    images = -torch.ones(2, 1, 3, 3)
    images_per_chunk(nn.ReLU(inplace=True), images)
    assert bool((images == -1).all())
