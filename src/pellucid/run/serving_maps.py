"""Explanations computed by `pellucid serve`, one at a time, for test images and other images."""

import threading
import time
from base64 import b64encode
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pellucid.attribution import Analyzer, Explanation, create_analyzer, methods, without_warnings
from pellucid.attribution._analyzer import WARN_ABOVE
from pellucid.core.contracts import DataSplits
from pellucid.core.errors import ConfigError, DataError, PellucidError
from pellucid.core.isolation import isolated
from pellucid.core.origin import origin_of
from pellucid.engine.model import dtype_of, frozen
from pellucid.hooks._methods import fit_to_sample
from pellucid.plots.colours import gray_or_rgb, scale_limit
from pellucid.report import Material
from pellucid.run.explaining import as_target
from pellucid.run.serving_request import Asked, options_of, picture_floats, pixel_floats
from pellucid.storage.runs import Run
from pellucid.storage.store import Store
from pellucid.training.evaluate import evaluate

__all__ = ["Busy", "Canceled", "Job", "LiveRun", "TimeUp"]

MOST_SECONDS = 300.0
"""Time limit of a computation, with the wait for its turn."""
MOST_WAITING = 8
"""Maximum number of computations that wait for their turn."""
SECONDS_BETWEEN_CHECKS = 0.05
"""Time between checks for a client that has disconnected."""
KEPT_ANALYZERS = 64
"""Analyzers to keep: fitting one takes seconds."""


class Busy(PellucidError):
    """Too many computations are waiting."""


class Canceled(PellucidError):
    """The client has disconnected, so nobody waits for the result."""


class TimeUp(PellucidError):
    """A computation took longer than the server allows."""


class Job:
    """A computation for one client, which ends early once the client has disconnected or the time is up."""

    def __init__(self, is_gone: Callable[[], bool], seconds: float = MOST_SECONDS) -> None:
        self._is_gone, self._seconds = is_gone, seconds
        self._started = self._checked = time.monotonic()

    def check(self) -> None:
        """Raise `Canceled` or `TimeUp` if the computation should end; cheap enough for every forward pass."""
        now = time.monotonic()
        if now - self._started > self._seconds:
            raise TimeUp(
                f"the computation took longer than {self._seconds:.0f} s; choose options that need fewer passes, or "
                "compute it with pellucid in Python."
            )
        if now - self._checked < SECONDS_BETWEEN_CHECKS:
            return
        self._checked = now
        if self._is_gone():
            raise Canceled("the client has disconnected.")


class LiveRun:
    """The model and data of a run, and the explanations that clients ask for.

    Calls are safe from several threads. They take turns, since only one thread at a time can explain a model, and more
    would not be faster.
    """

    def __init__(self, run: Run, data: DataSplits | None, missing: str, folder: Path) -> None:
        self.run, self.data, self.folder = run, data, folder
        self.missing = missing
        """Reason for `data` being None."""
        self.shape = _image_shape(run, data)
        self._model = run.model
        self._device = next((tensor.device for tensor in run.model.parameters()), torch.device("cpu"))
        self._turn = threading.Lock()
        self._waiting = threading.Semaphore(MOST_WAITING + 1)
        self._job: Job | None = None
        self._analyzers: OrderedDict[Any, Analyzer] = OrderedDict()
        self._predictions = None if data is None else _stored_predictions(folder, self.epoch, data)
        # Slow methods run the model many times, so each pass is an opportunity to stop. The model is ours alone.
        self._model.register_forward_pre_hook(lambda *_: self._check())

    @property
    def epoch(self) -> int | None:
        """Epoch of the weights: the best so far when the run was loaded; None if the records do not say."""
        return max((line["epoch"] for line in self.run.metrics if line.get("best")), default=None)

    def facts(self) -> dict[str, Any]:
        """Describe the run, its methods and their options, as JSON."""
        return {
            "classes": list(self.run.classes),
            "image_shape": list(self.shape),
            "test_images": 0 if self.data is None else len(self.data.test),
            "missing": self.missing,
            "epoch": self.epoch,
            "methods": [
                {
                    "name": method.name,
                    "family": method.family,
                    "answers": method.answers,
                    "needs_fit": method.needs_fit,
                    "promises": sorted(method.promises),
                    "options": options_of(method.name),
                }
                for method in methods()
            ],
        }

    def image(self, index: int, job: Job) -> dict[str, Any]:
        """Return a test image with its label and prediction. Raises `ConfigError` for an index out of range."""
        pixels, label = self._test_image(index)
        with self._working(job):
            logits = self._logits_of(pixels)
        return _image_record(pixels, logits, index, label)

    def misclassified(self, job: Job) -> list[int]:
        """Return the indices of all misclassified test images: stored by the run, or computed on the first call."""
        data = self._known_data()
        if self._predictions is None:
            with self._working(job):
                self._predictions = evaluate(self._model, data.test, self._device).argmax(1)
        return (self._predictions != data.test.labels).nonzero().flatten().tolist()

    def map(self, asked: Asked, job: Job) -> dict[str, Any]:
        """Compute the map that a client asks for, and describe it as JSON.

        Raises the errors of `create_analyzer` and `Analyzer.explain`, `DataError` for unusable images, and `Busy`,
        `Canceled` or `TimeUp`.
        """
        pixels, label = self._pixels(asked)
        target = as_target(asked.target, self.run.classes)
        if isinstance(target, int) and not 0 <= target < len(self.run.classes):
            raise ConfigError(f"class is {target}; expected an index from 0 to {len(self.run.classes) - 1}.")
        with self._working(job):
            analyzer = self._analyzer(asked.method, asked.options)
            # after fitting, which is done once
            started = time.perf_counter()
            with without_warnings():  # the record has the sums
                explanation = analyzer.explain(self._batch(pixels), target)
            seconds = time.perf_counter() - started
        record = _map_record(explanation)
        image = _image_record(pixels, explanation.logits[0], asked.index, label)
        return {**record, "image": image, "timing": {"seconds": seconds}}

    @contextmanager
    def _working(self, job: Job) -> Iterator[None]:
        """Wait for the turn of a job, and run it."""
        if not self._waiting.acquire(blocking=False):
            raise Busy(f"{MOST_WAITING} computations are waiting already; try again later.")
        try:
            # in short waits, so that a client that leaves the queue frees its place
            while not self._turn.acquire(timeout=SECONDS_BETWEEN_CHECKS):
                job.check()
            try:
                self._job = job
                yield
            finally:
                self._job = None
                self._turn.release()
        finally:
            self._waiting.release()

    def _check(self) -> None:
        if self._job is not None:
            self._job.check()

    def _known_data(self) -> DataSplits:
        if self.data is None:
            raise DataError(f"the data of this run are not available: {self.missing}")
        return self.data

    def _test_image(self, index: int) -> tuple[Tensor, int]:
        test = self._known_data().test
        if not 0 <= index < len(test):
            raise ConfigError(f"there is no test image {index}; expected an index from 0 to {len(test) - 1}.")
        return test.floats([index])[0], int(test.labels[index])

    def _pixels(self, asked: Asked) -> tuple[Tensor, int | None]:
        """Return the image of a request, and its label if it is a test image."""
        label = None
        if asked.index is not None:
            pixels, label = self._test_image(asked.index)
        elif asked.picture is not None:
            pixels = picture_floats(asked.picture, self.shape, self.run.config)
        else:
            pixels = pixel_floats(asked.pixels, self.shape)
        return (1 - pixels if asked.invert else pixels), label

    def _batch(self, pixels: Tensor) -> Tensor:
        return pixels[None].to(self._device, dtype_of(self._model))

    def _logits_of(self, pixels: Tensor) -> Tensor:
        with isolated(), frozen(self._model) as model, torch.no_grad():
            return model(self._batch(pixels))[0]

    def _analyzer(self, name: str, options: Mapping[str, Any]) -> Analyzer:
        """Create an analyzer, fitted if need be, or return one that was created before."""
        # repr, because 1 and True are equal but not the same option
        key = name, tuple((option, repr(options[option])) for option in sorted(options))
        if key not in self._analyzers:
            analyzer = create_analyzer(name, self._model, **options)
            if analyzer.method.needs_fit and self.data is None:
                raise DataError(
                    f"{name} is fitted to the training images, and the data of this run are not available: "
                    f"{self.missing}"
                )
            self._analyzers[key] = analyzer if self.data is None else fit_to_sample(analyzer, self.data.train)
        self._analyzers.move_to_end(key)
        while len(self._analyzers) > KEPT_ANALYZERS:
            self._analyzers.popitem(last=False)
        return self._analyzers[key]


def _image_shape(run: Run, data: DataSplits | None) -> tuple[int, int, int]:
    origin = origin_of(run.model)
    assert origin is not None, "load_run records it"
    return origin.image_shape if data is None else data.test.image_shape


def _stored_predictions(folder: Path, epoch: int | None, data: DataSplits) -> Tensor | None:
    """Return the predictions for all test images that the hook `confusion_matrix` stored for an epoch, or None."""
    material = Material(Store(folder))
    entry = material.entries("confusion_matrix", "arrays", "predictions").get(-1 if epoch is None else epoch)
    arrays = None if entry is None else material.arrays(entry)
    if arrays is None or not np.array_equal(arrays.get("labels", ()), data.test.labels.numpy()):
        return None
    predictions = torch.from_numpy(np.asarray(arrays.get("predictions", ()), np.int64))
    return predictions if predictions.shape == data.test.labels.shape else None


def _image_record(pixels: Tensor, logits: Tensor, index: int | None, label: int | None) -> dict[str, Any]:
    shares = _probabilities(logits)
    shown = np.rint(gray_or_rgb(pixels.numpy()) * 255).astype(np.uint8).transpose(1, 2, 0)
    prediction = int(logits.argmax())
    return {
        "index": index,
        "size": shown.shape[:2],
        "channels": shown.shape[2],
        "bytes": _encoded(shown),
        "label": label,
        "prediction": prediction,
        "confidence": None if shares is None else shares[prediction],
    }


def _map_record(explanation: Explanation) -> dict[str, Any]:
    """Describe the only map of an explanation, summed over channels."""
    values = explanation.relevance[0].detach().cpu().double().sum(0).numpy()
    label, logits = int(explanation.target[0]), explanation.logits[0]
    notes = list(explanation.notes)
    amplification = float(explanation.amplification[0])
    if amplification > WARN_ABOVE:
        notes.append(f"Positive and negative relevance almost cancel: Σ|R| is {amplification:.3g} times the logit.")
    return {
        "method": explanation.method,
        "class": label,
        "size": values.shape,
        "values": _encoded(values.astype("<f4")),
        "limit": scale_limit(values),
        "probabilities": _probabilities(logits),
        "logit": float(logits[label]),
        "sums": _sums(explanation),
        "verdict": explanation.verdict(0),
        "unit": explanation.unit,
        "notes": notes,
        "evaluations": int(explanation.evaluations[0]),
    }


def _sums(explanation: Explanation) -> dict[str, Any] | None:
    if explanation.expected is None or explanation.residual is None or explanation.allowed is None:
        return None
    expected, residual, allowed = (
        float(values[0]) for values in (explanation.expected, explanation.residual, explanation.allowed)
    )
    return {
        "expected": expected,
        "total": expected + residual,
        "residual": residual,
        "allowed": allowed,
        "holds": abs(residual) <= allowed,
    }


def _probabilities(logits: Tensor) -> list[float] | None:
    """Return the softmax of logits (class,); None if they are not finite, as after a diverged training."""
    shares = logits.detach().cpu().double().softmax(0)
    return shares.tolist() if bool(shares.isfinite().all()) else None


def _encoded(values: np.ndarray) -> str:
    return b64encode(np.ascontiguousarray(values).tobytes()).decode()
