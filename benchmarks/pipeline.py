"""Compare the pipeline's speed and memory with a plain training script on MNIST.

    python benchmarks/pipeline.py [--data FOLDER_WITH_THE_FOUR_GZ_FILES] [--json FILE] [--quick]

Prints a table with a bound for each claim. The exit code is 1 if a bound is missed.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

import torch
import torch.nn.functional as F
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.optim import Adam
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from pellucid.config import DataConfig, HookConfig, RunConfig, TrainingConfig
from pellucid.core.contracts import DataSplits, ImageSet, to_floats
from pellucid.data._loaders import batches, steps_per_epoch, training_batches
from pellucid.models import build_model
from pellucid.run import pipeline
from pellucid.run.hook_runner import HookRunner
from pellucid.run.session import Session, prepare
from pellucid.storage.tensorboard import Board
from pellucid.storage.weights import pack_weights
from pellucid.training.checkpoint import TrainingState
from pellucid.training.distributed import World
from pellucid.training.loop import Epoch, Recipe, train

PLAIN_BATCH = 32
BATCH_SIZES = (PLAIN_BATCH, 256)
"""Batch sizes for loading: that of the plain script, and pellucid's default."""
PARTS = 10
"""Comparisons with the plain script use 1/PARTS of the training images, and times are scaled up."""
WANTED_ACCURACY = 0.99
CPU = torch.device("cpu")

IMPORTS = """
import matplotlib.figure, sklearn.manifold, torch, torchvision
from torch.utils.tensorboard import SummaryWriter
import pellucid.run.pipeline
from pellucid.hooks import HOOKS
list(map(HOOKS.__getitem__, HOOKS.names()))
"""
"""Imports everything that a run imports."""

LAUNCHER = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
"""Runs a program and prints its peak memory. A fork starts at its parent's size, so this launcher must be small."""


@dataclass
class Clock:
    """CPU and wall times of one operation, with one reading per run."""

    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Time the body of the `with` statement."""
        cpu, wall = process_time(), perf_counter()
        yield
        self.cpu.append(process_time() - cpu)
        self.wall.append(perf_counter() - wall)

    def typical(self, times: int = 1) -> "Seconds":
        """Return the medians, multiplied by `times`."""
        return Seconds(median(self.cpu) * times, median(self.wall) * times)


@dataclass(frozen=True)
class Seconds:
    """CPU and wall time in seconds."""

    cpu: float
    wall: float

    def __str__(self) -> str:
        return f"{self.cpu:.2f} s ({self.wall:.2f} s)"


@dataclass(frozen=True)
class Row:
    """One claim: both measurements, their ratio or difference, and its bound."""

    claim: str
    ours: str
    against: str
    value: float
    unit: str
    bound: float
    is_minimum: bool = False

    @property
    def passed(self) -> bool:
        """True if the bound holds."""
        return self.value >= self.bound if self.is_minimum else self.value <= self.bound

    def cells(self) -> tuple[str, ...]:
        """Format the row for the table."""
        sign = "≥" if self.is_minimum else "≤"
        value, bound = f"{self.value:.2f} {self.unit}", f"{sign} {self.bound:g} {self.unit}"
        return self.claim, self.ours, self.against, value.strip(), bound.strip(), "pass" if self.passed else "MISSED"


# --- plain script ---------------------------------------------------------------------------------------------------


class PlainImages(Dataset[tuple[Tensor, int]]):
    """One image at a time: bytes to PIL image to transformed tensor."""

    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])

    def __init__(self, images: ImageSet) -> None:
        self.pixels, self.labels = images.pixels[:, 0], images.labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index].numpy())), int(self.labels[index])


def load_plainly(images: ImageSet) -> None:
    """Iterate over all images once, in random order."""
    for _ in DataLoader(PlainImages(images), batch_size=PLAIN_BATCH, shuffle=True):
        pass


def train_plainly(model: nn.Module, images: ImageSet) -> None:
    """Train for one epoch with a textbook loop."""
    optimizer = Adam(model.parameters(), lr=1e-3)
    model.train()
    for pixels, labels in DataLoader(PlainImages(images), batch_size=PLAIN_BATCH, shuffle=True):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(pixels), labels)
        loss.backward()
        optimizer.step()


# --- pellucid ---------------------------------------------------------------------------------------------------------


def float_batches(images: ImageSet, batch_size: int, epoch: int, first_step: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batches that the pipeline trains on."""
    for pixels, labels in batches(images, batch_size, seed=0, epoch=epoch, first_step=first_step):
        yield to_floats(pixels), labels


def load_with_pellucid(images: ImageSet, batch_size: int) -> None:
    """Iterate over all images once, in random order."""
    for _ in float_batches(images, batch_size, 1, 0):
        pass


def training(model: nn.Module, data: DataSplits, batch_size: int) -> Iterator[Epoch]:
    """Prepare one epoch of training; the untrained network is already scored."""
    recipe = Recipe(epochs=1, steps_per_epoch=steps_per_epoch(len(data.train), batch_size))
    epochs = train(model, data, lambda *place: float_batches(data.train, batch_size, *place), recipe, device=CPU)
    next(epochs)  # epoch 0
    return epochs


# --- measurements ------------------------------------------------------------------------------------------------


class Measurements:
    """All timings, interleaved: rounds of the short measurements before each epoch of a default run."""

    def __init__(self, session: Session, board: Board) -> None:
        self.session, self.runner = session, HookRunner(session.store, board, session.hooks)
        self.clocks: dict[str, Clock] = {}
        self.accuracies: list[float] = []
        data = session.data
        self.part = replace(
            data,
            train=data.train[: len(data.train) // PARTS],
            validation=data.validation[:PLAIN_BATCH],
            test=data.test[:PLAIN_BATCH],
        )

    def clock(self, name: str) -> Clock:
        """Return the clock of that name, creating it if necessary."""
        return self.clocks.setdefault(name, Clock())

    def take(self, rounds: int) -> None:
        """Run the default recipe with its hooks, `rounds` comparisons before each epoch, and the end hooks."""
        epochs = self._default_epochs()
        self._run_hooks(next(epochs))
        for _ in range(self.session.recipe.epochs):
            for _ in range(rounds):
                self._round()
            with self.clock("default epoch, scored").running():
                epoch = next(epochs)
            self.accuracies.append(epoch.test.accuracy)
            self._run_hooks(epoch)
        self.session.store.write_model("best.safetensors", pack_weights(self.session.model))
        with self.clock("end hooks").running():
            self.runner.run("end", self.session.final_scene)

    def _round(self) -> None:
        images = self.part.train
        with self.clock("load plainly").running():
            load_plainly(images)
        for size in BATCH_SIZES:
            with self.clock(f"load, batch {size}").running():
                load_with_pellucid(images, size)
        model = self._model()
        with self.clock("train plainly").running():
            train_plainly(model, images)
        epochs = training(self._model(), self.part, PLAIN_BATCH)
        with self.clock("train, same batch").running():
            next(epochs)

    def _model(self) -> nn.Module:
        data = self.session.data
        return build_model("cnn", data.train.image_shape, len(data.classes), 0)

    def _default_epochs(self) -> Iterator[Epoch]:
        """Train as the pipeline does; the clock `default epoch` covers training without scoring."""
        began, ended = [0.0, 0.0], [0.0, 0.0]

        def source(epoch: int, first_step: int) -> Iterator[tuple[Tensor, Tensor]]:
            began[:] = process_time(), perf_counter()
            data, recipe = self.session.data, self.session.recipe
            return training_batches(data, self.session.config.training.batch_size, recipe.seed, 0, 1, epoch, first_step)

        def keep(_: TrainingState) -> None:
            ended[:] = process_time(), perf_counter()

        session = self.session
        for epoch in train(session.model, session.data, source, session.recipe, device=CPU, keep=keep):
            if epoch.number:
                clock = self.clock("default epoch")
                clock.cpu.append(ended[0] - began[0])
                clock.wall.append(ended[1] - began[1])
            yield epoch

    def _run_hooks(self, epoch: Epoch) -> None:
        """Run the per-epoch hooks of `--hooks default`, including plotting and writing."""
        scene = self.session.scene(epoch.number, epoch.test_logits)
        with self.clock("hooks").running():
            for name, hook in self.session.hooks.items():
                if hook.when == "epoch" and hook.default:
                    with self.clock(f"hook {name}").running():
                        self.runner.run_one(name, hook, scene)

    def rows(self) -> list[Row]:
        """Compute the row of each claim; ratios use CPU time."""
        failures = self.session.store.manifest()["failures"]
        if failures:
            raise SystemExit(f"{len(failures)} hooks failed, so their times are invalid: {failures[0]}")
        typical = {name: clock.typical() for name, clock in self.clocks.items()}
        loading, training = (self.clocks[f"{what} plainly"].typical(PARTS) for what in ("load", "train"))
        rows = [
            _quotient(f"loading an epoch, batch {size}", loading, self.clocks[f"load, batch {size}"].typical(PARTS), 30)
            for size in BATCH_SIZES
        ]
        same = self.clocks["train, same batch"].typical(PARTS)
        rows.append(_quotient(f"training an epoch, batch {PLAIN_BATCH} both", training, same, 1.4))
        reached = next((n for n, accuracy in enumerate(self.accuracies, 1) if accuracy >= WANTED_ACCURACY), None)
        scored = self.clocks["default epoch, scored"]
        spent = Seconds(sum(scored.cpu[:reached]), sum(scored.wall[:reached]))
        share = spent.cpu / training.cpu if reached else float("inf")
        text = (
            f"{spent}, epoch {reached} of {len(self.accuracies)}" if reached else f"missed: {max(self.accuracies):.2%}"
        )
        rows.append(Row("time to 99% test accuracy, in plain epochs", text, str(training), share, "×", 1.5))
        hooks, epoch, end = typical["hooks"], typical["default epoch"], typical["end hooks"]
        share = hooks.cpu / epoch.cpu
        rows.append(Row("per-epoch hooks, in default epochs", str(hooks), str(epoch), share, "×", 1))
        count = sum(hook.when == "end" for hook in self.session.hooks.values())
        rows.append(Row(f"all {count} end hooks", str(end), "", max(end.cpu, end.wall), "s", 60))
        return rows


def _quotient(claim: str, plain: Seconds, ours: Seconds, bound: float) -> Row:
    return Row(claim, str(ours), str(plain), plain.cpu / ours.cpu, "×", bound, is_minimum=True)


def memory_row(data: list[str]) -> Row:
    """Measure the peak memory of a whole one-epoch run, minus that of its imports alone."""
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--dataset=mnist", "--epochs=1", "--threads=1", f"--save={folder}", *data]
        imports = _peak_megabytes("-c", IMPORTS)
        whole = _peak_megabytes("-m", "pellucid", "run", *flags)
    claim = "peak memory of a run, above its imports"
    return Row(claim, f"{whole:.0f} MB", f"{imports:.0f} MB", whole - imports, "MB", 500)


def _peak_megabytes(*arguments: str) -> float:
    command = [sys.executable, "-c", LAUNCHER, sys.executable, *arguments]
    completed = subprocess.run(command, check=True, capture_output=True, text=True)
    unit = 1 if sys.platform == "darwin" else 1024
    return int(completed.stdout) * unit / 1e6


# --- report ------------------------------------------------------------------------------------------------------


def show(rows: list[Row], clocks: dict[str, Clock]) -> None:
    """Print the claims and the time of each hook."""
    table = Table("claim", "pellucid", "against", "measured", "bound", "", title="CPU seconds (wall seconds)")
    for row in rows:
        table.add_row(*row.cells(), style=None if row.passed else "bold red")
    parts = Table("hook", "per epoch", title="Per-epoch hooks")
    for name, clock in clocks.items():
        if name.startswith("hook "):
            parts.add_row(name.removeprefix("hook "), str(clock.typical()))
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(table, parts)


def as_json(rows: list[Row], measurements: Measurements, rounds: int) -> str:
    """Serialize every reading and every claim."""
    machine = {
        "cores": os.cpu_count(),
        "system": platform.system(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__.split("+")[0],
        "torch_threads": torch.get_num_threads(),
    }
    content = {
        "machine": machine,
        "rounds": rounds * measurements.session.recipe.epochs,
        "test_accuracy_by_epoch": measurements.accuracies,
        "claims": [asdict(row) | {"passed": row.passed} for row in rows],
        "seconds": {name: asdict(clock) for name, clock in measurements.clocks.items()},
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def main() -> int:
    """Measure and print everything; return 1 if a bound is missed."""
    parser = argparse.ArgumentParser(description="Compare the pipeline with a plain training script.")
    parser.add_argument("--data", type=Path, help="folder with the four .gz files of MNIST; downloaded if omitted")
    parser.add_argument("--json", type=Path, help="output file for all numbers")
    parser.add_argument("--quick", action="store_true", help="one round before each epoch instead of three")
    chosen = parser.parse_args()
    rounds = 1 if chosen.quick else 3
    data = [f"--mirror={chosen.data.resolve()}"] if chosen.data else []
    with tempfile.TemporaryDirectory() as folder:
        config = RunConfig(
            DataConfig("mnist", mirror=(str(chosen.data.resolve()),) if chosen.data else ()),
            TrainingConfig(device="cpu", threads=1),
            HookConfig("all"),
            save=Path(folder),
        )
        session = prepare(config, World())
        with pipeline._board(session, 0) as board:
            measurements = Measurements(session, board)
            measurements.take(rounds)
        rows = [*measurements.rows(), memory_row(data)]
    show(rows, measurements.clocks)
    if chosen.json:
        chosen.json.write_text(as_json(rows, measurements, rounds), encoding="utf-8")
    return 0 if all(row.passed for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
