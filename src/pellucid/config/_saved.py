"""Settings of the commands for saved runs and stores."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from pellucid.config._flags import (
    Count,
    Mirrors,
    Seed,
    Threads,
    Trust,
    address_flag,
    check_device,
    check_ranges,
    expand_paths,
    flag,
    path_flag,
)
from pellucid.core.errors import ConfigError
from pellucid.core.ranges import Range

__all__ = ["CompareConfig", "EvaluateConfig", "ExportConfig", "GroundTruthConfig", "ReportConfig", "ServeConfig"]


@dataclass(frozen=True)
class EvaluateConfig:
    """Evaluate attribution methods on a saved run with several metrics, always compared with controls."""

    run: Annotated[Path, tyro.conf.Positional, path_flag("RUN")]
    """Save folder of the run. Results are written to RUN/evaluation and reused by the next evaluation."""
    images: Count = 1000
    """Maximum number of images, spread evenly over the split."""
    methods: Annotated[str, flag("default|all|NAME,NAME")] = "default"
    """Attribution methods; controls are always included. all: every method that needs no fitting."""
    metrics: Annotated[str, flag("default|NAME,NAME")] = "default"
    """Metrics. default: selectivity, continuity, completeness, sparseness, random_logit, parameter_randomisation."""
    trust: Trust = False
    """Import the MODULE:FUNCTION that the run names as its model or data."""
    split: Literal["auto", "test", "validation"] = "auto"
    """Split to evaluate on. auto: test, or validation if only that split has ground truth."""
    seed: Seed = 0
    """Random seed."""
    data_dir: Annotated[Path | None, path_flag("FOLDER"), flag("FOLDER", "the run's data folder")] = None
    """Download folder."""
    mirror: Mirrors = ()
    """Mirror to try before the public ones."""
    threads: Threads = 1
    """CPU threads."""

    def __post_init__(self) -> None:
        """Expand `~` and validate the ranges."""
        expand_paths(self)
        check_ranges(self)


@dataclass(frozen=True)
class GroundTruthConfig:
    """Benchmark explanations on data with known ground truth, training one network per data set."""

    datasets: Annotated[str, flag("NAME,NAME")] = "planted_patch,two_digits,confound,confound.control"
    """Data sets; append `:digits` to a name to build it from scikit-learn's digits instead of MNIST."""
    save: Annotated[Path, path_flag("FOLDER")] = Path("save/ground_truth")
    """Output folder, with one run per data set; finished runs are reused."""
    epochs: Annotated[int | None, Range(1), flag("INT≥1", "depends on the data set")] = None
    """Passes over the training images."""
    images: Count = 200
    """Number of images to explain."""
    methods: Annotated[str, flag("default|all|NAME,NAME")] = "default"
    """Attribution methods; controls are always included."""
    seed: Seed = 0
    """Random seed."""
    data_dir: Annotated[Path | None, path_flag("FOLDER"), flag("FOLDER", "SAVE/data")] = None
    """Download folder."""
    mirror: Mirrors = ()
    """Mirror to try before the public ones."""
    threads: Threads = 1
    """CPU threads."""

    def __post_init__(self) -> None:
        """Expand `~` and validate the ranges."""
        expand_paths(self)
        check_ranges(self)


@dataclass(frozen=True)
class CompareConfig:
    """Compare models on the same test images: accuracy, predictions, explanations, layers and embeddings."""

    runs: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="RUN[@EPOCH]", help_behavior_hint="(two or more)"),
    ] = ()
    """Save folders of runs or inspections; the first one is the reference. RUN@2 selects epoch 2 of a run, RUN alone
    its best weights. Runs that differ only in their seed measure the seed noise."""
    out: Annotated[Path, path_flag("FILE.html")] = Path("compare.html")
    """Page to write."""
    images: Annotated[int | None, Range(4), flag("INT≥4", "200, or 50 for images larger than 64×64")] = None
    """Number of test images whose explanations and layers are compared; predictions are compared on all."""
    methods: Annotated[str, flag("default|NAME,NAME")] = "default"
    """Attribution methods; the first one explains the images that the models disagree about.
    default: the method that the leaderboard of the first run recommends, then four common ones."""
    trust: Trust = False
    """Import the MODULE:FUNCTION that the runs name as their models or data."""
    data_dir: Annotated[Path | None, path_flag("FOLDER"), flag("FOLDER", "each run's data folder")] = None
    """Download folder."""
    mirror: Mirrors = ()
    """Mirror to try before the public ones."""
    seed: Seed = 0
    """Random seed of the bootstrap intervals."""
    device: Annotated[str, flag("auto|cpu|cuda|cuda:N|mps")] = "auto"
    """Device; auto: a GPU if available, otherwise the CPU."""
    threads: Threads = 1
    """CPU threads."""
    open: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Open the page in the default browser."""

    def __post_init__(self) -> None:
        """Expand `~` and validate what can be checked without loading anything."""
        expand_paths(self)
        check_ranges(self)
        check_device(self.device)
        if len(self.runs) < 2:
            raise ConfigError(
                f"expected at least two runs to compare, got {len(self.runs)}; pass two save folders, or two epochs of "
                "one run, such as save@1 save@2."
            )
        if self.out.suffix.lower() != ".html":
            raise ConfigError(f"--out {self.out} is not an HTML file; use a name that ends in .html.")
        if not self.out.parent.is_dir() or self.out.is_dir():
            raise ConfigError(
                f"--out {self.out} cannot be written: its parent folder does not exist, or it is a folder itself. "
                "Choose another file."
            )


@dataclass(frozen=True)
class ExportConfig:
    """Export a run as a table with one row per test image: labels, predictions, embedding and images.

    Needs the extra `parquet`.
    """

    run: Annotated[Path, tyro.conf.Positional, path_flag("RUN")]
    """Save folder of the run."""
    to: Annotated[Path, path_flag("FILE.parquet")]
    """Parquet file to write; an existing one is replaced."""
    trust: Trust = False
    """Import the MODULE:FUNCTION that the run names as its model or data."""
    data_dir: Annotated[Path | None, path_flag("FOLDER"), flag("FOLDER", "the run's data folder")] = None
    """Download folder."""
    mirror: Mirrors = ()
    """Mirror to try before the public ones."""
    threads: Threads = 1
    """CPU threads."""

    def __post_init__(self) -> None:
        """Expand `~` and validate the file name and the ranges."""
        expand_paths(self)
        check_ranges(self)
        if self.to.suffix.lower() != ".parquet":
            raise ConfigError(f"--to {self.to} is not a Parquet file; use a name that ends in .parquet.")
        if self.to.is_dir():
            raise ConfigError(f"--to {self.to} is a folder; expected the name of a file.")


@dataclass(frozen=True)
class ReportConfig:
    """Regenerate the report of a run from its save folder; the run may be finished, interrupted or still running.

    For a store of explanations (see `pellucid explain --dataset`), write a page about all of its images.
    """

    run: Annotated[str, tyro.conf.Positional, address_flag("RUN|STORE.zarr")]
    """Save folder of a run, or the address of a store. The report is written to RUN/report.html, with a summary in
    RUN/summary.png; the page of STORE.zarr is written next to it, to STORE.html."""
    open: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Open the page in the default browser."""


@dataclass(frozen=True)
class ServeConfig:
    """Serve the report of a run on this computer, with explanations of any image by any method, computed on demand.

    Only programs on this computer can connect. The run is never changed; it may be finished, interrupted or still
    running. Ctrl-C stops the server.
    """

    run: Annotated[Path, tyro.conf.Positional, path_flag("RUN")]
    """Save folder of the run."""
    port: Annotated[int | None, Range(1, 65535), flag("1…65535", "7007, or a free one")] = None
    """Port to listen on."""
    open: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Open the page in the default browser."""
    trust: Trust = False
    """Import the MODULE:FUNCTION that the run names as its model or data."""
    device: Annotated[str, flag("auto|cpu|cuda|cuda:N|mps")] = "auto"
    """Device; auto: a GPU if available, otherwise the CPU."""
    threads: Annotated[int | None, Range(1, 1024), flag("1…1024", "those of the run")] = None
    """CPU threads."""
    data_dir: Annotated[Path | None, path_flag("FOLDER"), flag("FOLDER", "the run's data folder")] = None
    """Download folder."""
    mirror: Mirrors = ()
    """Mirror to try before the public ones."""

    def __post_init__(self) -> None:
        """Expand `~` and validate the ranges and the device."""
        expand_paths(self)
        check_ranges(self)
        check_device(self.device)
