"""Stored Jacobians, read by indexing."""

from collections.abc import Callable
from typing import Any

import numpy as np

from pellucid.storage.explanations.metadata import Header

__all__ = ["StoredJacobian"]


class StoredJacobian:
    """An array (image, class, channel, height, width) on disk: indexing along the images reads only the chosen ones.

    `numpy.asarray` reads all of it.
    """

    def __init__(self, header: Header, images: int, read: Callable[[Any], np.ndarray]) -> None:
        self.shape = (images, *header.shape[1:])
        """(image, *outputs, *inputs)."""
        self.dtype = np.dtype(np.float64 if header.dtype == "float64" else np.float32)
        """Type of the values that are returned; float16 is returned as float32."""
        self._read = read

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        """Read one image's Jacobian, or those of a slice or several indices; further indices apply to what was read."""
        first, *rest = index if isinstance(index, tuple) else (index,)
        if isinstance(first, int | np.integer):
            values = self._read(np.array([first]))[0]
            return np.asarray(values[tuple(rest)])
        return np.asarray(self._read(first)[(slice(None), *rest)])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("a stored Jacobian has to be read, which makes a copy.")
        return self._read(None).astype(dtype or self.dtype, copy=False)

    def __repr__(self) -> str:
        return f"StoredJacobian(shape={self.shape}, dtype={self.dtype})"
