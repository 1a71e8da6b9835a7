"""Explanations as a figure or as HTML."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from pellucid.attribution._over_image import Plane, over_image, plane_of
from pellucid.attribution._verdict import is_within_tolerance, predicted, shortened, targeted, verdict
from pellucid.core.cards import card, heading_html, page, picture_html, text_html
from pellucid.core.errors import ConfigError
from pellucid.plots.colours import scale_limit
from pellucid.plots.encoding import encode, small_picture
from pellucid.plots.explained import Explained, explained
from pellucid.plots.tokens import TokenRow, token_spans

if TYPE_CHECKING:
    from pellucid.attribution._explanation import Explanation

__all__ = ["card_of", "encoded", "figure_of"]

CARD_BYTES = 180_000
"""Maximum total size of the images in a card, in bytes; base64 adds a third."""
PAGE_BYTES = 6_000_000
"""Maximum total size of the images in a saved page, in bytes."""
MOST_CHANNELS = 8
"""Maximum number of channels drawn as signals; inputs with more are drawn as an image, channel by time."""
MOST_SPANS = 1000
"""Maximum number of tokens in a card."""
NOUNS = {"tokens": "sequence", "signal": "signal", "image": "image", "volume": "volume", "values": "example"}


@dataclass(frozen=True)
class _View:
    """One map of an explanation."""

    explanation: "Explanation"
    index: tuple[int, ...]
    """(image,), or (image, class) for all classes."""


@dataclass(frozen=True, eq=False)
class _Picture:
    """The rows of a figure, with the text above them."""

    title: str
    subtitle: str
    rows: list[Explained]


def figure_of(explanations: "Sequence[Explanation]", rows: int) -> Figure:
    """Draw at most `rows` maps below a headline."""
    picture = _picture(explanations, rows)
    return explained(picture.rows, picture.title, picture.subtitle)


def encoded(explanations: "Sequence[Explanation]", kind: str, rows: int) -> bytes:
    """Return the figure as a file of `kind` png, pdf, svg or html."""
    if kind == "html":
        picture = _picture(explanations, rows)
        return page(picture.title, _card(picture, PAGE_BYTES)).encode()
    return encode(figure_of(explanations, rows), cast(Literal["png", "pdf", "svg"], kind))


def card_of(explanations: "Sequence[Explanation]", rows: int) -> str:
    """Return the figure as an HTML card of limited size."""
    return _card(_picture(explanations, rows), CARD_BYTES)


def _card(picture: _Picture, most_bytes: int) -> str:
    parts = [text_html(picture.subtitle)]
    for row in picture.rows:
        parts += [heading_html(row.heading), *(text_html(line, is_warning=row.is_warning) for line in row.lines)]
        if row.tokens is not None:
            parts.append(_tokens_html(row))
            continue
        # text outside the figure can be read by screen readers, and follows light and dark mode
        figure = explained([replace(row, heading="", lines=())])
        content, kind, width = small_picture(figure, most_bytes // len(picture.rows))
        description = " ".join([row.heading or picture.title, *(row.lines or (picture.subtitle,))])
        parts.append(picture_html(content, kind, description, width))
    return card(picture.title, *parts)


def _tokens_html(row: Explained) -> str:
    assert row.tokens is not None
    limit = scale_limit(row.relevance)
    spans = token_spans(TokenRow(row.tokens[:MOST_SPANS], row.relevance[:MOST_SPANS]), limit)
    rest = f" The first {MOST_SPANS} of {len(row.tokens)} tokens." if len(row.tokens) > MOST_SPANS else ""
    legend = f"Color scale: {-limit:.3g} (blue) to {limit:.3g} (red), {row.meaning}.{rest}"
    return f'<p class="tokens">{spans}</p>{text_html(legend)}'


def _picture(explanations: "Sequence[Explanation]", most: int) -> _Picture:
    """Choose the maps to draw, and build their rows and texts."""
    if not explanations:
        raise ConfigError("got no explanation to draw.")
    if any(one.inputs is None for one in explanations):
        raise ConfigError("this explanation has no inputs, so it cannot be drawn; use one returned by explain().")
    views = _views(explanations, most)
    total = sum(one.target.numel() for one in explanations)
    several = total > 1
    rows = [row for view in views[:most] for row in _rows(view, is_alone=not several)]
    first = explanations[0]
    notes = list(dict.fromkeys(note for one in explanations for note in one.notes))
    if total > len(views[:most]):
        notes.append(f"{len(views[:most])} of {total} maps are shown.")
    notes += _scale_note(first)
    if not several and not rows[0].is_warning:
        texts = _texts(views[0])
        return _Picture(texts[0], " ".join([texts[1], *map(_sentence, notes)]), rows)
    title = _title(explanations, rows[0].kind) if several else _texts(views[0])[0]
    return _Picture(title, " ".join(map(_sentence, notes)), rows)


def _sentence(text: str) -> str:
    # names of layers and parameters keep their case
    if text.split(" ", 1)[0].isalpha() and " " in text:
        text = text[0].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _title(explanations: "Sequence[Explanation]", kind: str) -> str:
    first = explanations[0]
    count, noun = len(first.target), NOUNS[kind]
    methods = list(dict.fromkeys(one.method for one in explanations))
    titles = first.display.titles
    subject = f"{count} {noun}s" if count > 1 else shortened(titles[0]) if titles else f"One {noun}"
    if len(methods) > 1:
        return f"{subject} explained by {len(methods)} methods"
    layers = {one.layer for one in explanations}
    if len(layers) > 1:
        return f"{subject} explained by {methods[0]} at {len(layers)} layers"
    targets = len(explanations) if len(explanations) > 1 else first.target[0].numel()
    return f"{subject} explained by {methods[0]}" + (f" for {targets} targets" if targets > 1 else "")


def _views(explanations: "Sequence[Explanation]", most: int) -> list[_View]:
    """Return the maps in the order of the rows: by image, so that those of one image can be compared."""
    views = []
    count = len(explanations[0].target)
    for image in range(count):
        for one in explanations:
            if one.target.ndim == 1:
                views.append(_View(one, (image,)))
                continue
            # of all classes, the likeliest
            likeliest = one.logits[image].argsort(descending=True, stable=True).tolist()
            views += [_View(one, (image, label)) for label in likeliest[: max(1, most // count)]]
    return views


def _texts(view: _View) -> tuple[str, str]:
    """Return the heading of a map and the line below it."""
    one, index = view.explanation, view.index
    titles = one.display.titles
    count = len(one.target)
    title = shortened(titles[index[0]]) if titles else f"{index[0] + 1} of {count}" if count > 1 else ""
    answer = predicted(one, index[0])
    heading = f"{title}: {answer}" if title else answer[0].upper() + answer[1:]
    return heading, f"{one.method} for {targeted(one, index)}. {verdict(one, index)}"


def _rows(view: _View, *, is_alone: bool) -> Iterator[Explained]:
    """Yield the rows of a map: one, or one per input of a model with several."""
    one, image = view.explanation, view.index[0]
    heading, line = _texts(view)
    is_within = is_within_tolerance(one, view.index)
    parts = list(_shown_parts(one))
    for number, (name, inputs, relevance) in enumerate(parts):
        values, maps = _array(inputs[image]), _array(relevance[view.index])
        label = f"input {name}" if name else ""
        layer = _layer_label(one, maps) if one.layer else ""
        if (plane := _plane(one)) is not None:
            maps = over_image(maps, plane, values.shape)
        row = _row(one, image, values, maps, _scale(one, inputs))
        # the text of a single map is in the headline, which cannot be drawn as a warning
        own_line = "" if number or (is_alone and is_within) else line
        lines = tuple(part for part in (layer, own_line, label) if part)
        is_warning = number == 0 and not is_within
        yield replace(row, heading="" if number or is_alone else heading, lines=lines, is_warning=is_warning)


def _shown_parts(one: "Explanation") -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield name, values and relevance of what is drawn: layers over the image if they fit, others by themselves."""
    if not one.layer:
        yield from _parts("", one.inputs, one.relevance)
        return
    values, relevance = one.activations, one.relevance
    assert values is not None
    if _plane(one) is not None:
        yield "", one.inputs, relevance
    elif values.ndim > 3:  # three channels of a hidden layer are no colors
        yield "", values.mean(1, keepdim=True), relevance.sum(relevance.ndim - values.ndim + 1, keepdim=True)
    else:
        yield "", values, relevance


def _plane(one: "Explanation") -> Plane | None:
    """Return how a layer lies over the image; None if it does not, and for explanations of the input."""
    if not one.layer or one.activations is None or not isinstance(one.inputs, Tensor) or one.inputs.ndim != 4:
        return None
    return plane_of(one.activations.shape[1:], one.inputs.shape[1:])


def _layer_label(one: "Explanation", maps: np.ndarray) -> str:
    """Name the layer, and the relevance of tokens that have no position in the image."""
    plane, name = _plane(one), f"Output of {one.layer}"
    if plane is None or not plane.extra:
        return name
    tokens = "the first token" if plane.extra == 1 else f"the first {plane.extra} tokens"
    left = maps[: plane.extra].sum()
    return f"{name}; {left:.4g} of the map's sum, {maps.sum():.4g}, is at {tokens}, without a place in the image"


def _parts(name: str, inputs: Any, relevance: Any) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield name, input and relevance of each input that has relevance."""
    if isinstance(relevance, Tensor):
        yield name, inputs, relevance
        return
    if relevance is None:
        return
    pairs = relevance.items() if isinstance(relevance, Mapping) else enumerate(relevance)
    for key, value in pairs:
        yield from _parts(f"{name}.{key}" if name else str(key), inputs[key], value)


def _array(values: Tensor) -> np.ndarray:
    shown = values.detach().cpu()
    return (shown.float() if shown.dtype.itemsize < 4 and shown.is_floating_point() else shown).numpy()


def _row(one: "Explanation", image: int, values: np.ndarray, maps: np.ndarray, scale: tuple[float, float]) -> Explained:
    """Convert one input and its relevance to a shape that can be drawn."""
    if np.issubdtype(values.dtype, np.integer) and maps.ndim == values.ndim + 1:
        names = one.display.tokens
        tokens = names[image] if names else tuple(map(str, values.tolist()))
        return Explained(values, maps.sum(-1), one.unit, tokens=tokens)
    if values.ndim == 3 and 1 in values.shape[1:]:
        values, maps = (array.reshape(len(array), -1) for array in (values, maps))  # a signal with an empty axis
    if values.ndim == 2 and len(values) > MOST_CHANNELS:
        values, maps = values[None], maps[None]
    if values.ndim > 4 or values.ndim == 0:
        values, maps = values.reshape(-1), maps.reshape(-1)
    return Explained(values, maps, one.unit, scale=scale)


def _scale(one: "Explanation", inputs: Tensor) -> tuple[float, float]:
    """Return the values drawn as black and white: the same for the whole batch."""
    is_own = one.layer and _plane(one) is None  # the layer's own output, rather than the image, is drawn
    if one.display.scale is not None and not is_own:
        return one.display.scale
    low, high = float(inputs.min()), float(inputs.max())
    if is_own:
        return low, high
    return (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)


def _scale_note(one: "Explanation") -> list[str]:
    """Describe the value range of images outside [0, 1]; empty otherwise."""
    parts = list(_shown_parts(one))
    scales = [(name, _scale(one, inputs)) for name, inputs, _ in parts if inputs.ndim >= 4]
    if scales and one.layer and _plane(one) is None:
        return [
            "activations are averaged over channels and drawn from each layer's smallest (black) to its largest (white)"
        ]
    return [
        f"{f'Values of {name}' if name else 'Input values'} are drawn from {low:.3g} (black) to {high:.3g} (white)."
        for name, (low, high) in scales
        if (low, high) != (0.0, 1.0)
    ]
