"""`pellucid report`: regenerate the report of a saved run."""

import tyro

from pellucid.config import ReportConfig
from pellucid.core.terminal import print_line

__all__ = ["report"]


def report(arguments: list[str]) -> int:
    """Regenerate the report of a saved run"""
    config = tyro.cli(ReportConfig, prog="pellucid report", args=arguments)
    from pellucid.report import write_report  # loads torch

    print_line(str(write_report(config.run)))
    return 0
