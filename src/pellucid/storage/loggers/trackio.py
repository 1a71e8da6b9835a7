"""trackio, a local-first tracker; `trackio show` opens its dashboard.

Its files are in `logs/trackio` of the save folder, unless `TRACKIO_DIR`, `TRACKIO_SPACE_ID` or `TRACKIO_SERVER_URL` is
set.
"""

import io
import os
import uuid
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from pellucid.storage.loggers import LOGGERS
from pellucid.storage.loggers._logger import PROJECT, LoggedRun, Logger

__all__ = ["TrackioLogger"]

CONFIGURED_BY = ("TRACKIO_DIR", "TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")


@LOGGERS.register("trackio")
class TrackioLogger(Logger):
    """Adapter of trackio."""

    def __init__(self, run: LoggedRun) -> None:
        if not any(os.environ.get(name) for name in CONFIGURED_BY):
            os.environ["TRACKIO_DIR"] = str(run.folder.resolve())  # read when trackio is imported
            os.environ.setdefault("HF_HUB_OFFLINE", "1")  # otherwise it looks up the user who is logged in
        # trackio turns its failures into warnings, which would be lost here
        warnings.showwarning = self._remember  # type: ignore[assignment]
        warnings.filterwarnings("always", module="trackio")
        self._warnings: list[str] = []
        import trackio

        self._trackio = trackio
        self._run: Any = trackio.init(
            project=PROJECT,
            name=run.earlier or f"{run.title} {uuid.uuid4().hex[:4]}",
            config=dict(run.settings),
            resume="allow",
            embed=False,
            auto_log_cpu=False,
            auto_log_gpu=False,
        )
        self._check()

    @property
    def identity(self) -> str:
        """Name of the run."""
        return str(self._run.name)

    def scalars(self, values: Mapping[str, float], epoch: int) -> None:
        self._run.log(dict(values), step=epoch)
        self._check()

    def picture(self, tag: str, png: bytes, epoch: int) -> None:
        with Image.open(io.BytesIO(png)) as picture:
            self._run.log({tag: self._trackio.Image(picture, caption=f"{tag}, epoch {epoch}")}, step=epoch)
        self._check()

    def report(self, path: Path) -> None:
        artifact = self._trackio.Artifact("report", type="report", metadata={"run": self._run.name})
        artifact.add_file(path)
        self._run.log_artifact(artifact)
        self._check()

    def close(self, status: str) -> None:
        self._run.finish()  # trackio keeps no status
        self._check()

    def _remember(self, message: Warning | str, category: type[Warning], *_: object) -> None:
        if issubclass(category, UserWarning):
            self._warnings.append(str(message))

    def _check(self) -> None:
        """Raise the warnings of trackio since the last call as an error."""
        if self._warnings:
            text = "; ".join(self._warnings)
            self._warnings.clear()
            raise RuntimeError(text)
