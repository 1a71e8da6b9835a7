"""The recipe of exigo, rebuilt from its description: train on MNIST, and show three kinds of pictures for TensorBoard.

    python benchmarks/plain_pipeline.py FOLDER_WITH_THE_FOUR_GZ_FILES OUTPUT_FOLDER

Four narrow convolutions, batches of 32, a PIL image and its transforms for every image of every epoch, two epochs with
an evaluation of the test images after each. Before training and after every epoch it writes a confusion matrix,
saliency overlays from which those of the untrained network are subtracted, and embeddings for TensorBoard's projector.
"""

import gzip
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.metrics import confusion_matrix
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.tensorboard import SummaryWriter
from torchvision import transforms

mpl.use("agg")
import matplotlib.pyplot as plt

EPOCHS, BATCH, EMBEDDED, SHOWN = 2, 32, 1000, 10


class Images(Dataset[tuple[Tensor, int]]):
    """One image at a time: bytes to PIL image to normalized tensor."""

    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])

    def __init__(self, folder: Path, part: str) -> None:
        pixels = gzip.decompress((folder / f"{part}-images-idx3-ubyte.gz").read_bytes())
        labels = gzip.decompress((folder / f"{part}-labels-idx1-ubyte.gz").read_bytes())
        self.pixels = np.frombuffer(pixels, np.uint8, offset=16).reshape(-1, 28, 28)
        self.labels = np.frombuffer(labels, np.uint8, offset=8)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index])), int(self.labels[index])


class Network(nn.Module):
    """Four convolutions of 8 to 16 channels; returns the logits and the embedding before the last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(16 * 7 * 7, 64), nn.ReLU()),
        )
        self.classify = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Compute logits and embedding."""
        embedding = self.features(images)
        return self.classify(embedding), embedding


def saliency(model: Network, images: Tensor, labels: Tensor) -> Tensor:
    """Return the absolute gradient of the labels' logits."""
    images = images.clone().requires_grad_()
    model(images)[0].gather(1, labels[:, None]).sum().backward()
    assert images.grad is not None
    return images.grad.abs()


def show(model: Network, test: Images, epoch: int, baseline: Tensor | None, out: Path, board: SummaryWriter) -> Tensor:
    """Evaluate the test images and write the pictures of an epoch; returns the saliency maps."""
    model.eval()
    predictions, embeddings = [], []
    with torch.no_grad():
        for pixels, _ in DataLoader(test, batch_size=BATCH):
            logits, embedding = model(pixels)
            predictions.append(logits.argmax(1))
            embeddings.append(embedding)
    predicted = torch.cat(predictions).numpy()
    figure, axes = plt.subplots()
    axes.imshow(confusion_matrix(test.labels, predicted))
    figure.savefig(out / f"confusion_{epoch}.png")
    board.add_figure("confusion", figure, epoch)
    firsts = [int(np.flatnonzero(test.labels == label)[0]) for label in range(SHOWN)]
    images = torch.stack([test[index][0] for index in firsts])
    maps = saliency(model, images, torch.arange(SHOWN))
    figure, grid = plt.subplots(2, SHOWN, figsize=(SHOWN, 2))
    for column, (image, heat) in enumerate(zip(images, maps - (0 if baseline is None else baseline), strict=True)):
        grid[0, column].imshow(image[0], cmap="gray")
        grid[1, column].imshow(heat[0], cmap="seismic")
    figure.savefig(out / f"saliency_{epoch}.png")
    board.add_figure("saliency", figure, epoch)
    plt.close("all")
    thumbnails = torch.stack([test[index][0] for index in range(EMBEDDED)])
    board.add_embedding(torch.cat(embeddings)[:EMBEDDED], test.labels[:EMBEDDED].tolist(), thumbnails, epoch)
    board.add_scalar("accuracy", float((predicted == test.labels).mean()), epoch)
    return maps


def main(data: Path, out: Path) -> None:
    """Train for two epochs."""
    torch.manual_seed(0)
    out.mkdir(parents=True, exist_ok=True)
    train, test = Images(data, "train"), Images(data, "t10k")
    model, board = Network(), SummaryWriter(str(out / "logs"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    baseline = show(model, test, 0, None, out, board)
    for epoch in range(1, EPOCHS + 1):
        model.train()
        for pixels, labels in DataLoader(train, batch_size=BATCH, shuffle=True):
            optimizer.zero_grad()
            F.cross_entropy(model(pixels)[0], labels).backward()
            optimizer.step()
        show(model, test, epoch, baseline, out, board)
    board.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
