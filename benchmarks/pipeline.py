"""Speed and memory of the pipeline, against the plain way to train on MNIST.

    python benchmarks/pipeline.py [--data FOLDER_WITH_THE_FOUR_GZ_FILES] [--json FILE] [--quick]

Prints a table with a bound for each claim, and ends with exit code 1 where one is missed.
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

from pellucid import pipeline
from pellucid.artifacts.tensorboard import Board
from pellucid.artifacts.weights import pack_weights
from pellucid.config import DataConfig, HookConfig, RunConfig, TrainingConfig
from pellucid.core.contracts import DataSplits, ImageSet, to_floats
from pellucid.data._loaders import batches, steps_per_epoch
from pellucid.models._build import build_model
from pellucid.session import Session, prepare
from pellucid.training.checkpoint import TrainingState
from pellucid.training.distributed import World
from pellucid.training.loop import Epoch, Recipe, train

PLAIN_BATCH = 32
BATCH_SIZES = (PLAIN_BATCH, 256)
"""Ours is loaded at the plain way's batch size and at the default one."""
PARTS = 10
"""Loading and training against the plain way are timed on one part in so many of the training images."""
WANTED_ACCURACY = 0.99
CPU = torch.device("cpu")

IMPORTS = """
import matplotlib.figure, sklearn.manifold, torch, torchvision
from torch.utils.tensorboard import SummaryWriter
import pellucid.pipeline
from pellucid.hooks import HOOKS
list(map(HOOKS.__getitem__, HOOKS.names()))
"""
"""Everything a run imports."""

LAUNCHER = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
"""Starts a program and prints its peak memory; a process of its own, since a child's peak counts its parent's size."""


@dataclass
class Clock:
    """Processor and wall seconds of one thing, reading by reading."""

    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Take one reading, of the body."""
        cpu, wall = process_time(), perf_counter()
        yield
        self.cpu.append(process_time() - cpu)
        self.wall.append(perf_counter() - wall)

    def typical(self, times: int = 1) -> "Seconds":
        """The medians, `times` over."""
        return Seconds(median(self.cpu) * times, median(self.wall) * times)


@dataclass(frozen=True)
class Seconds:
    """Processor and wall seconds."""

    cpu: float
    wall: float

    def __str__(self) -> str:
        return f"{self.cpu:.2f} s ({self.wall:.2f} s)"


@dataclass(frozen=True)
class Row:
    """One claim: what is measured, the two sides, their relation, and its bound."""

    claim: str
    ours: str
    against: str
    value: float
    unit: str
    bound: float
    is_minimum: bool = False

    @property
    def passed(self) -> bool:
        """Whether the bound holds."""
        return self.value >= self.bound if self.is_minimum else self.value <= self.bound

    def cells(self) -> tuple[str, ...]:
        """The row as the table shows it."""
        sign = "≥" if self.is_minimum else "≤"
        value, bound = f"{self.value:.2f} {self.unit}", f"{sign} {self.bound:g} {self.unit}"
        return self.claim, self.ours, self.against, value.strip(), bound.strip(), "pass" if self.passed else "MISSED"


# --- the plain way ---------------------------------------------------------------------------------------------------


class PlainImages(Dataset[tuple[Tensor, int]]):
    """One image at a time, from bytes through a picture and its transform."""

    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])

    def __init__(self, images: ImageSet) -> None:
        self.pixels, self.labels = images.pixels[:, 0], images.labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index].numpy())), int(self.labels[index])


def load_plainly(images: ImageSet) -> None:
    """All images once, in random order."""
    for _ in DataLoader(PlainImages(images), batch_size=PLAIN_BATCH, shuffle=True):
        pass


def train_plainly(model: nn.Module, images: ImageSet) -> None:
    """One epoch as a textbook writes it."""
    optimizer = Adam(model.parameters(), lr=1e-3)
    model.train()
    for pixels, labels in DataLoader(PlainImages(images), batch_size=PLAIN_BATCH, shuffle=True):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(pixels), labels)
        loss.backward()
        optimizer.step()


# --- our way ---------------------------------------------------------------------------------------------------------


def float_batches(images: ImageSet, batch_size: int, epoch: int, first_step: int) -> Iterator[tuple[Tensor, Tensor]]:
    """What the pipeline trains on."""
    for pixels, labels in batches(images, batch_size, seed=0, epoch=epoch, first_step=first_step):
        yield to_floats(pixels), labels


def load_our_way(images: ImageSet, batch_size: int) -> None:
    """All images once, in random order."""
    for _ in float_batches(images, batch_size, 1, 0):
        pass


def training(model: nn.Module, data: DataSplits, batch_size: int) -> Iterator[Epoch]:
    """One epoch of training, ready to begin: the untrained network is already scored."""
    recipe = Recipe(epochs=1, steps_per_epoch=steps_per_epoch(len(data.train), batch_size))
    epochs = train(model, data, lambda *place: float_batches(data.train, batch_size, *place), recipe, device=CPU)
    next(epochs)
    return epochs


# --- the measurements ------------------------------------------------------------------------------------------------


class Measurements:
    """All timings, taken in turn: between the epochs of a default run, rounds of the small things."""

    def __init__(self, session: Session, board: Board) -> None:
        self.session, self.board = session, board
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
        """The clock of that name."""
        return self.clocks.setdefault(name, Clock())

    def take(self, rounds: int) -> None:
        """The default recipe with its hooks, `rounds` before each epoch, and the end hooks."""
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
            pipeline._run_end_hooks(self.session, self.board)

    def _round(self) -> None:
        images = self.part.train
        with self.clock("load plainly").running():
            load_plainly(images)
        for size in BATCH_SIZES:
            with self.clock(f"load, batch {size}").running():
                load_our_way(images, size)
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
        """As the pipeline's; the clock `default epoch` stops where training ends and scoring begins."""
        began, ended = [0.0, 0.0], [0.0, 0.0]

        def source(epoch: int, first_step: int) -> Iterator[tuple[Tensor, Tensor]]:
            began[:] = process_time(), perf_counter()
            return pipeline._batches(self.session, epoch, first_step)

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
        """The every-epoch hooks of `--hooks default`, drawing and writing included."""
        scene = pipeline._scene(self.session, epoch.number, epoch.test_logits)
        with self.clock("hooks").running():
            for name, hook in self.session.hooks.items():
                if hook.when == "epoch" and hook.default:
                    with self.clock(f"hook {name}").running():
                        pipeline._run_hook(self.session, self.board, name, hook, scene)

    def rows(self) -> list[Row]:
        """What the clocks say of each claim; relations are of processor time."""
        failures = self.session.store.manifest()["failures"]
        if failures:
            raise SystemExit(f"{len(failures)} hooks failed, so their time says nothing: {failures[0]}")
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
            f"{spent}, epoch {reached} of {len(self.accuracies)}" if reached else f"never: {max(self.accuracies):.2%}"
        )
        rows.append(Row("time to 99 % test accuracy, in plain epochs", text, str(training), share, "×", 1.5))
        hooks, epoch, end = typical["hooks"], typical["default epoch"], typical["end hooks"]
        share = hooks.cpu / epoch.cpu
        rows.append(Row("every-epoch hooks, in default epochs", str(hooks), str(epoch), share, "×", 1))
        count = sum(hook.when == "end" for hook in self.session.hooks.values())
        rows.append(Row(f"all {count} end hooks", str(end), "", max(end.cpu, end.wall), "s", 60))
        return rows


def _quotient(claim: str, plain: Seconds, ours: Seconds, bound: float) -> Row:
    return Row(claim, str(ours), str(plain), plain.cpu / ours.cpu, "×", bound, is_minimum=True)


def memory_row(data: list[str]) -> Row:
    """The peak of a whole run over one epoch, above what its imports alone take."""
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--dataset=mnist", "--epochs=1", "--threads=1", f"--save={folder}", *data]
        imports = _peak_megabytes("-c", IMPORTS)
        whole = _peak_megabytes("-m", "pellucid", "run", *flags)
    claim = "peak memory of a run, above its imports"
    return Row(claim, f"{whole:.0f} MB", f"{imports:.0f} MB", whole - imports, "MB", 500)


def _peak_megabytes(*arguments: str) -> float:
    command = [sys.executable, "-c", LAUNCHER, sys.executable, *arguments]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    unit = 1 if sys.platform == "darwin" else 1024
    return int(answer.stdout) * unit / 1e6


# --- the report ------------------------------------------------------------------------------------------------------


def show(rows: list[Row], clocks: dict[str, Clock]) -> None:
    """Print the claims, and what each hook takes."""
    table = Table("claim", "pellucid", "against", "measured", "bound", "", title="Processor seconds (wall seconds)")
    for row in rows:
        table.add_row(*row.cells(), style=None if row.passed else "bold red")
    parts = Table("hook", "an epoch", title="The every-epoch hooks, one by one")
    for name, clock in clocks.items():
        if name.startswith("hook "):
            parts.add_row(name.removeprefix("hook "), str(clock.typical()))
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(table, parts)


def as_json(rows: list[Row], measurements: Measurements, rounds: int) -> str:
    """Every reading and every claim."""
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
    """Measure, show, judge."""
    parser = argparse.ArgumentParser(description="Speed and memory of the pipeline, against the plain way.")
    parser.add_argument("--data", type=Path, help="folder with the four .gz files of MNIST; else they are downloaded")
    parser.add_argument("--json", type=Path, help="file to write all numbers to")
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
