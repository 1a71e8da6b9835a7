"""`pellucid compare`: several models side by side on one page."""

from pellucid.cli._arguments import parse_arguments
from pellucid.cli.evaluate import check_methods
from pellucid.config import CompareConfig

__all__ = ["compare"]


def compare(arguments: list[str]) -> int:
    """Compare runs, epochs of a run or inspected models on one page"""
    config = parse_arguments(CompareConfig, "compare", arguments)
    check_methods(config.methods)
    from pellucid.run.comparing import compare_from  # loads torch

    return compare_from(config)
