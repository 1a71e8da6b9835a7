"""Which folders a run may use: those of earlier runs, and those without any files of the user."""

from pathlib import Path

from pellucid.core.errors import SaveError
from pellucid.storage.atomic import TEMPORARY, write_bytes
from pellucid.storage.reading import parse_json, read_inside

__all__ = ["check_ours", "mark_as_ours"]

MARK = ".pellucid"
"""Hidden file that marks a save folder, also while its run.json is missing or damaged."""
HIDDEN = (MARK, ".lock", ".owner.json")
SHARED = ("data", "docs", "evaluation", "gallery", "ground_truth", "previous", "walkthrough")
"""Folders that other commands of pellucid write; a folder with nothing else can become a save folder."""
NAMES_SHOWN = 3


def mark_as_ours(folder: Path) -> None:
    """Mark a folder as pellucid's, so that later runs may move its files aside, unless it holds files of the user."""
    if not (folder / MARK).is_file() and not _foreign(folder):
        write_bytes(folder / MARK, b"A save folder of pellucid: a new run moves the files of this one to previous/.\n")


def check_ours(folder: Path) -> None:
    """Raise `SaveError` if the folder holds files that pellucid did not write, which a run could move or overwrite."""
    if (folder / MARK).is_file() or _has_record(folder):
        return
    if foreign := _foreign(folder):
        more = f" and {len(foreign) - NAMES_SHOWN} more" if len(foreign) > NAMES_SHOWN else ""
        raise SaveError(
            f"{folder} is not a save folder of pellucid: it contains {', '.join(foreign[:NAMES_SHOWN])}{more}, but no "
            "valid run.json. Nothing was changed; choose a new or empty folder with --save."
        )


def _foreign(folder: Path) -> list[str]:
    """Return the names in a folder that are not pellucid's, sorted."""
    paths = folder.iterdir() if folder.is_dir() else ()
    return sorted(path.name for path in paths if path.name not in (*HIDDEN, *SHARED) and not path.match(TEMPORARY))


def _has_record(folder: Path) -> bool:
    """Return True if the folder has the run.json of a run."""
    try:
        record = parse_json(read_inside(folder, "run.json"))
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and isinstance(record.get("config"), dict) and "status" in record
