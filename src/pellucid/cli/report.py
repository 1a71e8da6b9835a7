"""`pellucid report`: regenerate the report of a saved run."""

from pellucid.cli._arguments import parse_arguments
from pellucid.config import ReportConfig
from pellucid.core.terminal import print_line

__all__ = ["report"]


def report(arguments: list[str]) -> int:
    """Regenerate the report of a saved run"""
    config = parse_arguments(ReportConfig, "report", arguments)
    from pellucid.report import write_report  # loads torch

    print_line(str(write_report(config.run)))
    return 0
