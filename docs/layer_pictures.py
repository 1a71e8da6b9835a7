"""Draw the pictures of docs/layers.md and docs/concepts.md: `python docs/layer_pictures.py [--mirror FOLDER]`.

Trains a small residual network on MNIST, and draws relevance at its layers, the flow through its blocks, an
explanation by channels, and references of the most relevant channels of a digit. `docs/run_pictures.py` does the same
with the data of its run.
"""

import argparse
import io
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn

import pellucid
from pellucid.data import DataSplits, Request, load_data
from pellucid.storage.pictures import to_png

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "pictures"
EPOCHS, BATCH, RATE = 2, 128, 0.005
LAYER = "block1"
"""Layer whose channels are shown. A position sees 13×13 pixels, about one stroke."""
SHOWN = 8
"""Digit that is explained."""
IMAGES = 5000
"""Number of training images among which the reference images of channels are found."""


class Block(nn.Module):
    """Two convolutions and a skip connection, which is a convolution too if the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """Add the block to the skip connection."""
        return F.relu(self.conv2(F.relu(self.conv1(x))) + self.skip(x))


class ResidualNetwork(nn.Module):
    """A stem and two residual blocks, whose feature maps are 14×14, 14×14 and 7×7 for images of 28×28."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 24, 5, stride=2, padding=2), nn.ReLU())
        self.block1 = Block(24, 24, stride=1)
        self.block2 = Block(24, 48, stride=2)
        self.head = nn.Linear(48 * 7 * 7, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return self.head(self.block2(self.block1(self.stem(x))).flatten(1))


def train(data: DataSplits) -> nn.Module:
    """Return a network trained on all training images."""
    torch.manual_seed(0)
    model = ResidualNetwork(len(data.classes))
    images, labels = data.train.floats(), data.train.labels
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    steps = EPOCHS * -(-len(labels) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(labels)).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
            schedule.step()
    return model.eval().requires_grad_(False)


def figures(model: nn.Module, data: DataSplits) -> Iterator[tuple[str, Figure]]:
    """Yield the name and the figure of each picture."""
    eights = data.test.floats((data.test.labels == SHOWN).nonzero().flatten())
    image = eights[model(eights).argmax(1) == SHOWN][:1]
    classes = [str(name) for name in data.classes]
    gamma = pellucid.create_analyzer("lrp.gamma", model)
    yield "layers", gamma.explain(image, to=["stem", "block1", "block2"]).figure()
    epsilon = pellucid.create_analyzer("lrp.epsilon", model)
    yield "layers_flow", epsilon.explain(data.test.floats(slice(200)), to="stem").flow().figure()
    training = (data.train.floats(slice(IMAGES)), data.train.labels[:IMAGES])
    found = pellucid.concepts(model, training, LAYER, classes=classes)
    yield "concepts", found.explain(image).figure()
    yield "concepts_channels", found.figure(found.top(SHOWN))


def recompress(png: bytes) -> bytes:
    """Recompress a PNG as tightly as possible, without its alpha channel."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def draw(data: DataSplits) -> list[Path]:
    """Train the network, write the pictures and return their paths."""
    written = []
    for name, figure in figures(train(data), data):
        written.append(FOLDER / f"{name}.png")
        written[-1].write_bytes(recompress(to_png(figure)))
    return written


def main() -> None:
    """Load MNIST, and write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "save" / "data", help="Folder of the data set.")
    parser.add_argument("--mirror", action="append", default=[], help="Folder or address to take the files from.")
    options = parser.parse_args()
    data = load_data("mnist", Request(folder=options.data, mirrors=tuple(options.mirror)))
    for path in draw(data):
        sys.stdout.write(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB\n")


if __name__ == "__main__":
    main()
