"""Mean maps by class and method."""

import numpy as np

from pellucid.plots.colours import scale_limit
from pellucid.report import Section
from pellucid.report._tiles import Frame, LabelData, Tiles, packed_frames, tile_size
from pellucid.report.stored._survey import JACOBIAN, Survey

__all__ = ["mean_maps"]

MOST_CLASSES = 30
MOST_METHODS = 6


def mean_maps(made: Survey) -> Section | None:
    """Build the section with the means of the maps and of their absolute values; None without maps."""
    if made.means is None or not made.means.counts.any():
        return None
    counts, means, names = made.means.counts, made.means.means, made.maps[:MOST_METHODS]
    chosen = np.sort(np.argsort(-counts, kind="stable")[:MOST_CLASSES])
    chosen = chosen[counts[chosen] > 0]
    columns: list[LabelData] = []
    blocks: list[Tiles] = []
    for number, name in enumerate(names):
        unit = "logits per unit of pixel value" if name == JACOBIAN else made.stored.unit(name)
        for signed, label in ((True, "mean"), (False, "mean |·|")):
            maps = means[0 if signed else 1, chosen, number]
            blocks.append(
                Tiles(maps[:, None, None], column=len(columns), limit=scale_limit(maps), is_signed=signed,
                      meaning=f"{name}: {'mean relevance' if signed else 'mean of the absolute relevance'}, {unit}")
            )  # fmt: skip
            columns.append({"text": name, "detail": label})
    rows = [
        {"text": made.classes[number], "detail": f"{counts[number]:,} image{'' if counts[number] == 1 else 's'}"}
        for number in chosen.tolist()
    ]
    frame = Frame("", rows=rows, columns=columns, blocks=blocks)
    pool = dict[str, int]()
    size = tile_size([frame])
    packed = packed_frames({0: frame}, size, pool)
    moment = f"{int(counts.sum()):,} values per pixel: one for each image." if made.maps != (JACOBIAN,) else ""
    sheet = {"hook": "", "label": "", "moment": moment or "Mean over all images.", "frames": packed}
    return Section(
        name="mean_maps",
        kind="grid",
        title=f"Mean maps by {made.grouping}",
        label="Mean maps",
        lead=_lead(made),
        data={"size": size, "sheets": [sheet], "pool": list(pool)},
        notes=tuple(_notes(made, len(chosen), size)),
        hook="",
    )


def _lead(made: Survey) -> str:
    if made.maps == (JACOBIAN,):
        return (
            "Mean derivative of each output by each pixel over all images, summed over the channels, and mean of its "
            "absolute value."
        )
    return (
        f"Mean relevance of each pixel over all images of a {made.grouping}, and mean of its absolute value. "
        "Red pixels are evidence for the explained class, blue ones against it. All maps of a column share one scale."
    )


def _notes(made: Survey, shown: int, size: tuple[int, int]) -> list[str]:
    notes = []
    assert made.means is not None
    used = int((made.means.counts > 0).sum())
    if shown < used:
        notes.append(f"The {shown} classes with the most images are shown, of {used:,}.")
    if len(made.maps) > MOST_METHODS:
        notes.append(f"The first {MOST_METHODS} of {len(made.maps)} methods are shown.")
    if made.stored.methods and "target" not in made.stored.variables:
        notes.append("The store explains all classes; these are the maps of the predicted one.")
    if made.stored.methods and JACOBIAN in made.stored.variables:
        notes.append("The store also holds Jacobians, which are not shown.")
    header = made.stored.map_size
    if header != size:
        notes.append(f"Averaged from {header[0]}×{header[1]} to {size[0]}×{size[1]} pixels. Channels are summed.")
    return notes
