"""Settings of `pellucid explain`, for images and for whole data sets."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Literal

import tyro

from pellucid.config._flags import Count, Mirrors, Trust, check_device, check_ranges, expand_paths, flag, path_flag
from pellucid.config._run import ModelConfig
from pellucid.core.errors import ConfigError
from pellucid.core.ranges import Range

__all__ = ["DatasetConfig", "ExplainConfig"]


@dataclass(frozen=True)
class DatasetConfig:
    """Explain a whole data set into a Zarr store, with one or several processes: torchrun -m pellucid explain …"""

    dataset: Annotated[str | None, flag("folder:PATH|webdataset:PATH|hf:NAME|FILE|…", "none")] = None
    """Data set whose test images are explained, all of them and in order; --out then names a .zarr store.
    Same values as for `pellucid inspect`; labels may be missing."""
    limit: Annotated[int | None, Range(1), flag("INT≥1", "all")] = None
    """Number of images to explain, evenly spaced over the data set."""
    jacobian: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Store the derivative of every logit with respect to every pixel; with --methods default, no other maps."""
    embeddings: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Store the embedding of each image; implied by --methods none without --jacobian."""
    embedding_layer: Annotated[str | None, flag("NAME", "the last linear layer")] = None
    """Layer whose input is the embedding."""
    dtype: Literal["float32", "float16"] = "float32"
    """Type of the stored maps; float16 also stores the rounding error of each map."""
    shard: Annotated[int | None, Range(1), flag("INT≥1", "about 32 MB")] = None
    """Images per shard. An interruption loses the shards in progress."""
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print what would be computed, its size and its cost, and write nothing."""
    data_dir: Annotated[Path | None, path_flag("FOLDER"), flag("FOLDER", "save/data")] = None
    """Download folder."""
    mirror: Mirrors = ()
    """Mirror to try before the public ones."""
    max_megapixels: Count = 50
    """Largest image to read, in millions of pixels."""

    def __post_init__(self) -> None:
        """Validate the ranges, and that no flag needs a data set that is not given."""
        check_ranges(self)
        if self.dataset is None:
            for entry in fields(self):
                if getattr(self, entry.name) != entry.default:
                    raise ConfigError(
                        f"--{entry.name.replace('_', '-')} is for whole data sets; give one with --dataset, or omit it."
                    )


@dataclass(frozen=True)
class ExplainConfig:
    """Explain a model's predictions for images, on one page of relevance maps by several methods and classes.

    With --dataset, explain every image of a data set into a Zarr store.
    """

    model: Annotated[str, flag("NAME|MODULE:FUNCTION|torchvision:NAME|timm:NAME|hf:FOLDER|run:FOLDER")]
    """Trained model, as for `pellucid run`; run:FOLDER is the best model of a saved run."""
    images: Annotated[tuple[Path, ...], tyro.conf.Positional, flag("IMAGE")] = ()
    """Images to explain."""
    network: ModelConfig = field(default_factory=ModelConfig)
    whole: DatasetConfig = field(default_factory=DatasetConfig)
    image_size: Annotated[int | None, Range(4, 4096), flag("4…4096", "that of the weights, or of the images")] = None
    """Length of the shorter side in pixels before --crop; without --crop, height and width of the model's input."""
    methods: Annotated[str, flag("default|none|NAME,NAME")] = "default"
    """Attribution methods. default: several for a page; for a figure or a data set, the first that applies.
    none: only logits and embeddings, of a data set."""
    target: Annotated[str | None, flag("NAME|INDEX|predicted|label|all", "predicted")] = None
    """Class to explain, by name or index; a page also shows the predicted class and the most probable others.
    For a data set, also the true class (label) or every class (all)."""
    out: Annotated[str, flag("FILE|STORE.zarr", "why.html, or maps.zarr")] = ""
    """Page or figure to write: .html, .png, .pdf or .svg. For a data set, a .zarr store: a folder or an address such as
    s3://bucket/maps.zarr; an incomplete store is continued."""
    trust: Trust = False
    """Import the MODULE:FUNCTION that the run names as its model."""
    device: Annotated[str, flag("auto|cpu|cuda|cuda:N|mps")] = "auto"
    """Device; auto: a GPU if available, otherwise the CPU."""
    threads: Annotated[int | None, Range(1, 1024), flag("1…1024", "all cores")] = None
    """CPU threads. For a data set, by default those of the store that is continued; in a new one, one if the images
    have at most 64×64 pixels or if there are several processes."""
    open: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Open the result in the default browser."""

    def __post_init__(self) -> None:
        """Expand `~` and validate what can be checked without loading anything."""
        expand_paths(self)
        object.__setattr__(self, "images", tuple(path.expanduser() for path in self.images))
        check_ranges(self)
        check_device(self.device)
        if self.whole.dataset is None:
            self._check_pictures()
            return
        if self.images:
            raise ConfigError("--dataset and IMAGE are mutually exclusive; pass a data set or images.")
        if self.open:
            raise ConfigError("--open is for pages; run `pellucid report STORE.zarr` when the store is complete.")
        object.__setattr__(self, "out", self.out or "maps.zarr")
        if not self.out.rstrip("/").endswith(".zarr"):
            raise ConfigError(f"--out {self.out} is not a Zarr store; with --dataset, use a name that ends in .zarr.")

    @property
    def page(self) -> Path:
        """The page or figure to write."""
        return Path(self.out)

    def _check_pictures(self) -> None:
        if not self.images:
            raise ConfigError("got no image to explain; pass at least one, such as cat.jpg.")
        if self.methods == "none":
            raise ConfigError("--methods none is for whole data sets; name at least one method.")
        out = Path(self.out or "why.html").expanduser()
        object.__setattr__(self, "out", str(out))
        if out.suffix.lower() == ".zarr":
            raise ConfigError(f"--out {out} is a store of a whole data set; give the data with --dataset.")
        if out.suffix.lower() not in (".html", ".png", ".pdf", ".svg"):
            raise ConfigError(f"--out {out} has an unsupported suffix; use .html, .png, .pdf or .svg.")
        if not out.parent.is_dir() or out.is_dir():
            raise ConfigError(
                f"--out {out} cannot be written: its parent folder does not exist, or it is a folder itself. "
                "Choose another file."
            )
        if out.resolve() in {path.resolve() for path in self.images}:
            raise ConfigError(f"--out {out} would overwrite the picture; choose another name.")
