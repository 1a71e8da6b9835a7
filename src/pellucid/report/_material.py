"""What a run left, read with care: a file that is missing or damaged is noted, never an end to the page."""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pellucid.artifacts.store import Store
from pellucid.core.errors import SaveError
from pellucid.report._pictures import data_uri

__all__ = ["Entry", "Material"]

Entry = Mapping[str, Any]
"""A line of the manifest."""


@dataclass(frozen=True, eq=False)
class Material:
    """The records, pictures and arrays of one save folder.

    Whatever cannot be read is left out and told in `damages`.
    """

    store: Store
    damages: list[str] = field(default_factory=list)
    """What is missing or damaged, a line each."""

    @cached_property
    def run(self) -> dict[str, Any]:
        """run.json; empty where it cannot be read."""
        return self._record(self.store.run, {})

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, by epoch."""
        return self._record(self.store.metrics, [])

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """manifest.json."""
        return self._record(self.store.manifest, {"artifacts": [], "failures": []})

    @cached_property
    def classes(self) -> list[str]:
        """The names of the classes; empty where nobody knows."""
        return [str(name) for name in self.run.get("dataset", {}).get("classes", [])]

    @cached_property
    def epochs(self) -> list[int]:
        """The epochs of which something can be seen."""
        return sorted({int(entry["epoch"]) for entry in self.manifest["artifacts"]})

    def _record(self, read: Any, absent: Any) -> Any:
        try:
            return read()
        except SaveError as error:
            self.damages.append(str(error))
            return absent

    def entries(self, hook: str, kind: str, name: str | None = None) -> dict[int, Entry]:
        """The lines of the manifest of one hook and kind, by epoch; `name` tells its artifacts apart."""
        wanted = (hook, kind, name or hook)
        return {
            int(entry["epoch"]): entry
            for entry in self.manifest["artifacts"]
            if (entry["hook"], entry["kind"], entry["name"]) == wanted
        }

    def picture(self, entry: Entry) -> str | None:
        """A figure as a data URI; None, and noted, where it cannot be shown."""
        content = self._content(entry)
        if content is None:
            return None
        try:
            return data_uri(content)
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            return self._damaged(entry, error)

    def numbers(self, entry: Entry) -> dict[str, Any] | None:
        """The JSON record beside a picture; None, and noted, where it cannot be read."""
        content = self._content(entry)
        if content is None:
            return None
        try:
            record = json.loads(content)
        except ValueError as error:
            return self._damaged(entry, error)
        return record if isinstance(record, dict) else self._damaged(entry, "it holds no record")

    def arrays(self, entry: Entry) -> dict[str, np.ndarray] | None:
        """The arrays of an .npz file; None, and noted, where it cannot be read."""
        content = self._content(entry)
        if content is None:
            return None
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        except Exception as error:  # noqa: BLE001  (a damaged archive fails in many ways)
            return self._damaged(entry, error)

    def _content(self, entry: Entry) -> bytes | None:
        root = self.store.folder.resolve()
        path = (root / str(entry["path"])).resolve()
        if not path.is_relative_to(root):
            return self._damaged(entry, "it lies outside the save folder")
        try:
            return path.read_bytes()
        except OSError as error:
            return self._damaged(entry, error.strerror or error)

    def _damaged(self, entry: Entry, reason: object) -> None:
        self.damages.append(f"{Path(str(entry['path'])).as_posix()} cannot be shown: {reason}.")
