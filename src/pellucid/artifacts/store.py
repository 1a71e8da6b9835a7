"""The save folder: every file of a run, written whole or not at all, and the manifest that lists them."""

import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pellucid.artifacts._atomic import json_text, write_bytes, write_json
from pellucid.core.contracts import Artifact, Kind
from pellucid.core.errors import SaveError

__all__ = ["Store"]

KEPT_IN_PLACE = ("data", "docs", "previous")
MOVED_ASIDE = (
    "models",
    "logs",
    "plots",
    "films",
    "errors",
    "metrics.jsonl",
    "manifest.json",
    "run.json",
    "report.html",
)


@dataclass(frozen=True)
class Store:
    """The files of one run below one folder.

    Reading never fails for what is not there yet: records are empty then. Every write raises `SaveError` where it
    fails, and leaves the file that stood there.
    """

    folder: Path

    # --- records -----------------------------------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        """The content of run.json."""
        return self._read_json("run.json", {})

    def write_run(self, record: Mapping[str, Any]) -> None:
        """Replace run.json."""
        write_json(self.folder / "run.json", dict(record))

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, by epoch."""
        path = self.folder / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []

    def add_metrics(self, record: Mapping[str, Any]) -> None:
        """Enter an epoch's line, in place of one that stood there for the same epoch."""
        lines = {line["epoch"]: line for line in self.metrics()} | {record["epoch"]: dict(record)}
        text = "".join(json_text(lines[epoch]) + "\n" for epoch in sorted(lines))
        write_bytes(self.folder / "metrics.jsonl", text.encode())

    def manifest(self) -> dict[str, Any]:
        """The content of manifest.json."""
        return self._read_json("manifest.json", {"version": 1, "artifacts": [], "failures": []})

    def _read_json(self, name: str, absent: dict[str, Any]) -> dict[str, Any]:
        path = self.folder / name
        if not path.is_file():
            return absent
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise SaveError(f"{path} is damaged ({error}); move it away to begin anew.") from error
        return content

    # --- artifacts ---------------------------------------------------------------------------------------------

    def keep(self, hook: str, epoch: int, artifact: Artifact, picture: bytes | None) -> None:
        """Write an artifact's files (its figure as `picture`, the PNG) and enter them in the manifest."""
        stem = f"plots/{hook}/epoch_{epoch:03d}" + (f"_{artifact.name}" if artifact.name else "")
        files: list[tuple[Kind, str]] = []
        if picture is not None:
            files.append(("figure", f"{stem}.png"))
            write_bytes(self.folder / f"{stem}.png", picture)
        if artifact.arrays:
            files.append(("arrays", f"{stem}.npz"))
            write_bytes(self.folder / f"{stem}.npz", _pack_arrays(artifact.arrays))
        if artifact.numbers:
            files.append(("data", f"{stem}.json"))
            write_json(self.folder / f"{stem}.json", artifact.numbers)
        name = artifact.name or hook
        self._enter([_entry(hook, epoch, name, path, kind, artifact) for kind, path in files])

    def keep_file(self, hook: str, epoch: int, artifact: Artifact, path: str, kind: Kind) -> None:
        """Enter a file that something else wrote, such as a projector table."""
        self._enter([_entry(hook, epoch, artifact.name or hook, path, kind, artifact)])

    def previous_arrays(self, hook: str, epoch: int) -> dict[str, np.ndarray] | None:
        """The unnamed arrays that `hook` made at the last epoch before `epoch`; None where there are none."""
        earlier = [
            entry
            for entry in self.manifest()["artifacts"]
            if (entry["hook"], entry["name"], entry["kind"]) == (hook, hook, "arrays") and entry["epoch"] < epoch
        ]
        if not earlier:
            return None
        path = self.folder / max(earlier, key=lambda entry: int(entry["epoch"]))["path"]
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}

    def _enter(self, entries: list[dict[str, Any]]) -> None:
        manifest = self.manifest()
        kept = {_identity(entry): entry for entry in manifest["artifacts"]} | {_identity(new): new for new in entries}
        gone = {(entry["hook"], entry["epoch"]) for entry in entries}
        failures = [failed for failed in manifest["failures"] if (failed["hook"], failed["epoch"]) not in gone]
        write_json(self.folder / "manifest.json", manifest | {"artifacts": list(kept.values()), "failures": failures})

    def add_failure(self, hook: str, epoch: int, error: str, traceback: str) -> Path:
        """Keep a failed hook's traceback, enter it in the manifest, and return the log's path."""
        log = f"errors/{hook}_epoch_{epoch:03d}.txt"
        write_bytes(self.folder / log, traceback.encode())
        manifest = self.manifest()
        failures = {(failed["hook"], failed["epoch"]): failed for failed in manifest["failures"]}
        failures[hook, epoch] = {"hook": hook, "epoch": epoch, "error": error, "log": log}
        write_json(self.folder / "manifest.json", manifest | {"failures": list(failures.values())})
        return self.folder / log

    # --- models and earlier runs -------------------------------------------------------------------------------

    def write_model(self, name: str, content: bytes) -> None:
        """Replace `models/NAME`."""
        write_bytes(self.folder / "models" / name, content)

    def read_model(self, name: str) -> bytes | None:
        """The content of `models/NAME`; None where it does not exist."""
        path = self.folder / "models" / name
        return path.read_bytes() if path.is_file() else None

    def move_previous_run(self) -> Path | None:
        """Move what an earlier run left to `previous/<its start time>/`; None where there was nothing."""
        present = [name for name in MOVED_ASIDE if (self.folder / name).exists()]
        if not present:
            return None
        try:
            started = str(self.run().get("timing", {}).get("started", "unknown"))
        except SaveError:
            started = "unknown"
        home = self.folder / "previous"
        target = _unused(home / (re.sub(r"[^0-9A-Za-z]+", "-", started).strip("-") or "unknown"))
        try:
            target.mkdir(parents=True)
            for name in present:  # on one disk: renames, so nothing is copied and nothing can be lost
                (self.folder / name).rename(target / name)
        except OSError as error:
            raise SaveError(f"the earlier run in {self.folder} cannot be moved to {target}: {error}.") from error
        return target


def _identity(entry: Mapping[str, Any]) -> tuple[str, int, str, str]:
    return entry["hook"], entry["epoch"], entry["name"], entry["kind"]


def _entry(hook: str, epoch: int, name: str, path: str, kind: Kind, artifact: Artifact) -> dict[str, Any]:
    return {
        "hook": hook,
        "epoch": epoch,
        "name": name,
        "path": path,
        "kind": kind,
        "caption": artifact.caption,
        "numbers": dict(artifact.numbers) if kind in ("figure", "embedding", "film") else {},
    }


def _pack_arrays(arrays: Mapping[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _unused(path: Path) -> Path:
    number, candidate = 2, path
    while candidate.exists():
        candidate, number = path.with_name(f"{path.name}-{number}"), number + 1
    return candidate
