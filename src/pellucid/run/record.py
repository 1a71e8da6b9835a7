"""Records of a run: run.json and the lines of metrics.jsonl. All clock readings are under the key `timing`."""

import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pellucid.core.contracts import ImageSet
from pellucid.core.errors import SaveError
from pellucid.core.types import Logits, Targets
from pellucid.engine.model import device_of
from pellucid.engine.tap import find_embedding
from pellucid.models._build import count_parameters
from pellucid.run.session import Session
from pellucid.storage.store import Store
from pellucid.training.checkpoint import Progress
from pellucid.training.loop import Epoch

__all__ = [
    "embedding_layer",
    "environment",
    "finished_record",
    "first_record",
    "metrics_record",
    "most_common_confusion",
    "record_end",
    "timestamp",
]

PACKAGES = ("pellucid", "torch", "torchvision", "numpy", "scikit-learn", "matplotlib", "tensorboard")


def timestamp() -> str:
    """Return the current time in UTC, for example 2026-01-31T12:00:00Z."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def first_record(session: Session) -> dict[str, Any]:
    """Return the content of run.json at the start of a new or resumed run."""
    data, earlier = session.data, session.earlier
    return {
        "kind": "run",
        "config": session.config.flat(),
        **environment(session.recipe.seed, session.device),
        "processes": session.world.size,
        "dataset": {
            # a resumed run loads its data by the resolved name, so keep what the user originally asked for
            "requested": earlier.get("dataset", {}).get("requested", data.requested),
            "name": data.name,
            "title": data.title,
            "notice": earlier.get("dataset", {}).get("notice", data.notice),
            "train_images": len(data.train),
            "validation_images": len(data.validation),
            "test_images": len(data.test),
            "image_shape": list(data.train.image_shape),
            "classes": list(data.classes),
            "sha256": data.sha256,
        },
        "model": {
            **session.network.record,
            "parameters": count_parameters(session.model),
            "embedding_layer": embedding_layer(session.model, session.data.test, session.embedding_layer),
        },
        **({} if session.metadata is None else {"metadata": session.metadata.record()}),
        "epochs": session.recipe.epochs,
        "extensions": _extensions(session),
        # a run of an earlier version knew no other kernel
        "jacobian_kernel": earlier.get("jacobian_kernel", "generic" if earlier else None),
        "test_accuracy": None,
        "timing": {"started": earlier.get("timing", {}).get("started", timestamp()), "finished": None},
    }


def environment(seed: int, device: torch.device) -> dict[str, Any]:
    """Return the entries of run.json about the process, at the start of a run."""
    return {
        "command": shlex.join(sys.argv),
        "status": "running",
        "seed": seed,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "git_revision": git_revision(),
    }


def _extensions(session: Session) -> list[dict[str, int]]:
    """List the times that more epochs were added; at `epoch` and `step`, a new learning-rate schedule began."""
    listed = list(session.earlier.get("extensions", ()))
    if session.extended_from is not None:
        at = session.resumed.progress if session.resumed else Progress()
        listed.append({"epoch": at.epoch, "step": at.step, "from": session.extended_from, "to": session.recipe.epochs})
    return listed


def finished_record(store: Store) -> dict[str, Any]:
    """Return the content of run.json for a finished run."""
    record = store.run()
    # an epoch is marked as best if it beats all earlier ones, so the last mark counts
    best = next((line for line in reversed(store.metrics()) if line.get("best")), None)
    return record | {
        "status": "finished",
        "test_accuracy": best["test_accuracy"] if best else None,
        "timing": record["timing"] | {"finished": timestamp()},
    }


def record_end(store: Store, status: str) -> None:
    """Write the status of a run that did not finish, if the cause of the failure still allows it."""
    with suppress(SaveError, OSError, KeyError):
        record = store.run()
        store.write_run(record | {"status": status, "timing": record["timing"] | {"finished": timestamp()}})


def metrics_record(epoch: Epoch, test: ImageSet, classes: Sequence[str]) -> dict[str, Any]:
    """Return an epoch's line of metrics.jsonl; losses are in nats, accuracies from 0 to 1.

    `most_common_confusion` is missing if no image of `test` is misclassified.
    """
    confusion = most_common_confusion(epoch.test_logits, test.labels, classes)
    return {
        "epoch": epoch.number,
        "train_loss": epoch.train.loss if epoch.train else None,
        "train_accuracy": epoch.train.accuracy if epoch.train else None,
        "validation_loss": epoch.validation.loss,
        "validation_accuracy": epoch.validation.accuracy,
        "test_loss": epoch.test.loss,
        "test_accuracy": epoch.test.accuracy,
        "learning_rate": epoch.learning_rate,
        "best": epoch.is_best,
        **({"most_common_confusion": confusion} if confusion else {}),
        "timing": {
            "seconds": round(epoch.seconds, 3),
            "images_per_second": round(epoch.images / epoch.seconds, 1) if epoch.seconds else None,
        },
    }


def most_common_confusion(logits: Logits, labels: Targets, classes: Sequence[str]) -> dict[str, str | int] | None:
    """Return the most frequent pair of true and predicted class; None if every image is classified correctly.

    `images` is the number of these misclassifications and `of` the number of images of the true class. Of equally
    frequent pairs, the first in class order counts.

    >>> import torch
    >>> most_common_confusion(torch.eye(2)[[0, 1, 1]], torch.tensor([0, 0, 1]), ["cat", "dog"])
    {'label': 'cat', 'prediction': 'dog', 'images': 1, 'of': 2}
    """
    counts = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(counts, (labels.cpu().numpy(), logits.argmax(1).cpu().numpy()), 1)
    wrong = counts - np.diag(counts.diagonal())
    label, prediction = divmod(int(wrong.argmax()), len(classes))
    if not wrong[label, prediction]:
        return None
    return {
        "label": classes[label],
        "prediction": classes[prediction],
        "images": int(wrong[label, prediction]),
        "of": int(counts[label].sum()),
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that affect the results."""
    installed = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            continue
    return installed


def git_revision() -> str | None:
    """Return the commit of pellucid's source tree, with "-dirty" if it has local changes; None outside a checkout."""
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():  # an installed package; git would report any checkout that surrounds it
        return None
    # --exclude=* ignores tags, which leaves the full hash.
    command = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def embedding_layer(model: nn.Module, images: ImageSet, wanted: str | None) -> str | None:
    """Return the name of the layer whose input is the embedding; None if it cannot be found."""
    try:
        return find_embedding(model, images.floats([0]).to(device_of(model)), wanted).layer
    except Exception:  # noqa: BLE001  (some models reject a batch of one image; the record then lacks the layer's name)
        return None
