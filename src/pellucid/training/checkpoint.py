"""Training checkpoints: everything needed to resume with identical results."""

import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from pellucid.core.errors import SaveError

__all__ = ["Progress", "TrainingState", "pack_state", "unpack_state"]


@dataclass(frozen=True)
class Progress:
    """The position in a training run, and the running sums of the current epoch."""

    epoch: int = 0
    """The current epoch; 0 is the untrained network."""
    step: int = 0
    """Steps finished in this epoch."""
    loss_sum: float = 0.0
    """Sum of the batch losses, weighted by batch size."""
    correct: int = 0
    images: int = 0
    best_accuracy: float = -1.0
    """Best validation accuracy over the earlier epochs."""
    best_loss: float = float("inf")
    seconds: float = 0.0
    """Clock time spent training this epoch; nothing computed depends on it."""
    schedule_start: int = 0
    """Steps of the whole run before the current learning-rate schedule began; above 0 in an extended run."""


@dataclass(frozen=True, eq=False)
class TrainingState:
    """A position with the states of the model, optimizer and schedule, all on the CPU."""

    progress: Progress
    model: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    schedule: Mapping[str, Any]
    recording: Mapping[str, Any] | None = None
    """Recording of the current epoch so far; None if there is none."""


def pack_state(state: TrainingState) -> bytes:
    """Serialize the state to bytes that `torch.load(weights_only=True)` can read."""
    buffer = io.BytesIO()
    content = {
        "version": 1,
        "progress": asdict(state.progress),
        "model": dict(state.model),
        "optimizer": dict(state.optimizer),
        "schedule": dict(state.schedule),
        "recording": None if state.recording is None else dict(state.recording),
    }
    torch.save(content, buffer)
    return buffer.getvalue()


def unpack_state(content: bytes) -> TrainingState:
    """Deserialize the output of `pack_state`; only tensors and plain values are unpickled.

    Raises `SaveError` for bytes that are not a checkpoint.
    """
    try:
        loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        progress = Progress(**loaded["progress"])
        # checkpoints of earlier versions have no recording
        return TrainingState(
            progress, loaded["model"], loaded["optimizer"], loaded["schedule"], loaded.get("recording")
        )
    except Exception as error:
        raise SaveError(
            f"the checkpoint cannot be read ({type(error).__name__}: {error}); restart the run without --resume."
        ) from error
