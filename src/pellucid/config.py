"""Settings of a run: frozen dataclasses in which each field is a command-line flag and its docstring the help text."""

import json
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from pellucid.core.errors import ConfigError, UnknownName
from pellucid.core.ranges import Range

__all__ = [
    "CompareConfig",
    "DataConfig",
    "DatasetConfig",
    "EvaluateConfig",
    "ExplainConfig",
    "ExportConfig",
    "GroundTruthConfig",
    "HookConfig",
    "InspectConfig",
    "ModelConfig",
    "ReportConfig",
    "RunConfig",
    "ServeConfig",
    "TrainingConfig",
    "as_arguments",
    "read_config",
]


def _flag(metavar: str, default: str | None = None) -> object:
    """Describe a flag in `--help`: the values it takes and, for a default that depends on context, a phrase for it."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=None if default is None else f"(default: {default})")


def _path(metavar: str) -> PrimitiveConstructorSpec[Path | None]:
    """Parse a path that is not empty: an empty one would be the current folder."""
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=_parse_path,
        is_instance=lambda value: value is None or isinstance(value, Path),
        str_from_instance=lambda value: [str(value)],
    )


def _parse_path(words: list[str]) -> Path:
    if not words[0].strip():
        raise ValueError("the path is empty; use . for the current folder")
    return Path(words[0])


Dataset = Annotated[str, _flag("auto|mnist|digits|folder:PATH|FILE|torchvision:NAME|hf:NAME|MODULE:FUNCTION")]
Count = Annotated[int, Range(1), _flag("INT≥1")]
Threads = Annotated[int, Range(1, 1024), _flag("1…1024")]
Seed = Annotated[int, Range(0, 2**63 - 1), _flag("INT≥0")]
Mirrors = Annotated[tuple[str, ...], _flag("ADDRESS|FOLDER"), tyro.conf.UseAppendAction]
Trust = Annotated[bool, tyro.conf.FlagCreatePairsOff]
Rate = Annotated[float, Range(0, 10, above=True), _flag("0<FLOAT≤10")]


def _choice_of(words: list[str]) -> bool:
    """Parse an optional `yes` or `no`; a flag without a value means `yes`."""
    answers = {"yes": True, "true": True, "no": False, "false": False}
    if len(words) > 1 or (words and words[0].lower() not in answers):
        raise ValueError(f"got {' '.join(words)!r}; expected yes or no, or no value, which means yes")
    return answers[words[0].lower()] if words else True


Choice: PrimitiveConstructorSpec[bool | None] = PrimitiveConstructorSpec(
    nargs="*",
    metavar="[yes|no]",
    instance_from_str=_choice_of,
    is_instance=lambda value: value is None or isinstance(value, bool),
    str_from_instance=lambda value: [str(value)],
)
"""Parses a flag with three states: given, given as `no`, or left to a default."""


@dataclass(frozen=True)
class DataConfig:
    """Images to train and test on."""

    dataset: Dataset = "auto"
    """Data set.
    auto: MNIST if it can be downloaded, otherwise the bundled digits.
    mnist: 70,000 handwritten digits, downloaded.
    digits: the 1,797 digits bundled with scikit-learn, no network needed.
    folder:PATH: one subfolder of images per class, in PATH/train and PATH/test or in a single folder that is split.
    FILE: a .parquet, .arrow, .npz, .npy, .zarr or .tar file; parquet:PATH is a folder of Parquet or Arrow files.
    webdataset:PATH: WebDataset shards, in a folder or with a pattern such as 'PATH/{000..009}.tar'.
    torchvision:NAME: a classification data set of torchvision, such as CIFAR10, downloaded.
    hf:NAME or hf:FOLDER: a Hugging Face data set.
    MODULE:FUNCTION: a function that returns (train, test, class names) with any torch data sets.
    If a column or split of a table is ambiguous, name it: FILE?label=COLUMN&image=COLUMN&split=NAME."""
    data_dir: Annotated[Path | None, _path("FOLDER"), _flag("FOLDER", "SAVE/data")] = None
    """Download folder."""
    mirror: Mirrors = ()
    """Mirror to try before the public ones: an http(s) or file:// address, or a folder.
    Also read from the environment variable PELLUCID_MIRROR."""
    image_size: Annotated[int | None, Range(4, 4096), _flag("4…4096", "original size; 28 for digits")] = None
    """Height and width to resize images to, in pixels."""
    max_megapixels: Count = 50
    """Largest image to read, in millions of pixels; a small file can claim billions of pixels."""
    limit_train: Annotated[int | None, Range(1), _flag("INT≥1", "all")] = None
    """Number of training images to use, a stratified random subset."""
    limit_test: Annotated[int | None, Range(1), _flag("INT≥1", "all")] = None
    """Number of test images to use, a stratified random subset."""


@dataclass(frozen=True)
class TrainingConfig:
    """Network and optimization."""

    model: Annotated[str, _flag("NAME|MODULE:FUNCTION|torchvision:NAME|timm:NAME|hf:FOLDER|run:FOLDER")] = "small_cnn"
    """Network to train: small_cnn, cnn, mlp or basic, or one of these.
    MODULE:FUNCTION: a function or class that returns an nn.Module from images to logits. Its parameters named
    `channels`, `classes` or `image_size` receive the number of channels, number of classes and (height, width) of the
    data.
    torchvision:NAME, timm:NAME: a network such as torchvision:resnet18, with random weights unless --weights is given.
    hf:FOLDER-OR-REPOSITORY: an image classifier of transformers. run:FOLDER: the best model of a run."""
    epochs: Annotated[int | None, Range(1), _flag("INT≥1", "2 for mnist, otherwise 10")] = None
    """Passes over the training images."""
    batch_size: Count = 128
    """Global batch size."""
    learning_rate: Rate = 0.01
    """Peak learning rate of AdamW's one-cycle schedule."""
    seed: Seed = 0
    """Random seed."""
    device: Annotated[str, _flag("auto|cpu|cuda|cuda:N|mps")] = "auto"
    """Device; auto: a GPU if available, otherwise the CPU."""
    precision: Literal["float32", "bf16"] = "float32"
    """Training precision; bf16: mixed precision."""
    threads: Annotated[int | None, Range(1, 1024), _flag("1…1024", "1 for images up to 64×64, else all cores")] = None
    """CPU threads; more than one slows down small images."""
    keep_checkpoints: Annotated[bool | None, Choice, _flag("[yes|no]", "yes if they take at most 20 MB")] = None
    """Keep the weights of every epoch, in SAVE/models/epoch_NNN.safetensors, for `pellucid compare` and `load_run`."""

    def __post_init__(self) -> None:
        """Make the folder of `hf:FOLDER` or `run:FOLDER` absolute, so that a run can be resumed anywhere."""
        kind, _, place = self.model.partition(":")
        if kind in ("hf", "run") and Path(place).expanduser().is_dir():
            object.__setattr__(self, "model", f"{kind}:{Path(place).expanduser().resolve()}")


@dataclass(frozen=True)
class ModelConfig:
    """Trained weights, class names and preprocessing of a model."""

    weights: Annotated[str | None, _flag("FILE|NAME", "random, except for hf: and run:")] = None
    """Trained weights of the model.
    FILE: .safetensors, or .pt and .pth without pickled code.
    NAME: pretrained weights of torchvision or timm to download, such as DEFAULT or IMAGENET1K_V2."""
    class_names: Annotated[str | None, _flag("FILE", "those of the data or the weights")] = None
    """Class names in the order of the logits: one per line, or a JSON list or dict from index to name."""
    crop: Annotated[int | None, Range(1, 4096), _flag("1…4096", "no crop, or that of the weights")] = None
    """Height and width of the center crop; --image-size is then the length of the shorter side before the crop."""
    mean: Annotated[str | None, _flag("NUMBER,NUMBER,…", "that of the weights")] = None
    """Mean for normalizing the model's input: one number, or one per channel."""
    std: Annotated[str | None, _flag("NUMBER,NUMBER,…", "that of the weights")] = None
    """Standard deviation for normalizing the model's input: one number, or one per channel."""

    def __post_init__(self) -> None:
        """Validate the numbers; paths of existing files become absolute, so that a run can be resumed anywhere."""
        _check_ranges(self)
        for name in ("weights", "class_names"):
            value = getattr(self, name)
            if value is not None and Path(value).expanduser().is_file():
                object.__setattr__(self, name, str(Path(value).expanduser().resolve()))
        mean, std = self.normalization
        if (mean is None) != (std is None):
            given, missing = ("mean", "std") if std is None else ("std", "mean")
            raise ConfigError(f"--{given} is given without --{missing}; normalization needs both.")
        if mean is not None and std is not None and len(mean) != len(std):
            raise ConfigError(f"--mean has {len(mean)} values and --std has {len(std)}; pass one of each per channel.")
        if std is not None and not all(value > 0 for value in std):
            raise ConfigError(f"--std is {self.std}; every value must be positive.")

    @property
    def normalization(self) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
        """Mean and standard deviation per channel; (None, None) if they are not given."""
        return _numbers("mean", self.mean), _numbers("std", self.std)


def _numbers(name: str, text: str | None) -> tuple[float, ...] | None:
    """Return the numbers in NUMBER,NUMBER,… or raise `ConfigError`."""
    if text is None:
        return None
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = (math.nan,)
    if not all(math.isfinite(value) for value in values):
        raise ConfigError(f"--{name} is {text!r}; expected numbers separated by commas, such as 0.485,0.456,0.406.")
    return values


@dataclass(frozen=True)
class HookConfig:
    """Visualizations and explanations."""

    hooks: Annotated[str, _flag("default|all|none|NAME,NAME")] = "default"
    """Hooks to run after each epoch or at the end of training."""
    methods: Annotated[str | None, _flag("NAME,NAME", "chosen by each hook")] = None
    """Attribution methods to show."""
    classes: Annotated[str | None, _flag("NAME,NAME", "the first twelve")] = None
    """Classes to show, by name or index."""
    embedding_layer: Annotated[str | None, _flag("NAME", "the last linear layer")] = None
    """Layer whose input is the embedding in t-SNE and the projector."""
    log_to: Annotated[str | None, _flag("trackio|mlflow|wandb", "none")] = None
    """Experiment trackers that receive scalars, figures and the report in addition to TensorBoard; comma-separated.
    Their files are in SAVE/logs unless the tracker's environment variables name a server."""
    budget: Annotated[
        Literal["small", "default", "large"] | None, _flag("small|default|large", "no limit; in inspect: default")
    ] = None
    """Limit on the cost of all hooks, in forward passes over a sample of the test images.
    small: 20 passes over 256 images; default: 60 over 2,000; large: 200 over 10,000."""
    metadata: Annotated[str | None, _flag("FILE", "none")] = None
    """Table with one row per test image (.parquet, .arrow, .feather or .csv), for error rates by column."""

    def __post_init__(self) -> None:
        """Make the path of an existing table absolute, so that a run can be resumed anywhere."""
        if self.metadata is not None and Path(self.metadata).expanduser().is_file():
            object.__setattr__(self, "metadata", str(Path(self.metadata).expanduser().resolve()))


@dataclass(frozen=True)
class RunConfig:
    """Train an image classifier and visualize what it has learned, before training and after every epoch."""

    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    network: ModelConfig = field(default_factory=ModelConfig)
    show: HookConfig = field(default_factory=HookConfig)
    save: Annotated[Path, _path("FOLDER")] = Path("save")
    """Output folder; an earlier run there is moved to SAVE/previous."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Resume the interrupted run in SAVE with its original settings.
    With more --epochs, also train an interrupted or finished run further, with a new learning-rate schedule."""
    serial: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Run hooks in the main process, between epochs, not in parallel with training; useful for debugging a hook."""
    trust: Trust = False
    """Import the MODULE:FUNCTION that the run in SAVE, or a run.json given to --config, names as its model or data."""
    open: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Open the report in the default browser at the end."""
    config: Annotated[Path | None, _flag("FILE", "none")] = None
    """TOML file or run.json to read settings from; flags on the command line take precedence."""

    def __post_init__(self) -> None:
        """Validate the settings that don't depend on the data: ranges and the device string."""
        _expand_paths(self)
        for group in (self.data, self.training):
            _check_ranges(group)
        check_device(self.training.device)

    def flat(self) -> dict[str, Any]:
        """Return every flag with its JSON-compatible value; keys are the flags' names with underscores."""
        nested = asdict(self)
        groups = [nested.pop(name) for name in ("data", "training", "network", "show")]
        return {key: _plain(value) for group in (*groups, nested) for key, value in group.items()}


@dataclass(frozen=True)
class InspectConfig:
    """Run every hook on a trained model, and write figures, TensorBoard logs and the report into a save folder."""

    model: Annotated[str, _flag("torchvision:NAME|timm:NAME|hf:FOLDER|run:FOLDER|MODULE:FUNCTION")]
    """Model to inspect: torchvision:resnet18, timm:convnext_tiny, hf:FOLDER-OR-REPOSITORY, run:FOLDER, or a function or
    class that returns an nn.Module from images to logits."""
    dataset: Annotated[str, _flag("NAME|folder:PATH|torchvision:NAME|hf:NAME|FILE|MODULE:FUNCTION")]
    """Test images, as in `pellucid run --help`. A seeded sample is read from large data sets."""
    network: ModelConfig = field(default_factory=ModelConfig)
    show: HookConfig = field(default_factory=HookConfig)
    save: Annotated[Path, _path("FOLDER")] = Path("save")
    """Output folder; an earlier run there is moved to SAVE/previous."""
    data_dir: Annotated[Path | None, _path("FOLDER"), _flag("FOLDER", "SAVE/data")] = None
    """Download folder."""
    mirror: Mirrors = ()
    """Mirror to try before the public ones."""
    image_size: Annotated[int | None, Range(4, 4096), _flag("4…4096", "that of the model")] = None
    """Length of the shorter side in pixels before --crop; without --crop, height and width."""
    max_megapixels: Count = 50
    """Largest image to read, in millions of pixels."""
    seed: Seed = 0
    """Random seed."""
    device: Annotated[str, _flag("auto|cpu|cuda|cuda:N|mps")] = "auto"
    """Device; auto: a GPU if available, otherwise the CPU."""
    threads: Annotated[int | None, Range(1, 1024), _flag("1…1024", "1 for images up to 64×64, else all cores")] = None
    """CPU threads; more than one slows down small images."""
    trust: Trust = False
    """Import the MODULE:FUNCTION that the run in --model run:FOLDER names as its model."""
    open: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Open the report in the default browser at the end."""

    def __post_init__(self) -> None:
        """Expand `~` and validate the ranges and the device."""
        _expand_paths(self)
        _check_ranges(self)
        check_device(self.device)


@dataclass(frozen=True)
class EvaluateConfig:
    """Evaluate attribution methods on a saved run with several metrics, always compared with controls."""

    run: Annotated[Path, tyro.conf.Positional, _path("RUN")]
    """Save folder of the run. Results are written to RUN/evaluation and reused by the next evaluation."""
    images: Count = 1000
    """Maximum number of images, spread evenly over the split."""
    methods: Annotated[str, _flag("default|all|NAME,NAME")] = "default"
    """Attribution methods; controls are always included. all: every method that needs no fitting."""
    metrics: Annotated[str, _flag("default|NAME,NAME")] = "default"
    """Metrics. default: selectivity, continuity, completeness, sparseness, random_logit, parameter_randomisation."""
    trust: Trust = False
    """Import the MODULE:FUNCTION that the run names as its model or data."""
    split: Literal["auto", "test", "validation"] = "auto"
    """Split to evaluate on. auto: test, or validation if only that split has ground truth."""
    seed: Seed = 0
    """Random seed."""
    data_dir: Annotated[Path | None, _path("FOLDER"), _flag("FOLDER", "the run's data folder")] = None
    """Download folder."""
    mirror: Mirrors = ()
    """Mirror to try before the public ones."""
    threads: Threads = 1
    """CPU threads."""

    def __post_init__(self) -> None:
        """Expand `~` and validate the ranges."""
        _expand_paths(self)
        _check_ranges(self)


@dataclass(frozen=True)
class GroundTruthConfig:
    """Benchmark explanations on data with known ground truth, training one network per data set."""

    datasets: Annotated[str, _flag("NAME,NAME")] = "planted_patch,two_digits,confound,confound.control"
    """Data sets; append `:digits` to a name to build it from scikit-learn's digits instead of MNIST."""
    save: Annotated[Path, _path("FOLDER")] = Path("save/ground_truth")
    """Output folder, with one run per data set; finished runs are reused."""
    epochs: Annotated[int | None, Range(1), _flag("INT≥1", "depends on the data set")] = None
    """Passes over the training images."""
    images: Count = 200
    """Number of images to explain."""
    methods: Annotated[str, _flag("default|all|NAME,NAME")] = "default"
    """Attribution methods; controls are always included."""
    seed: Seed = 0
    """Random seed."""
    data_dir: Annotated[Path | None, _path("FOLDER"), _flag("FOLDER", "SAVE/data")] = None
    """Download folder."""
    mirror: Mirrors = ()
    """Mirror to try before the public ones."""
    threads: Threads = 1
    """CPU threads."""

    def __post_init__(self) -> None:
        """Expand `~` and validate the ranges."""
        _expand_paths(self)
        _check_ranges(self)


@dataclass(frozen=True)
class DatasetConfig:
    """Explain a whole data set into a Zarr store, also by several processes: torchrun -m pellucid explain …"""

    dataset: Annotated[str | None, _flag("folder:PATH|webdataset:PATH|hf:NAME|FILE|…", "none")] = None
    """Data set whose test images are explained, all of them and in order; --out then names a .zarr store.
    As for `pellucid inspect`, and without labels, too."""
    limit: Annotated[int | None, Range(1), _flag("INT≥1", "all")] = None
    """Number of images to explain, evenly spaced over the data set."""
    jacobian: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Store the derivative of every logit by every pixel; with --methods default, nothing else."""
    embeddings: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Store the embedding of each image; implied by --methods none without --jacobian."""
    embedding_layer: Annotated[str | None, _flag("NAME", "the last linear layer")] = None
    """Layer whose input is the embedding."""
    dtype: Literal["float32", "float16"] = "float32"
    """Type of the stored maps; float16 also stores the rounding error of each map."""
    shard: Annotated[int | None, Range(1), _flag("INT≥1", "about 32 MB")] = None
    """Images per shard: the unit of work, and what an interruption loses."""
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print what would be computed, its size and its cost, and write nothing."""
    data_dir: Annotated[Path | None, _path("FOLDER"), _flag("FOLDER", "save/data")] = None
    """Download folder."""
    mirror: Mirrors = ()
    """Mirror to try before the public ones."""
    max_megapixels: Count = 50
    """Largest image to read, in millions of pixels."""

    def __post_init__(self) -> None:
        """Validate the ranges, and that no flag needs a data set that is not given."""
        _check_ranges(self)
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

    model: Annotated[str, _flag("NAME|MODULE:FUNCTION|torchvision:NAME|timm:NAME|hf:FOLDER|run:FOLDER")]
    """Trained model, as for `pellucid run`; run:FOLDER is the best model of a saved run."""
    images: Annotated[tuple[Path, ...], tyro.conf.Positional, _flag("IMAGE")] = ()
    """Images to explain."""
    network: ModelConfig = field(default_factory=ModelConfig)
    whole: DatasetConfig = field(default_factory=DatasetConfig)
    image_size: Annotated[int | None, Range(4, 4096), _flag("4…4096", "that of the weights, or of the images")] = None
    """Length of the shorter side in pixels before --crop; without --crop, height and width of the model's input."""
    methods: Annotated[str, _flag("default|none|NAME,NAME")] = "default"
    """Attribution methods. default: several for a page; for a figure or a data set, the first that applies.
    none: only logits and embeddings, of a data set."""
    target: Annotated[str | None, _flag("NAME|INDEX|predicted|label|all", "predicted")] = None
    """Class to explain, by name or index; a page also shows the predicted class and the most probable others.
    For a data set, also the true class (label) or every class (all)."""
    out: Annotated[str, _flag("FILE|STORE.zarr", "why.html, or maps.zarr")] = ""
    """Page or figure to write: .html, .png, .pdf or .svg. For a data set, a .zarr store: a folder or an address such as
    s3://bucket/maps.zarr; a store that was begun is continued."""
    trust: Trust = False
    """Import the MODULE:FUNCTION that the run names as its model."""
    device: Annotated[str, _flag("auto|cpu|cuda|cuda:N|mps")] = "auto"
    """Device; auto: a GPU if available, otherwise the CPU."""
    threads: Annotated[int | None, Range(1, 1024), _flag("1…1024", "all cores")] = None
    """CPU threads. For a data set, by default those of the store that is continued; in a new one, one if the images
    have at most 64×64 pixels or if there are several processes."""
    open: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Open the result in the default browser."""

    def __post_init__(self) -> None:
        """Expand `~` and validate what can be checked without loading anything."""
        _expand_paths(self)
        object.__setattr__(self, "images", tuple(path.expanduser() for path in self.images))
        _check_ranges(self)
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
    out: Annotated[Path, _path("FILE.html")] = Path("compare.html")
    """Page to write."""
    images: Annotated[int | None, Range(4), _flag("INT≥4", "200, or 50 for images larger than 64×64")] = None
    """Number of test images whose explanations and layers are compared; predictions are compared on all."""
    methods: Annotated[str, _flag("default|NAME,NAME")] = "default"
    """Attribution methods; the first one explains the images that the models disagree about.
    default: the method that the leaderboard of the first run recommends, then four common ones."""
    trust: Trust = False
    """Import the MODULE:FUNCTION that the runs name as their models or data."""
    data_dir: Annotated[Path | None, _path("FOLDER"), _flag("FOLDER", "each run's data folder")] = None
    """Download folder."""
    mirror: Mirrors = ()
    """Mirror to try before the public ones."""
    seed: Seed = 0
    """Random seed of the bootstrap intervals."""
    device: Annotated[str, _flag("auto|cpu|cuda|cuda:N|mps")] = "auto"
    """Device; auto: a GPU if available, otherwise the CPU."""
    threads: Threads = 1
    """CPU threads."""
    open: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Open the page in the default browser."""

    def __post_init__(self) -> None:
        """Expand `~` and validate what can be checked without loading anything."""
        _expand_paths(self)
        _check_ranges(self)
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

    run: Annotated[Path, tyro.conf.Positional, _path("RUN")]
    """Save folder of the run."""
    to: Annotated[Path, _path("FILE.parquet")]
    """Parquet file to write; an existing one is replaced."""
    trust: Trust = False
    """Import the MODULE:FUNCTION that the run names as its model or data."""
    data_dir: Annotated[Path | None, _path("FOLDER"), _flag("FOLDER", "the run's data folder")] = None
    """Download folder."""
    mirror: Mirrors = ()
    """Mirror to try before the public ones."""
    threads: Threads = 1
    """CPU threads."""

    def __post_init__(self) -> None:
        """Expand `~` and validate the file name and the ranges."""
        _expand_paths(self)
        _check_ranges(self)
        if self.to.suffix.lower() != ".parquet":
            raise ConfigError(f"--to {self.to} is not a Parquet file; use a name that ends in .parquet.")
        if self.to.is_dir():
            raise ConfigError(f"--to {self.to} is a folder; expected the name of a file.")


@dataclass(frozen=True)
class ReportConfig:
    """Regenerate the report of a run from its save folder; the run may be finished, interrupted or still running.

    For a store of explanations (see `pellucid explain --dataset`), write a page about all of its images.
    """

    run: Annotated[str, tyro.conf.Positional, _flag("RUN|STORE.zarr")]
    """Save folder of a run, or the address of a store. The report is written to RUN/report.html, with a summary in
    RUN/summary.png; that of STORE.zarr is written beside it, to STORE.html."""
    open: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Open the page in the default browser."""

    def __post_init__(self) -> None:
        """Raise `ConfigError` for an empty path, which would be the current folder."""
        if not self.run.strip():
            raise ConfigError("the path is empty; use . for the current folder.")


@dataclass(frozen=True)
class ServeConfig:
    """Serve the report of a run on this computer, with explanations of any image by any method, computed on demand.

    Only programs on this computer can connect. The run is never changed; it may be finished, interrupted or still
    running. Ctrl-C stops the server.
    """

    run: Annotated[Path, tyro.conf.Positional, _path("RUN")]
    """Save folder of the run."""
    port: Annotated[int | None, Range(1, 65535), _flag("1…65535", "7007, or a free one")] = None
    """Port to listen on."""
    open: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Open the page in the default browser."""
    trust: Trust = False
    """Import the MODULE:FUNCTION that the run names as its model or data."""
    device: Annotated[str, _flag("auto|cpu|cuda|cuda:N|mps")] = "auto"
    """Device; auto: a GPU if available, otherwise the CPU."""
    threads: Annotated[int | None, Range(1, 1024), _flag("1…1024", "those of the run")] = None
    """CPU threads."""
    data_dir: Annotated[Path | None, _path("FOLDER"), _flag("FOLDER", "the run's data folder")] = None
    """Download folder."""
    mirror: Mirrors = ()
    """Mirror to try before the public ones."""

    def __post_init__(self) -> None:
        """Expand `~` and validate the ranges and the device."""
        _expand_paths(self)
        _check_ranges(self)
        check_device(self.device)


def check_device(device: str) -> None:
    """Raise `ConfigError` for a misspelled device; missing devices are found later."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", device):
        raise ConfigError(f"invalid --device {device!r}: expected auto, cpu, cuda, cuda:N (such as cuda:0) or mps.")


def _expand_paths(group: Any) -> None:
    """Replace `~` in every path."""
    for option in fields(group):
        if isinstance(value := getattr(group, option.name), Path):
            object.__setattr__(group, option.name, value.expanduser())  # plain assignment fails in a frozen dataclass


def _check_ranges(group: Any) -> None:
    for name, hint in get_type_hints(type(group), include_extras=True).items():
        value = getattr(group, name)
        for allowed in getattr(hint, "__metadata__", ()):
            if isinstance(allowed, Range) and value is not None and value not in allowed:
                raise ConfigError(f"--{name.replace('_', '-')} must be {allowed}, got {value}.")


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


FLAGS = (*(f.name for group in (DataConfig, TrainingConfig, ModelConfig, HookConfig) for f in fields(group)), "save")
"""Settings that a config file may contain."""
ONE_TIME_FLAGS = ("resume", "serial", "trust", "open", "config")
"""Settings that a run.json records too, but that apply only to the command that wrote it."""


def read_config(path: Path, description: str | None = None) -> dict[str, Any]:
    """Read the settings in a TOML file or in the run.json of an earlier run; keys have underscores.

    `description` names the file in error messages. Raises `ConfigError` if the file cannot be read and `UnknownName`
    for a setting that does not exist.
    """
    description = description or str(path)
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else {"config": tomllib.loads(text)}
    except OSError as error:
        raise ConfigError(f"{description} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:  # RecursionError: nested too deeply
        raise ConfigError(f"{description} is neither valid TOML nor a run.json: {error}.") from error
    settings = content.get("config") if isinstance(content, dict) else None
    if not isinstance(settings, dict) or (path.suffix == ".json" and not settings):
        raise ConfigError(f"{description} contains no settings; pass a TOML file or the run.json of an earlier run.")
    settings = {key.replace("-", "_"): value for key, value in settings.items()}
    # A run.json records these as well, but they apply only to the command that wrote it.
    settings = {
        key: value for key, value in settings.items() if key not in ("resume", "serial", "trust", "open", "config")
    }
    for key in settings:
        if key not in FLAGS:
            raise UnknownName(f"setting (in {path})", key, FLAGS)
    return settings


def as_arguments(settings: Mapping[str, Any]) -> list[str]:
    """Return settings as command-line arguments; a list becomes NAME,NAME, except that each mirror gets its own flag.

    >>> as_arguments({"batch_size": 64, "mirror": ["a", "b"], "classes": [3, 8], "epochs": None})
    ['--batch-size=64', '--mirror=a', '--mirror=b', '--classes=3,8']
    """
    arguments = []
    for name, entry in settings.items():
        values = entry if isinstance(entry, list | tuple) else [] if entry is None else [entry]
        if isinstance(entry, list | tuple) and name != "mirror":
            values = [",".join(map(str, entry))]
        arguments += [f"--{name.replace('_', '-')}={value}" for value in values]
    return arguments
