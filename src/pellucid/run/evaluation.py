"""The work of `pellucid evaluate`: measure the explanations of a saved run."""

from pathlib import Path

import torch

from pellucid.attribution import METHODS, Analyzer, create_analyzer
from pellucid.config import EvaluateConfig
from pellucid.core.contracts import DataSplits, ImageSet
from pellucid.core.errors import ConfigError
from pellucid.core.listing import parse_names
from pellucid.core.terminal import console, print_line
from pellucid.evaluation import DEFAULT_METHODS, DEFAULT_METRICS, METRICS, Evaluation
from pellucid.hooks._methods import FAST_OPTIONS, fit_to_sample
from pellucid.storage.atomic import write_bytes
from pellucid.storage.evaluations import evaluate
from pellucid.storage.pictures import SHARP, to_png
from pellucid.storage.runs import Run, load_data_of, load_run

__all__ = ["choose_split", "evaluate_run", "make_analyzers", "show_evaluation", "spread"]

PIPE_COLUMNS = 200
"""Width of a table written to a file or a pipe, where rich would assume 80 columns."""
TRAINING_IMAGES = 10_000
"""Maximum number of images on which `roar` retrains the network."""


def evaluate_run(config: EvaluateConfig) -> int:
    """Evaluate a saved run, print the table and write a figure, JSON and CSV to RUN/evaluation; returns the exit code.

    Raises `SaveError` if the folder contains no run, or if its data set has changed since training.
    """
    torch.set_num_threads(config.threads)
    trained = load_run(config.run, trust=config.trust)
    data = load_data_of(config.run, trained, config.data_dir, config.mirror)
    metrics = parse_names(config.metrics, groups={"default": DEFAULT_METRICS})
    needs = {need for name in metrics for need in METRICS[name].needs}
    title, part = choose_split(data, config.split, "masks" in needs)
    chosen = spread(part, config.images)
    training = _training(data) if "training" in needs else None
    folder = config.run / "evaluation"
    evaluation = evaluate(
        trained.model,
        chosen.floats(),
        None,
        make_analyzers(config.methods, trained, data.train),
        metrics,
        seed=config.seed,
        masks=chosen.masks,
        training=training,
        save=folder / "blocks",
    )
    show_evaluation(evaluation, folder, f"{data.title}, {title} images: leaderboard of explanation methods")
    return 0


def make_analyzers(wanted: str, trained: Run, train: ImageSet) -> list[Analyzer]:
    """Create the requested methods for the run's model, fitted to its training images where they need fitting."""
    groups = {
        "default": DEFAULT_METHODS,
        "all": [name for name, method in METHODS.items() if not method.needs_fit and method.family != "control"],
    }
    names = parse_names(wanted, groups=groups)
    analyzers = [create_analyzer(name, trained.model, **FAST_OPTIONS.get(name, {})) for name in names]
    return [fit_to_sample(analyzer, train) for analyzer in analyzers]


def choose_split(data: DataSplits, split: str, needs_masks: bool) -> tuple[str, ImageSet]:
    """Return the name and the images of the split to explain."""
    if split == "auto":
        # the test images of `confound` have no tags, hence no masks
        split = "validation" if data.test.masks is None and data.validation.masks is not None else "test"
    part = data.test if split == "test" else data.validation
    if needs_masks and part.masks is None:
        raise ConfigError(
            f"the {split} images of {data.name} have no ground-truth masks; evaluate a run trained on planted_patch, "
            "two_digits or confound, or choose metrics that need no ground truth."
        )
    return split, part


def spread(part: ImageSet, limit: int) -> ImageSet:
    """Return at most `limit` images, spread evenly over `part`."""
    count = min(len(part), limit)
    return part[torch.arange(count) * len(part) // count]


def _training(data: DataSplits) -> tuple[torch.Tensor, torch.Tensor]:
    chosen = spread(data.train, TRAINING_IMAGES)
    return chosen.floats(), chosen.labels


def show_evaluation(evaluation: Evaluation, folder: Path, title: str) -> None:
    """Print the table and write the figure, JSON and CSV."""
    console().print(evaluation.to_table(), width=None if console().is_terminal else PIPE_COLUMNS)
    for text in evaluation.conclusions:
        print_line(text)
    for name, reason in evaluation.refused.items():
        console().print(f"not applicable: {name}: {reason}", markup=False)
    write_bytes(folder / "leaderboard.png", to_png(evaluation.figure(title), SHARP))
    write_bytes(folder / "evaluation.json", evaluation.to_json().encode())
    write_bytes(folder / "evaluation.csv", evaluation.to_csv().encode())
    print_line(f"Figure, JSON and CSV: {folder}")
