"""The results of one shard: every variable's rows, with the reason for each image that has none."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pellucid.attribution._together import explain_together, plain_logits
from pellucid.core.checksum import checksum
from pellucid.core.errors import BuildError, ConfigError, DataError, PellucidError
from pellucid.data._each import Read
from pellucid.jacobians import jacobian_report
from pellucid.jacobians._native.decision import decided
from pellucid.run.to_disk.job import Job
from pellucid.run.to_disk.request import ALL, LABEL
from pellucid.run.to_disk.source import labels_of

__all__ = ["mark_of", "rows_of"]


def rows_of(job: Job, reads: Sequence[Read], advanced: Callable[[int], None] | None = None) -> dict[str, np.ndarray]:
    """Compute the rows of a shard from its images; `advanced` is called with the number of finished images.

    An image that cannot be read, or whose results are NaN or infinite, has an `error` instead of results. Raises the
    first error if every readable image fails, because that is not the images' fault.
    """
    rows = _empty(job, reads)
    readable = [place for place, read in enumerate(reads) if not rows["error"][place]]
    failures: list[Exception] = []
    for start in range(0, len(readable), job.batch):
        places = readable[start : start + job.batch]
        failures += _fill(job, reads, places, rows)
        if advanced is not None:
            advanced(start + len(places))
    if failures and len(failures) == len(readable) and not _works_otherwise(job):
        raise failures[0]
    return rows


def _works_otherwise(job: Job) -> bool:
    """Return True if the first image of the data, with which everything worked at the start, still gives results."""
    reads = [job.source.first]
    rows = _empty(job, reads)
    return bool(rows["error"][0]) or not _fill(job, reads, [0], rows)


def mark_of(reads: Sequence[Read]) -> str:
    """Return the checksum of a shard's images and labels, and of the reasons for those that cannot be read."""
    readable = [read.pixels for read in reads if read.pixels is not None]
    problems = "\n".join(read.problem for read in reads)
    return checksum(*readable, torch.from_numpy(labels_of(reads)), start=problems)


def _empty(job: Job, reads: Sequence[Read]) -> dict[str, np.ndarray]:
    """Return rows without results, with what is known before the model runs."""
    rows: dict[str, np.ndarray] = {}
    for one in job.layout.variables:
        if one.values is None:
            fill: Any = "" if one.dtype == "str" else np.nan if one.dtype.startswith("float") else -1
            rows[one.name] = np.full((len(reads), *one.row), fill, object if one.dtype == "str" else one.dtype)
    rows["key"][:] = [read.key for read in reads]
    rows["error"][:] = [read.problem for read in reads]
    rows["label"][:] = labels_of(reads)
    for place in np.flatnonzero(rows["label"] >= len(job.classes)):
        rows["error"][place] = f"the label is {rows['label'][place]}, but the model has {len(job.classes)} classes"
        rows["label"][place] = -1
    if job.target == LABEL:
        for place in np.flatnonzero((rows["label"] < 0) & (rows["error"] == "")):
            rows["error"][place] = "the image has no label, which the target 'label' needs"
    return rows


def _fill(job: Job, reads: Sequence[Read], places: list[int], rows: dict[str, np.ndarray]) -> list[Exception]:
    """Compute some rows; one by one if that fails, to find the image. Returns the errors of single images.

    Errors that say nothing about an image are raised: those of the system, and torch's, such as a full GPU.
    """
    try:
        _compute(job, reads, places, rows)
        return []
    except Exception as error:
        is_of_model = isinstance(error, PellucidError | LookupError | ValueError | TypeError | ArithmeticError)
        if isinstance(error, BuildError) or not is_of_model:
            raise
        if len(places) > 1:
            return [failure for place in places for failure in _fill(job, reads, [place], rows)]
        place = places[0]
        _clear(job, place, rows)
        # it was computed alone, as number 0
        kind = "" if isinstance(error, PellucidError) else f"the model raised {type(error).__name__}: "
        rows["error"][place] = kind + " ".join(str(error).replace("image 0", "this image").split())
        return [error]


def _clear(job: Job, place: int, rows: dict[str, np.ndarray]) -> None:
    """Reset rows that a failed computation has partly filled."""
    for one in job.layout.variables:
        if one.values is None and one.name not in ("key", "label", "error"):
            rows[one.name][place] = np.nan if one.dtype.startswith("float") else -1


def _compute(job: Job, reads: Sequence[Read], places: list[int], rows: dict[str, np.ndarray]) -> None:
    x = job.floats([reads[place] for place in places])
    logits = None
    if job.embedder is not None:
        embedding, logits = job.embedder.read(x)
        rows["embedding"][places] = embedding.cpu()
    if job.analyzers:
        logits, explained = explain_together(list(job.analyzers.values()), x, _wanted(job, rows, places, x))
        for number, one in enumerate(explained):
            _store_maps(rows, places, number, one, job.dtype)
    elif logits is None:
        logits = plain_logits(job.model, x)
    _check_logits(logits)
    rows["logits"][places] = _as_floats(logits, "the logits")
    rows["prediction"][places] = logits.argmax(1).cpu()
    if job.target != ALL:
        wanted = _wanted(job, rows, places, x)
        rows["target"][places] = (
            rows["prediction"][places] if wanted is None else np.asarray(torch.as_tensor(wanted).cpu())
        )
    if job.jacobian:
        with _as_recorded(job):
            rows["jacobian"][places] = _as_floats(jacobian_report(job.model, x).jacobian, "the Jacobian")


def _wanted(job: Job, rows: dict[str, np.ndarray], places: list[int], x: Tensor) -> Any:
    """Return the target as `Analyzer.explain` takes it."""
    if job.target == LABEL:
        return torch.from_numpy(rows["label"][places]).to(x.device)
    return job.target if isinstance(job.target, int) or job.target == ALL else None


def _store_maps(rows: dict[str, np.ndarray], places: list[int], number: int, one: Any, dtype: str) -> None:
    maps = _as_floats(one.relevance, one.method).numpy()
    rows["relevance"][places, number] = _rounded(maps, dtype, one.method)
    for name in ("expected", "residual"):
        values = getattr(one, name)
        if values is not None:
            rows[name][places, number] = _as_floats(values, f"the sum of {one.method}")
    if "rounding" in rows:
        axes = tuple(range(maps.ndim - 3, maps.ndim))
        largest = np.abs(maps).max(axes)
        gap = np.abs(rows["relevance"][places, number].astype(np.float32) - maps).max(axes)
        rows["rounding"][places, number] = np.divide(gap, largest, out=np.zeros_like(gap), where=largest > 0)


def _as_floats(values: Tensor, what: str) -> Tensor:
    """Convert to float32 on the CPU. Raises `DataError` for values beyond its range."""
    floats = values.float().cpu()
    if values.dtype is torch.float64 and not torch.equal(floats.isfinite(), values.cpu().isfinite()):
        raise DataError(f"{what} has values up to {float(values.abs().max()):.3g}, more than float32 can hold")
    return floats


def _rounded(maps: np.ndarray, dtype: str, method: str) -> np.ndarray:
    """Convert maps to the type in which they are stored. Raises `ConfigError` for values that float16 cannot hold."""
    if dtype == "float16" and np.abs(maps).max(initial=0) > np.finfo(np.float16).max:
        raise ConfigError(
            f"{method} has values up to {np.abs(maps).max():.3g}, more than float16 can hold (65504); store the maps "
            "in float32."
        )
    return maps.astype(dtype)


def _check_logits(logits: Tensor) -> None:
    # −∞ marks a masked class
    if bool(logits.isnan().any() or logits.isposinf().any()):
        raise DataError("the model returns logits with NaN or infinite values for image 0")


@contextmanager
def _as_recorded(job: Job) -> Iterator[None]:
    """Use the native kernel as the store was begun with it, since results differ in the last bits."""
    try:
        with decided(lambda: job.kernel == "native"):
            yield
    except BuildError as error:
        raise BuildError(
            "the store was begun with the native kernel, and results without it differ in the last bits. Make it "
            f"available, or begin another store: {error}"
        ) from error
