"""Fault-tolerant access to the files of a run: a missing or damaged file is noted on the page, never raised."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, TypeVar

import numpy as np

from pellucid.core.errors import SaveError
from pellucid.report._pictures import Picture, pack_picture
from pellucid.storage.reading import parse_json, read_inside, unpack_arrays
from pellucid.storage.resuming import actual_status
from pellucid.storage.store import Store

__all__ = ["Entry", "Material"]

T = TypeVar("T")

Entry = Mapping[str, Any]
"""An entry of the manifest: `hook`, `name`, `kind`, `path` and `caption` are strings, `epoch` is an integer."""

TEXTS = ("hook", "name", "kind", "path", "caption")
"""String fields of an entry."""
MOST_BYTES = 200_000_000
"""Maximum size of a file to read; no artifact of a run is larger."""
MOST_CHARACTERS = 50_000
"""Maximum length of a log shown on the page."""


@dataclass(frozen=True, eq=False)
class Material:
    """Records, pictures and arrays of one save folder.

    Anything that cannot be read is omitted and listed in `damages`.
    """

    store: Store
    left_out: frozenset[int] = frozenset()
    """Epochs omitted to limit the size of the page."""
    scale: float = 1.0
    """Scale factor of the pictures; 0 omits them."""
    served: Mapping[str, Any] | None = None
    """Facts of the server that sends the page; None for a file on disk."""
    damages: list[str] = field(default_factory=list)
    """Messages about missing or damaged files."""

    @cached_property
    def run(self) -> dict[str, Any]:
        """Content of run.json; empty if it cannot be read."""
        return self._record(lambda: self.store.read_json("run.json", {}), {})

    @cached_property
    def status(self) -> str:
        """Status of the run; `interrupted` also if its process was killed and could not record it."""
        return actual_status(self.run, self.store.folder)

    @cached_property
    def data(self) -> dict[str, Any]:
        """Description of the data set in run.json."""
        return self._typed("run.json", self.run, "dataset", dict, "a JSON object")

    @cached_property
    def model(self) -> dict[str, Any]:
        """Description of the model in run.json."""
        return self._typed("run.json", self.run, "model", dict, "a JSON object")

    def _typed(self, path: str, record: Mapping[str, Any], name: str, kind: Callable[[], T], kind_name: str) -> T:
        """Return an entry of a record, or an empty one, with a note, if it is of another type."""
        # `kind()` is the empty value of the type
        value = record.get(name, kind())
        if isinstance(value, type(kind())):
            return value
        self.note(f"{path}: {name!r} is not {kind_name}.")
        return kind()

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """Lines of metrics.jsonl, sorted by epoch."""
        # a run that is still in its first epoch has no metrics yet, and that is no damage
        lines = self._record(lambda: self.store.read_lines("metrics.jsonl"), [])
        if not lines and self.run.get("status") == "finished":
            self.note("metrics.jsonl is missing or empty.")
        whole = [line for line in lines if is_epoch(line.get("epoch"))]
        if len(whole) < len(lines):
            self.note(f"metrics.jsonl: {len(lines) - len(whole)} of {len(lines)} lines have no valid epoch.")
        return sorted(whole, key=lambda line: int(line["epoch"]))

    @cached_property
    def best_epoch(self) -> int | None:
        """Epoch of the best checkpoint."""
        # an epoch is marked as best if it beats all earlier ones, so the last mark counts
        return next((int(line["epoch"]) for line in reversed(self.metrics) if line.get("best") is True), None)

    @cached_property
    def artifacts(self) -> list[Entry]:
        """Valid entries of the manifest."""
        listed = self._listed("artifacts")
        whole = [entry for entry in listed if _is_entry(entry)]
        if len(whole) < len(listed):
            self.note(f"manifest.json: {len(listed) - len(whole)} of {len(listed)} artifacts are invalid.")
        return whole

    @cached_property
    def failures(self) -> list[Entry]:
        """Failures in the manifest, with `hook`, `epoch`, `error` and `log`."""
        return [entry for entry in self._listed("failures") if isinstance(entry, dict)]

    @cached_property
    def _manifest(self) -> dict[str, Any]:
        if not (self.store.folder / "manifest.json").exists():
            self.note("manifest.json is missing, so no figures can be shown.")
        return self._record(lambda: self.store.read_json("manifest.json", {}), {})

    def _listed(self, name: str) -> list[Any]:
        return self._typed("manifest.json", self._manifest, name, list, "a list")

    @cached_property
    def classes(self) -> list[str]:
        """Names of the classes; empty if unknown."""
        names = self.data.get("classes", [])
        return [str(name) for name in names] if isinstance(names, list) else []

    @cached_property
    def epochs(self) -> list[int]:
        """Epochs with artifacts to show."""
        return sorted({int(entry["epoch"]) for entry in self.artifacts} - self.left_out)

    def _record(self, read: Callable[[], Any], absent: Any) -> Any:
        try:
            return read()
        except SaveError as error:
            self.note(str(error))
            return absent

    def entries(self, hook: str, kind: str, name: str | None = None) -> dict[int, Entry]:
        """Return the entries of a hook's artifact of one kind, by epoch; `name` defaults to the main artifact."""
        wanted = (hook, kind, name or hook)
        matching = [entry for entry in self.artifacts if (entry["hook"], entry["kind"], entry["name"]) == wanted]
        return {int(entry["epoch"]): entry for entry in matching if entry["epoch"] not in self.left_out}

    def picture(self, entry: Entry) -> Picture | None:
        """Encode a figure for the page; None, with a note, if it cannot be shown."""
        is_draft = self.status == "running"  # the page will be written again
        packed = partial(pack_picture, scale=self.scale, is_draft=is_draft)
        return self._decoded(entry, packed) if self.scale else None

    def numbers(self, entry: Entry) -> dict[str, Any] | None:
        """Read an artifact's JSON file; None, with a note, if it cannot be read."""
        return self._decoded(entry, _json_object)

    def arrays(self, entry: Entry) -> dict[str, np.ndarray] | None:
        """Read the arrays of an .npz file; None, with a note, if it cannot be read."""
        return self._decoded(entry, _arrays)

    def _decoded(self, entry: Entry, decode: Callable[[bytes], T]) -> T | None:
        content = self._content(entry)
        try:
            return None if content is None else decode(content)
        except Exception as error:  # noqa: BLE001  (a damaged picture or archive can raise almost anything)
            self._damaged(entry, error)
            return None

    def pairs(
        self, hook: str, read: Callable[[dict[str, np.ndarray], dict[str, Any]], Any], name: str = ""
    ) -> dict[int, Any]:
        """Apply `read` to the arrays and numbers of each epoch that has both, as `by_epoch` does."""
        numbers = self.entries(hook, "data", name)
        both = {epoch: entry for epoch, entry in self.entries(hook, "arrays", name).items() if epoch in numbers}

        def read_both(entry: Entry) -> Any:
            arrays, record = self.arrays(entry), self.numbers(numbers[int(entry["epoch"])])
            return None if arrays is None or record is None else read(arrays, record)

        return self.by_epoch(both, read_both)

    def by_epoch(self, entries: Mapping[int, Entry], read: Callable[[Entry], Any]) -> dict[int, Any]:
        """Apply `read` to each entry; entries that are invalid (with a note) or give None are omitted."""
        values = {}
        for epoch, entry in sorted(entries.items()):
            try:
                value = read(entry)
            except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
                self._damaged(entry, f"{type(error).__name__}: {error}")
                continue
            if value is not None:
                values[epoch] = value
        return values

    def text(self, path: str) -> str | None:
        """Read a text file in the save folder, or the end of a long one; None, without a note, if it cannot be read."""
        try:
            text = read_inside(self.store.folder, path, MOST_BYTES).decode("utf-8", "replace")
        except OSError:
            return None
        if len(text) <= MOST_CHARACTERS:
            return text
        return f"[the first {len(text) - MOST_CHARACTERS:,} characters are omitted]\n{text[-MOST_CHARACTERS:]}"

    def _content(self, entry: Entry) -> bytes | None:
        try:
            # the page embeds the files that the manifest lists, and must not reveal others
            return read_inside(self.store.folder, entry["path"], MOST_BYTES)
        except OSError as error:
            self._damaged(entry, error.strerror or error)
            return None

    def _damaged(self, entry: Entry, reason: object) -> None:
        self.note(f"{entry['path']} cannot be shown: {reason}.")

    def attempt(self, part: str, work: Callable[[], T], absent: T) -> T:
        """Return the result of `work`, or `absent` with a note after an error, which must not break the page."""
        try:
            return work()
        except Exception as error:  # noqa: BLE001
            self.note(f"{part} cannot be shown: {type(error).__name__}: {error}.")
            return absent

    def note(self, damage: str) -> None:
        """Add a message about something missing or damaged, unless it is listed already."""
        # several sections read the same file
        if damage not in self.damages:
            self.damages.append(damage)


def _json_object(content: bytes) -> dict[str, Any]:
    record = parse_json(content)
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    return record


def _arrays(content: bytes) -> dict[str, np.ndarray]:
    return unpack_arrays(content, MOST_BYTES)  # several files may be in memory at once


def is_epoch(value: object) -> bool:
    """Return True for a valid epoch number."""
    # JSON's true is an int in Python
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**9


def _is_entry(entry: object) -> bool:
    return (
        isinstance(entry, dict)
        and all(isinstance(entry.get(name), str) for name in TEXTS)
        and is_epoch(entry.get("epoch"))
    )
