"""Latency of `pellucid serve`: the time from request to answer, over HTTP, for every method.

Trains the default network on the digits (28×28 pixels), starts the server in this process, and asks for maps of several
test images one after the other. The first request of each method, which may fit it, is not counted.

    python benchmarks/serve.py [--run FOLDER] [--images 9] [--json FILE]
"""

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from pellucid.cli import main
from pellucid.config import ServeConfig
from pellucid.run.serving import ServedPage, load_live_run
from pellucid.run.serving_http import LiveServer

BOUND_MS = 200.0
"""Largest allowed median of a gradient method."""
GRADIENT_FAMILIES = ("gradient", "backward", "relevance", "class_activation")
TRAIN = "--dataset digits --epochs 1 --hooks confusion_matrix --threads 1"


def ask(port: int, method: str, index: int) -> tuple[float, float, dict[str, Any]]:
    """Return the milliseconds until the answer, those of CPU time (of both ends), and the answer."""
    started, busy = time.perf_counter(), time.process_time()
    connection = HTTPConnection("127.0.0.1", port)
    body = json.dumps({"method": method, "index": index})
    connection.request("POST", "/api/map", body, {"Content-Type": "application/json"})
    answer = json.load(connection.getresponse())
    connection.close()
    return 1000 * (time.perf_counter() - started), 1000 * (time.process_time() - busy), answer


def measure(run: Path, images: int) -> list[dict[str, Any]]:
    """Return one row per method: its family, the median, and whether it meets the bound."""
    live = load_live_run(ServeConfig(run))
    rows = []
    with LiveServer(live, ServedPage(run, live), 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for method in live.facts()["methods"]:
            first, _, answer = ask(server.server_port, method["name"], 0)
            if "error" in answer:
                rows.append({"method": method["name"], "refused": answer["error"]["message"]})
                continue
            times = [ask(server.server_port, method["name"], 1 + index)[:2] for index in range(images)]
            wall, cpu = (statistics.median(column) for column in zip(*times, strict=True))
            bound = BOUND_MS if method["family"] in GRADIENT_FAMILIES else None
            rows.append(
                {
                    "method": method["name"],
                    "family": method["family"],
                    "timing": {"first_ms": first, "median_ms": wall, "median_cpu_ms": cpu},
                    "bound_ms": bound,
                    "is_met": bound is None or wall <= bound,
                }
            )
        server.shutdown()
    return rows


def report(rows: list[dict[str, Any]]) -> None:
    """Print the rows as a Markdown table."""
    print("| Method | first | median | CPU time | bound | |\n|---|---|---|---|---|---|")
    for row in rows:
        if "refused" in row:
            print(f"| {row['method']} | | | | | does not apply |")
            continue
        bound = "" if row["bound_ms"] is None else f"≤ {row['bound_ms']:.0f} ms"
        times = row["timing"]
        verdict = "" if row["bound_ms"] is None else "pass" if row["is_met"] else "missed"
        shown = " | ".join(f"{times[name]:.1f} ms" for name in ("first_ms", "median_ms", "median_cpu_ms"))
        print(f"| {row['method']} | {shown} | {bound} | {verdict} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, help="save folder of a run; by default, one is trained")
    parser.add_argument("--images", type=int, default=9)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = given.run or Path(folder) / "save"
        if given.run is None and main(["run", *TRAIN.split(), "--save", str(run)]):
            sys.exit("training failed")
        measured = measure(run, given.images)
    report(measured)
    if given.json is not None:
        given.json.write_text(json.dumps(measured, indent=1) + "\n")
    sys.exit(any(not row.get("is_met", True) for row in measured))
