"""Requests to the server of `pellucid serve`: validate the JSON of a request, its options and its picture."""

import binascii
import json
import types
from base64 import b64decode
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from io import BytesIO
from typing import Annotated, Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

import numpy as np
import torch
from torch import Tensor

from pellucid.attribution import METHODS, check_method
from pellucid.attribution._aliases import ALIASES
from pellucid.core.errors import ConfigError, DataError, ShapeError
from pellucid.core.ranges import Range
from pellucid.data._pictures import read_picture
from pellucid.data._resize import fitted, resized

__all__ = ["Asked", "options_of", "picture_floats", "pixel_floats", "read_request"]

MOST_PIXELS = 50_000_000
"""Largest picture to decode; a small file can claim billions of pixels."""
MOST = 4096
"""Largest integer option: the cost of a request grows with it."""
MOST_OF = {"cells": 64, "steps": 512, "seed": 2**31 - 1}
"""Largest integer options that cost more than their number of passes, or nothing."""
REDUCED_FROM = 4
"""Photographs are first shrunk by averaging to at least this multiple of the model's input, to save memory."""


@dataclass(frozen=True)
class Asked:
    """A validated request for a map."""

    method: str
    target: int | str | None
    """Class, by index or name; None: the predicted class."""
    options: Mapping[str, Any] = field(default_factory=dict)
    index: int | None = None
    """Index of a test image, unless the request contains an image."""
    pixels: Any = None
    """Nested lists of numbers in [0, 1]."""
    picture: bytes | None = None
    """Content of an image file."""
    invert: bool = False


def read_request(body: bytes) -> Asked:
    """Parse the JSON object of a request for a map.

    Raises `ConfigError` for a request of another form, `UnknownName` for an unknown method, and `DataError` for NaN.

    >>> read_request(b'{"method": "gradient", "index": 3}').index
    3
    """
    try:
        asked = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:  # also for text that is not UTF-8, and numbers of 5,000 digits
        raise ConfigError(f"the request is not JSON ({error}); send an object such as {EXAMPLE}.") from error
    if not isinstance(asked, dict):
        raise ConfigError(f"the request is a {type(asked).__name__}; send an object such as {EXAMPLE}.")
    for name, value in asked.items():
        if name not in KINDS:
            raise ConfigError(f"the request has an unknown entry {name!r}; expected one of {', '.join(KINDS)}.")
        # bool is a subclass of int
        if not isinstance(value, KINDS[name]) or (isinstance(value, bool) and name != "invert"):
            raise ConfigError(f"the entry {name!r} is {_shown(value)}; expected {EXPECTED[name]}.")
    sources = [name for name in ("index", "pixels", "picture") if asked.get(name) is not None]
    if len(sources) != 1:
        raise ConfigError(f"the request has {_listed(sources)}; send exactly one of index, pixels and picture.")
    if "method" not in asked:
        raise ConfigError(f"the request has no method; send an object such as {EXAMPLE}.")
    name = check_method(asked["method"])
    picture = asked.get("picture")
    return Asked(
        method=name,
        target=asked.get("class"),
        options=_checked_options(name, asked.get("options") or {}),
        index=asked.get("index"),
        pixels=asked.get("pixels"),
        picture=None if picture is None else _decoded(picture),
        invert=asked.get("invert", False),
    )


EXAMPLE = '{"method": "gradient", "index": 0}'
KINDS: Mapping[str, Any] = {
    "method": str,
    "class": int | str | None,
    "options": dict | None,
    "index": int | None,
    "pixels": list | None,
    "picture": str | None,
    "invert": bool,
}
EXPECTED = {
    "method": "the name of a method",
    "class": "the index or name of a class, or null for the predicted one",
    "options": "an object with options of the method",
    "index": "the index of a test image",
    "pixels": "nested lists of numbers in [0, 1], (channel, height, width)",
    "picture": "the content of an image file in base64",
    "invert": "true or false",
}


def _refuse_constant(name: str) -> NoReturn:
    """Refuse NaN and infinities, which Python's parser accepts although they are not JSON."""
    raise DataError(f"the request has the number {name}; send finite numbers.")


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 80 else f"{text[:79]}…"


def _listed(names: list[str]) -> str:
    return " and ".join(names) if names else "no image"


def _decoded(text: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError(f"the picture is not base64 ({error}); encode the content of the file.") from error


# --- options ------------------------------------------------------------------------------------------------------


@cache
def options_of(name: str) -> tuple[dict[str, Any], ...]:
    """Describe the options of a method that a request can set: numbers, choices, switches and names.

    Each has `name`, `kind` (integer, number, boolean, choice or text), `default`, and where they apply `low`, `high`
    and `choices`. Others, such as rules by layer, only exist in Python.

    >>> options_of("occlusion")[0]
    {'name': 'window', 'kind': 'integer', 'default': None, 'low': 1, 'high': 4096}
    """
    entry, described = METHODS[name], []
    hints = get_type_hints(entry, include_extras=True)
    for option in fields(entry):
        kind = next(_kinds(hints[option.name], None), None)
        if kind is None or not option.init or option.default is MISSING:
            continue
        if kind["kind"] == "integer":
            most = MOST_OF.get(option.name, MOST)
            kind = {"low": 0, **kind, "high": min(kind.get("high", most), most)}
        described.append({"name": option.name, "kind": kind.pop("kind"), "default": option.default, **kind})
    return tuple(described)


def _kinds(hint: Any, allowed: Range | None) -> Iterator[dict[str, Any]]:
    """Yield the alternatives of an annotation that a form can show."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        ranges = [entry for entry in hint.__metadata__ if isinstance(entry, Range)]
        yield from _kinds(arguments[0], ranges[0] if ranges else allowed)
    elif origin in (Union, types.UnionType):
        for part in (float, *arguments) if float in arguments else arguments:
            yield from _kinds(part, allowed)
    elif origin is Literal:
        yield {"kind": "choice", "choices": list(arguments)}
    elif hint is bool:
        yield {"kind": "boolean"}
    elif hint is str:
        yield {"kind": "text"}
    elif hint in (int, float):
        ends = {} if allowed is None else {"low": allowed.low, "high": allowed.high}
        finite = {name: end for name, end in ends.items() if abs(end) != float("inf")}
        yield {"kind": "integer" if hint is int else "number", **finite}


def _checked_options(name: str, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the options if a request can set them; their types and ranges are checked when the method is created."""
    known = {option["name"]: option for option in options_of(ALIASES.get(name, (name, {}))[0])}
    for option, value in options.items():
        if option not in known:
            raise ConfigError(
                f"a request cannot set the option {_shown(option)} of {name!r}; it can set: "
                f"{', '.join(known) or '(none)'}."
            )
        if known[option]["kind"] == "integer" and isinstance(value, int) and value > known[option]["high"]:
            raise ConfigError(
                f"the option {option} of {name!r} is {_shown(value)}; the server accepts at most "
                f"{known[option]['high']:,}. Use pellucid in Python for larger ones."
            )
    return options


# --- images -------------------------------------------------------------------------------------------------------


def pixel_floats(values: Any, shape: tuple[int, int, int]) -> Tensor:
    """Return nested lists of numbers as an image (channel, height, width) in float32.

    Raises `ShapeError` for another shape than `shape`, and `DataError` for values that are not numbers in [0, 1].
    """
    try:
        array = np.array(values)
        # text that reads as a number is none
        if array.size and array.dtype.kind not in "iuf":
            raise TypeError("they have other values")
        array = array.astype(np.float32)
    except (ValueError, TypeError, OverflowError) as error:
        raise ShapeError(f"pixels are not nested lists of numbers of shape {shape} ({error}).") from error
    if shape[0] == 1 and array.shape == shape[1:]:
        array = array[None]
    if array.shape != shape:
        raise ShapeError(f"pixels have the shape {array.shape}; the model takes (channel, height, width) = {shape}.")
    if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
        raise DataError(f"pixels range from {array.min():g} to {array.max():g}; send numbers in [0, 1].")
    return torch.from_numpy(array)


def picture_floats(content: bytes, shape: tuple[int, int, int], settings: Mapping[str, Any]) -> Tensor:
    """Decode an image file to (channel, height, width) in [0, 1], resized like the data of a run with these settings.

    Raises `DataError` for a file that is not an image, and for one with too many pixels.
    """
    channels, height, width = shape
    picture = read_picture(BytesIO(content), MOST_PIXELS, "the picture")
    if channels in (1, 3):
        picture = picture.convert("L" if channels == 1 else "RGB")
    factor = min(picture.height // (REDUCED_FROM * height), picture.width // (REDUCED_FROM * width))
    if factor > 1:
        picture = picture.reduce(factor)
    array = np.array(picture)
    pixels = torch.from_numpy(array[None] if array.ndim == 2 else array.transpose(2, 0, 1).copy())
    if len(pixels) != channels:
        raise DataError(f"the picture has {len(pixels)} channels; the model takes {channels}. Send pixels instead.")
    crop = settings.get("crop")
    if crop is None:
        pixels = resized(pixels[None], height, width)[0]
    else:
        pixels = fitted(pixels[None], settings.get("image_size") or crop, crop)[0]
    return pixels.float() / 255
