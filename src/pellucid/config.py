"""Every setting of a run: frozen dataclasses in which one field is one flag and its docstring the flag's help."""

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import tyro

from pellucid.core.errors import ConfigError, UnknownName
from pellucid.core.ranges import Range

__all__ = [
    "DataConfig",
    "EvaluateConfig",
    "GroundTruthConfig",
    "HookConfig",
    "ReportConfig",
    "RunConfig",
    "TrainingConfig",
    "as_arguments",
    "read_config",
]


def _flag(metavar: str, default: str | None = None) -> object:
    """How a flag stands in the help: what it takes, and in words what it is where it is not given."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=None if default is None else f"(default: {default})")


Count = Annotated[int, Range(1), _flag("INT≥1")]
Seed = Annotated[int, Range(0, 2**63 - 1), _flag("INT≥0")]
Rate = Annotated[float, Range(0, 10, above=True), _flag("0<FLOAT≤10")]


@dataclass(frozen=True)
class DataConfig:
    """Which images."""

    dataset: Annotated[str, _flag("auto|mnist|digits|folder:PATH|MODULE:FUNCTION")] = "auto"
    """mnist: the 60,000 + 10,000 handwritten digits, downloaded. digits: scikit-learn's own 1,797, no network needed.
    folder:PATH: class folders of images (PATH/train and PATH/test, or one folder that is split). MODULE:FUNCTION:
    returns (train, test, class names), any torch data sets. auto: mnist, or digits where it cannot be had."""
    data_dir: Annotated[Path | None, _flag("FOLDER", "SAVE/data")] = None
    """Where downloads are kept."""
    mirror: Annotated[tuple[str, ...], _flag("ADDRESS|FOLDER"), tyro.conf.UseAppendAction] = ()
    """Tried before the public mirrors: an http(s) or file:// address, or a plain folder; may be given several times
    (also from the environment, PELLUCID_MIRROR)."""
    image_size: Annotated[int | None, Range(4, 4096), _flag("4…4096", "as they are; digits 28")] = None
    """Resize images to this many pixels in height and width."""
    limit_train: Annotated[int | None, Range(1), _flag("INT≥1", "all")] = None
    """Use only so many training images, chosen by seed with all classes in proportion."""
    limit_test: Annotated[int | None, Range(1), _flag("INT≥1", "all")] = None
    """Use only so many test images, chosen likewise."""


@dataclass(frozen=True)
class TrainingConfig:
    """Which network, and how it is trained."""

    model: Annotated[str, _flag("cnn|mlp|basic|MODULE:FUNCTION")] = "cnn"
    """MODULE:FUNCTION is any function that returns an nn.Module from images to logits; it is given `channels`,
    `classes` and `image_size` (height, width) where it asks for them by name."""
    epochs: Annotated[int | None, Range(1), _flag("INT≥1", "3 on mnist, 25 on digits, 10 elsewhere")] = None
    """Passes over the training images."""
    batch_size: Count = 256
    """Images per training step, over all processes."""
    learning_rate: Rate = 0.01
    """Peak of the one-cycle schedule of AdamW."""
    seed: Seed = 0
    """Everything drawn at random depends on it."""
    device: Annotated[str, _flag("auto|cpu|cuda|cuda:N|mps")] = "auto"
    """Where to compute; auto takes a GPU where there is one."""
    precision: Literal["float32", "bf16"] = "float32"
    """bf16: mixed precision in training."""
    threads: Annotated[int | None, Range(1), _flag("INT≥1", "1 for images up to 64×64, all cores above")] = None
    """CPU threads of torch; on small images more than one only disturb one another."""


@dataclass(frozen=True)
class HookConfig:
    """What to show."""

    hooks: Annotated[str, _flag("default|all|none|NAME,NAME")] = "default"
    """What happens after each epoch."""
    methods: Annotated[str | None, _flag("NAME,NAME", "each hook's own choice")] = None
    """Explanation methods to show."""
    classes: Annotated[str | None, _flag("NAME,NAME", "the first twelve")] = None
    """Classes to show, by name or index."""
    embedding_layer: Annotated[str | None, _flag("NAME", "the last linear layer")] = None
    """The layer whose input is shown by t-SNE and the projector."""


@dataclass(frozen=True)
class RunConfig:
    """Train a network and show, before training and after every epoch, what it has learned."""

    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    show: HookConfig = field(default_factory=HookConfig)
    save: Annotated[Path, _flag("FOLDER")] = Path("save")
    """Where everything is written; an earlier run there is moved to SAVE/previous."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Continue the interrupted run in SAVE with its own settings."""
    config: Annotated[Path | None, _flag("FILE", "none")] = None
    """Settings from a TOML file or an earlier run.json; flags on the command line win."""

    def __post_init__(self) -> None:
        """Check what can be checked without the data: ranges, and the form of the device."""
        object.__setattr__(self, "save", self.save.expanduser())
        for group in (self.data, self.training):
            _check_ranges(group)
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", self.training.device):
            raise ConfigError(f"--device {self.training.device!r} is none of auto, cpu, cuda, cuda:N and mps.")

    def flat(self) -> dict[str, Any]:
        """Every flag and its value as JSON can hold it; the keys are the flags' names with underscores."""
        nested = asdict(self)
        groups = [nested.pop(name) for name in ("data", "training", "show")]
        return {key: _plain(value) for group in (*groups, nested) for key, value in group.items()}


@dataclass(frozen=True)
class EvaluateConfig:
    """Measure explanations of a saved run: many methods, many metrics, always beside controls."""

    run: Annotated[Path, tyro.conf.Positional, _flag("RUN")]
    """The save folder of a run. Results go to RUN/evaluation; what is finished there is not computed again."""
    images: Count = 1000
    """At most so many images, spread evenly over the set."""
    methods: Annotated[str, _flag("default|all|NAME,NAME")] = "default"
    """Explanation methods; the controls are always there. all: every one that needs no fitting."""
    metrics: Annotated[str, _flag("default|NAME,NAME")] = "default"
    """default: selectivity, continuity, completeness, sparseness, random_logit, parameter_randomisation."""
    split: Literal["auto", "test", "validation"] = "auto"
    """Whose images; auto: the test images, or the validation images where only these have a ground truth."""
    seed: Seed = 0
    """Everything drawn at random depends on it."""
    data_dir: Annotated[Path | None, _flag("FOLDER", "where the run had it")] = None
    """Where downloads are kept."""
    mirror: Annotated[tuple[str, ...], _flag("ADDRESS|FOLDER"), tyro.conf.UseAppendAction] = ()
    """Tried before the public mirrors."""
    threads: Count = 1
    """CPU threads of torch."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        object.__setattr__(self, "run", self.run.expanduser())
        _check_ranges(self)


@dataclass(frozen=True)
class GroundTruthConfig:
    """Train networks on data in which it is known where the class is, and measure what explanations find."""

    datasets: Annotated[str, _flag("NAME,NAME")] = "planted_patch,two_digits,confound,confound.control"
    """Which data sets; with `:digits` behind a name, made of scikit-learn's digits instead of MNIST."""
    save: Annotated[Path, _flag("FOLDER")] = Path("save/ground_truth")
    """One run per data set below it; a finished one is not trained again."""
    epochs: Annotated[int | None, Range(1), _flag("INT≥1", "each data set's own")] = None
    """Passes over the training images."""
    images: Count = 200
    """So many images are explained."""
    methods: Annotated[str, _flag("default|all|NAME,NAME")] = "default"
    """Explanation methods; the controls are always there."""
    seed: Seed = 0
    """Everything drawn at random depends on it."""
    data_dir: Annotated[Path | None, _flag("FOLDER", "SAVE/data")] = None
    """Where downloads are kept."""
    mirror: Annotated[tuple[str, ...], _flag("ADDRESS|FOLDER"), tyro.conf.UseAppendAction] = ()
    """Tried before the public mirrors."""
    threads: Count = 1
    """CPU threads of torch."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        object.__setattr__(self, "save", self.save.expanduser())
        _check_ranges(self)


@dataclass(frozen=True)
class ReportConfig:
    """Write the page of a saved run anew, from what lies in its folder: finished, interrupted or still running."""

    run: Annotated[Path, tyro.conf.Positional, _flag("RUN")]
    """The save folder of a run. The page is RUN/report.html."""

    def __post_init__(self) -> None:
        """Find the home folder."""
        object.__setattr__(self, "run", self.run.expanduser())


def _check_ranges(group: DataConfig | TrainingConfig | EvaluateConfig | GroundTruthConfig) -> None:
    for name, hint in get_type_hints(type(group), include_extras=True).items():
        value = getattr(group, name)
        for allowed in getattr(hint, "__metadata__", ()):
            if isinstance(allowed, Range) and value is not None and value not in allowed:
                raise ConfigError(f"--{name.replace('_', '-')} is {value}, and must be {allowed}.")


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


FLAGS = (*(f.name for group in (DataConfig, TrainingConfig, HookConfig) for f in fields(group)), "save")
"""Every setting a file can hold."""


def read_config(path: Path, said: str | None = None) -> dict[str, Any]:
    """The settings in a TOML file, or those of an earlier run's run.json; keys with underscores.

    `said` is how messages call the file. Raises `ConfigError` for a file that cannot be read and `UnknownName` for a
    setting that does not exist.
    """
    said = said or str(path)
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else {"config": tomllib.loads(text)}
    except OSError as error:
        raise ConfigError(f"{said} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise ConfigError(f"{said} is neither TOML nor a run.json: {error}.") from error
    settings = content.get("config") if isinstance(content, dict) else None
    if not isinstance(settings, dict) or (path.suffix == ".json" and not settings):
        raise ConfigError(f"{said} holds no settings; give a TOML file or the run.json of an earlier run.")
    settings = {key.replace("-", "_"): value for key, value in settings.items()}
    settings = {key: value for key, value in settings.items() if key not in ("resume", "config")}
    for key in settings:
        if key not in FLAGS:
            raise UnknownName(f"setting (in {path})", key, FLAGS)
    return settings


def as_arguments(settings: Mapping[str, Any]) -> list[str]:
    """Settings as command-line arguments; a list becomes NAME,NAME, and one of mirrors a flag for each.

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
