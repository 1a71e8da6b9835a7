"""Display settings of explanations, and the mixin by which results draw themselves."""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from pellucid.core.errors import ConfigError, WriteError
from pellucid.core.files import replace_file
from pellucid.core.opening import opens_in_browser

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pellucid.attribution._explanation import Explanation

__all__ = ["Display", "Explanations", "Pictured", "write_figure"]

ROWS = 8
"""Default maximum number of maps in a figure."""
KINDS = ("png", "pdf", "svg", "html")
"""Suffixes that `save` accepts."""


@dataclass(frozen=True)
class Display:
    """Titles, value range and token texts for drawing inputs."""

    titles: tuple[str, ...] = ()
    """One title per example, such as the names of files."""
    scale: tuple[float, float] | None = None
    """Values drawn as black and white. None: 0 and 1 if they bound all values, otherwise the extremes."""
    tokens: tuple[tuple[str, ...], ...] = ()
    """Text of each token, per example; empty to show ids."""


class Pictured:
    """Mixin for results that can be drawn, saved, and displayed in notebooks."""

    @property
    def explanations(self) -> "tuple[Explanation, ...]":
        """The explanations in the figure."""
        raise NotImplementedError

    def figure(self, *, rows: int = ROWS) -> "Figure":
        """Draw each input next to its relevance, with at most `rows` maps; the figure says if there are more.

        Relevance is red where it is evidence for the target and blue where it is evidence against it, on a scale
        centered at zero. Images show the map, summed over channels, alone and with the image's outline. Signals have it
        as their background, and tokens are colored. Volumes show the slices with the largest relevance, other inputs
        the most relevant values. Each row gives the predicted class with its softmax probability, the target, and the
        verdict on the sum of the map.
        """
        # imported here, because explanations are computed without matplotlib
        from pellucid.attribution._picture import figure_of

        return figure_of(self.explanations, _checked(rows))

    def show(self) -> None:
        """Show the figure in the notebook, or as a temporary page in the browser.

        Raises `ConfigError` if there is neither.
        """
        if _in_notebook():
            from IPython.display import display  # type: ignore[import-not-found,unused-ignore]

            display(self)  # type: ignore[no-untyped-call,unused-ignore]
            return
        handle, name = tempfile.mkstemp(prefix="pellucid-", suffix=".html")
        os.close(handle)
        path = self.save(name)
        if not opens_in_browser(path.resolve().as_uri()):
            path.unlink()
            raise ConfigError("show() found no notebook and no browser; write the figure with save('why.png').")

    def save(self, path: str | Path, *, rows: int = ROWS) -> Path:
        """Write the figure as `.png`, `.pdf`, `.svg` or `.html`, by the suffix of `path`, and return the path.

        An existing file is replaced atomically. Raises `ConfigError` for another suffix, and `WriteError` if the file
        cannot be written.
        """
        from pellucid.attribution._picture import encoded

        return write_figure(path, lambda kind: encoded(self.explanations, kind, _checked(rows)), KINDS)

    def _repr_html_(self) -> str:
        """Return the figure as self-contained HTML for notebooks, at most 300 kB."""
        from pellucid.attribution._picture import card_of

        return card_of(self.explanations, ROWS)


class Explanations(Sequence["Explanation"], Pictured):
    """Explanations of the same inputs by several methods or for several targets."""

    def __init__(self, explanations: "Sequence[Explanation]") -> None:
        self._explanations = tuple(explanations)

    @property
    def explanations(self) -> "tuple[Explanation, ...]":
        """The explanations as a tuple."""
        return self._explanations

    @overload
    def __getitem__(self, index: int) -> "Explanation": ...
    @overload
    def __getitem__(self, index: slice) -> "Explanations": ...
    def __getitem__(self, index: int | slice) -> "Explanation | Explanations":
        """Return one explanation, or those of a slice."""
        if isinstance(index, slice):
            return Explanations(self._explanations[index])
        return self._explanations[index]

    def __len__(self) -> int:
        """Return the number of explanations."""
        return len(self._explanations)

    def __iter__(self) -> "Iterator[Explanation]":
        """Iterate over the explanations."""
        return iter(self._explanations)

    def __repr__(self) -> str:
        """Return one line per explanation."""
        lines = [f"  {one.method}, target {_short(one)}" for one in self._explanations]
        return "\n".join(["Explanations(", *lines, ")"])


def write_figure(path: str | Path, content_of: Callable[[Any], bytes], kinds: Sequence[str]) -> Path:
    """Write a figure as one of `kinds`, by the suffix of `path`; `content_of` returns it as a file of that kind.

    An existing file is replaced atomically. Raises `ConfigError` for another suffix, and `WriteError` if the file
    cannot be written.
    """
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    # before the figure is drawn
    if kind not in kinds:
        suffixes = ", ".join(f".{one}" for one in kinds)
        raise ConfigError(f"cannot save a figure as {path.name!r}; use one of the suffixes {suffixes}.")
    content = content_of(kind)
    try:
        replace_file(path, content)
    except OSError as error:
        raise WriteError(f"{path} cannot be written: {error.strerror or error}.") from error
    return path


def _short(explanation: "Explanation") -> str:
    target = explanation.target.flatten().tolist()
    return ", ".join(map(str, target[:6])) + (" …" if len(target) > 6 else "")


def _checked(rows: int) -> int:
    if rows < 1:
        raise ConfigError(f"rows is {rows!r}; expected a whole number of at least 1.")
    return rows


def _in_notebook() -> bool:
    try:
        from IPython import get_ipython  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        return False
    shell = get_ipython()
    # terminals of IPython have no kernel, and cannot show HTML
    return shell is not None and hasattr(shell, "kernel")
