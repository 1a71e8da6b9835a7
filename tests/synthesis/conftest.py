"""Images of bars in three directions, and a network trained to classify them."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn


def make_bars(count: int = 300, side: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Floats in [0, 1]: a row, a column or a diagonal, at random positions, with noise."""
    draws = torch.Generator().manual_seed(0)
    images = 0.2 * torch.rand(count, 1, side, side, generator=draws)
    labels = torch.arange(count) % 3
    for image, label, place in zip(images, labels, torch.randint(2, side - 2, (count,), generator=draws), strict=True):
        if label == 0:
            image[0, place] += 0.8
        elif label == 1:
            image[0, :, place] += 0.8
        else:
            image[0] += 0.8 * torch.eye(side).roll(int(place) - side // 2, 0)
    return images.clamp(0, 1), labels


def train(images: torch.Tensor, labels: torch.Tensor, seed: int = 0, steps: int = 120) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        channels, side = images.shape[1], images.shape[2]
        model = nn.Sequential(
            nn.Conv2d(channels, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace=True),
            nn.Conv2d(8, 8, 3, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(8 * ((side - 1) // 2) ** 2, 3),
        )
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        for _ in range(steps):
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
    optimizer.zero_grad()
    return model


@pytest.fixture(scope="session")
def bars() -> tuple[torch.Tensor, torch.Tensor]:
    return make_bars()


@pytest.fixture(scope="session")
def network(bars) -> nn.Module:
    return train(*bars)


@pytest.fixture(scope="session")
def vae(bars):
    import pellucid

    return pellucid.fit_density("vae", bars[0])


@pytest.fixture(scope="session")
def mixture(bars):
    import pellucid

    return pellucid.fit_density("gaussian_mixture", bars[0])
