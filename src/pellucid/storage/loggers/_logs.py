"""The logs of a run: TensorBoard, and the experiment trackers that receive the same values."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pellucid.storage.loggers._sender import Sender
from pellucid.storage.tensorboard import PARTS, Board

__all__ = ["Logs", "open_logs"]


def open_logs(save: Path, names: Sequence[str], record: Mapping[str, Any], start_epoch: int | None = None) -> "Logs":
    """Open the logs of the run in the folder `save`: TensorBoard and the trackers `names`.

    `record` is the content of run.json. With `start_epoch`, the earlier logs are continued, and TensorBoard discards
    its events from that epoch on. Check the names first, with `check_loggers`.
    """
    title, settings = _title(record), _settings(record)
    return Logs(save / "logs", start_epoch, [Sender(name, save, title, settings) for name in names])


class Logs(Board):
    """TensorBoard log that also sends scalars, scores, figures and the final report to trackers.

    Call `close` once the report of the run is written; if the process dies earlier, the trackers notice.
    """

    def __init__(self, logs: Path, start_epoch: int | None = None, trackers: Sequence[Sender] = ()) -> None:
        super().__init__(logs, start_epoch)
        self._trackers = tuple(trackers)

    def __enter__(self) -> "Logs":
        return self

    def scalars(self, values: Mapping[str, float], epoch: int) -> None:
        """Add a value to each curve by tag; a slash in a tag makes a group."""
        super().scalars(values, epoch)
        for tracker in self._trackers if values else ():
            tracker.scalars(values, epoch)

    def metrics(self, record: Mapping[str, Any]) -> None:
        """Add an epoch's line of metrics.jsonl: the trackers receive `train/loss`, `test/accuracy` and the like."""
        super().metrics(record)
        for tracker in self._trackers:
            tracker.scalars(_scores(record), record["epoch"])

    def restore(self, record: Mapping[str, Any]) -> None:
        """Add an earlier line again, to TensorBoard, which discards it on resuming, and to new trackers."""
        super().metrics(record)
        for tracker in self._trackers:
            if tracker.is_new:
                tracker.scalars(_scores(record), record["epoch"])

    def add_earlier(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Add the scores before the epoch at which a run is resumed to logs that do not have them."""
        records = list(records)
        super().add_earlier(records)
        for record in records:
            if self._start_epoch is not None and record["epoch"] < self._start_epoch:
                for tracker in self._trackers:
                    if tracker.is_new:
                        tracker.scalars(_scores(record), record["epoch"])

    def picture(self, tag: str, png: bytes, epoch: int) -> None:
        """Add a figure, given as the PNG stored in `plots/`."""
        super().picture(tag, png, epoch)
        for tracker in self._trackers:
            tracker.picture(tag, png, epoch)

    def close(self, status: str) -> None:
        """Send report.html to the trackers and end their runs; `status` is that in run.json."""
        self.__exit__()
        for tracker in self._trackers:
            tracker.close(status)


def _scores(record: Mapping[str, Any]) -> dict[str, float]:
    values = {f"{part}/{name}": record.get(f"{part}_{name}") for part in PARTS for name in ("loss", "accuracy")}
    values["training/learning_rate"] = record.get("learning_rate")
    return {name: float(value) for name, value in values.items() if value is not None}


def _title(record: Mapping[str, Any]) -> str:
    """Return data set, model and start time."""
    started = record.get("timing", {}).get("started", "")
    names = [str(record.get(part, {}).get("name", "")) for part in ("dataset", "model")]
    return " ".join(filter(None, [*names, started]))


def _settings(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the flags and the main other entries of run.json, as a flat dict of plain values."""
    settings = dict(record.get("config", {}))
    settings |= {name: record[name] for name in ("kind", "seed", "device", "git_revision") if name in record}
    for part in ("dataset", "model"):
        settings |= {f"{part}_{key}": value for key, value in record.get(part, {}).items()}
    plain = (str, int, float, bool, type(None))
    return {name: value if isinstance(value, plain) else str(value) for name, value in settings.items()}
