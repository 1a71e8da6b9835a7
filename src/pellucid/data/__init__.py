"""Image data sets: one module each, discovered by the registry."""

from typing import TYPE_CHECKING

from pellucid.core.registry import Registry

if TYPE_CHECKING:
    from pellucid.data._source import Source

DATASETS: "Registry[Source]" = Registry("data set", __name__)
"""All data sets that `--dataset` knows by name."""
