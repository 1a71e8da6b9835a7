"""`pellucid report`: regenerate the report of a saved run, or write that of a store of explanations."""

from pathlib import Path

from pellucid.cli._arguments import parse_arguments
from pellucid.config import ReportConfig
from pellucid.core.opening import opens_in_browser
from pellucid.core.terminal import print_line

__all__ = ["report"]


def report(arguments: list[str]) -> int:
    """Regenerate the report of a saved run, or of stored explanations"""
    config = parse_arguments(ReportConfig, "report", arguments)
    if is_store(config.run):
        from pellucid.report.stored import write_stored_report  # loads torch

        place = write_stored_report(config.run)
    else:
        from pellucid.report import write_report  # loads torch

        place = str(write_report(Path(config.run).expanduser()))
    print_line(place)
    if config.open:
        address = place if "://" in place else Path(place).resolve().as_uri()
        if not opens_in_browser(address):
            print_line(f"No browser could be started; open {address} yourself.")
    return 0


def is_store(path: str) -> bool:
    """Return True for the address of a store of explanations, as opposed to the save folder of a run.

    >>> is_store("s3://bucket/maps"), is_store("maps.zarr/"), is_store("save")
    (True, True, False)
    """
    folder = Path(path).expanduser()
    return (
        "://" in path or folder.suffix == ".zarr" or any((folder / name).is_file() for name in ("zarr.json", ".zarray"))
    )
