"""Explain many architectures by many methods and check every value independently: the promise in docs/coverage.md.

    python benchmarks/coverage.py [--only PATTERN] [--methods NAMES] [--jobs 2] [--retry] [--records FILE]

Networks of timm, torchvision and transformers (`pip install -e '.[integrations]'`) with random weights; nothing is
downloaded. One process per architecture, with limits on time and memory. Each finished architecture is one line of
FILE; started again, the benchmark goes on with the rest, and `--retry` also repeats those with a failure. At the end
it writes results/coverage.json and docs/coverage.md. The exit code is 1 if a bound is missed.
"""

import argparse
import importlib
import json
import multiprocessing
import resource
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Iterable, Sequence
from fnmatch import fnmatch
from multiprocessing.connection import wait
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "integrations"))

from architectures import Architecture, catalog  # noqa: E402
from checks import DTYPES, METHODS, NOT_FOR_TOKENS, Case, Result, cost, examine  # noqa: E402
from coverage_table import write  # noqa: E402

SECONDS = 420
GIGABYTES = 12
FAILURES = ("unnamed", "silent", "foreign", "crashed")


def measure(architecture: Architecture, methods: Sequence[str]) -> dict[str, Any]:
    """Build an architecture, explain it by each method in each precision, and return a record of the verdicts."""
    case = Case(architecture, count=1)
    with torch.no_grad():
        outputs = case.model(architecture.inputs())
    logits = outputs if architecture.output is None else architecture.output(outputs)
    case.to("float64")
    record: dict[str, Any] = {
        "architecture": architecture.name,
        "input": list(architecture.shape),
        "parameters": sum(parameter.numel() for parameter in case.model.parameters()),
        "differs": float(f"{float((logits[0] - logits[1]).abs().max() / logits.std()):.2g}"),
        "results": [],
    }
    for method in methods:
        for dtype in DTYPES:
            if architecture.reads_tokens and method in NOT_FOR_TOKENS:
                continue
            record["results"].append(_guarded(case, method, dtype).record())
    explained = {one["method"] for one in record["results"] if one["verdict"] in ("right", "warned")}
    if "lrp.epsilon" in explained:
        record["cost"] = cost(case)
    return record | {"seconds": round(time.process_time(), 1)}


def _guarded(case: Case, method: str, dtype: str) -> Result:
    """Examine one method; an exception of a check itself is reported, not raised."""
    try:
        return examine(case, method, dtype)
    except Exception:  # noqa: BLE001 - recorded as a failure of the benchmark
        return Result(method, dtype, "crashed", f"the check failed: {_told()}")


def _work(architecture: Architecture, methods: Sequence[str], file: Path) -> None:
    """Measure in a forked process and append the record to the file."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_AS, (GIGABYTES << 30, GIGABYTES << 30))
    warnings.simplefilter("ignore")
    try:
        record = measure(architecture, methods)
    except BaseException:  # noqa: BLE001 - also a MemoryError or an exit of the network's own code
        record = _crash(architecture, methods, _told())
    append(file, record)


def _told() -> str:
    """Return the last line of the current traceback, followed by the places it comes from."""
    *places, last = traceback.format_exc(limit=-4).strip().splitlines()
    return f"{last} | {' '.join(' '.join(places[1:]).split())}"


def _crash(architecture: Architecture, methods: Sequence[str], message: str) -> dict[str, Any]:
    results = [Result(method, dtype, "crashed", message).record() for method in methods for dtype in DTYPES]
    return {"architecture": architecture.name, "input": list(architecture.shape), "results": results}


def append(file: Path, record: dict[str, Any]) -> None:
    """Append a record as one line."""
    with file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(record, ensure_ascii=False) + "\n")


def read(file: Path) -> dict[str, dict[str, Any]]:
    """Return the records of a file by architecture; results of later lines replace earlier ones, method by method."""
    records: dict[str, dict[str, Any]] = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        new = json.loads(line)
        old = records.get(new["architecture"], {})
        results = {(one["method"], one["dtype"]): one for one in (*old.get("results", ()), *new["results"])}
        records[new["architecture"]] = {**old, **new, "results": list(results.values())}
    return records


def waiting(options: argparse.Namespace, methods: Sequence[str]) -> list[Architecture]:
    """Return the architectures still to be measured."""
    records = read(options.records)

    def is_due(architecture: Architecture) -> bool:
        results = records.get(architecture.name, {"results": []})["results"]
        wanted = [one for one in results if one["method"] in methods]
        missing = set(methods) - {one["method"] for one in wanted}
        missing -= set(NOT_FOR_TOKENS) if architecture.reads_tokens else set()
        verdicts = (*FAILURES, "refused") if options.retry else ()
        return bool(missing) or any(one["verdict"] in verdicts for one in wanted)

    return [
        architecture
        for architecture in catalog()
        if any(fnmatch(architecture.name, f"*{pattern}*") for pattern in options.only.split(","))
        and is_due(architecture)
    ]


def run(architectures: Iterable[Architecture], methods: Sequence[str], options: argparse.Namespace) -> None:
    """Measure the architectures, `jobs` at a time, one forked process each."""
    for library in ("timm", "torchvision", "transformers"):
        importlib.import_module(library)  # once, before forking
    context, queue = multiprocessing.get_context("fork"), list(architectures)[::-1]
    running: dict[ForkProcess, tuple[Architecture, float]] = {}
    total = len(queue)
    while queue or running:
        while queue and len(running) < options.jobs:
            architecture = queue.pop()
            process = context.Process(target=_work, args=(architecture, methods, options.records), daemon=True)
            process.start()
            running[process] = architecture, time.monotonic()
        wait([process.sentinel for process in running], timeout=1)
        for process, (architecture, started) in list(running.items()):
            if process.is_alive() and time.monotonic() - started < options.seconds:
                continue
            if process.is_alive():
                process.kill()
                append(options.records, _crash(architecture, methods, f"stopped after {options.seconds} s"))
            process.join()
            if process.exitcode not in (0, -9):
                append(options.records, _crash(architecture, methods, f"the process died: {process.exitcode}"))
            del running[process]
            _tell(total - len(queue) - len(running), total, read(options.records)[architecture.name])


def _tell(number: int, total: int, record: dict[str, Any]) -> None:
    """Print one line per architecture, and one per failure."""
    results = record["results"]
    right = sum(one["verdict"] == "right" for one in results)
    print(f"{number}/{total} {record['architecture']}: {right} of {len(results)} right, "
          f"{record.get('cost', '–')} forward passes, {record.get('seconds', '–')} s", flush=True)  # fmt: skip
    for one in results:
        if one["verdict"] != "right":
            print(f"    {one['method']} {one['dtype']} {one['verdict']}: {one.get('message', '')[:300]}", flush=True)


def main() -> None:
    """Parse the arguments, measure what is missing, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="part of the names of architectures, or patterns, with commas")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seconds", type=int, default=SECONDS, help="time limit per architecture")
    parser.add_argument("--retry", action="store_true", help="also repeat architectures with a failure or refusal")
    parser.add_argument("--records", type=Path, default=ROOT / "save" / "coverage.jsonl", help="file with a line each")
    options = parser.parse_args()
    methods = options.methods.split(",")
    options.records.parent.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # a plain death would leave the forked processes behind
    run(waiting(options, methods), methods, options)
    records = read(options.records)
    finished = [records[architecture.name] for architecture in catalog() if architecture.name in records]
    print(f"{len(finished)} of {len(list(catalog()))} architectures measured")
    if not options.only:
        sys.exit(0 if write(finished, methods) else 1)


if __name__ == "__main__":
    main()
