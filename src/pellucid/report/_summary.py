"""`summary.png`: a run in one picture, from the parts that its files contain."""

import io
from base64 import b64decode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pellucid.plots.summary import Explained, Plane, Summary, Tile, summary
from pellucid.report._material import Material
from pellucid.report._mistakes import mistakes
from pellucid.report._recommended import recommended_method
from pellucid.report._verdict import Sentence, accuracy_parts, shown_epoch, verdict
from pellucid.storage.atomic import write_bytes
from pellucid.storage.pictures import to_png
from pellucid.storage.store import Store

__all__ = ["summary_parts", "write_summary"]

FEWEST_POINTS = 3


def write_summary(folder: str | Path) -> Path | None:
    """Write `summary.png` of the run in a save folder and return its path; None for a run that is still running.

    The picture has 1200×630 pixels. Missing and damaged parts are left out.
    """
    material = Material(Store(Path(folder)))
    if material.status == "running":
        return None  # it would soon be outdated
    path = Path(folder) / "summary.png"
    write_bytes(path, to_png(summary(summary_parts(material))))
    return path


def summary_parts(material: Material) -> Summary:
    """Collect what the picture shows; parts that cannot be read are left out."""
    unknown: tuple[str, tuple[str, ...]] = "", ()
    number, meaning = material.attempt("The accuracy", lambda: accuracy_parts(material), unknown)
    sentences: list[Sentence] = material.attempt("The verdict", lambda: verdict(material), [])
    explained = material.attempt("The explanation", lambda: _explained(material), None)
    plane = material.attempt("The embedding", lambda: _plane(material), None)
    others: tuple[Tile, ...] = material.attempt("Misclassified images", lambda: _mistakes(material, explained), ())
    model, data = material.model.get("name", "Network"), material.data.get("title", "unknown data")
    return Summary(
        title=f"{model} on {data}",
        number=number,
        meaning=("test accuracy", *meaning) if number else (),
        # the accuracy is shown as a number
        sentences=tuple(one.text for one in sentences if not one.text.startswith("Test accuracy")),
        mistakes=others,
        explained=None if explained is None else explained[1],
        plane=plane,
    )


def _mistakes(material: Material, explained: tuple[int, Explained] | None) -> tuple[Tile, ...]:
    """Return the misclassified images at the top of the page, without the explained one."""
    shown = [one for one in mistakes(material) if explained is None or one.index != explained[0]]
    return tuple(Tile(_pixels(one.uri), one.label, one.prediction) for one in shown)


def _pixels(uri: str) -> np.ndarray:
    with Image.open(io.BytesIO(b64decode(uri.partition(",")[2]))) as picture:
        return np.asarray(picture)


def _explained(material: Material) -> tuple[int, Explained] | None:
    """Return the index of the most confident misclassified image in the gallery, and its recommended explanation."""
    method = recommended_method(material)
    if method is None:
        return None
    found = material.pairs("gallery", lambda arrays, record: _misclassified(material.classes, method, arrays, record))
    return found[max(found)] if found else None


def _misclassified(
    classes: list[str], method: str, arrays: Mapping[str, np.ndarray], record: Mapping[str, Any]
) -> tuple[int, Explained] | None:
    labels, predictions = np.array(record["labels"], int), np.array(record["predictions"], int)
    explained = np.broadcast_to(np.array(record["classes"], int), (len(labels), arrays["maps"].shape[2]))
    # the map of the predicted class may be missing
    candidates = np.flatnonzero((labels != predictions) & (explained == predictions[:, None]).any(1))
    if method not in record["methods"] or not len(candidates):
        return None
    confidences = np.nan_to_num(np.array(record["confidences"], float), nan=-1)
    image = int(candidates[confidences[candidates].argmax()])
    column = int((explained[image] == predictions[image]).argmax())
    relevance = arrays["maps"][list(record["methods"]).index(method), image, column] / 127.0
    names = dict(enumerate(classes))
    label, prediction = (names.get(int(one[image]), str(one[image])) for one in (labels, predictions))
    source = arrays["source"][image]
    plain = source.transpose(1, 2, 0) if len(source) == 3 else source.mean(0).astype(np.uint8)
    # the largest values are few, so the scale ends at a high quantile
    limit = float(np.quantile(np.abs(relevance), 0.995)) or float(np.abs(relevance).max()) or 1.0
    tile = Tile(plain, label, prediction)
    return int(record["indices"][image]), Explained(tile, (relevance / limit).clip(-1, 1), method)


def _plane(material: Material) -> Plane | None:
    """Return the embedding at the epoch of the results, or at the last one that has it."""
    found: dict[int, Plane] = material.pairs("tsne", lambda arrays, record: _points(material.classes, arrays, record))
    if not found:
        return None
    epoch = shown_epoch(material)
    return found[epoch] if epoch in found else found[max(found)]


def _points(classes: list[str], arrays: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> Plane | None:
    points, labels = np.asarray(arrays["points"], float), np.asarray(record["labels"], int)
    if points.shape != (len(labels), 2) or len(points) < FEWEST_POINTS or not np.isfinite(points).all():
        return None
    if labels.min() < 0:
        raise ValueError("a class index is negative")
    return Plane(points, labels, classes, f"Embedding of {len(points):,} test images, by class")
