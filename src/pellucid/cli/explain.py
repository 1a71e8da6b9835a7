"""`pellucid explain`: check the names and files, then explain images."""

from pellucid.attribution import check_method
from pellucid.cli._arguments import parse_arguments
from pellucid.config import ExplainConfig
from pellucid.core.files import check_files
from pellucid.core.listing import parse_names
from pellucid.models import check_spec

__all__ = ["explain"]


def explain(arguments: list[str]) -> int:
    """Explain a model's predictions for images"""
    config = parse_arguments(ExplainConfig, "explain", arguments)
    check_spec(config.model)
    check_files(config.images)
    parse_names(config.methods, check_method, {"default": ()})
    from pellucid.run.picture_page import explain_pictures  # loads torch

    return explain_pictures(config)
