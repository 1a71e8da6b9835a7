"""Settings of `pellucid inspect`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from pellucid.config._flags import (
    Count,
    Mirrors,
    Seed,
    Trust,
    check_device,
    check_ranges,
    expand_paths,
    flag,
    path_flag,
)
from pellucid.config._run import HookConfig, ModelConfig
from pellucid.core.ranges import Range

__all__ = ["InspectConfig"]


@dataclass(frozen=True)
class InspectConfig:
    """Run every hook on a trained model, and write figures, TensorBoard logs and the report into a save folder."""

    model: Annotated[str, flag("torchvision:NAME|timm:NAME|hf:FOLDER|run:FOLDER|MODULE:FUNCTION")]
    """Model to inspect: torchvision:resnet18, timm:convnext_tiny, hf:FOLDER-OR-REPOSITORY, run:FOLDER, or a function or
    class that returns an nn.Module from images to logits."""
    dataset: Annotated[str, flag("NAME|folder:PATH|torchvision:NAME|hf:NAME|FILE|MODULE:FUNCTION")]
    """Test images, as in `pellucid run --help`. A seeded sample is read from large data sets."""
    network: ModelConfig = field(default_factory=ModelConfig)
    show: HookConfig = field(default_factory=HookConfig)
    save: Annotated[Path, path_flag("FOLDER")] = Path("save")
    """Output folder; an earlier run there is moved to SAVE/previous."""
    data_dir: Annotated[Path | None, path_flag("FOLDER"), flag("FOLDER", "SAVE/data")] = None
    """Download folder."""
    mirror: Mirrors = ()
    """Mirror to try before the public ones."""
    image_size: Annotated[int | None, Range(4, 4096), flag("4…4096", "that of the model")] = None
    """Length of the shorter side in pixels before --crop; without --crop, height and width."""
    max_megapixels: Count = 50
    """Largest image to read, in millions of pixels."""
    seed: Seed = 0
    """Random seed."""
    device: Annotated[str, flag("auto|cpu|cuda|cuda:N|mps")] = "auto"
    """Device; auto: a GPU if available, otherwise the CPU."""
    threads: Annotated[int | None, Range(1, 1024), flag("1…1024", "1 for images up to 64×64, else all cores")] = None
    """CPU threads; more than one slows down small images."""
    trust: Trust = False
    """Import the MODULE:FUNCTION that the run in --model run:FOLDER names as its model."""
    open: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Open the report in the default browser at the end."""

    def __post_init__(self) -> None:
        """Expand `~` and validate the ranges and the device."""
        expand_paths(self)
        check_ranges(self)
        check_device(self.device)
