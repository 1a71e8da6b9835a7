"""`pellucid evaluate`: check the names of methods and metrics, then evaluate a saved run."""

from pellucid.attribution import check_method
from pellucid.cli._arguments import parse_arguments
from pellucid.config import EvaluateConfig
from pellucid.core.listing import parse_names
from pellucid.evaluation import METRICS

__all__ = ["check_methods", "evaluate"]


def evaluate(arguments: list[str]) -> int:
    """Evaluate the explanations of a saved run"""
    config = parse_arguments(EvaluateConfig, "evaluate", arguments)
    check_methods(config.methods)
    parse_names(config.metrics, METRICS.check, {"default": ()})
    from pellucid.run.evaluation import evaluate_run  # loads torch

    return evaluate_run(config)


def check_methods(listed: str) -> None:
    """Raise `UnknownName` for a name in `--methods` that is neither a method nor `default` or `all`."""
    parse_names(listed, check_method, {"default": (), "all": ()})
