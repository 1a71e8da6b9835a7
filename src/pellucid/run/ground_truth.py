"""The work of `pellucid ground-truth`: a benchmark of explanations on data whose decisive pixels are known."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table

from pellucid.config import DataConfig, GroundTruthConfig, HookConfig, RunConfig, TrainingConfig
from pellucid.core.contracts import DataSplits
from pellucid.core.errors import TrainingError
from pellucid.core.listing import parse_names
from pellucid.core.terminal import console, print_line
from pellucid.evaluation._statistics import intervals, sign_flip
from pellucid.run.evaluation import choose_split, make_analyzers, show_evaluation, spread
from pellucid.run.pipeline import run
from pellucid.storage.atomic import write_json
from pellucid.storage.evaluations import evaluate
from pellucid.storage.runs import Run, load_data_of, load_run
from pellucid.storage.store import Store

__all__ = ["run_benchmark"]

TRUTH_METRICS = ("relevance_mass", "relevance_rank", "pointing_game")
MODEL, BATCH_SIZE = "cnn", 256
"""Network and batch size of the benchmark, fixed so that its numbers stay comparable."""
LEAST_ACCURACY = 0.98
"""Minimum validation accuracy: only a network that solves the task can be expected to look at the right pixels."""


def run_benchmark(config: GroundTruthConfig) -> int:
    """Train one network per data set, unless it is saved already, and measure relevance against the ground truth.

    Returns the exit code. Raises `TrainingError` if a network's validation accuracy is below 98%.
    """
    torch.set_num_threads(config.threads)
    runs: dict[str, tuple[Run, DataSplits]] = {}
    results: dict[str, Any] = {}
    for name in parse_names(config.datasets):
        # Windows forbids colons in file names
        folder = config.save / name.replace(":", "_")
        _train(config, name, folder)
        trained = load_run(folder)
        data = load_data_of(folder, trained, config.data_dir or config.save / "data", config.mirror)
        # that of the best checkpoint, which `load_run` loads
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
    print_line(f"All numbers: {config.save / 'ground_truth.json'}")
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
    training = TrainingConfig(
        model=MODEL, batch_size=BATCH_SIZE, epochs=config.epochs, seed=config.seed, threads=config.threads
    )
    run(RunConfig(data=data, training=training, show=HookConfig(hooks="none"), save=folder))


def _measure(config: GroundTruthConfig, folder: Path, trained: Run, data: DataSplits) -> dict[str, Any]:
    """Evaluate relevance against the ground-truth masks; returns the numbers for ground_truth.json."""
    _, part = choose_split(data, "auto", needs_masks=True)
    chosen = spread(part, config.images)
    assert chosen.masks is not None
    evaluation = evaluate(
        trained.model,
        chosen.floats(),
        None,
        make_analyzers(config.methods, trained, data.train),
        list(TRUTH_METRICS),
        seed=config.seed,
        masks=chosen.masks,
        save=folder / "evaluation" / "blocks",
    )
    area = float(chosen.masks.double().mean())
    # A method that spreads relevance evenly scores the area share, so the title states it.
    title = f"{data.title}: relevance inside the ground-truth region ({area:.1%} of the image)"
    show_evaluation(evaluation, folder / "evaluation", title)
    best = next(line for line in reversed(trained.metrics) if line["best"])  # the evaluated weights are of this epoch
    return {
        "area_share": area,
        "validation_accuracy": best["validation_accuracy"],
        "test_accuracy": best["test_accuracy"],
        "relevance_mass": {row.method: row.value for row in evaluation.rows if row.metric == "relevance_mass"},
    }


def _against(
    config: GroundTruthConfig, learned: tuple[Run, DataSplits], ignorant: tuple[Run, DataSplits]
) -> dict[str, Mapping[str, float]]:
    """Compare relevance mass on the confound between the network that learned it and one that did not.

    Both explain the same images, so the differences are paired.
    """
    chosen = spread(learned[1].validation, config.images)
    values = []
    # the true class instead of the predicted one, which can differ between the networks
    for trained, data in (learned, ignorant):
        evaluation = evaluate(
            trained.model,
            chosen.floats(),
            chosen.labels,
            make_analyzers(config.methods, trained, data.train),
            ["relevance_mass"],
            seed=config.seed,
            masks=chosen.masks,
        )
        # None becomes NaN
        values.append({m: np.array(s.values, dtype=float) for (m, _), s in evaluation.scores.items()})
    # a method that one of the networks refuses has no pairs
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
