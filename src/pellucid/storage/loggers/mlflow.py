"""MLflow: runs in an experiment, through its client.

The store is `logs/mlflow/mlflow.db` in the save folder, with its files in the same folder, unless `MLFLOW_TRACKING_URI`
is set; `mlflow ui --backend-store-uri sqlite:///save/logs/mlflow/mlflow.db` shows it.
"""

import io
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from pellucid.storage.loggers import LOGGERS
from pellucid.storage.loggers._logger import PROJECT, LoggedRun, Logger

__all__ = ["MLflowLogger"]

LONGEST_PARAMETER = 6000
"""Maximum number of characters of a parameter's value."""
ENDS = {"finished": "FINISHED", "interrupted": "KILLED"}


@LOGGERS.register("mlflow")
class MLflowLogger(Logger):
    """Adapter of MLflow's tracking client."""

    def __init__(self, run: LoggedRun) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient

        is_configured = bool(os.environ.get("MLFLOW_TRACKING_URI"))
        store = None if is_configured else f"sqlite:///{(run.folder / 'mlflow.db').resolve()}"
        self._client = MlflowClient(tracking_uri=store, registry_uri=store)
        self._id: str = run.earlier or self._new_run(run, None if is_configured else run.folder / "artifacts")
        if run.earlier:
            self._client.update_run(self._id, status="RUNNING")

    def _new_run(self, run: LoggedRun, files: Path | None) -> str:
        from mlflow.entities import Param

        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self._client.get_experiment_by_name(name)
        place = files.resolve().as_uri() if files else None
        number = experiment.experiment_id if experiment else self._client.create_experiment(name, place)
        created: Any = self._client.create_run(number, run_name=run.title)
        settings = [Param(key, str(value)[:LONGEST_PARAMETER]) for key, value in run.settings.items()]
        self._client.log_batch(created.info.run_id, params=settings)
        return str(created.info.run_id)

    @property
    def identity(self) -> str:
        """Id of the run."""
        return self._id

    def scalars(self, values: Mapping[str, float], epoch: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self._id, metrics=[Metric(key, value, now, epoch) for key, value in values.items()])

    def picture(self, tag: str, png: bytes, epoch: int) -> None:
        with Image.open(io.BytesIO(png)) as picture:
            self._client.log_image(self._id, picture, key=tag, step=epoch)

    def report(self, path: Path) -> None:
        self._client.log_artifact(self._id, str(path))

    def close(self, status: str) -> None:
        self._client.set_terminated(self._id, ENDS.get(status, "FAILED"))
