"""Weights & Biases.

Offline, in `logs/wandb` of the save folder (`wandb sync` uploads it later), unless `WANDB_MODE`, `WANDB_API_KEY` or
`WANDB_BASE_URL` is set.
"""

import io
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from pellucid.storage.loggers import LOGGERS
from pellucid.storage.loggers._logger import PROJECT, LoggedRun, Logger

__all__ = ["WandbLogger"]

CONFIGURED_BY = ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL")


@LOGGERS.register("wandb")
class WandbLogger(Logger):
    """Adapter of wandb."""

    def __init__(self, run: LoggedRun) -> None:
        is_configured = any(os.environ.get(name) for name in CONFIGURED_BY)
        if not is_configured:  # artifacts wait there for the upload
            for place in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_ARTIFACT_DIR"):
                os.environ.setdefault(place, str(run.folder.resolve()))
        # points to the background process of a wandb run in the user's program, which ends with that program
        os.environ.pop("WANDB_SERVICE", None)
        import wandb

        self._wandb = wandb
        self._id = run.earlier or uuid.uuid4().hex[:8]
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=self._id,
            name=run.title,
            config=dict(run.settings),
            resume="allow",
            dir=os.environ.get("WANDB_DIR") or run.folder,
            mode=None if is_configured else "offline",
            settings=wandb.Settings(console="off", silent=True),
        )
        # wandb's own steps must increase, but figures of an epoch arrive after the scores of the next one
        self._run.define_metric("epoch")
        self._run.define_metric("*", step_metric="epoch")

    @property
    def identity(self) -> str:
        """Id of the run."""
        return self._id

    def scalars(self, values: Mapping[str, float], epoch: int) -> None:
        self._run.log({**values, "epoch": epoch})

    def picture(self, tag: str, png: bytes, epoch: int) -> None:
        with Image.open(io.BytesIO(png)) as picture:
            self._run.log({tag: self._wandb.Image(picture), "epoch": epoch})

    def report(self, path: Path) -> None:
        artifact = self._wandb.Artifact(f"report-{self._id}", type="report")
        artifact.add_file(str(path))
        self._run.log_artifact(artifact)

    def close(self, status: str) -> None:
        self._run.finish(exit_code=0 if status == "finished" else 1)
