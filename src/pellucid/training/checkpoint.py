"""Where a training stands: everything needed to go on as if it had never stopped."""

import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from pellucid.core.errors import SaveError

__all__ = ["Progress", "TrainingState", "pack_state", "unpack_state"]


@dataclass(frozen=True)
class Progress:
    """The position of a training, and its sums so far in the epoch under way."""

    epoch: int = 0
    """The epoch under way; 0 is the untrained network."""
    step: int = 0
    """Steps done in it."""
    loss_sum: float = 0.0
    """Sum of the batch losses, each weighted by its images."""
    correct: int = 0
    images: int = 0
    best_accuracy: float = -1.0
    """On the validation images, over the epochs before this one."""
    best_loss: float = float("inf")
    seconds: float = 0.0
    """Clock time of this epoch's training; nothing computed depends on it."""


@dataclass(frozen=True, eq=False)
class TrainingState:
    """A position with the states of model, optimizer and schedule, all on the CPU."""

    progress: Progress
    model: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    schedule: Mapping[str, Any]


def pack_state(state: TrainingState) -> bytes:
    """The state as the bytes of a file that `torch.load(weights_only=True)` reads."""
    buffer = io.BytesIO()
    content = {
        "version": 1,
        "progress": asdict(state.progress),
        "model": dict(state.model),
        "optimizer": dict(state.optimizer),
        "schedule": dict(state.schedule),
    }
    torch.save(content, buffer)
    return buffer.getvalue()


def unpack_state(content: bytes) -> TrainingState:
    """The inverse of `pack_state`; nothing but tensors and plain values is unpickled.

    Raises `SaveError` for bytes that are no checkpoint.
    """
    try:
        loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        progress = Progress(**loaded["progress"])
        return TrainingState(progress, loaded["model"], loaded["optimizer"], loaded["schedule"])
    except Exception as error:
        raise SaveError(
            f"the checkpoint cannot be read ({type(error).__name__}: {error}); start the run anew without --resume."
        ) from error
