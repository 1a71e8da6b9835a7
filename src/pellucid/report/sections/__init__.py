"""Sections of the report, one function from `Material` to `Section` each, in reading order.

- `curves`, `confusion_matrix`, `calibration`, `hardest`, `slices`, `explain`, `channels`, `draw`, `embedding`,
  `label_errors`, `leaderboard`, `out_of_distribution`, `layers`, `network`: the interactive sections
- `live`: explanations by the server of `pellucid serve`
- `grid`: grids of images and maps, drawn from arrays; `_frames` reads those of each hook
- `figures`: the figures of `dynamics` and of any other hook, one per epoch
- `_influence`: influential training images, shown by `explain`
- `_thumbnails`: thumbnails of test images, packed as exact bytes
"""

from pellucid.report._section import Maker
from pellucid.report.sections._frames import READERS
from pellucid.report.sections.calibration import calibration
from pellucid.report.sections.channels import channels
from pellucid.report.sections.confusion_matrix import confusion_matrix
from pellucid.report.sections.curves import curves
from pellucid.report.sections.draw import draw
from pellucid.report.sections.embedding import embedding
from pellucid.report.sections.explain import explain
from pellucid.report.sections.figures import figures
from pellucid.report.sections.grid import grid
from pellucid.report.sections.hardest import hardest
from pellucid.report.sections.label_errors import label_errors
from pellucid.report.sections.layers import layers
from pellucid.report.sections.leaderboard import leaderboard
from pellucid.report.sections.live import live
from pellucid.report.sections.network import network
from pellucid.report.sections.out_of_distribution import out_of_distribution
from pellucid.report.sections.slices import slices

__all__ = ["DRAWN", "SECTIONS"]

SECTIONS: tuple[Maker, ...] = (
    curves,
    confusion_matrix,
    calibration,
    hardest,
    slices,
    grid("saliency"),
    grid("jacobian_maps"),
    grid("explanations"),
    explain,
    channels,
    draw,
    live,
    embedding,
    figures("dynamics"),
    grid("prototypes"),
    grid("prototypes.each_epoch"),
    grid("jacobian_classes"),
    label_errors,
    leaderboard,
    out_of_distribution,
    layers,
    network,
)
"""Functions that build the sections; sections without data are omitted."""

DRAWN = frozenset(
    {
        "calibration",
        "concepts",
        "confusion_matrix",
        "hardest",
        "label_errors",
        "layers",
        "leaderboard",
        "network",
        "out_of_distribution",
        "slices",
        "tsne",
        *READERS,
    }
)
"""Hooks whose results the page draws itself: it does not embed their figures, unless their arrays are missing."""
