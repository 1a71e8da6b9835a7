"""Properties of drawn images, measured on a data set: background, size, position and thickness of the strokes."""

from typing import Any

import numpy as np

__all__ = ["stroke_style"]

UNIFORM = 0.6
"""Smallest share of border pixels that have the color of the background. Shapes may reach the border, but the borders
of photographs differ from image to image."""
NEAR = 0.1
"""Largest difference from the background that still counts as background."""
FAINT = 0.04
"""Smallest difference from the background that counts as part of a shape, as in the bounding boxes of MNIST."""


def stroke_style(images: np.ndarray) -> dict[str, Any] | None:
    """Return the style of shapes in gray images (image, height, width) in [0, 1]; None without a plain background.

    `background`: gray value; `box`: median length of the longer side of a shape, in pixels; `center`: `mass` if the
    center of mass varies less than that of the bounding box, else `box`; `at`: mean row and column of this center, to
    halves; `stroke`: median thickness in pixels, at most a sixth of the box, because shapes such as clothes are not
    drawn with strokes.

    >>> image = np.zeros((1, 28, 28)); image[:, 4:24, 13:16] = 1
    >>> stroke_style(image)
    {'background': 0.0, 'box': 20, 'center': 'mass', 'at': [13.5, 14.0], 'stroke': 3.32}
    """
    border = np.concatenate([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]], axis=1)
    ground = float(np.median(border))
    if min(images.shape[1:]) < 4 or (np.abs(border - ground) <= NEAR).mean() < UNIFORM:
        return None
    ink = np.abs(images - ground)
    sides, mass, boxes, strokes = [], [], [], []
    for one in ink:
        rows, columns = np.nonzero(one.max(1) > FAINT)[0], np.nonzero(one.max(0) > FAINT)[0]
        if not len(rows):
            continue
        sides.append(max(np.ptp(rows), np.ptp(columns)) + 1)
        boxes.append([(rows[0] + rows[-1]) / 2, (columns[0] + columns[-1]) / 2])
        shares = one / one.sum()
        mass.append([shares.sum(1) @ np.arange(one.shape[0]), shares.sum(0) @ np.arange(one.shape[1])])
        # a stroke of width w and length l has the area w·l and the perimeter 2·l; steps along the axes overestimate the
        # perimeter of slanted edges by 4/π on average
        edges = np.abs(np.diff(np.pad(one, 1), axis=0)).sum() + np.abs(np.diff(np.pad(one, 1), axis=1)).sum()
        strokes.append(2 * one.sum() / (edges * np.pi / 4))
    if not sides:
        return None
    centers = {"mass": np.array(mass), "box": np.array(boxes)}
    center = min(centers, key=lambda name: float(centers[name].std(0).sum()))
    box = int(np.median(sides))
    return {
        "background": round(ground, 3),
        "box": box,
        "center": center,
        "at": (np.rint(2 * centers[center].mean(0)) / 2).tolist(),
        "stroke": round(min(float(np.median(strokes)), max(1.0, box / 6)), 2),
    }
