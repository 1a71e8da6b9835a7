"""`pellucid export`: a run as a table, one row per test image."""

from pellucid.cli._arguments import parse_arguments
from pellucid.config import ExportConfig

__all__ = ["export"]


def export(arguments: list[str]) -> int:
    """Export a run as a Parquet table, one row per test image"""
    config = parse_arguments(ExportConfig, "export", arguments)
    from pellucid.run.export import export_run  # loads torch

    return export_run(config)
