"""`pellucid serve`: the report of a run with live explanations."""

from pellucid.cli._arguments import parse_arguments
from pellucid.config import ServeConfig

__all__ = ["serve"]


def serve(arguments: list[str]) -> int:
    """Serve the report of a run with live explanations of any image"""
    config = parse_arguments(ServeConfig, "serve", arguments)
    from pellucid.run.serving import serve_run  # loads torch

    return serve_run(config)
