"""Networks shared by the Jacobian tests, and a slow independent reference."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import jacrev, vmap


def reference(model: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Compute the Jacobian with torch.func, or with plain autograd for layers without a batching rule."""
    parts = list(model.modules()) if isinstance(model, nn.Module) else []
    if any(isinstance(part, Sequence | Recurrent) for part in parts):
        whole = torch.autograd.functional.jacobian(model, x)
        return torch.stack([whole[image, :, image] for image in range(len(x))])
    return vmap(jacrev(lambda image: model(image[None])[0]))(x).detach()


class Residual(nn.Module):
    """Residual block with an in-place addition."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.first(x))
        y += x
        return y.relu_()


class Sequence(nn.Module):
    """Self-attention over the rows with layer norm, computed with the time axis in front."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.attend = nn.Linear(6, 8), nn.MultiheadAttention(8, 2)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x.squeeze(1)).transpose(0, 1)
        mixed, _ = self.attend(tokens, tokens, tokens, need_weights=False)
        return self.head(self.norm(tokens + mixed).mean(0))


class Recurrent(nn.Module):
    """GRU over the rows."""

    def __init__(self) -> None:
        super().__init__()
        self.cells, self.head = nn.GRU(6, 5, batch_first=True), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cells(x.squeeze(1))[0][:, -1])


def zoo() -> dict[str, nn.Module]:
    """Return models of images (batch, 1, 6, 6) by their distinctive feature, in float64 and eval mode."""
    torch.manual_seed(0)
    flat, pool = nn.Flatten(), nn.MaxPool2d(2)
    layers: dict[str, list[nn.Module]] = {
        "linear": [flat, nn.Linear(36, 3)],
        "mlp": [flat, nn.Linear(36, 9), nn.GELU(), nn.Linear(9, 4)],
        "narrow": [flat, nn.Linear(36, 5), nn.ReLU(), nn.Linear(5, 12), nn.Tanh(), nn.Linear(12, 11)],
        "dead": [flat, nn.Linear(36, 3), nn.Threshold(100.0, 0.0), nn.Linear(3, 11)],
        "convolution": [
            nn.Conv2d(1, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            flat,
            nn.Linear(64, 3),
        ],
        "pooling": [nn.Conv2d(1, 4, 3, padding=1), nn.SiLU(), pool, nn.AvgPool2d(2, 1), nn.AdaptiveAvgPool2d(1), flat],
        "strided": [nn.Conv2d(1, 8, 5, stride=2, padding=2), nn.GroupNorm(2, 8), nn.ELU(), flat, nn.Linear(72, 3)],
        "grouped": [nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 8, 3, groups=2, dilation=2, padding=2), flat],
        "multiplier": [
            nn.Conv2d(1, 3, 1),
            nn.Conv2d(3, 9, 3, groups=3, padding=1),
            nn.Hardswish(),
            flat,
            nn.Linear(324, 2),
        ],
        "transposed": [
            nn.ConvTranspose2d(1, 2, 3, stride=2),
            nn.InstanceNorm2d(2),
            nn.Sigmoid(),
            flat,
            nn.Linear(338, 2),
        ],
        "residual": [nn.Conv2d(1, 3, 3, padding=1), Residual(3), Residual(3), pool, flat, nn.Linear(27, 3)],
        "sequence": [Sequence()],
        "recurrent": [Recurrent()],
        "unflattened": [flat, nn.Linear(36, 6), nn.Unflatten(1, (2, 3)), nn.Softmax(1)],
        "decoder": [nn.AdaptiveAvgPool2d((1, 2)), flat, nn.Linear(2, 50), nn.Softplus()],
    }
    return {name: nn.Sequential(*parts).double().eval() for name, parts in layers.items()}
