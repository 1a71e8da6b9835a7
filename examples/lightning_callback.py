"""Watch a training with PyTorch Lightning by adding three lines, numbered in the comments.

python examples/lightning_callback.py [FOLDER]

Figures and report.html are written to FOLDER (default: save/lightning). Needs the package lightning.
"""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer, seed_everything
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from pellucid.integrations.lightning import PellucidCallback  # 1

HOOKS = "confusion_matrix,saliency,explanations"
"""A few fast hooks; by default, more of them run."""


class Digits(LightningModule):
    """A small convolutional network for images of 8×8 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(16 * 4 * 4, 10)),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        return self.network(images)

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """Return the loss of a batch."""
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        """Log loss and accuracy of a batch."""
        logits = self(batch[0])
        self.log("val_loss", F.cross_entropy(logits, batch[1]))
        self.log("val_accuracy", (logits.argmax(1) == batch[1]).float().mean(), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer."""
        return torch.optim.AdamW(self.parameters(), 0.01)


def main(folder: Path) -> None:
    """Train on scikit-learn's digits."""
    seed_everything(0, verbose=False)
    digits = load_digits()
    images = torch.tensor(digits.images[:, None] / 16, dtype=torch.float32)
    training, validation = random_split(TensorDataset(images, torch.tensor(digits.target)), [0.8, 0.2])
    pictures = PellucidCallback(save=folder, hooks=HOOKS, budget="small")  # 2
    trainer = Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        callbacks=[pictures],  # 3
    )
    trainer.fit(Digits(), DataLoader(training, 64, shuffle=True), DataLoader(validation, 256))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "save/lightning"))
