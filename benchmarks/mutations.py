"""Break one line of pellucid at a time, and list the faults that no test notices.

Run from the repository root, in an environment with the development install:

    python benchmarks/mutations.py                       # all of mutations.toml, in two processes; about 40 minutes
    python benchmarks/mutations.py --only engine/rules   # those of one file or package
    python benchmarks/mutations.py --near                # without the rest of the quick suite: in a few minutes
    python benchmarks/mutations.py --check               # only check that each line still exists

Each fault is put into a copy of the working tree. The tests named after its file run first, then those of its package,
then the rest of the quick suite, up to the first failure. Prints a table, writes it with all details to a JSON file,
and exits with 1 if more than `MOST_SURVIVORS` faults survive.
"""

import argparse
import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue

ROOT = Path(__file__).parents[1]
SOURCES = Path("src/pellucid")
MOST_SURVIVORS = 3
SECONDS_PER_STAGE = 900
"""A fault can make a test wait forever, which counts as noticed."""


@dataclass(frozen=True)
class Mutation:
    """A fault: `new` in place of `old` in a file below `src/pellucid`."""

    file: str
    old: str
    new: str

    @property
    def package(self) -> str:
        """Name of the package, which is also that of its folder of tests."""
        return self.file.partition("/")[0]

    def broken(self, folder: Path) -> str:
        """Return the file's text with the fault; raise `ValueError` unless `old` occurs exactly once."""
        text = (folder / SOURCES / self.file).read_text(encoding="utf-8")
        if text.count(self.old) != 1:
            raise ValueError(f"{self.file} contains {self.old!r} {text.count(self.old)} times; expected once.")
        return text.replace(self.old, self.new)

    def line(self, folder: Path) -> int:
        """Return the number of the line that `old` is in."""
        text = (folder / SOURCES / self.file).read_text(encoding="utf-8")
        return text[: text.index(self.old)].count("\n") + 1


@dataclass(frozen=True)
class Result:
    """Outcome of one fault."""

    file: str
    line: int
    old: str
    new: str
    noticed_by: str
    """The first test that failed; empty if the fault survived."""
    stage: str
    """Tests that noticed it: those of the file, those of the package, or the rest."""
    seconds: float


def stages(mutation: Mutation, folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the names and pytest arguments of the stages, from the tests closest to the fault to all others."""
    name, package = Path(mutation.file).stem.strip("_"), Path("tests", mutation.package)
    near = sorted(path.relative_to(folder) for path in (folder / "tests").rglob(f"test_{name}.py"))
    others = [path.relative_to(folder) for path in (folder / package).rglob("test_*.py")]
    yield "file", [*map(str, near), str(SOURCES / mutation.file)]
    yield "package", [str(path) for path in by_relevance(mutation, folder, others) if path not in near]
    yield "rest", [f"--ignore={package}", *(f"--ignore={path}" for path in near)]


def by_relevance(mutation: Mutation, folder: Path, tests: list[Path]) -> list[Path]:
    """Sort files of tests by how often they use the public names of the broken module."""
    module = ast.parse((folder / SOURCES / mutation.file).read_text(encoding="utf-8"))
    names = [node.name for node in module.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    used = re.compile(rf"\b({'|'.join(name for name in names if not name.startswith('_'))})\b")
    return sorted(tests, key=lambda path: (-len(used.findall((folder / path).read_text(encoding="utf-8"))), path))


def first_failure(folder: Path, arguments: list[str]) -> str:
    """Run pytest up to the first failure and return the name of the failed test; empty if all pass."""
    environment = {**os.environ, "PYTHONPATH": str(folder / "src")}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        "--no-header",
        *arguments,
    ]
    try:
        ended = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS_PER_STAGE, check=False
        )
    except subprocess.TimeoutExpired:
        return f"no end after {SECONDS_PER_STAGE} s"
    if ended.returncode in (0, 5):  # 5: no tests collected
        return ""
    named = re.search(r"^(?:FAILED|ERROR) (\S+)", ended.stdout, re.MULTILINE)
    if ended.returncode != 1 and not named:
        raise RuntimeError(f"pytest could not run {' '.join(arguments)}:\n{ended.stdout[-2000:]}{ended.stderr[-2000:]}")
    return named[1] if named else "a test"


def measure(mutation: Mutation, folder: Path, last: str = "rest") -> Result:
    """Put the fault into the copy of the tree in `folder`, run the tests up to a stage and take it out again."""
    place, started = folder / SOURCES / mutation.file, time.monotonic()
    sound, number = place.read_text(encoding="utf-8"), mutation.line(folder)
    place.write_text(mutation.broken(folder), encoding="utf-8")
    try:
        noticed_by, stage = noticed(stages(mutation, folder), folder, last)
    finally:
        place.write_text(sound, encoding="utf-8")
    seconds = round(time.monotonic() - started, 1)
    return Result(mutation.file, number, mutation.old, mutation.new, noticed_by, stage, seconds)


def noticed(to_run: Iterator[tuple[str, list[str]]], folder: Path, last: str) -> tuple[str, str]:
    """Return the first test that fails and its stage; both are empty if all pass."""
    for stage, arguments in to_run:
        if test := first_failure(folder, arguments):
            return test, stage
        if stage == last:
            break
    return "", ""


def copy_tree(target: Path) -> Path:
    """Copy the files that git knows, and new ones that it does not ignore."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    return target


def run(mutations: list[Mutation], processes: int, last: str) -> list[Result]:
    """Measure the faults up to a stage, several at a time, each in a copy of the tree of its own."""
    os.environ.setdefault("PELLUCID_SHARED", str(ROOT.parent / "shared"))  # the copies lie elsewhere
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(processes) as pool:
        free: SimpleQueue[Path] = SimpleQueue()
        for number in range(processes):
            free.put(copy_tree(Path(scratch, str(number))))

        def one(mutation: Mutation) -> Result:
            folder = free.get()
            try:
                result = measure(mutation, folder, last)
            finally:
                free.put(folder)
            print(row(result), flush=True)
            return result

        print("| Line | Before | After | Noticed by | Seconds |\n|---|---|---|---|---|", flush=True)
        return list(pool.map(one, mutations))


def keep(results: list[Result], entries: list[dict[str, str]], path: Path) -> None:
    """Write the results, beside earlier ones of faults that are still listed."""
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    known = {(one["file"], one["old"]): one for one in [*earlier, *map(asdict, results)]}
    listed = [known[place] for entry in entries if (place := (entry["file"], entry["old"])) in known]
    path.write_text(json.dumps(listed, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def row(result: Result) -> str:
    """Format a result as a line of a Markdown table."""
    old, new = (text.replace("|", "\\|") for text in (result.old, result.new))
    noticed = f"{result.stage}: `{result.noticed_by}`" if result.noticed_by else "**nobody**"
    return f"| {result.file}:{result.line} | `{old}` | `{new}` | {noticed} | {result.seconds:.0f} |"


def main() -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="part of the path of the files to break")
    parser.add_argument("--processes", type=int, default=2, help="faults measured at the same time")
    parser.add_argument("--near", action="store_true", help="only run the tests of the file and of its package")
    parser.add_argument("--check", action="store_true", help="only check that each line exists exactly once")
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results/mutations.json")
    options = parser.parse_args()
    entries = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))["mutation"]
    mutations = [mutation for mutation in (Mutation(**entry) for entry in entries) if options.only in mutation.file]
    for mutation in mutations:
        mutation.broken(ROOT)  # raises before any work
    if options.check:
        print(f"{len(mutations)} lines found")
        return 0
    results = run(mutations, options.processes, "package" if options.near else "rest")
    survivors = [result for result in results if not result.noticed_by]
    keep(results, entries, options.json)
    print(f"\n{len(survivors)} of {len(results)} faults survive; at most {MOST_SURVIVORS} may.")
    return int(len(survivors) > MOST_SURVIVORS)


if __name__ == "__main__":
    sys.exit(main())
