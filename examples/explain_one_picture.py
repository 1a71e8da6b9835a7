"""Explain an image: train a small digit classifier, then explain one of its predictions.

    python examples/explain_one_picture.py [FOLDER]

Writes the image `digit.png` and its explanations `why.png` and `why.html` to FOLDER (default: save/example).
"""

import sys
from pathlib import Path

import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

import pellucid

FOLDER = Path(sys.argv[1] if len(sys.argv) > 1 else "save/example")
MEAN, STD = 0.3, 0.4  # the classifier expects normalized images, as most do
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def train(images: torch.Tensor, labels: torch.Tensor) -> nn.Module:
    """Train a small convolutional network on normalized images."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 16, 10),
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.003)
    for _ in range(8):
        for part in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[part]), labels[part]).backward()
            optimizer.step()
    return model.eval()


def main() -> None:
    """Train the network, and explain a held-out image."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(digits.target)
    model = train((images[:1500] - MEAN) / STD, labels[:1500])
    index = 1500 + int((labels[1500:] == 5).nonzero()[0])
    Image.fromarray((images[index, 0] * 255).byte().numpy()).save(FOLDER / "digit.png")

    why = pellucid.explain(model, FOLDER / "digit.png", classes=NAMES, mean=MEAN, std=STD)
    print(f"predicted: {NAMES[int(why.logits.argmax())]}")
    print(why.verdict())
    why.save(FOLDER / "why.png")
    # one row per method and target; the contrast asks why it is a five rather than the runner-up
    runner_up = int(why.logits[0].topk(2).indices[1])
    pellucid.explain(
        model, FOLDER / "digit.png", ["lrp.epsilon_plus_flat", "integrated_gradients"],
        target=["five", pellucid.Contrast(5, runner_up)], classes=NAMES, mean=MEAN, std=STD,
    ).save(FOLDER / "why.html")  # fmt: skip


if __name__ == "__main__":
    main()
