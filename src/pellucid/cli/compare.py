"""`pellucid compare`: several models side by side on one page."""

from pellucid.attribution import check_method
from pellucid.cli._arguments import parse_arguments
from pellucid.config import CompareConfig
from pellucid.core.listing import parse_names

__all__ = ["compare"]


def compare(arguments: list[str]) -> int:
    """Compare runs, epochs of a run or inspected models on one page"""
    config = parse_arguments(CompareConfig, "compare", arguments)
    parse_names(config.methods, check_method, {"default": ()})
    from pellucid.run.comparing import compare_from  # loads torch

    return compare_from(config)
