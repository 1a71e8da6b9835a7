"""Explained images with the training images that most raised or lowered the scores of their targets."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from pellucid.plots.captioned_images import captioned_images
from pellucid.plots.labels import Label

__all__ = ["influence_figure"]

NAME_LETTERS = 9
"""Maximum number of characters of a class name below an image."""
EXPLANATION = (
    "+: training images that raised the score of the class (proponents); −: those that lowered it (opponents). "
    "Below each: its label and influence."
)


def influence_figure(
    images: np.ndarray,
    targets: Sequence[str],
    training: Sequence[np.ndarray],
    labels: Sequence[Sequence[str]],
    scores: Sequence[np.ndarray],
    title: str,
) -> Figure:
    """Draw one row per explained image: the image, its proponents, and its opponents.

    `images` are (row, channel, height, width) in [0, 1] and `targets` the names of the explained classes. `training`,
    `labels` and `scores` hold two entries, for proponents and opponents: images (row · rank, channel, height, width),
    names of their classes, and scores (row, rank). Scores of the wrong sign are left out.

    >>> noise = np.zeros((2, 1, 4, 4))
    >>> scores = [np.array([[2.0], [1.0]]), np.array([[-1.0], [0.5]])]
    >>> figure = influence_figure(noise, ["a", "b"], [noise, noise], [["a", "b"]] * 2, scores, "Influence")
    >>> len(figure.axes)
    5
    """
    rows, counts = len(images), [one.shape[1] for one in scores]
    grids, captions = [images[:, None].astype(np.float64)], [[""] for _ in range(rows)]
    for sign, pictures, names, values in zip((1, -1), training, labels, scores, strict=True):
        grid = pictures.reshape(rows, -1, *images.shape[1:]).astype(np.float64)
        grid[sign * values <= 0] = np.nan
        grids.append(grid)
        for row in range(rows):
            for rank, value in enumerate(values[row]):
                name = names[row * values.shape[1] + rank][:NAME_LETTERS]
                captions[row].append(f"{name} {value:+.2g}".replace("-", "−") if sign * value > 0 else "")
    ranks = [[f"{sign}{rank + 1}" for rank in range(count)] for sign, count in zip("+−", counts, strict=True)]
    return captioned_images(
        np.concatenate(grids, 1),
        captions,
        [Label(f"why {name}?") for name in targets],
        ["image", *ranks[0], *ranks[1]],
        (title, EXPLANATION),
    )
