"""Poolings and resamplings over rows and columns, measured by running them on stripes.

Pooling, adaptive pooling, global means and interpolation are products of a map over rows and a map over columns. Images
with a single bright row or column show which of them each output reads, and with which weight, whatever the arguments
are called.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = ["Windows", "measured_windows"]


@dataclass(frozen=True, eq=False)
class Windows:
    """The input rows and columns that each output row and column reads, with their weights."""

    rows: np.ndarray
    """(output row, input row)."""
    columns: np.ndarray
    """(output column, input column)."""

    def indices(self) -> dict[str, list[list[int]]]:
        """Return the inputs that each output row and column reads."""
        return {name: [np.flatnonzero(line).tolist() for line in table] for name, table in self._tables()}

    def weights(self) -> dict[str, list[list[float]]]:
        """Return the weights of these inputs."""
        singular = {"rows": "row_weights", "columns": "column_weights"}
        return {singular[name]: [line[line != 0].tolist() for line in table] for name, table in self._tables()}

    def _tables(self) -> list[tuple[str, np.ndarray]]:
        return [("rows", self.rows), ("columns", self.columns)]


def measured_windows(function: Callable[[Tensor], Tensor], x: Tensor, *, is_maximum: bool) -> Windows | None:
    """Return the windows of a function of one image `x` (1, channel, height, width); None if it has none.

    `function` must treat all channels alike, and is either linear or the maximum over the window.
    """
    try:
        return _measured(function, x, is_maximum=is_maximum)
    except RuntimeError:
        return None  # it takes images of one size or number only


def _measured(function: Callable[[Tensor], Tensor], x: Tensor, *, is_maximum: bool) -> Windows | None:
    channels, height, width = x.shape[1:]
    with torch.no_grad():
        outputs = function(x).shape
        size = (outputs[2], outputs[3]) if len(outputs) == 4 else (1, 1)
        if outputs[1] != channels or outputs.numel() != channels * size[0] * size[1]:
            return None
        ones = torch.ones(1, 1, height, width, device="cpu", dtype=torch.float32)
        rows, columns, whole = (
            function(image.to(x)).double().reshape(-1, *size).numpy(force=True)
            for image in (_stripes(height, width), _stripes(width, height).mT, ones)
        )
        windows = _factors(rows, columns, whole[0], is_maximum=is_maximum)
        return windows if windows and _agrees(windows, function, x, is_maximum=is_maximum) else None


def _stripes(count: int, length: int) -> Tensor:
    """Return one image for each row, in which that row is 1."""
    return torch.eye(count, device="cpu", dtype=torch.float32)[:, None, :, None].expand(-1, 1, -1, length)


def _factors(rows: np.ndarray, columns: np.ndarray, whole: np.ndarray, *, is_maximum: bool) -> Windows | None:
    """Split the responses to stripes, (stripe, output row, output column), into one table for rows, one for columns."""
    if is_maximum:
        return Windows((rows[:, :, 0].T > 0).astype(float), (columns[:, 0, :].T > 0).astype(float))
    if not whole[0, 0]:
        return None
    # the stripes give (row weight · sum of column weights), so one of the two tables has to be normalized
    return Windows(rows[:, :, 0].T, columns[:, 0, :].T / whole[0, 0])


def _agrees(windows: Windows, function: Callable[[Tensor], Tensor], x: Tensor, *, is_maximum: bool) -> bool:
    """True if the windows reproduce the function for random values, in every channel."""
    values = (
        torch.rand(x.shape, generator=torch.Generator("cpu").manual_seed(0), device="cpu", dtype=torch.float32) + 0.1
    )
    expected = function(values.to(x)).double().numpy(force=True)
    image = values[0].double().numpy()
    if is_maximum:
        masked = np.where(windows.rows[:, None, :, None] * windows.columns[None, :, None, :] > 0, 1.0, -np.inf)
        own = np.stack([(masked * one).max((2, 3)) for one in image])
    else:
        own = np.einsum("or,crs,ps->cop", windows.rows, image, windows.columns)
    return bool(np.allclose(own.reshape(expected.shape), expected, rtol=1e-4, atol=1e-6))
