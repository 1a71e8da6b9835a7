"""Encode figures as PNG and sequences of pictures as animated WebP."""

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

__all__ = ["LARGEST_FILM", "SHARP", "on_white", "pixels_per_dot", "to_png", "to_webp"]

SHARP = 2
"""Pixels per dot of a figure in the pictures of a run."""
DOTS_PER_INCH = 100
"""Resolution at which figures are laid out."""

LARGEST_FILM = 4_000_000
"""Maximum size of a film in bytes."""


def to_png(figure: Figure, sharpness: int = 1) -> bytes:
    """Return the figure as a PNG with `sharpness` pixels per dot; equal figures give equal bytes."""
    dots_per_inch = figure.dpi
    try:
        figure.set_dpi(dots_per_inch * sharpness)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()  # type: ignore[no-untyped-call]
        picture = Image.fromarray(np.asarray(canvas.buffer_rgba()))  # type: ignore[no-untyped-call]
        # an opaque alpha channel takes a tenth of the file
        if picture.getchannel("A").getextrema()[0] == 255:
            picture = picture.convert("RGB")
        packed = io.BytesIO()
        # a tenth larger than with the most thorough compression, in half the time
        picture.save(packed, "PNG", dpi=(figure.dpi, figure.dpi), compress_level=4)
    finally:
        figure.set_dpi(dots_per_inch)
    return packed.getvalue()


def pixels_per_dot(picture: Image.Image) -> int:
    """Return how many pixels a dot of a figure has in a PNG, given its resolution; 1 if unknown.

    >>> pixels_per_dot(Image.open(io.BytesIO(to_png(Figure((2, 1), dpi=100), SHARP))))
    2
    """
    resolution = picture.info.get("dpi", (0, 0))[0] if picture.format == "PNG" else 0
    return max(1, round(resolution / DOTS_PER_INCH))


def to_webp(
    frames: Sequence[Image.Image], milliseconds: Sequence[int], at_most: int = LARGEST_FILM, *, is_flat: bool = False
) -> bytes:
    """Encode frames with their durations as a lossless, looping WebP of at most `at_most` bytes.

    Frames smaller than the largest are padded with white at the right and bottom. If the film is too large, all frames
    are downsampled until it fits. Consecutive equal frames are merged. `is_flat` saves two thirds of the time for
    frames of few plain areas, such as scatter plots, but doubles the size of detailed ones.

    >>> red, blue = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    >>> film = Image.open(io.BytesIO(to_webp([red, blue], [50, 90])))
    >>> film.n_frames, film.info["loop"]
    (2, 0)
    """
    shown = on_white(frames)
    content = _encoded(shown, milliseconds, is_flat)
    while len(content) > at_most and min(shown[0].size) > 1:
        share = 0.9 * (at_most / len(content)) ** 0.5  # size grows with the area; 0.9 avoids many small steps
        size = tuple(max(1, int(side * share)) for side in shown[0].size)
        shown = [frame.resize(size, Image.Resampling.LANCZOS) for frame in shown]  # type: ignore[arg-type]
        content = _encoded(shown, milliseconds, is_flat)
    return content


def on_white(frames: Sequence[Image.Image]) -> list[Image.Image]:
    """Pad all frames with white, at the right and bottom, to the size of the largest."""
    size = max(frame.width for frame in frames), max(frame.height for frame in frames)
    return [_padded(frame.convert("RGB"), size) for frame in frames]


def _padded(frame: Image.Image, size: tuple[int, int]) -> Image.Image:
    if frame.size == size:
        return frame
    padded = Image.new("RGB", size, "white")
    padded.paste(frame, (0, 0))
    return padded


def _encoded(frames: Sequence[Image.Image], milliseconds: Sequence[int], is_flat: bool) -> bytes:
    buffer = io.BytesIO()
    # for lossless WebP, `quality` is the effort of the compression; of all efforts and methods, these save the most
    effort = {"quality": 0, "method": 2} if is_flat else {"quality": 25, "method": 1}
    settings = {"duration": list(milliseconds), "loop": 0, "lossless": True, **effort}
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:], **settings)
    return buffer.getvalue()
