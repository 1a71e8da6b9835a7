"""`pellucid methods`: the attribution methods, as a table or, on a narrow terminal, as a list."""

from collections.abc import Iterable
from itertools import groupby
from typing import TYPE_CHECKING

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pellucid.core.errors import ConfigError
from pellucid.core.terminal import console

if TYPE_CHECKING:
    from pellucid.attribution import Method

__all__ = ["methods"]

COLUMNS_OF_TABLE = 120
"""Width below which the sentences of the table would be broken into single words."""


def methods(arguments: list[str]) -> int:
    """List attribution methods and their guarantees"""
    if arguments in (["--help"], ["-h"]):
        console().print(f"usage: pellucid methods [-h]\n\n{methods.__doc__}.", markup=False)
        return 0
    if arguments:
        raise ConfigError(f"`pellucid methods` takes no arguments, got {' '.join(arguments)}.")
    from pellucid.attribution import methods as list_methods  # loads torch

    if console().width < COLUMNS_OF_TABLE:
        _print_list(list_methods())
    else:
        _print_table(list_methods())
    return 0


def _print_table(listed: "Iterable[Method]") -> None:
    table = Table()
    table.add_column("Method", no_wrap=True)
    for heading in ("Family", "Question it answers", "Guarantees"):
        table.add_column(heading)
    for method in listed:
        table.add_row(method.name, method.family, _question(method), _guarantees(method))
    console().print(table)


def _print_list(listed: "Iterable[Method]") -> None:
    """Print the methods by family: name and guarantees, and below them the question."""
    by_family = sorted(listed, key=lambda method: method.family)
    for family, members in groupby(by_family, lambda method: method.family):
        console().print(Text(family, style="bold"))
        for method in members:
            console().print(Padding(Text(f"{method.name}: {_guarantees(method)}"), (0, 0, 0, 2)))
            console().print(Padding(Text(_question(method), style="dim"), (0, 0, 0, 6)))


def _question(method: "Method") -> str:
    return method.answers + (" (needs fitting)" if method.needs_fit else "")


def _guarantees(method: "Method") -> str:
    return ", ".join(sorted(promise.replace("_", " ") for promise in method.promises)) or "–"
