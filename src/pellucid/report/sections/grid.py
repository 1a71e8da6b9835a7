"""Sections with a grid of images and maps for each epoch, drawn by the page from the arrays of a hook."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from pellucid.report import Maker, Material, Section
from pellucid.report._tiles import Frame, packed_frames, tile_size
from pellucid.report.sections._frames import READERS
from pellucid.report.sections.figures import AT_THE_END, TEXTS, end_moment, figures

__all__ = ["grid"]

SHEETS = {"jacobian_classes": {"jacobian_classes": "Sample by epoch", "jacobian_classes_all": "All test images"}}
"""Hooks that share a section with a switch, and the name of each on the switch."""


def grid(hook: str) -> Maker:
    """Return a function that builds the section of a hook, or that of its PNG figures if its arrays cannot be shown."""

    def make(material: Material) -> Section | None:
        sheets = {name: _frames(material, name) for name in SHEETS.get(hook, {hook: ""})}
        sheets = {name: frames for name, frames in sheets.items() if frames}
        if not material.scale or not sheets:
            return figures(hook)(material)
        title, lead, guide = TEXTS[hook]
        data = _data(material, hook, sheets)
        notes = _notes((frame for frames in sheets.values() for frame in frames.values()), data["size"])
        return Section(hook, "grid", title, lead, data, guide, notes, hook=tuple(sheets))

    # names the section in the note about an unexpected error
    make.__qualname__ = hook
    return make


def _frames(material: Material, hook: str) -> dict[int, Frame]:
    """Read the grid of each epoch; epochs with missing or damaged arrays are omitted."""
    frames: dict[int, Frame] = material.pairs(
        hook, lambda arrays, record: READERS[hook](arrays, record, material.classes)
    )
    entries = material.entries(hook, "arrays")
    return {epoch: replace(frame, caption=entries[epoch]["caption"]) for epoch, frame in frames.items()}


def _data(material: Material, hook: str, sheets: Mapping[str, Mapping[int, Frame]]) -> dict[str, Any]:
    """Return the section's data; `sheets` are the grids by hook and epoch."""
    frames = [frame for of_hook in sheets.values() for frame in of_hook.values()]
    size, pool = tile_size(frames, material.scale), dict[str, int]()
    packed = [
        {
            "hook": name,
            "label": SHEETS.get(hook, {}).get(name, ""),
            "moment": end_moment(material) if name in AT_THE_END else "",
            "frames": packed_frames(of_hook, size, pool),
        }
        for name, of_hook in sheets.items()
    ]
    # the pool is complete only now
    return {"size": size, "sheets": packed, "pool": list(pool)}


def _notes(frames: Iterable[Frame], size: tuple[int, int]) -> tuple[str, ...]:
    sizes = {block.values.shape[-2:] for frame in frames for block in frame.blocks} - {size}
    if not sizes:
        return ()
    height, width = max(sizes)
    return (f"Tiles are downsampled from {height}×{width} to {size[0]}×{size[1]} pixels by averaging areas.",)
