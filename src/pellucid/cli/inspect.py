"""`pellucid inspect`: all hooks and the report for a trained model."""

from pellucid.attribution import check_method
from pellucid.cli._arguments import parse_arguments
from pellucid.config import InspectConfig
from pellucid.core.listing import parse_names
from pellucid.data._spec import check_spec as check_dataset
from pellucid.hooks import HOOKS
from pellucid.models import check_spec as check_model
from pellucid.storage.loggers import check_loggers

__all__ = ["inspect"]


def inspect(arguments: list[str]) -> int:
    """Show what a trained model has learned: all hooks and the report"""
    config = parse_arguments(InspectConfig, "inspect", arguments)
    # names first: they are checked within milliseconds, before torch is imported
    check_model(config.model)
    check_dataset(config.dataset)
    if config.show.hooks != "none":
        parse_names(config.show.hooks, HOOKS.check, {"default": (), "all": ()})
    if config.show.methods:
        parse_names(config.show.methods, check_method)
    check_loggers(config.show.log_to)
    from pellucid.run.inspection import inspect_from  # loads torch

    return inspect_from(config)
