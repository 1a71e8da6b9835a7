"""Grids of images and maps, packed for the page: downsampled by averaging areas, quantized to bytes and compressed."""

import zlib
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from pellucid.plots.colours import gray_or_rgb

__all__ = ["Frame", "LabelData", "Tiles", "packed_frames", "tile_size"]

TILE_SIDE = 96
"""Maximum side of a tile, in pixels."""
MOST_VALUES = 3_000_000
"""Maximum number of values of all tiles of a section, which bounds the size of the page."""
STEPS = 127
NOT_FINITE = -128
"""Byte of a value that is NaN or infinite; the others are in −127…127."""

LabelData = Mapping[str, Any]
"""Label of a row or column: `text`, and possibly `detail` below it, `wrong` to highlight it, and `place`, the test
`image`, `method` and `class` that its tiles show."""


@dataclass(frozen=True, eq=False)
class Tiles:
    """A block of adjacent tiles that share one color scale."""

    values: np.ndarray
    """Array (row, column, channel, height, width): 1 or 3 channels in [0, 1], or 1 channel of a map."""
    row: int = 0
    column: int = 0
    limit: float | Sequence[float] | None = None
    """End of the color scale of a map, or one for each column; None: pixels from 0 to 1."""
    meaning: str = ""
    """Unit of the values of a map."""
    is_signed: bool = True
    """False for a color scale that starts at zero."""

    def __post_init__(self) -> None:
        """Raise `ValueError` for another shape or an invalid scale, as a damaged file may contain."""
        if self.values.ndim != 5 or not self.values.size or self.values.dtype.kind not in "fiub":
            raise ValueError(f"a block of tiles has shape {self.values.shape} and dtype {self.values.dtype}")
        if self.limit is not None and (self.values.shape[2] != 1 or not all(0 < one < np.inf for one in self.limits)):
            raise ValueError(f"a block of maps has {self.values.shape[2]} channels and the scale limits {self.limits}")

    @property
    def limits(self) -> list[float]:
        """End of the color scale of each column of maps."""
        return [float(one) for one in np.broadcast_to(np.asarray(self.limit, float), self.values.shape[1])]


@dataclass(frozen=True, eq=False)
class Frame:
    """The grid of one epoch."""

    caption: str
    rows: Sequence[LabelData]
    columns: Sequence[LabelData]
    blocks: Sequence[Tiles]
    along: str = ""
    """`rows` or `columns` if each of them is about one test image, whose outline its maps carry."""
    marks: Sequence[tuple[int, int, bool]] = ()
    """Row and column of each framed tile, and True if the prediction that it marks is wrong."""
    captions: Sequence[Sequence[str | None]] = ()
    """Text below each tile; None for a tile that is left out."""
    notes: Sequence[str] = ()
    more: Mapping[str, Any] = field(default_factory=dict)
    """Other data for the script."""

    def __post_init__(self) -> None:
        """Raise `ValueError` for blocks outside the grid."""
        for block in self.blocks:
            down, across = block.values.shape[:2]
            if block.row + down > len(self.rows) or block.column + across > len(self.columns):
                raise ValueError(f"{down}×{across} tiles exceed a grid of {len(self.rows)}×{len(self.columns)}")


def tile_size(frames: Sequence[Frame], scale: float = 1.0) -> tuple[int, int]:
    """Return the height and width at which the tiles of all frames fit the page, preserving the aspect ratio.

    >>> tile_size([Frame("", [{}] * 5, [{}] * 10, [Tiles(np.zeros((5, 10, 3, 224, 112)))])])
    (96, 48)
    """
    blocks = [block.values for frame in frames for block in frame.blocks]
    height, width = blocks[0].shape[-2:]
    tiles = sum(block.shape[0] * block.shape[1] for block in blocks)
    share = min(1.0, TILE_SIDE / max(height, width), (MOST_VALUES / (tiles * height * width)) ** 0.5)
    return max(1, round(height * share * scale)), max(1, round(width * share * scale))


def packed_frames(frames: Mapping[int, Frame], size: tuple[int, int], pool: dict[str, int]) -> dict[int, Any]:
    """Return the JSON data of the frames, with bytes as positions in `pool`, where equal ones are stored once."""
    return {epoch: _packed_frame(frame, size, pool) for epoch, frame in frames.items()}


def _packed_frame(frame: Frame, size: tuple[int, int], pool: dict[str, int]) -> dict[str, Any]:
    return {
        "caption": frame.caption,
        "notes": frame.notes,
        "rows": frame.rows,
        "columns": frame.columns,
        "along": frame.along,
        "marks": frame.marks,
        "captions": frame.captions,
        "blocks": [_packed_block(block, size, pool) for block in frame.blocks],
        **frame.more,
    }


def _packed_block(block: Tiles, size: tuple[int, int], pool: dict[str, int]) -> dict[str, Any]:
    values = shrunk(block.values, size)
    shown = {"row": block.row, "column": block.column, "shape": values.shape[:2], "meaning": block.meaning}
    if block.limit is None:
        images = np.rint(np.nan_to_num(gray_or_rgb(values)).clip(0, 1) * 255).astype(np.uint8)
        # the page reads the channels of a pixel next to each other
        content = images.transpose(0, 1, 3, 4, 2)
        return {**shown, "channels": content.shape[-1], "bytes": _pooled(content, pool)}
    content, scales = quantized(values[:, :, 0])
    return {
        **shown,
        "channels": 0,
        "limits": [_rounded(limit) for limit in (block.limits if np.ndim(block.limit) else block.limits[:1])],
        "signed": block.is_signed,
        "scales": [[_rounded(scale) for scale in line] for line in scales.tolist()],
        "bytes": _pooled(content, pool),
    }


def _pooled(content: np.ndarray, pool: dict[str, int]) -> int:
    return pool.setdefault(_compressed(content.tobytes()), len(pool))


def shrunk(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Downsample (…, height, width) to (…, *size) by averaging areas.

    >>> shrunk(np.arange(8.0).reshape(2, 4), (1, 2)).tolist()
    [[2.5, 4.5]]
    """
    if values.shape[-2:] == size:
        return values
    flat = values.reshape(-1, *values.shape[-2:]).astype(np.float32)
    height, width = size
    small = [np.asarray(Image.fromarray(one).resize((width, height), Image.Resampling.BOX)) for one in flat]
    return np.stack(small).reshape(*values.shape[:-2], height, width)


def quantized(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quantize maps (…, height, width) to int8; returns them with the value of 127 in each map.

    Every map has its own scale, so that a faint one keeps as many levels as a strong one.

    >>> values, scales = quantized(np.array([[[-2.0, 1.0, np.nan]]]))
    >>> values.tolist(), scales.tolist()
    ([[[-127, 64, -128]]], [2.0])
    """
    is_finite = np.isfinite(maps)
    known = np.where(is_finite, maps, 0)
    scales = np.abs(known).max((-2, -1))
    safe = np.where(scales > 0, scales, 1)[..., None, None]
    return np.where(is_finite, np.rint(known / safe * STEPS), NOT_FINITE).astype(np.int8), scales


@lru_cache(maxsize=256)
def _compressed(content: bytes) -> str:
    # cached, because the page of a running run is rewritten after every epoch
    return b64encode(zlib.compress(content, 6)).decode()


def _rounded(value: float) -> float:
    # six digits, more than the 255 levels resolve
    return float(f"{value:.6g}")
