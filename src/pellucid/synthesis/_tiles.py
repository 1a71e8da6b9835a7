"""Small images as HTML, for notebooks."""

import io
from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image
from torch import Tensor

from pellucid.core.cards import picture_html

__all__ = ["tiles_html"]

MOST_TILES = 40
"""Maximum number of images."""
TILE = 96
"""Width and height within which an image is shown, in CSS pixels."""
MOST_BYTES = 190_000
"""Maximum size of all images together; base64 adds a third."""


def tiles_html(images: Tensor, captions: Sequence[str]) -> tuple[str, str]:
    """Return images (image, channel, height, width) in [0, 1] with captions as HTML, and a note if some are left out.

    >>> import torch
    >>> markup, note = tiles_html(torch.zeros(1, 1, 4, 4), ["<b>"])
    >>> "&lt;b&gt;" in markup, note
    (True, '')
    """
    shown = images[:MOST_TILES].detach().cpu().float().clamp(0, 1).nan_to_num().numpy()
    shown = shown if shown.shape[1] == 3 else shown.mean(1, keepdims=True)
    style = "display: inline-block; margin: 0 .8em .8em 0; vertical-align: top; font-size: .85em"
    tiles = [
        f'<div style="{style}">{_tile(image, caption, MOST_BYTES // len(shown))}{escape(caption)}</div>'
        for image, caption in zip(shown, captions, strict=False)
    ]
    note = f"The first {MOST_TILES} of {len(images)} are shown." if len(images) > MOST_TILES else ""
    return "".join(tiles), note


def _tile(image: np.ndarray, caption: str, most_bytes: int) -> str:
    pixels = np.rint(image * 255).astype(np.uint8)
    picture = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    share = TILE / max(picture.size)
    if share > 1:  # enlarged here, since browsers would blur small images
        zoom = max(1, int(share))
        picture = picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST)
    else:
        picture = picture.resize([max(1, round(side * min(1.0, 2 * share))) for side in picture.size])
    for kind, options in (("png", {}), ("webp", {"quality": 80}), ("webp", {"quality": 30})):
        packed = io.BytesIO()
        picture.save(packed, kind.upper(), **options)
        if packed.tell() <= most_bytes:
            break
    return picture_html(packed.getvalue(), kind, caption, round(picture.width * min(1.0, TILE / max(picture.size))))
