"""Where images come from: one file per data set, found by the registry."""

from typing import TYPE_CHECKING

from pellucid.core.registry import Registry

if TYPE_CHECKING:
    from pellucid.data._source import Source

DATASETS: "Registry[Source]" = Registry("data set", __name__)
"""Every data set that `--dataset` knows by name."""
