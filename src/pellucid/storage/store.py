"""The save folder: all files of a run, written atomically, and the manifest that lists them."""

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pellucid.core.contracts import Artifact, Kind
from pellucid.core.errors import DataError, SaveError, WriteError
from pellucid.core.text import printable
from pellucid.storage.atomic import TEMPORARY, json_text, record_text, write_bytes, write_json
from pellucid.storage.ownership import mark_as_ours
from pellucid.storage.reading import parse_json, read_inside, unpack_arrays
from pellucid.storage.schema import MANIFEST, METRICS, RUN, Record, check_record

__all__ = ["Store"]

LARGEST_TABLE = 20_000
"""Maximum number of values of one entry in the manifest, which is read and written as a whole."""
MOVED_ASIDE = (
    "models",
    "logs",
    "plots",
    "films",
    "errors",
    "evaluation",
    "recordings",
    "metrics.jsonl",
    "manifest.json",
    "report.html",
    "summary.png",
    "run.json",  # last: an interrupted move reads the start time from it to find its target again
)
"""Files and folders of a run, which are moved to `previous/` when a new run starts."""


@dataclass(frozen=True)
class Packed:
    """An encoded artifact, ready to be written."""

    entries: list[dict[str, Any]]
    """Entries in the manifest."""
    files: list[tuple[str, bytes]]
    """Pairs of path below the save folder and content."""


@dataclass(frozen=True)
class Store:
    """Files of one run below one folder.

    Reading a missing record returns an empty one. Failed writes raise `SaveError` and leave the previous file intact.
    """

    folder: Path

    # --- records -----------------------------------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        """Read run.json; raises `SaveError` if it is damaged or an entry has the wrong type."""
        return self._checked("run.json", self.read_json("run.json", {}), RUN)

    def check_run(self, *needed: str) -> None:
        """Raise `SaveError` unless the folder has one of the files `needed`, which make it a run."""
        if not any((self.folder / name).is_file() for name in needed):
            reason = f"{needed[0]} is missing" if self.folder.is_dir() else "there is no such folder"
            raise SaveError(
                f"there is no run in {self.folder}: {reason}. Give the folder that `pellucid run --save` wrote."
            )

    def write_run(self, record: Mapping[str, Any]) -> None:
        """Replace run.json."""
        write_json(self.folder / "run.json", dict(record))

    def metrics(self) -> list[dict[str, Any]]:
        """Read the lines of metrics.jsonl, sorted by epoch."""
        return [self._checked("metrics.jsonl", line, METRICS) for line in self.read_lines("metrics.jsonl")]

    def add_metrics(self, record: Mapping[str, Any]) -> None:
        """Add an epoch's line to metrics.jsonl, replacing an earlier line of the same epoch."""
        lines = {line["epoch"]: line for line in self.metrics()} | {record["epoch"]: dict(record)}
        self._write_lines(self.folder / "metrics.jsonl", [lines[epoch] for epoch in sorted(lines)])

    def set_aside_after(self, epoch: int) -> Path | None:
        """Move the epochs after `epoch`, which a restarted training repeats, to a folder in `previous/`.

        Returns the folder, or None if `epoch` is the last one. TensorBoard's files stay, since its log continues there.
        """
        lines, manifest = self.metrics(), self.manifest()
        kept = {key: [one for one in manifest[key] if one["epoch"] <= epoch] for key in ("artifacts", "failures")}
        later = {key: [one for one in manifest[key] if one["epoch"] > epoch] for key in ("artifacts", "failures")}
        if lines and lines[-1]["epoch"] <= epoch and not any(later.values()):
            return None
        target = _free_for(["metrics.jsonl"], self._place_aside())
        # copied first, then removed: an interruption leaves every record in at least one place
        self._write_lines(target / "metrics.jsonl", [line for line in lines if line["epoch"] > epoch])
        write_json(target / "manifest.json", manifest | later)
        self._write_lines(self.folder / "metrics.jsonl", [line for line in lines if line["epoch"] <= epoch])
        write_json(self.folder / "manifest.json", manifest | kept)
        files = {str(one.get("path") or one.get("log")) for entries in later.values() for one in entries}
        for name in sorted(name for name in files if re.fullmatch(r"(plots|films|errors)/[\w./-]+", name)):
            if ".." not in name and (self.folder / name).is_file():
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                (self.folder / name).replace(target / name)
        return target

    @staticmethod
    def _write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
        write_bytes(path, "".join(json_text(line) + "\n" for line in lines).encode())

    def manifest(self) -> dict[str, Any]:
        """Read manifest.json."""
        absent = {"version": 1, "artifacts": [], "failures": []}
        return self._checked("manifest.json", self.read_json("manifest.json", absent), MANIFEST)

    def _checked(self, name: str, record: dict[str, Any], kind: Record) -> dict[str, Any]:
        check_record(record, kind, str(self.folder / name))
        return record

    def read_json(self, name: str, absent: dict[str, Any]) -> dict[str, Any]:
        """Read a JSON object without checking its entries; `absent` if the file does not exist."""
        content = self.read(name)
        return absent if content is None else self._record(name, content)

    def read_lines(self, name: str) -> list[dict[str, Any]]:
        """Read a file with one JSON object per line, without checking their entries."""
        return [self._record(name, line) for line in (self.read(name) or b"").splitlines()]

    def _record(self, name: str, content: bytes) -> dict[str, Any]:
        try:
            record = parse_json(content)
        except ValueError as error:
            raise SaveError(f"{self.folder / name} is damaged ({error}); move it away to start over.") from error
        if not isinstance(record, dict):
            raise SaveError(f"{self.folder / name} is damaged (not a JSON object); move it away to start over.")
        return record

    def read(self, name: str) -> bytes | None:
        """Read a file of the save folder; None if it does not exist.

        Raises `SaveError` if it cannot be read, leaves the folder through a link, or is no regular file.
        """
        try:
            return read_inside(self.folder, name)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise SaveError(f"{self.folder / name} cannot be read: {error.strerror or error}.") from error

    def check_present(self) -> None:
        """Raise `WriteError` if run.json is gone: somebody deleted or moved the folder while a run writes to it."""
        if not (self.folder / "run.json").is_file():
            raise WriteError(
                f"the save folder {self.folder} was deleted or moved during the run, so the run cannot continue. Start "
                "it again, and keep the folder until it ends."
            )

    def _check_folder(self) -> None:
        # without this check, writing a file would create the folder again, with a part of the run
        if not self.folder.is_dir():
            self.check_present()

    # --- artifacts ---------------------------------------------------------------------------------------------

    def pack(self, hook: str, epoch: int, artifact: Artifact, picture: bytes | None) -> "Packed":
        """Encode an artifact as files, without writing them; `picture` is its figure as a PNG.

        Raises `DataError` for an invalid name, and any exception that encoding its arrays and numbers raises.
        """
        if not re.fullmatch(r"[a-z0-9_]*", artifact.name):
            raise DataError(
                f"invalid artifact name {artifact.name!r}: use lower-case letters, digits and underscores only."
            )
        stem = f"plots/{hook}/epoch_{epoch:03d}" + (f"_{artifact.name}" if artifact.name else "")
        files: list[tuple[Kind, str, bytes]] = []
        if picture is not None:
            files.append(("figure", f"{stem}.png", picture))
        if artifact.arrays:
            files.append(("arrays", f"{stem}.npz", _pack_arrays(artifact.arrays)))
        if artifact.numbers:
            files.append(("data", f"{stem}.json", record_text(artifact.numbers).encode()))
        entries = [_entry(hook, epoch, path, kind, artifact) for kind, path, _ in files]
        json_text(entries)  # raises for a caption that cannot be stored, before anything is written
        return Packed(entries, [(path, content) for _, path, content in files])

    def pack_film(self, hook: str, epoch: int, artifact: Artifact, film: bytes) -> "Packed":
        """Encode a film of a hook's output up to `epoch`, without writing it."""
        path = f"films/{hook}.webp"
        return Packed([_entry(hook, epoch, path, "film", artifact)], [(path, film)])

    def keep(self, packed: "Packed") -> None:
        """Write the files of an artifact and add them to the manifest."""
        self._check_folder()
        # files first, so that the manifest never lists a missing one
        for path, content in packed.files:
            write_bytes(self.folder / path, content)
        self._enter(packed.entries)

    def keep_file(self, hook: str, epoch: int, artifact: Artifact, path: str, kind: Kind) -> None:
        """Add a file written elsewhere, such as a projector table, to the manifest."""
        self._enter([_entry(hook, epoch, path, kind, artifact)])

    def previous_arrays(self, hook: str, epoch: int) -> dict[str, np.ndarray] | None:
        """Load the main arrays of `hook` from its last epoch before `epoch`; None if it has none."""
        earlier = [
            entry
            for entry in self.manifest()["artifacts"]
            if (entry["hook"], entry["name"], entry["kind"]) == (hook, hook, "arrays") and entry["epoch"] < epoch
        ]
        if not earlier:
            return None
        return self.read_arrays(max(earlier, key=lambda entry: int(entry["epoch"]))["path"])

    def read_arrays(self, path: str) -> dict[str, np.ndarray]:
        """Read the arrays of an .npz file; raises `SaveError` if it is missing or damaged."""
        try:
            return unpack_arrays(self.read_existing(path))
        except ValueError as error:
            raise SaveError(f"{self.folder / path} cannot be read: {error}.") from error

    def read_existing(self, path: str) -> bytes:
        """Read a file that the manifest lists; raises `SaveError` if it is missing, too."""
        content = self.read(path)
        if content is None:
            raise SaveError(f"{self.folder / path} is missing, although manifest.json lists it.")
        return content

    def _enter(self, entries: list[dict[str, Any]]) -> None:
        """Add entries to the manifest, replacing earlier versions; the hook's failure at that epoch is resolved."""
        manifest = self.manifest()
        # a film of more epochs replaces the file of an earlier one, whose entry has another epoch
        films = {entry["path"] for entry in entries if entry["kind"] == "film"}
        listed = [entry for entry in manifest["artifacts"] if entry["path"] not in films]
        kept = {_identity(entry): entry for entry in (*listed, *entries)}
        # a film shows earlier pictures, so it does not resolve its hook's failure
        gone = {(entry["hook"], entry["epoch"]) for entry in entries if entry["kind"] != "film"}
        failures = [failed for failed in manifest["failures"] if (failed["hook"], failed["epoch"]) not in gone]
        write_json(self.folder / "manifest.json", manifest | {"artifacts": list(kept.values()), "failures": failures})

    def add_failure(self, hook: str, epoch: int, error: str, traceback: str) -> Path:
        """Write a failed hook's traceback, add the failure to the manifest and return the log's path."""
        self._check_folder()
        log = f"errors/{hook}_epoch_{epoch:03d}.txt"
        write_bytes(self.folder / log, printable(traceback).encode())
        manifest = self.manifest()
        failures = {(failed["hook"], failed["epoch"]): failed for failed in manifest["failures"]}
        failures[hook, epoch] = {"hook": hook, "epoch": epoch, "error": printable(error), "log": log}
        write_json(self.folder / "manifest.json", manifest | {"failures": list(failures.values())})
        return self.folder / log

    # --- recordings, models and earlier runs -------------------------------------------------------------------

    def write_recording(self, epoch: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Replace the recording of an epoch."""
        write_bytes(self.folder / self.recording_name(epoch), _pack_arrays(arrays))

    def recorded_epochs(self) -> list[int]:
        """Return the epochs whose training was recorded."""
        found = (re.fullmatch(r"epoch_(\d+)\.npz", path.name) for path in self.folder.glob("recordings/*"))
        return sorted(int(match[1]) for match in found if match)

    @staticmethod
    def recording_name(epoch: int) -> str:
        """Return the path of an epoch's recording below the save folder."""
        return f"recordings/epoch_{epoch:03d}.npz"

    def write_model(self, name: str, content: bytes) -> None:
        """Replace `models/NAME`."""
        write_bytes(self.folder / "models" / name, content)

    def read_model(self, name: str) -> bytes | None:
        """Read `models/NAME`; None if it does not exist."""
        return self.read(f"models/{name}")

    def remove_model(self, name: str) -> None:
        """Remove `models/NAME`, if it exists."""
        (self.folder / "models" / name).unlink(missing_ok=True)

    @staticmethod
    def kept_name(epoch: int) -> str:
        """Return the name, below `models/`, of the weights of an epoch that `--keep-checkpoints` keeps."""
        return f"epoch_{epoch:03d}.safetensors"

    def kept_epochs(self) -> list[int]:
        """Return the epochs whose weights are kept for good."""
        return self._epochs_of("epoch")

    @staticmethod
    def unfinished_name(epoch: int) -> str:
        """Return the name, below `models/`, of the weights of an epoch whose hooks are still running."""
        return f"unfinished_epoch_{epoch:03d}.safetensors"

    def unfinished_epochs(self) -> list[int]:
        """Return the epochs whose weights are kept because their hooks have not finished."""
        return self._epochs_of("unfinished_epoch")

    def _epochs_of(self, stem: str) -> list[int]:
        found = (re.fullmatch(rf"{stem}_(\d+)\.safetensors", path.name) for path in self.folder.glob("models/*"))
        return sorted(int(match[1]) for match in found if match)

    def begin(self, record: Mapping[str, Any]) -> None:
        """Write the first run.json and an empty manifest; delete an outdated summary and what a killed process left."""
        mark_as_ours(self.folder)
        self.write_run(record)
        if not (self.folder / "manifest.json").exists():
            write_json(self.folder / "manifest.json", self.manifest())
        for part in (*MOVED_ASIDE, "data/densities"):
            for leftover in (self.folder / part).rglob(TEMPORARY):
                leftover.unlink(missing_ok=True)
        for leftover in self.folder.glob(TEMPORARY):
            leftover.unlink(missing_ok=True)
        # of an earlier part of a run that goes on; it is drawn again when the run ends
        (self.folder / "summary.png").unlink(missing_ok=True)

    def move_previous_run(self) -> Path | None:
        """Move the files of an earlier run to `previous/<its start time>/`; returns that folder, or None if empty."""
        present = [name for name in MOVED_ASIDE if (self.folder / name).exists()]
        if not present:
            return None
        target = _free_for(present, self._place_aside())
        try:
            target.mkdir(parents=True, exist_ok=True)
            for name in present:  # renames within one disk: nothing is copied, so nothing can be lost halfway
                (self.folder / name).rename(target / name)
        except OSError as error:
            raise SaveError(f"the earlier run in {self.folder} cannot be moved to {target}: {error}.") from error
        return target

    def check_whole(self) -> None:
        """Raise `SaveError` if a move of this run to `previous/` was interrupted, leaving part of it there."""
        aside = self._place_aside()
        # run.json is moved last
        if aside.is_dir() and not (aside / "run.json").exists():
            raise SaveError(
                f"this run is incomplete: a newer run was interrupted while moving its files to {aside}. Move them "
                f"back to {self.folder} to resume it, or start a new run without --resume."
            )

    def _place_aside(self) -> Path:
        """Return `previous/` with the start time of the current run."""
        try:
            started = str(self.run().get("timing", {}).get("started", "unknown"))
        except SaveError:
            started = "unknown"
        return self.folder / "previous" / (re.sub(r"[^0-9A-Za-z]+", "-", started).strip("-") or "unknown")


def _identity(entry: Mapping[str, Any]) -> tuple[str, int, str, str]:
    return entry["hook"], entry["epoch"], entry["name"], entry["kind"]


def _entry(hook: str, epoch: int, path: str, kind: Kind, artifact: Artifact) -> dict[str, Any]:
    return {
        "hook": hook,
        "epoch": epoch,
        "name": artifact.name or hook,
        "path": path,
        "kind": kind,
        "caption": artifact.caption,
        "numbers": _brief(artifact.numbers) if kind in ("figure", "embedding", "film") else {},
    }


def _brief(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the largest tables, such as the counts of a thousand classes; the JSON file holds them too."""
    return {name: value for name, value in numbers.items() if _size(value) <= LARGEST_TABLE}


def _size(value: Any) -> int:
    """Return the number of values in a nested list.

    >>> _size([[1, 2], [3]]), _size("text")
    (3, 1)
    """
    return sum(map(_size, value)) if isinstance(value, list) else 1


def _pack_arrays(arrays: Mapping[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _free_for(names: list[str], path: Path) -> Path:
    """Return `path`, or the first of `path-2`, `path-3`… that contains none of `names`."""
    # A folder with other parts of the run only is the target of an interrupted move, which thereby continues.
    number, candidate = 2, path
    while any((candidate / name).exists() for name in (*names, "run.json")):
        candidate, number = path.with_name(f"{path.name}-{number}"), number + 1
    return candidate
