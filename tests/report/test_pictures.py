"""Pictures embedded in the page are lossless."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from pellucid.report._pictures import pack_picture, sprite
from pretended_run import png


def opened(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.partition("base64,")[2])))


@pytest.mark.parametrize(("noise", "kind"), [(None, "webp"), (3, "png")])
def test_packing_is_lossless(noise, kind):
    content = png(noise=noise)
    made = pack_picture(content)
    assert made.uri.startswith(f"data:image/{kind};base64,")
    with opened(made.uri) as shown, Image.open(io.BytesIO(content)) as source:
        assert (made.width, made.height) == source.size == shown.size
        assert np.array_equal(np.asarray(shown.convert("RGB")), np.asarray(source.convert("RGB")))


def test_transparency_is_kept():
    picture = Image.new("RGBA", (300, 300), (10, 20, 30, 0))
    packed = io.BytesIO()
    picture.save(packed, "PNG", compress_level=0)
    assert np.asarray(opened(pack_picture(packed.getvalue()).uri).convert("RGBA"))[..., 3].max() == 0


@pytest.mark.parametrize("content", [b"", b"no picture", png()[:50]])
def test_invalid_picture_raises(content):
    with pytest.raises((OSError, ValueError, SyntaxError)):
        pack_picture(content)


@pytest.mark.parametrize(("count", "channels", "across"), [(1, 1, 4), (9, 3, 4), (8, 1, 4)])
def test_sprite_arranges_tiles_row_by_row(count, channels, across):
    tiles = np.random.default_rng(0).integers(0, 256, (count, 5, 5, channels), dtype=np.uint8)
    mosaic = np.asarray(opened(sprite(tiles, across))).reshape(-1, across * 5, channels)
    for number, tile in enumerate(tiles):
        top, left = number // across * 5, number % across * 5
        assert np.array_equal(mosaic[top : top + 5, left : left + 5], tile)


def test_unsupported_format_is_refused_before_decoding():
    packed = io.BytesIO()
    Image.new("RGB", (90, 90)).save(packed, "BMP")
    with pytest.raises(ValueError, match="browsers cannot show BMP files"):
        pack_picture(packed.getvalue()[:200])  # reading its pixels would fail
