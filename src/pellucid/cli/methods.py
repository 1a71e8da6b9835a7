"""`pellucid methods`: the table of attribution methods."""

from rich.table import Table

from pellucid.core.errors import ConfigError
from pellucid.core.terminal import console

__all__ = ["methods"]


def methods(arguments: list[str]) -> int:
    """List attribution methods and their guarantees"""
    if arguments in (["--help"], ["-h"]):
        console().print(f"usage: pellucid methods [-h]\n\n{methods.__doc__}.", markup=False)
        return 0
    if arguments:
        raise ConfigError(f"`pellucid methods` takes no arguments, got {' '.join(arguments)}.")
    from pellucid.attribution import methods as list_methods  # loads torch

    table = Table()
    table.add_column("Method", no_wrap=True)
    for heading in ("Family", "Question it answers", "Guarantees"):
        table.add_column(heading)
    for method in list_methods():
        promises = ", ".join(sorted(promise.replace("_", " ") for promise in method.promises))
        fit = " (needs fitting)" if method.needs_fit else ""
        table.add_row(method.name, method.family, method.answers + fit, promises or "–")
    console().print(table)
    return 0
