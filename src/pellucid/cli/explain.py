"""`pellucid explain`: check the names and files, then explain images, or a whole data set."""

from pellucid.attribution import check_method
from pellucid.cli._arguments import parse_arguments
from pellucid.config import ExplainConfig
from pellucid.core.files import check_files
from pellucid.core.listing import parse_names
from pellucid.data._spec import check_spec as check_dataset
from pellucid.models import check_spec

__all__ = ["explain"]


def explain(arguments: list[str]) -> int:
    """Explain a model's predictions for images, or for a whole data set"""
    config = parse_arguments(ExplainConfig, "explain", arguments)
    check_spec(config.model)
    parse_names(config.methods, check_method, {"default": (), "none": ()})
    if config.whole.dataset is not None:
        check_dataset(config.whole.dataset)
        from pellucid.run.to_disk.command import explain_dataset  # loads torch

        return explain_dataset(config)
    check_files(config.images)
    from pellucid.run.picture_page import explain_pictures  # loads torch

    return explain_pictures(config)
