"""TensorBoard logging: scalars, figures, the model's graph and the projector's embeddings with thumbnails."""

import io
import re
import warnings
from collections.abc import Iterable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from itertools import chain
from math import ceil, log10
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor, nn
from torch.utils.tensorboard._pytorch_graph import graph

from pellucid.core.contracts import EmbeddingTable
from pellucid.core.errors import DataError
from pellucid.engine.model import frozen
from pellucid.storage.atomic import write_bytes
from pellucid.storage.event_file import EventFile

__all__ = ["Board", "PackedEmbedding", "pack_embedding"]

LARGEST_STEP = 0.2
"""The projector's values are whole numbers of steps of at most this share of their standard deviation. That changes the
ratio of typical distances by 0.1%, and makes the tables, by far the largest files of a run, three times smaller."""
LARGEST_SPRITE_PIXELS = 8192
"""Maximum side of the projector's sprite image; browsers cannot draw larger ones."""


PARTS = ("train", "validation", "test")
"""Parts of the data, each logged as a separate run, so that TensorBoard draws their curves in one chart."""


class Board:
    """TensorBoard log of a run, below `logs/`.

    Every event is on disk when the call returns, so that a full disk raises an error at the call that caused it. Each
    process writes its own files. In a resumed run, TensorBoard discards events of an interrupted process from epoch
    `start_epoch` on, so that each epoch is shown once.
    """

    def __init__(self, logs: Path, start_epoch: int | None = None) -> None:
        self.logs, self._start_epoch = logs, start_epoch
        self._main = EventFile(logs, start_epoch)
        self._parts: dict[str, EventFile] = {}

    def scalars(self, values: Mapping[str, float], epoch: int) -> None:
        """Add a value to each curve by tag; a slash in a tag makes a group."""
        if values:
            self._main.write(_scalars(values, epoch))

    def metrics(self, record: Mapping[str, Any]) -> None:
        """Add an epoch's line of metrics.jsonl: losses and accuracies of each part of the data in `logs/PART`."""
        self._scores(record)
        if record.get("learning_rate") is not None:  # unknown in the user's training loop
            self._main.write(_scalars({"training/learning_rate": record["learning_rate"]}, record["epoch"]))

    def restore(self, record: Mapping[str, Any]) -> None:
        """Add a line that an earlier part of the run has logged, because TensorBoard discards its epoch."""
        self.metrics(record)

    def add_earlier(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Add the scores before `start_epoch` if an older version logged them without folders for parts of the data."""
        if self._start_epoch is not None and not any((self.logs / part).exists() for part in PARTS):
            for record in records:
                if record["epoch"] < self._start_epoch:
                    self._scores(record)

    def _scores(self, record: Mapping[str, Any]) -> None:
        for part in PARTS:
            values = {name: record.get(f"{part}_{name}") for name in ("loss", "accuracy")}
            # the untrained network has no training scores
            known = {name: value for name, value in values.items() if value is not None}
            if known:
                self._part(part).write(_scalars(known, record["epoch"]))

    def _part(self, part: str) -> EventFile:
        if part not in self._parts:
            self._parts[part] = EventFile(self.logs / part, self._start_epoch)
        return self._parts[part]

    def picture(self, tag: str, png: bytes, epoch: int) -> None:
        """Add a figure, given as the PNG stored in `plots/`."""
        with Image.open(io.BytesIO(png)) as picture:
            width, height = picture.size
        # colorspace 3 is RGB
        image = Summary.Image(encoded_image_string=png, width=width, height=height, colorspace=3)
        self._main.write(Event(summary=Summary(value=[Summary.Value(tag=tag, image=image)]), step=epoch))

    def graph(self, model: nn.Module, images: Tensor) -> bool:
        """Add the model's graph, traced on `images`; returns False if the model cannot be traced."""
        try:
            # torch prints tracing errors before it raises them
            with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
                warnings.simplefilter(
                    "ignore"
                )  # tracing warns about shapes that become constants, which is harmless here
                # without torch's check, which imports a second's worth of modules to compare two numbers
                with frozen(model):
                    traced = torch.jit.trace(model, images, check_trace=False)
                definition, _ = graph(traced, images)
        except Exception:  # noqa: BLE001  (tracing can fail in any way, and the graph is optional)
            return False
        self._main.write(Event(graph_def=definition.SerializeToString()))
        return True

    def embedding(self, epoch: int, packed: "PackedEmbedding") -> str:
        """Add an epoch's points to the projector; returns the path of the table below the save folder."""
        folder = self.logs / "projector" / f"epoch_{epoch:03d}"
        # usually the same images at every epoch: TensorBoard can read one file for all
        shared = self._sprite_of(epoch)
        if shared is None or shared.read_bytes() != packed.sprite:
            write_bytes(folder / "sprite.png", packed.sprite)
        write_bytes(folder / "metadata.tsv", packed.metadata.encode())
        write_bytes(folder / "tensors.tsv", packed.points.encode())
        folders = sorted((path.parent.name for path in self.logs.glob("projector/*/tensors.tsv")), reverse=True)
        sprites = {name: self._sprite_of(_epoch_of(name)) or folder / "sprite.png" for name in folders}
        config = "".join(_config(name, sprites[name].parent.name, packed.thumbnail_side) for name in folders)
        write_bytes(self.logs / "projector_config.pbtxt", config.encode())
        return f"{self.logs.name}/projector/{folder.name}/tensors.tsv"

    def _sprite_of(self, epoch: int) -> Path | None:
        """Return the thumbnails of an epoch: its own, or those of the last epoch before it that has any."""
        paths = {_epoch_of(path.parent.name): path for path in self.logs.glob("projector/epoch_*/sprite.png")}
        return paths[max(earlier)] if (earlier := [one for one in paths if one <= epoch]) else None

    def __enter__(self) -> "Board":
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self._main, *self._parts.values()):
            file.close()


def _scalars(values: Mapping[str, float], epoch: int) -> Event:
    points = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
    return Event(summary=Summary(value=points), step=epoch)


@dataclass(frozen=True)
class PackedEmbedding:
    """Files of the projector for a table of points, ready to be written."""

    points: str
    metadata: str
    sprite: bytes
    """PNG with all thumbnails."""
    thumbnail_side: int
    """Side of a thumbnail in pixels."""


def pack_embedding(table: EmbeddingTable) -> PackedEmbedding:
    """Encode a table for the projector; raises `DataError` if the thumbnails exceed what browsers can draw."""
    sprite, side = _sprite(table.thumbnails)
    return PackedEmbedding(_points(table.points), _metadata(table.columns), sprite, side)


def _points(points: np.ndarray) -> str:
    """Format one row per point, in whole numbers of a step: a power of ten of at most `LARGEST_STEP` deviations.

    The projector compares distances with each other, so their unit does not matter.
    """
    values = points.astype(np.float64)
    deviation = float(values.std()) if np.isfinite(values).all() else 0.0
    # without a scale, all digits of float32
    rounded = values if deviation == 0 else np.round(values * 10.0 ** ceil(-log10(LARGEST_STEP * deviation)))
    # + 0.0 turns -0.0 into 0.0
    rows = (rounded + 0.0).tolist()
    # rounding leaves few distinct numbers, and formatting each of them once is faster than formatting all
    texts = {value: _number(value) for value in set(chain.from_iterable(rows))}
    return "".join("\t".join([texts.get(value, "nan") for value in row]) + "\n" for row in rows)


def _epoch_of(folder: str) -> int:
    return int(folder.removeprefix("epoch_"))


def _number(value: float) -> str:
    """Format a number with seven digits and without the zero before the point."""
    text = f"{value:.7g}"
    return text.replace("0.", ".", 1) if -1 < value < 1 else text


def _config(folder: str, sprite: str, side: int) -> str:
    """Return one entry of projector_config.pbtxt; needs no escaping, because all names are generated by pellucid."""
    return (
        "embeddings {\n"
        f'  tensor_name: "{folder.replace("_", " ")}"\n'
        f'  tensor_path: "projector/{folder}/tensors.tsv"\n'
        f'  metadata_path: "projector/{folder}/metadata.tsv"\n'
        "  sprite {\n"
        f'    image_path: "projector/{sprite}/sprite.png"\n'
        f"    single_image_dim: {side}\n"
        f"    single_image_dim: {side}\n"
        "  }\n"
        "}\n"
    )


def _metadata(columns: Mapping[str, list[str]]) -> str:
    """Format a header and one row per point; tabs and line breaks in labels would break the rows and become spaces."""
    # everything that str.splitlines treats as the end of a line
    clean = [
        [re.sub(r"[\t\r\n\v\f\x1c-\x1e\x85\u2028\u2029]", " ", text) for text in column] for column in columns.values()
    ]
    header = [list(columns)] if len(columns) > 1 else []  # the projector expects no header above a single column
    return "".join("\t".join(row) + "\n" for row in [*header, *(list(row) for row in zip(*clean, strict=True))])


def _sprite(thumbnails: np.ndarray) -> tuple[bytes, int]:
    """Arrange all thumbnails in a square picture, row by row; returns it as a PNG with the side of a thumbnail."""
    count, side, width, channels = thumbnails.shape
    across = int(np.ceil(np.sqrt(count)))
    if side != width or across * side > LARGEST_SPRITE_PIXELS:
        raise DataError(
            f"{count} thumbnails of {side}×{width} pixels do not fit the projector: thumbnails must be square, and "
            f"their sprite image at most {LARGEST_SPRITE_PIXELS} pixels wide. Pass fewer or smaller thumbnails."
        )
    grid = np.full((across * across, side, side, channels), 255, dtype=np.uint8)
    grid[:count] = thumbnails
    mosaic = (
        grid.reshape(across, across, side, side, channels)
        .swapaxes(1, 2)
        .reshape(across * side, across * side, channels)
    )
    buffer = io.BytesIO()
    Image.fromarray(mosaic[..., 0] if channels == 1 else mosaic).save(buffer, format="PNG")
    return buffer.getvalue(), side
