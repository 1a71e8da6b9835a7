"""Train an augmented model, and compute its Jacobian.

python examples/train_and_utilise.py [FOLDER]

A small regression: y = [sin(x1 x2), cos(x3 x4)] on [0, 1]^4. The model is augmented before training, and trains, saves
and predicts exactly as before. Writes the weights to FOLDER (default: save/example), for `load_a_trained_model.py`.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import pellucid


def target(x: Tensor) -> Tensor:
    """Target function, from (point, 4) to (point, 2)."""
    return torch.stack([(x[:, 0] * x[:, 1]).sin(), (x[:, 2] * x[:, 3]).cos()], dim=1)


def true_jacobian(x: Tensor) -> Tensor:
    """Derivatives of the target by hand, of shape (point, output, input)."""
    zero = torch.zeros(len(x))
    first, second = (x[:, 0] * x[:, 1]).cos(), -(x[:, 2] * x[:, 3]).sin()
    sine = torch.stack([x[:, 1] * first, x[:, 0] * first, zero, zero], dim=1)
    cosine = torch.stack([zero, zero, x[:, 3] * second, x[:, 2] * second], dim=1)
    return torch.stack([sine, cosine], dim=1)


def build() -> nn.Module:
    """Build an untrained network with 4 inputs and 2 outputs."""
    return nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 2))


def train(model: nn.Module) -> None:
    """Fit the target at 2,000 random points."""
    points = torch.rand(2000, 4)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=800, history_size=50, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        error = (model(points) - target(points)).square().sum(1).mean()
        error.backward()
        return error

    optimizer.step(loss)


def main(folder: Path) -> float:
    """Train, compare with the true Jacobian, save; return the relative error of the Jacobian."""
    torch.manual_seed(0)
    model = pellucid.augment(build())
    train(model)
    held_out = torch.rand(1000, 4)
    maps = model.return_jacobian(held_out)  # (point, output, input)
    truth = true_jacobian(held_out)
    error = float((maps - truth).norm() / truth.norm())
    print(f"Jacobian at {len(maps):,} held-out points: shape {tuple(maps.shape)}, relative error {error:.1%}")
    point = torch.tensor([[0.2, 0.9, 0.5, 0.5]])
    print("Jacobian at (0.2, 0.9, 0.5, 0.5), outputs by inputs:")
    print(model.return_jacobian(point)[0])
    folder.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), folder / "regression.safetensors")
    return error


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "save/example"))
