"""Watch a training with the Trainer of transformers by adding three lines, numbered in the comments.

python examples/transformers_callback.py [FOLDER]

Figures and report.html are written to FOLDER (default: save/transformers). Needs transformers and accelerate.
"""

import sys
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch.utils.data import Dataset, Subset, random_split
from transformers import EvalPrediction, Trainer, TrainingArguments, ViTConfig, ViTForImageClassification, set_seed

from pellucid.integrations.transformers import PellucidCallback  # 1

HOOKS = "confusion_matrix,saliency,explanations"
"""A few fast hooks; by default, more of them run."""


class Digits(Dataset[dict[str, torch.Tensor]]):
    """The digits of scikit-learn, in the format of transformers' image models."""

    def __init__(self) -> None:
        digits = load_digits()
        self.images = torch.tensor(digits.images[:, None] / 16, dtype=torch.float32)
        self.labels = torch.tensor(digits.target)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"pixel_values": self.images[index], "labels": self.labels[index]}


def accuracy(given: EvalPrediction) -> dict[str, float]:
    """Return the share of correct predictions."""
    return {"accuracy": float((given.predictions.argmax(1) == given.label_ids).mean())}


def main(folder: Path) -> None:
    """Train a small vision transformer from scratch."""
    set_seed(0)
    names = dict(enumerate("0123456789"))
    model = ViTForImageClassification(
        ViTConfig(
            image_size=8,
            patch_size=2,
            num_channels=1,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            id2label=names,
            label2id={name: index for index, name in names.items()},
        )
    )
    training: Subset[dict[str, torch.Tensor]]
    training, test = random_split(Digits(), [0.8, 0.2])
    arguments = TrainingArguments(
        str(folder / "checkpoints"),
        num_train_epochs=2,
        per_device_train_batch_size=64,
        learning_rate=0.003,
        eval_strategy="epoch",
        logging_strategy="epoch",
        save_strategy="no",
        report_to="none",
        use_cpu=True,
    )
    pictures = PellucidCallback(test, save=folder / "pellucid", hooks=HOOKS, budget="small")  # 2
    trainer = Trainer(
        model,
        arguments,
        train_dataset=training,
        eval_dataset=test,
        compute_metrics=accuracy,
        callbacks=[pictures],  # 3
    )
    trainer.train()


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "save/transformers"))
