"""Sections of the report, one function from `Material` to `Section` each, in reading order.

- `curves`, `confusion_matrix`, `hardest`, `explain`, `embedding`, `leaderboard`, `network`: the interactive sections
- `figures`: the figures of any hook, one per epoch
"""

from pellucid.report._section import Maker
from pellucid.report.sections.confusion_matrix import confusion_matrix
from pellucid.report.sections.curves import curves
from pellucid.report.sections.embedding import embedding
from pellucid.report.sections.explain import explain
from pellucid.report.sections.figures import figures
from pellucid.report.sections.hardest import hardest
from pellucid.report.sections.leaderboard import leaderboard
from pellucid.report.sections.network import network

__all__ = ["SECTIONS"]

SECTIONS: tuple[Maker, ...] = (
    curves,
    confusion_matrix,
    hardest,
    figures("saliency"),
    figures("jacobian_maps"),
    figures("explanations"),
    explain,
    embedding,
    figures("prototypes"),
    figures("prototypes.each_epoch"),
    figures("jacobian_classes"),
    figures("jacobian_classes_all"),
    leaderboard,
    network,
)
"""Functions that build the sections; sections without data are omitted."""
