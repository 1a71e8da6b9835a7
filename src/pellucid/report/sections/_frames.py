"""The grid of images and maps of each hook that has one, from its arrays and numbers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pellucid.plots._text import short_log_probability
from pellucid.plots.colours import scale_limit
from pellucid.report._tiles import Frame, LabelData, Tiles

__all__ = ["READERS"]

Arrays = Mapping[str, np.ndarray]
Record = Mapping[str, Any]
Reader = Callable[[Arrays, Record, Sequence[str]], Frame]
"""A function from the arrays and numbers of one epoch, and the names of the classes, to its grid.

It raises `KeyError`, `TypeError`, `ValueError` or `IndexError` for invalid files."""

BINS = 48
WAYS = {"l2": "small and smooth", "expert": "Gaussian mixture", "code": "decoder of a VAE"}
"""Prior of each row of prototypes."""


def _saliency(arrays: Arrays, record: Record, classes: Sequence[str]) -> Frame:
    source, limits = arrays["source"], record["scale_limits"]
    gradients = np.stack([_summed(arrays[row]) for row in ("baseline", "saliency", "delta")])
    columns = []
    for index, label, prediction in zip(*_columns(record, "indices", "labels", "predictions"), strict=True):
        is_wrong = label != prediction
        detail = f"→ {_name(classes, prediction)}" if is_wrong else ""
        columns.append(_label(_name(classes, label), detail, is_wrong=is_wrong, place={"image": index, "class": label}))
    return Frame(
        "",
        rows=[
            _label("source", "test image"),
            _label("baseline", "gradient at an empty image"),
            _label("saliency", "gradient at the image", place={"method": "gradient"}),
            _label("delta", "saliency − baseline"),
            _label("overlay", "delta × source"),
        ],
        columns=columns,
        blocks=[
            Tiles(source[None], meaning="pixel"),
            Tiles(gradients, row=1, limit=float(limits["gradient"]), meaning="∂ logit / ∂ pixel"),
            Tiles(_summed(arrays["overlay"])[None], row=4, limit=float(limits["overlay"]), meaning="logit"),
        ],
        along="columns",
        notes=[
            *(["→: prediction, if wrong."] if any("wrong" in column for column in columns) else []),
            *_image_notes(source, record),
        ],
    )


def _jacobian_maps(arrays: Arrays, record: Record, classes: Sequence[str]) -> Frame:
    source, (drawn, stored) = arrays["source"], _columns(record, "drawn_classes", "jacobian_classes")
    maps = arrays["jacobian"][:, [stored.index(label) for label in drawn]].sum(2, keepdims=True)
    rows, marks = [], []
    for row, (index, label, prediction) in enumerate(
        zip(*_columns(record, "indices", "labels", "predictions"), strict=True)
    ):
        is_wrong = label != prediction
        detail = f"→ {_name(classes, prediction)}" if is_wrong else ""
        norm = f"‖J‖₂ {record['spectral_norm'][row]:.3g}"
        place = {"image": index, "class": prediction}
        rows.append(_label(_name(classes, label), detail, is_wrong=is_wrong, more=norm, place=place))
        if prediction in drawn:
            marks.append((row, 1 + drawn.index(prediction), is_wrong))
    over = " over these classes" if "norms_of" in record else ""
    return Frame(
        "",
        rows=rows,
        columns=[
            _label("source"),
            *(_label(_name(classes, label), place={"method": "gradient", "class": label}) for label in drawn),
        ],
        blocks=[
            Tiles(source[:, None], meaning="pixel"),
            Tiles(maps, column=1, limit=float(record["scale_limit"]), meaning="∂ logit / ∂ pixel"),
        ],
        along="rows",
        marks=marks,
        notes=[f"Framed: prediction. ‖J‖₂: spectral norm{over}.", *_image_notes(source, record)],
    )


def _explanations(arrays: Arrays, record: Record, classes: Sequence[str]) -> Frame:
    source, methods = arrays["source"], [str(name) for name in record["methods"]]
    limits = [float(record["scale_limits"][name]) for name in methods]
    rows = []
    for index, label, target in zip(*_columns(record, "indices", "labels", "targets"), strict=True):
        is_wrong = label != target
        detail = f"→ {_name(classes, target)}" if is_wrong else ""
        rows.append(_label(_name(classes, label), detail, is_wrong=is_wrong, place={"image": index, "class": target}))
    refused = record.get("refused") or {}
    return Frame(
        "",
        rows=rows,
        columns=[
            _label("source"),
            *(
                _label(name, f"±{limit:.2g}", place={"method": name})
                for name, limit in zip(methods, limits, strict=True)
            ),
        ],
        blocks=[
            Tiles(source[:, None], meaning="pixel"),
            Tiles(
                np.stack([_summed(arrays[name]) for name in methods], axis=1),
                column=1,
                limit=limits,
                meaning="fraction of the method's scale",
            ),
        ],
        along="rows",
        notes=[
            "±: range of the method's color scale.",
            *(["→: prediction, if wrong; it is the explained class."] if any("wrong" in row for row in rows) else []),
            *_image_notes(source, record),
            *([f"Not applicable: {', '.join(map(str, refused))}."] if refused else []),
        ],
    )


def _prototypes(arrays: Arrays, record: Record, _: Sequence[str]) -> Frame:
    ways = record["ways"]
    values = [[*ways[way]["log_probability"]] for way in ways] + [[*record["class_mean"]["log_probability"]]]
    images = np.concatenate([arrays["images"], arrays["class_means"][None]])
    if len(values) != len(images) or {len(line) for line in values} != {images.shape[1]}:
        raise ValueError(f"{len(values)} rows of log-probabilities for images of shape {images.shape}")
    meanings = {"Not applicable": "refused", "Omitted to stay within the budget": "left_out"}
    return Frame(
        "",
        rows=[
            *(_label(str(way), WAYS.get(way, "")) for way in ways),
            _label("class mean", "of training images"),
        ],
        columns=[
            _label(str(name), place={"class": label})
            for name, (label,) in zip(record["names"], zip(*_columns(record, "classes"), strict=True), strict=True)
        ],
        blocks=[Tiles(images, meaning="pixel")],
        captions=[
            [None if value is None else short_log_probability(float(value)) for value in line] for line in values
        ],
        notes=[
            "Below each image: log p(class | image) in nats; 0 is certainty.",
            *_image_notes(images[0], record),
            *(
                f"{meaning}: {', '.join(map(str, record[name]))}."
                for meaning, name in meanings.items()
                if record.get(name)
            ),
        ],
    )


def _jacobian_classes(arrays: Arrays, record: Record, classes: Sequence[str]) -> Frame:
    (drawn, counts), means = _columns(record, "drawn_classes", "counts"), arrays["mean_absolute_jacobian"]
    stored = [int(label) for label in record.get("jacobian_classes", range(len(counts)))]
    rows_at = [stored.index(label) for label in drawn]
    # a model may have fewer logits than there are classes
    logits = [label for label, place in zip(drawn, rows_at, strict=True) if place < means.shape[1]]
    maps = means[np.ix_(rows_at, [stored.index(label) for label in logits])].sum(2, keepdims=True)
    # the file has zeros in place of the mean of no image
    maps = np.where(np.array([counts[place] for place in rows_at])[:, None, None, None, None] > 0, maps, np.nan)
    norms = record["class_median_spectral_norm"]
    details = ["no images" if norms[place] is None else f"‖J‖₂ {norms[place]:.3g}" for place in rows_at]
    return Frame(
        "",
        rows=[_label(_name(classes, label), detail) for label, detail in zip(drawn, details, strict=True)],
        columns=[_label(_name(classes, label)) for label in logits],
        blocks=[Tiles(maps, limit=scale_limit(maps), meaning="mean |∂ logit / ∂ pixel|", is_signed=False)],
        notes=[
            "Rows: true class, with the median of ‖J‖₂, the spectral norm of an image's Jacobian; columns: logit.",
            *_channel_notes(means.shape[2]),
        ],
        more={"spread": _spread(np.array(record["spectral_norms"], float))},
    )


READERS: Mapping[str, Reader] = {
    "saliency": _saliency,
    "jacobian_maps": _jacobian_maps,
    "explanations": _explanations,
    "prototypes": _prototypes,
    "prototypes.each_epoch": _prototypes,
    "jacobian_classes": _jacobian_classes,
    "jacobian_classes_all": _jacobian_classes,
}


# --- parts -----------------------------------------------------------------------------------------------------


def _label(
    text: str, detail: str = "", *, is_wrong: bool = False, more: str = "", place: Mapping[str, Any] | None = None
) -> LabelData:
    parts = {"detail": detail, "wrong": is_wrong, "more": more, "place": place}
    # most labels have few of them
    return {"text": text, **{name: part for name, part in parts.items() if part}}


def _name(classes: Sequence[str], label: int) -> str:
    return classes[label] if 0 <= label < len(classes) else f"class {label}"


def _columns(record: Record, *names: str) -> list[list[int]]:
    return [[int(value) for value in record[name]] for name in names]


def _summed(maps: np.ndarray) -> np.ndarray:
    """Sum maps (image, channel, height, width) over channels, keeping one."""
    return maps.sum(1, keepdims=True)


def _image_notes(source: np.ndarray, record: Record) -> list[str]:
    """Return sentences about the channels of the images (…, channel, height, width) and their display."""
    notes = _channel_notes(source.shape[-3])
    if "pixel_range" in record:
        low, high = record["pixel_range"]
        notes.append(f"Pixels from {low:.3g} (black) to {high:.3g} (white).")
    return notes


def _channel_notes(channels: int) -> list[str]:
    return ["Maps are summed over channels."] if channels > 1 else []


def _spread(values: np.ndarray) -> dict[str, Any] | None:
    """Return a histogram with the median; None if no value is finite."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return None
    low, high = float(finite.min()), float(finite.max())
    room = max(high - low, 1e-6 * abs(high), 1e-12)  # a positive range even if all values are equal
    counts, _ = np.histogram(finite, bins=BINS, range=(low, low + room))
    return {
        "low": low,
        "high": low + room,
        "counts": counts.tolist(),
        "median": float(np.median(finite)),
        "meaning": "spectral norm ‖J‖₂, logits per unit of pixel",
    }
