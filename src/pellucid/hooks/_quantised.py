"""Compact storage of relevance maps: downsampling that preserves sums, and quantization to bytes."""

import numpy as np

__all__ = ["fitting_size", "quantised", "shrunk"]


def fitting_size(size: tuple[int, int], count: int, budget: int) -> tuple[int, int]:
    """Return the height and width at which `count` maps hold at most `budget` values, preserving the aspect ratio.

    >>> fitting_size((28, 28), 2400, 4_000_000), fitting_size((224, 112), 2400, 4_000_000)
    ((28, 28), (57, 28))
    """
    height, width = size
    share = min(1.0, (budget / max(count * height * width, 1)) ** 0.5)
    return max(1, int(height * share)), max(1, int(width * share))


def shrunk(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resample (…, height, width) to (…, *size), distributing each value by area so that sums are preserved.

    >>> shrunk(np.arange(6.0).reshape(2, 3), (1, 2)).tolist()
    [[5.5, 9.5]]
    """
    if maps.shape[-2:] == size:
        return maps
    down, across = (_shares(old, new) for old, new in zip(maps.shape[-2:], size, strict=True))
    # the resampling is separable: one small matrix for each axis
    return np.asarray(down @ maps @ across.T, dtype=maps.dtype)


def _shares(old: int, new: int) -> np.ndarray:
    """Return the fraction of each old interval that overlaps each new one, as (new, old)."""
    # the edges of the new pixels, measured in old ones
    edges = np.arange(new + 1)[:, None] * old / new
    start = np.arange(old)
    overlap = np.minimum(edges[1:], start + 1) - np.maximum(edges[:-1], start)
    return np.maximum(overlap, 0.0)


def quantised(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quantize maps (…, height, width) to int8 in −127…127; returns them with one float32 scale each, the value of 127.

    A map that is all zero or not finite gets the scale 0 and the values 0.

    >>> values, scale = quantised(np.array([[-2.0, 1.0]]))
    >>> values.tolist(), float(scale)
    ([[-127, 64]], 2.0)
    """
    scales = np.abs(maps).max((-2, -1))
    scales = np.where(np.isfinite(scales), scales, 0).astype(np.float32)
    safe = np.where(scales > 0, scales, 1)[..., None, None]
    # ±127: int8's −128 has no positive counterpart
    rounded = np.where(scales[..., None, None] > 0, np.rint(maps / safe * 127), 0)
    return rounded.astype(np.int8), scales
