"""The commands `pellucid evaluate` and `pellucid ground-truth`: measure explanations of saved runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table

from pellucid.attribution import METHODS, Analyzer, create_analyzer
from pellucid.config import DataConfig, EvaluateConfig, GroundTruthConfig, HookConfig, RunConfig, TrainingConfig
from pellucid.core.contracts import DataSplits, ImageSet
from pellucid.core.errors import ConfigError, SaveError, TrainingError
from pellucid.core.terminal import console
from pellucid.data._load import load_data
from pellucid.data._source import Request
from pellucid.evaluation import DEFAULT_METHODS, DEFAULT_METRICS, METRICS
from pellucid.evaluation._statistics import intervals, sign_flip
from pellucid.hooks._methods import FAST_OPTIONS
from pellucid.run.pipeline import run
from pellucid.storage.atomic import write_bytes, write_json
from pellucid.storage.evaluations import Evaluation, evaluate
from pellucid.storage.pictures import to_png
from pellucid.storage.runs import Run, load_run
from pellucid.storage.store import Store

__all__ = ["evaluate_run", "ground_truth", "load_data_of"]

TRUTH_METRICS = ("relevance_mass", "relevance_rank", "pointing_game")
LEAST_ACCURACY = 0.98
"""Minimum validation accuracy: only a network that solves the task can be expected to look at the right pixels."""
PIPE_COLUMNS = 200
"""Width of a table written to a file or a pipe, where rich would assume 80 columns."""
TRAINING_IMAGES = 10_000
"""Maximum number of images on which `roar` retrains the network."""


def evaluate_run(config: EvaluateConfig) -> int:
    """Evaluate a saved run, print the table and write a figure, JSON and CSV to RUN/evaluation; returns the exit code.

    Raises `SaveError` if the folder contains no run, or if its data set has changed since training.
    """
    torch.set_num_threads(config.threads)
    trained = load_run(config.run)
    data = load_data_of(config.run, trained, config.data_dir, config.mirror)
    metrics = list(DEFAULT_METRICS) if config.metrics == "default" else _names(config.metrics)
    needs = {need for name in metrics for need in METRICS[name].needs}
    title, part = _part_of(data, config.split, "masks" in needs)
    chosen = _spread(part, config.images)
    training = _training(data) if "training" in needs else None
    folder = config.run / "evaluation"
    evaluation = evaluate(
        trained.model,
        chosen.floats(),
        None,
        _analyzers(config.methods, trained),
        metrics,
        seed=config.seed,
        masks=chosen.masks,
        training=training,
        save=folder / "blocks",
    )
    _show(evaluation, folder, f"{data.title}, {title} images: leaderboard of explanation methods")
    return 0


def _names(listed: str) -> list[str]:
    return [name.strip() for name in listed.split(",")]


def _analyzers(wanted: str, trained: Run) -> list[Analyzer]:
    """Create the requested methods for the run's model."""
    if wanted == "all":
        names = [name for name in METHODS if not METHODS[name].needs_fit and METHODS[name].family != "control"]
    else:
        names = list(DEFAULT_METHODS) if wanted == "default" else _names(wanted)
    return [create_analyzer(name, trained.model, **FAST_OPTIONS.get(name, {})) for name in names]


def load_data_of(folder: Path, trained: Run, data_dir: Path | None = None, mirrors: tuple[str, ...] = ()) -> DataSplits:
    """Load the data set a run was trained on; raises `SaveError` if it has changed since."""
    settings = trained.config
    record = Store(folder).run()["dataset"]
    request = Request(
        folder=(data_dir or Path(settings.get("data_dir") or folder / "data")).expanduser(),
        mirrors=(*mirrors, *settings.get("mirror", ())),
        image_size=settings.get("image_size"),
        seed=int(settings.get("seed", 0)),
    )
    limits = {name: settings.get(name) for name in ("limit_train", "limit_test")}
    data = load_data(record["name"], request, **limits)
    if data.sha256 != record["sha256"]:
        raise SaveError(
            f"the data set {data.name} has changed since the run in {folder} was trained: its checksum is "
            f"{data.sha256[:12]}…, was {record['sha256'][:12]}…. Restore the original files, or train again."
        )
    return data


def _part_of(data: DataSplits, split: str, needs_masks: bool) -> tuple[str, ImageSet]:
    """Return the name and the images of the split to explain."""
    if split == "auto":
        split = "validation" if data.test.masks is None and data.validation.masks is not None else "test"
    part = data.test if split == "test" else data.validation
    if needs_masks and part.masks is None:
        raise ConfigError(
            f"the {split} images of {data.name} have no ground-truth masks; evaluate a run trained on planted_patch, "
            "two_digits or confound, or choose metrics that need no ground truth."
        )
    return split, part


def _spread(part: ImageSet, limit: int) -> ImageSet:
    """Return at most `limit` images, spread evenly over `part`."""
    count = min(len(part), limit)
    return part[torch.arange(count) * len(part) // count]


def _training(data: DataSplits) -> tuple[torch.Tensor, torch.Tensor]:
    chosen = _spread(data.train, TRAINING_IMAGES)
    return chosen.floats(), chosen.labels


def _show(evaluation: Evaluation, folder: Path, title: str) -> None:
    """Print the table and write the figure, JSON and CSV."""
    console().print(evaluation.to_table(), width=None if console().is_terminal else PIPE_COLUMNS)
    for name, reason in evaluation.refused.items():
        console().print(f"not applicable: {name}: {reason}", markup=False)
    write_bytes(folder / "leaderboard.png", to_png(evaluation.figure(title)))
    write_bytes(folder / "evaluation.json", evaluation.to_json().encode())
    write_bytes(folder / "evaluation.csv", evaluation.to_csv().encode())
    console().print(f"Figure, JSON and CSV: {folder}", markup=False)


def ground_truth(config: GroundTruthConfig) -> int:
    """Train one network per data set, unless it is saved already, and measure relevance against the ground truth.

    Returns the exit code. Raises `TrainingError` if a network's validation accuracy is below 98%.
    """
    torch.set_num_threads(config.threads)
    runs: dict[str, tuple[Run, DataSplits]] = {}
    results: dict[str, Any] = {}
    for name in _names(config.datasets):
        folder = config.save / name.replace(":", "_")
        _train(config, name, folder)
        trained = load_run(folder)
        data = load_data_of(folder, trained, config.data_dir or config.save / "data", config.mirror)
        accuracy = max(line["validation_accuracy"] for line in trained.metrics)
        if accuracy < LEAST_ACCURACY:
            raise TrainingError(
                f"the network trained on {name} has a validation accuracy of {accuracy:.1%}, at least "
                f"{LEAST_ACCURACY:.0%} is required; train longer with --epochs."
            )
        runs[name] = trained, data
        results[name] = _measure(config, folder, trained, data)
    pairs = [(name, _control_of(name)) for name in runs if _control_of(name) in runs]
    for name, control in pairs:
        results[f"{name} against {control}"] = _against(config, runs[name], runs[control])
    write_json(config.save / "ground_truth.json", results)
    console().print(f"All numbers: {config.save / 'ground_truth.json'}", markup=False)
    return 0


def _control_of(name: str) -> str:
    """Return the data set whose network did not learn the confound, or an empty string."""
    source, colon, base = name.partition(":")
    return f"confound.control{colon}{base}" if source == "confound" else ""


def _train(config: GroundTruthConfig, name: str, folder: Path) -> None:
    """Train a network on the data set `name`, unless `folder` has a finished run with the same settings."""
    record = Store(folder).run()
    wanted = {"dataset": name, "seed": config.seed, "epochs": config.epochs}
    if record.get("status") == "finished" and all(record["config"].get(key) == wanted[key] for key in wanted):
        return
    data = DataConfig(dataset=name, data_dir=config.data_dir or config.save / "data", mirror=config.mirror)
    training = TrainingConfig(epochs=config.epochs, seed=config.seed, threads=config.threads)
    run(RunConfig(data=data, training=training, show=HookConfig(hooks="none"), save=folder))


def _measure(config: GroundTruthConfig, folder: Path, trained: Run, data: DataSplits) -> dict[str, Any]:
    """Evaluate relevance against the ground-truth masks; returns the numbers for ground_truth.json."""
    _, part = _part_of(data, "auto", needs_masks=True)
    chosen = _spread(part, config.images)
    assert chosen.masks is not None
    evaluation = evaluate(
        trained.model,
        chosen.floats(),
        None,
        _analyzers(config.methods, trained),
        list(TRUTH_METRICS),
        seed=config.seed,
        masks=chosen.masks,
        save=folder / "evaluation" / "blocks",
    )
    area = float(chosen.masks.double().mean())
    # A method that spreads relevance evenly scores the area share, so the title states it.
    title = f"{data.title}: relevance inside the ground-truth region ({area:.1%} of the image)"
    _show(evaluation, folder / "evaluation", title)
    return {
        "area_share": area,
        "validation_accuracy": max(line["validation_accuracy"] for line in trained.metrics),
        "test_accuracy": trained.metrics[-1]["test_accuracy"],
        "relevance_mass": {row.method: row.value for row in evaluation.rows if row.metric == "relevance_mass"},
    }


def _against(
    config: GroundTruthConfig, learned: tuple[Run, DataSplits], ignorant: tuple[Run, DataSplits]
) -> dict[str, Mapping[str, float]]:
    """Compare relevance mass on the confound between the network that learned it and one that did not.

    Both explain the same images, so the differences are paired.
    """
    chosen = _spread(learned[1].validation, config.images)
    values = []
    for trained, _ in (learned, ignorant):
        evaluation = evaluate(
            trained.model,
            chosen.floats(),
            chosen.labels,
            _analyzers(config.methods, trained),
            ["relevance_mass"],
            seed=config.seed,
            masks=chosen.masks,
        )
        values.append({m: np.array(s.values, dtype=float) for (m, _), s in evaluation.scores.items()})
    names = [name for name in values[0] if name in values[1]]
    differences = np.column_stack([values[0][name] - values[1][name] for name in names])
    mean, low, high = intervals(differences, config.seed)
    p = sign_flip(differences, config.seed)
    table = Table(title="Relevance mass on the confound: difference to a network that did not learn it")
    for heading in ("method", "difference", "95% interval", "p"):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for number, name in enumerate(names):
        table.add_row(name, f"{mean[number]:.3f}", f"{low[number]:.3f} … {high[number]:.3f}", f"{p[number]:.2g}")
    console().print(table)
    return {
        name: {"difference": float(mean[n]), "low": float(low[n]), "high": float(high[n]), "p": float(p[n])}
        for n, name in enumerate(names)
    }
