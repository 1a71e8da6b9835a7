"""`pellucid ground-truth`: check the names of methods and data sets, then run the benchmark."""

from pellucid.cli._arguments import parse_arguments
from pellucid.cli.evaluate import check_methods
from pellucid.config import GroundTruthConfig
from pellucid.core.listing import parse_names
from pellucid.data._spec import check_spec as check_dataset

__all__ = ["ground_truth"]


def ground_truth(arguments: list[str]) -> int:
    """Benchmark explanations on data with known ground truth"""
    config = parse_arguments(GroundTruthConfig, "ground-truth", arguments)
    check_methods(config.methods)
    parse_names(config.datasets, check_dataset)
    from pellucid.run.ground_truth import run_benchmark  # loads torch

    return run_benchmark(config)
