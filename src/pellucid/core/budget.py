"""Limits on the cost of hooks, in forward passes."""

from dataclasses import dataclass

from pellucid.core.errors import UnknownName

__all__ = ["BUDGETS", "Budget", "find_budget"]


@dataclass(frozen=True)
class Budget:
    """A limit on the computations of all hooks together, counted in FLOPs and never measured by a clock."""

    name: str
    images: int
    """Maximum number of test images."""
    classes: int
    """Maximum number of classes that a hook treats one by one."""
    passes: int
    """Maximum cost of all hooks together, in forward passes over `images`."""

    @property
    def image_passes(self) -> int:
        """Maximum cost of all hooks together, in forward passes of one image."""
        return self.images * self.passes


BUDGETS = {
    one.name: one
    for one in (Budget("small", 256, 10, 20), Budget("default", 2_000, 10, 60), Budget("large", 10_000, 20, 200))
}
"""All values of `--budget`."""


def find_budget(name: str) -> Budget:
    """Return the budget of a name; raises `UnknownName` for an unknown one.

    >>> find_budget("small").image_passes
    5120
    """
    if name not in BUDGETS:
        raise UnknownName("budget", name, BUDGETS)
    return BUDGETS[name]
