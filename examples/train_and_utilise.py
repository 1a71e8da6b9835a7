"""Train an augmented model, and ask it how each output changes with each input.

python examples/train_and_utilise.py [FOLDER]

A small regression: y = [sin(x1 x2), cos(x3 x4)] on [0, 1]^4. The model is augmented before it is trained; it trains,
saves and predicts as it would without. FOLDER (default: save/example) gets the weights, which
`load_a_trained_model.py` reads.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import pellucid


def target(x: Tensor) -> Tensor:
    """What is learned: (point, 4) to (point, 2)."""
    return torch.stack([(x[:, 0] * x[:, 1]).sin(), (x[:, 2] * x[:, 3]).cos()], dim=1)


def true_jacobian(x: Tensor) -> Tensor:
    """The derivatives of the target, by hand: (point, output, input)."""
    zero = torch.zeros(len(x))
    first, second = (x[:, 0] * x[:, 1]).cos(), -(x[:, 2] * x[:, 3]).sin()
    sine = torch.stack([x[:, 1] * first, x[:, 0] * first, zero, zero], dim=1)
    cosine = torch.stack([zero, zero, x[:, 3] * second, x[:, 2] * second], dim=1)
    return torch.stack([sine, cosine], dim=1)


def build() -> nn.Module:
    """An untrained network of 4 inputs and 2 outputs."""
    return nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 2))


def train(model: nn.Module) -> None:
    """Fit the target at 2,000 random points."""
    points = torch.rand(2000, 4)
    optimiser = torch.optim.LBFGS(model.parameters(), max_iter=800, history_size=50, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        error = (model(points) - target(points)).square().sum(1).mean()
        error.backward()
        return error

    optimiser.step(loss)


def main(folder: Path) -> float:
    """Train, compare with the truth, save; the relative error of the Jacobian."""
    torch.manual_seed(0)
    model = pellucid.augment(build())
    train(model)
    held_out = torch.rand(1000, 4)
    maps = model.return_jacobian(held_out)  # (point, output, input)
    truth = true_jacobian(held_out)
    error = float((maps - truth).norm() / truth.norm())
    print(f"Jacobian of {len(maps):,} held-out points: {tuple(maps.shape)}, within {error:.1%} of the true one")
    point = torch.tensor([[0.2, 0.9, 0.5, 0.5]])
    print("at (0.2, 0.9, 0.5, 0.5), each output by each input:")
    print(model.return_jacobian(point)[0])
    folder.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), folder / "regression.safetensors")
    return error


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "save/example"))
