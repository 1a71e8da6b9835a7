"""The parts of the page, in reading order."""

from pellucid.report._section import Maker
from pellucid.report.sections.curves import curves
from pellucid.report.sections.embedding import embedding
from pellucid.report.sections.explain import explain
from pellucid.report.sections.figures import figures

__all__ = ["SECTIONS"]

SECTIONS: tuple[Maker, ...] = (
    curves,
    figures("saliency"),
    figures("jacobian_maps"),
    figures("explanations"),
    figures("prototypes"),
    embedding,
    explain,
)
