"""What a run left, read with care: a file that is missing or damaged is noted, never an end to the page."""

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pellucid.artifacts.store import Store
from pellucid.core.errors import SaveError
from pellucid.report._pictures import Picture, pack_picture

__all__ = ["Entry", "Material"]

Entry = Mapping[str, Any]
"""A line of the manifest: `hook`, `name`, `kind`, `path` and `caption` are texts, `epoch` is a whole number."""

TEXTS = ("hook", "name", "kind", "path", "caption")
MOST_BYTES = 200_000_000
"""A larger file is no artifact of a run."""
MOST_CHARACTERS = 50_000
"""Of a log."""


@dataclass(frozen=True, eq=False)
class Material:
    """The records, pictures and arrays of one save folder.

    Whatever cannot be read is left out and told in `damages`.
    """

    store: Store
    left_out: frozenset[int] = frozenset()
    """Epochs of which nothing is taken, so that the page stays small."""
    scale: float = 1.0
    """Pictures are shrunk to this share of their width; 0: there are none."""
    damages: list[str] = field(default_factory=list)
    """What is missing or damaged, a line each."""

    @cached_property
    def run(self) -> dict[str, Any]:
        """run.json; empty where it cannot be read."""
        return self._record(self.store.run, {})

    @cached_property
    def data(self) -> dict[str, Any]:
        """What run.json tells of the data set."""
        return self._part("dataset")

    @cached_property
    def model(self) -> dict[str, Any]:
        """What run.json tells of the model."""
        return self._part("model")

    def _part(self, name: str) -> dict[str, Any]:
        part = self.run.get(name, {})
        if isinstance(part, dict):
            return part
        self.note(f"run.json: {name!r} is no record.")
        return {}

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, by epoch."""
        lines = self._record(self.store.metrics, [])
        if not lines and self.run.get("status") == "finished":
            self.note("metrics.jsonl is missing or empty.")
        whole = [line for line in lines if is_epoch(line.get("epoch"))]
        if len(whole) < len(lines):
            self.note(f"metrics.jsonl: {len(lines) - len(whole)} of {len(lines)} lines name no epoch.")
        return sorted(whole, key=lambda line: int(line["epoch"]))

    @cached_property
    def best_epoch(self) -> int | None:
        """The epoch whose weights were kept."""
        return next((int(line["epoch"]) for line in reversed(self.metrics) if line.get("best") is True), None)

    @cached_property
    def artifacts(self) -> list[Entry]:
        """The lines of the manifest that are as they should be."""
        listed = self._listed("artifacts")
        whole = [entry for entry in listed if _is_entry(entry)]
        if len(whole) < len(listed):
            self.note(
                f"manifest.json: {len(listed) - len(whole)} of {len(listed)} artifacts are not as they should be."
            )
        return whole

    @cached_property
    def failures(self) -> list[Entry]:
        """What failed: `hook`, `epoch`, `error` and `log`."""
        return [entry for entry in self._listed("failures") if isinstance(entry, dict)]

    @cached_property
    def _manifest(self) -> dict[str, Any]:
        if not (self.store.folder / "manifest.json").exists():
            self.note("manifest.json is missing, and with it every picture.")
        return self._record(self.store.manifest, {})

    def _listed(self, name: str) -> list[Any]:
        listed = self._manifest.get(name, [])
        if isinstance(listed, list):
            return listed
        self.note(f"manifest.json: {name!r} is no list.")
        return []

    @cached_property
    def classes(self) -> list[str]:
        """The names of the classes; empty where nobody knows."""
        names = self.data.get("classes", [])
        return [str(name) for name in names] if isinstance(names, list) else []

    @cached_property
    def epochs(self) -> list[int]:
        """The epochs of which something can be seen."""
        return sorted({int(entry["epoch"]) for entry in self.artifacts} - self.left_out)

    def _record(self, read: Callable[[], Any], absent: Any) -> Any:
        try:
            return read()
        except (SaveError, RecursionError) as error:
            self.note(str(error))
            return absent

    def entries(self, hook: str, kind: str, name: str | None = None) -> dict[int, Entry]:
        """The lines of the manifest of one hook and kind, by epoch; `name` tells its artifacts apart."""
        wanted = (hook, kind, name or hook)
        found = [entry for entry in self.artifacts if (entry["hook"], entry["kind"], entry["name"]) == wanted]
        return {int(entry["epoch"]): entry for entry in found if entry["epoch"] not in self.left_out}

    def picture(self, entry: Entry) -> Picture | None:
        """A figure, ready for the page; None, and noted, where it cannot be shown."""
        content = self._content(entry) if self.scale else None
        if content is None:
            return None
        try:
            return pack_picture(content, self.scale)
        except (
            OSError,
            ValueError,
            SyntaxError,
            Image.DecompressionBombError,
            Image.DecompressionBombWarning,
        ) as error:
            self._damaged(entry, error)
            return None

    def numbers(self, entry: Entry) -> dict[str, Any] | None:
        """The JSON record beside a picture; None, and noted, where it cannot be read."""
        content = self._content(entry)
        if content is None:
            return None
        try:
            record = json.loads(content)
        except (ValueError, RecursionError) as error:
            self._damaged(entry, error)
            return None
        if isinstance(record, dict):
            return record
        self._damaged(entry, "it holds no record")
        return None

    def arrays(self, entry: Entry) -> dict[str, np.ndarray] | None:
        """The arrays of an .npz file; None, and noted, where it cannot be read."""
        content = self._content(entry)
        if content is None:
            return None
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        except Exception as error:  # noqa: BLE001  (a damaged archive fails in many ways)
            self._damaged(entry, error)
            return None

    def by_epoch(self, entries: Mapping[int, Entry], read: Callable[[Entry], Any]) -> dict[int, Any]:
        """What `read` makes of each entry, by epoch; what it cannot read, or returns None for, is left out."""
        made = {}
        for epoch, entry in sorted(entries.items()):
            try:
                value = read(entry)
            except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
                self._damaged(entry, f"{type(error).__name__}: {error}")
                continue
            if value is not None:
                made[epoch] = value
        return made

    def text(self, path: str) -> str | None:
        """The text of a file in the save folder, of a long one the end; None, not noted, where it cannot be read."""
        found = self._inside(path)
        try:
            if found is None or found.stat().st_size > MOST_BYTES:
                return None
            text = found.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None
        if len(text) <= MOST_CHARACTERS:
            return text
        return f"[{len(text) - MOST_CHARACTERS:,} characters before this are in the file]\n{text[-MOST_CHARACTERS:]}"

    def _content(self, entry: Entry) -> bytes | None:
        path = self._inside(entry["path"])
        if path is None:
            self._damaged(entry, "it lies outside the save folder")
            return None
        try:
            if path.stat().st_size > MOST_BYTES:
                self._damaged(entry, "it is too large")
                return None
            return path.read_bytes()
        except OSError as error:
            self._damaged(entry, error.strerror or error)
            return None

    def _inside(self, path: str) -> Path | None:
        """Where a path of the manifest leads; None where that is outside the save folder, or no path at all."""
        try:
            root = self.store.folder.resolve()
            found = (root / path).resolve()
        except (OSError, ValueError, RuntimeError):  # a NUL, a loop of links
            return None
        return found if found.is_relative_to(root) else None

    def _damaged(self, entry: Entry, reason: object) -> None:
        self.note(f"{entry['path']} cannot be shown: {reason}.")

    def note(self, damage: str) -> None:
        """Tell of something missing or damaged, once."""
        if damage not in self.damages:
            self.damages.append(damage)


def is_epoch(value: object) -> bool:
    """Whether a value can be an epoch's number."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**9


def _is_entry(entry: object) -> bool:
    return (
        isinstance(entry, dict)
        and all(isinstance(entry.get(name), str) for name in TEXTS)
        and is_epoch(entry.get("epoch"))
    )
