"""Settings of `pellucid run`, some of which other commands share."""

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from pellucid.config._flags import (
    Choice,
    Count,
    Dataset,
    Mirrors,
    Rate,
    Seed,
    Trust,
    check_device,
    check_ranges,
    expand_paths,
    flag,
    path_flag,
)
from pellucid.core.errors import ConfigError
from pellucid.core.ranges import Range

__all__ = ["DataConfig", "HookConfig", "ModelConfig", "RunConfig", "TrainingConfig"]


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
    data_dir: Annotated[Path | None, path_flag("FOLDER"), flag("FOLDER", "SAVE/data")] = None
    """Download folder."""
    mirror: Mirrors = ()
    """Mirror to try before the public ones: an http(s) or file:// address, or a folder.
    Also read from the environment variable PELLUCID_MIRROR."""
    image_size: Annotated[int | None, Range(4, 4096), flag("4…4096", "original size; 28 for digits")] = None
    """Height and width to resize images to, in pixels."""
    max_megapixels: Count = 50
    """Largest image to read, in millions of pixels; a small file can claim billions of pixels."""
    limit_train: Annotated[int | None, Range(1), flag("INT≥1", "all")] = None
    """Number of training images to use, a stratified random subset."""
    limit_test: Annotated[int | None, Range(1), flag("INT≥1", "all")] = None
    """Number of test images to use, a stratified random subset."""


@dataclass(frozen=True)
class TrainingConfig:
    """Network and optimization."""

    model: Annotated[str, flag("NAME|MODULE:FUNCTION|torchvision:NAME|timm:NAME|hf:FOLDER|run:FOLDER")] = "small_cnn"
    """Network to train: small_cnn, cnn, mlp or basic, or one of these.
    MODULE:FUNCTION: a function or class that returns an nn.Module from images to logits. Its parameters named
    `channels`, `classes` or `image_size` receive the number of channels, number of classes and (height, width) of the
    data.
    torchvision:NAME, timm:NAME: a network such as torchvision:resnet18, with random weights unless --weights is given.
    hf:FOLDER-OR-REPOSITORY: an image classifier of transformers. run:FOLDER: the best model of a run."""
    epochs: Annotated[int | None, Range(1), flag("INT≥1", "2 for mnist, otherwise 10")] = None
    """Passes over the training images."""
    batch_size: Count = 128
    """Global batch size."""
    learning_rate: Rate = 0.01
    """Peak learning rate of AdamW's one-cycle schedule."""
    seed: Seed = 0
    """Random seed."""
    device: Annotated[str, flag("auto|cpu|cuda|cuda:N|mps")] = "auto"
    """Device; auto: a GPU if available, otherwise the CPU."""
    precision: Literal["float32", "bf16"] = "float32"
    """Training precision; bf16: mixed precision."""
    threads: Annotated[int | None, Range(1, 1024), flag("1…1024", "1 for images up to 64×64, else all cores")] = None
    """CPU threads; more than one slows down small images."""
    keep_checkpoints: Annotated[bool | None, Choice, flag("[yes|no]", "yes if they take at most 20 MB")] = None
    """Keep the weights of every epoch, in SAVE/models/epoch_NNN.safetensors, for `pellucid compare` and `load_run`."""

    def __post_init__(self) -> None:
        """Make the folder of `hf:FOLDER` or `run:FOLDER` absolute, so that a run can be resumed anywhere."""
        kind, _, place = self.model.partition(":")
        if kind in ("hf", "run") and Path(place).expanduser().is_dir():
            object.__setattr__(self, "model", f"{kind}:{Path(place).expanduser().resolve()}")


@dataclass(frozen=True)
class ModelConfig:
    """Trained weights, class names and preprocessing of a model."""

    weights: Annotated[str | None, flag("FILE|NAME", "random, except for hf: and run:")] = None
    """Trained weights of the model.
    FILE: .safetensors, or .pt and .pth without pickled code.
    NAME: pretrained weights of torchvision or timm to download, such as DEFAULT or IMAGENET1K_V2."""
    class_names: Annotated[str | None, flag("FILE", "those of the data or the weights")] = None
    """Class names in the order of the logits: one per line, or a JSON list or dict from index to name."""
    crop: Annotated[int | None, Range(1, 4096), flag("1…4096", "no crop, or that of the weights")] = None
    """Height and width of the center crop; --image-size is then the length of the shorter side before the crop."""
    mean: Annotated[str | None, flag("NUMBER,NUMBER,…", "that of the weights")] = None
    """Mean for normalizing the model's input: one number, or one per channel."""
    std: Annotated[str | None, flag("NUMBER,NUMBER,…", "that of the weights")] = None
    """Standard deviation for normalizing the model's input: one number, or one per channel."""

    def __post_init__(self) -> None:
        """Validate the numbers; paths of existing files become absolute, so that a run can be resumed anywhere."""
        check_ranges(self)
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

    hooks: Annotated[str, flag("default|all|none|NAME,NAME")] = "default"
    """Hooks to run after each epoch or at the end of training."""
    methods: Annotated[str | None, flag("NAME,NAME", "chosen by each hook")] = None
    """Attribution methods to show."""
    classes: Annotated[str | None, flag("NAME,NAME", "the first twelve")] = None
    """Classes to show, by name or index."""
    embedding_layer: Annotated[str | None, flag("NAME", "the last linear layer")] = None
    """Layer whose input is the embedding in t-SNE and the projector."""
    log_to: Annotated[str | None, flag("trackio|mlflow|wandb", "none")] = None
    """Experiment trackers that receive scalars, figures and the report in addition to TensorBoard; comma-separated.
    Their files are in SAVE/logs unless the tracker's environment variables name a server."""
    budget: Annotated[
        Literal["small", "default", "large"] | None, flag("small|default|large", "no limit; in inspect: default")
    ] = None
    """Limit on the cost of all hooks, in forward passes over a sample of the test images.
    small: 20 passes over 256 images; default: 60 over 2,000; large: 200 over 10,000."""
    metadata: Annotated[str | None, flag("FILE", "none")] = None
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
    save: Annotated[Path, path_flag("FOLDER")] = Path("save")
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
    config: Annotated[Path | None, flag("FILE", "none")] = None
    """TOML file or run.json to read settings from; flags on the command line take precedence."""

    def __post_init__(self) -> None:
        """Validate the settings that don't depend on the data: ranges and the device string."""
        expand_paths(self)
        for group in (self.data, self.training):
            check_ranges(group)
        check_device(self.training.device)

    def flat(self) -> dict[str, Any]:
        """Return every flag with its JSON-compatible value; keys are the flags' names with underscores."""
        nested = asdict(self)
        groups = [nested.pop(name) for name in ("data", "training", "network", "show")]
        return {key: _plain(value) for group in (*groups, nested) for key, value in group.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value
