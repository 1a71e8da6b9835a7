"""Encode figures as PNG, PDF or SVG files, and as small images for HTML."""

import io
from typing import Literal

from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image

__all__ = ["encode", "small_picture"]


def encode(figure: Figure, kind: Literal["png", "pdf", "svg"]) -> bytes:
    """Return the figure as a file without a creation date; PNG has twice the screen resolution."""
    buffer = io.BytesIO()
    # a date would make equal figures differ, as would random ids
    metadata = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(kind)
    with rc_context({"svg.hashsalt": "pellucid"}):
        figure.savefig(buffer, format=kind, dpi=2 * figure.dpi if kind == "png" else figure.dpi, metadata=metadata)
    return buffer.getvalue()


def small_picture(figure: Figure, most_bytes: int) -> tuple[bytes, str, int]:
    """Return the figure as an image of at most `most_bytes`, with its format and its width in CSS pixels.

    It has twice the screen resolution if that fits. Otherwise, it is compressed lossily, and then downsampled.
    """
    width = round(figure.get_figwidth() * figure.dpi)
    picture = Image.open(io.BytesIO(encode(figure, "png"))).convert("RGB")
    sharp = picture.resize((width, round(picture.height * width / picture.width)), Image.Resampling.BOX)
    tries = ((picture, "png", 0), (picture, "webp", 85), (sharp, "webp", 85), (sharp, "webp", 50))
    content, kind = b"", "webp"
    for shown, kind, quality in tries:
        content = _packed(shown, kind, quality)
        if len(content) <= most_bytes:
            return content, kind, width
    while len(content) > most_bytes and min(sharp.size) > 8:
        sharp = sharp.resize((max(8, sharp.width * 2 // 3), max(8, sharp.height * 2 // 3)))
        content = _packed(sharp, kind, 50)
    return content, kind, width


def _packed(picture: Image.Image, kind: str, quality: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind.upper(), **({"quality": quality, "method": 2} if quality else {}))
    return buffer.getvalue()
