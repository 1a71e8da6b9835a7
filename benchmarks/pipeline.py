"""Compare the default run with the recipe of exigo, and measure start-up, memory and the size of the save folder.

    python benchmarks/pipeline.py --data FOLDER_WITH_THE_FOUR_GZ_FILES [--json FILE] [--rounds N]

Every program runs as a process of its own, in turn with the others; times include imports. Prints a table with a bound
for each claim. The exit code is 1 if a bound is missed.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median
from time import perf_counter

from rich.console import Console
from rich.table import Table

PLAIN = Path(__file__).with_name("plain_pipeline.py")
MEGABYTE = 1_000_000
STARTS = 5
"""Number of times that short programs are started."""

LAUNCHER = """
import os, resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
"""Runs a program and prints the peak memory of its largest process; a fork starts at its parent's size, so this
launcher must be small."""
IMPORTS = "import matplotlib.figure, sklearn.manifold, torch, pellucid.run.pipeline"


@dataclass
class Runs:
    """Wall and CPU seconds of the runs of one program, and the moments at which it printed certain words."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    moments: dict[str, list[float]] = field(default_factory=dict)
    output: str = ""
    """Standard output of the last run."""

    def run(self, *command: object, until: tuple[str, ...] = ()) -> None:
        """Run a program; its CPU time includes that of its children."""
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), perf_counter()
        lines = []
        words = list(until)
        process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True, env=environment())
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            for word in [word for word in words if word in line]:
                words.remove(word)
                self.moments.setdefault(word, []).append(perf_counter() - started)
        self.output = "".join(lines)
        if process.wait():
            raise SystemExit(f"{command} failed:\n{self.output}")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.wall.append(perf_counter() - started)
        self.cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


@dataclass(frozen=True)
class Row:
    """One claim: our reading, what it is compared with, the value that is bounded, and its bound."""

    claim: str
    ours: str
    against: str
    value: float
    bound: float
    unit: str = "×"
    is_minimum: bool = False

    @property
    def passed(self) -> bool:
        """True if the bound holds."""
        return self.value >= self.bound if self.is_minimum else self.value <= self.bound

    def cells(self) -> tuple[str, ...]:
        """Format the row for the table."""
        sign = "≥" if self.is_minimum else "≤"
        value, bound = f"{self.value:.3g} {self.unit}", f"{sign} {self.bound:g} {self.unit}"
        return self.claim, self.ours, self.against, value, bound, "pass" if self.passed else "MISSED"


def environment() -> dict[str, str]:
    """Return this process's environment, unbuffered, so that lines are seen when they are printed."""
    return os.environ | {"PYTHONUNBUFFERED": "1"}


def ratio(claim: str, ours: list[float], theirs: list[float], bound: float) -> Row:
    """Compare seconds by the median of the rounds' quotients."""
    value = median(our / their for our, their in zip(ours, theirs, strict=True))
    return Row(claim, f"{median(ours):.1f} s", f"{median(theirs):.1f} s", value, bound)


def seconds(claim: str, readings: list[float], bound: float) -> Row:
    """Bound the median of some readings."""
    return Row(claim, f"{median(readings):.2f} s", "", median(readings), bound, "s")


def peak_megabytes(*arguments: object) -> float:
    """Return the peak memory of the largest process of a program."""
    command = [sys.executable, "-c", LAUNCHER, sys.executable, *map(str, arguments)]
    completed = subprocess.run(command, check=True, capture_output=True, text=True, env=environment())
    return int(completed.stdout.split()[-1]) * (1 if sys.platform == "darwin" else 1024) / MEGABYTE


def size_without_data(save: Path) -> float:
    """Return the size of a run in megabytes, without earlier runs, the data set and the densities kept with it."""
    others = ("data", "previous")
    files = [path for path in save.rglob("*") if path.is_file() and path.relative_to(save).parts[0] not in others]
    return sum(path.stat().st_size for path in files) / MEGABYTE


def measure(data: Path, rounds: int, scratch: Path) -> tuple[list[Row], dict[str, Runs]]:
    """Run everything, interleaved, and return the claims with all readings."""
    plain, mnist, digits, again = Runs(), Runs(), Runs(), Runs()
    run, picture, report = (sys.executable, "-m", "pellucid", "run"), "confusion_matrix", "Report: "
    for number in range(rounds):
        save = scratch / f"mnist_{number}"
        plain.run(sys.executable, PLAIN, data, scratch / f"plain_{number}")
        mnist.run(*run, "--mirror", data, "--dataset", "mnist", "--save", save, until=(picture, report))
        digits.run(*run, "--dataset", "digits", "--save", scratch / f"digits_{number}")
        again.run(*run, "--mirror", data, "--dataset", "mnist", "--save", save)
    record = json.loads((save / "run.json").read_text())
    failures = json.loads((save / "manifest.json").read_text())["failures"]
    if failures:
        raise SystemExit(f"{len(failures)} hooks failed, so their times are invalid: {failures[0]}")
    helps, imports = Runs(), Runs()
    for _ in range(STARTS):
        helps.run(sys.executable, "-m", "pellucid", "--help")
        imports.run(
            sys.executable,
            "-c",
            "import time; t = time.perf_counter(); import pellucid; print(time.perf_counter() - t)",
        )
        imports.moments.setdefault("import", []).append(float(imports.output))
    importing = peak_megabytes("-c", IMPORTS)
    whole = peak_megabytes("-m", "pellucid", "run", f"--mirror={data}", "--dataset=mnist", f"--save={scratch}/memory")
    rows = [
        ratio("default run on MNIST, wall time, against exigo's recipe", mnist.wall, plain.wall, 0.62),
        ratio("default run on MNIST, CPU time, against exigo's recipe", mnist.cpu, plain.cpu, 0.97),
        ratio("default run on the digits, wall time, against exigo's recipe", digits.wall, plain.wall, 0.3),
        ratio("second run on MNIST, densities kept, against the first", again.wall, mnist.wall, 1),
        Row("test accuracy", f"{record['test_accuracy']:.2%}", "", record["test_accuracy"] * 100, 99, "%", True),
        seconds("first picture", mnist.moments[picture], 8),
        seconds("first report", mnist.moments[report], 13),
        seconds("pellucid --help", helps.wall, 0.5),
        seconds("import pellucid", imports.moments["import"], 0.15),
        Row("save folder without data", "", "", size_without_data(save), 30, "MB"),
        Row("peak memory, above imports", f"{whole:.0f} MB", f"{importing:.0f} MB", whole - importing, 500, "MB"),
    ]
    return rows, {"exigo's recipe": plain, "MNIST": mnist, "MNIST again": again, "digits": digits, "help": helps}


def as_json(rows: list[Row], runs: dict[str, Runs]) -> str:
    """Serialize every reading and every claim."""
    machine = {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": platform.system(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "torch": version("torch"),
    }
    readings = {name: {"wall": one.wall, "cpu": one.cpu, "moments": one.moments} for name, one in runs.items()}
    claims = [asdict(row) | {"passed": row.passed} for row in rows]
    return json.dumps({"machine": machine, "claims": claims, "seconds": readings}, indent=2, ensure_ascii=False) + "\n"


def main() -> int:
    """Measure and print everything; return 1 if a bound is missed."""
    parser = argparse.ArgumentParser(description="Compare the default run with the recipe of exigo.")
    parser.add_argument("--data", type=Path, required=True, help="folder with the four .gz files of MNIST")
    parser.add_argument("--json", type=Path, help="output file for all numbers")
    parser.add_argument("--rounds", type=int, default=3, help="number of times to run each program (default: 3)")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows, runs = measure(chosen.data.resolve(), chosen.rounds, Path(folder))
    table = Table("claim", "pellucid", "against", "measured", "bound", "")
    for row in rows:
        table.add_row(*row.cells(), style=None if row.passed else "bold red")
    Console(width=None if sys.stdout.isatty() else 150).print(table)
    if chosen.json:
        chosen.json.write_text(as_json(rows, runs), encoding="utf-8")
    return 0 if all(row.passed for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
