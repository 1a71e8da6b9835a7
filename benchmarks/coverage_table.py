"""The results of `benchmarks/coverage.py` as JSON, and as the page docs/coverage.md."""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from itertools import groupby
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "coverage.json"
PAGE = ROOT / "docs" / "coverage.md"

EXPLAINED, MEDIAN_COST, MOST_COST = 0.97, 10.0, 15.0
"""Smallest share of architectures that each method explains, and the cost of lrp.epsilon in forward passes."""
WORST = ("crashed", "foreign", "silent", "unnamed", "refused", "warned", "right")
"""Verdicts from worst to best; an architecture has the worse of its two precisions."""
SIGNS = {"right": "✓", "warned": "(✓)", "refused": "refused", "unnamed": "**unnamed**", "silent": "**wrong**",
         "foreign": "**exception**", "crashed": "**failed**"}  # fmt: skip

Record = Mapping[str, Any]


def verdict(record: Record, method: str) -> str:
    """Return the worse verdict of both precisions; empty if the method was not measured."""
    own = [one["verdict"] for one in record["results"] if one["method"] == method]
    return min(own, key=WORST.index) if own else ""


def bounds(records: Sequence[Record], methods: Sequence[str]) -> list[dict[str, Any]]:
    """Return each claim with what was measured, its bound, and whether it holds."""
    every = [one for record in records for one in record["results"]]
    claims = [
        _claim(f"results that are {name}", sum(one["verdict"] in kinds for one in every), "0", lambda n: n == 0)
        for name, kinds in (
            ("wrong without a warning", ("silent",)),
            ("exceptions of other libraries", ("foreign", "crashed")),
            ("refused without naming operation and module", ("unnamed",)),
        )
    ]
    for method in methods:
        judged = [name for record in records if (name := verdict(record, method))]
        share = sum(name in ("right", "warned") for name in judged) / max(1, len(judged))
        claims.append(_claim(f"explained by {method}", round(share, 4), f"≥ {EXPLAINED:.0%}", lambda n: n >= EXPLAINED))
    costs = [record["cost"] for record in records if "cost" in record]
    if costs:
        for name, value, most in (("median", statistics.median(costs), MEDIAN_COST), ("most", max(costs), MOST_COST)):
            claims.append(
                _claim(f"lrp.epsilon in forward passes, {name}", value, f"≤ {most:g}", lambda n, most=most: n <= most)
            )
    return claims


def _claim(claim: str, measured: float, bound: str, holds: Any) -> dict[str, Any]:
    return {"claim": claim, "measured": measured, "bound": bound, "passed": bool(holds(measured))}


def write(records: Sequence[Record], methods: Sequence[str]) -> bool:
    """Write results/coverage.json and docs/coverage.md; return True if all bounds hold."""
    claims = bounds(records, methods)
    versions = {name: metadata.version(name) for name in ("torch", "torchvision", "timm", "transformers")}
    head = json.dumps({"versions": versions, "claims": claims}, indent=1, ensure_ascii=False)
    lines = ",\n".join("  " + json.dumps(record, ensure_ascii=False) for record in records)
    RESULTS.write_text(f'{head[:-2]},\n "architectures": [\n{lines}\n ]\n}}\n', encoding="utf-8")
    PAGE.write_text(page(records, methods, claims, versions), encoding="utf-8")
    return all(claim["passed"] for claim in claims)


def page(records: Sequence[Record], methods: Sequence[str], claims: Sequence[Record], versions: Record) -> str:
    """Return docs/coverage.md."""
    libraries = ", ".join(f"{name} {version}" for name, version in versions.items())
    counts = {library: sum(1 for _ in own) for library, own in groupby(records, _library)}
    counted = ", ".join(f"{count} of {library}" for library, count in counts.items())
    parts = [
        INTRODUCTION.format(count=len(records), counted=counted, libraries=libraries),
        "## Bounds\n",
        _table(
            ("Claim", "Measured", "Bound", ""),
            ((c["claim"], _shown(c), c["bound"], "pass" if c["passed"] else "missed") for c in claims),
        ),
        "## Methods\n\nArchitectures by method, in the worse of both precisions.\n",
        _table(("Method", "explained", "refused", "not right", "does not apply"), _method_rows(records, methods)),
        "## Not explained\n",
        _table(("Architecture", "Method", "Message"), _refusal_rows(records, methods)),
        LEGEND,
        _table(
            ("Architecture", "Input", "Parameters", *(f"`{method}`" for method in methods), "Passes"),
            (_architecture_row(record, methods) for record in records),
        ),
    ]
    return "\n".join(parts)


INTRODUCTION = """# Coverage

{count} architectures ({counted}) explained unmodified by eight methods, in float32 and float64, with every value
checked by an independent computation ({libraries}).

Each architecture is the smallest member of its family, on a small input, with ten classes. Weights are random; norm
statistics, layer scales and other parameters that start as constants are randomized too, so that the logits depend on
every branch. `python benchmarks/coverage.py` repeats the measurement and rewrites this page; the numbers are in
`benchmarks/results/coverage.json`.

| Method | Checked against |
|---|---|
| `gradient`, `jacobian` | differences of forward passes in float64, in a random direction |
| `integrated_gradients` | the same along the path (plain autograd where all cross kinks); the reported residual |
| `guided_backprop` | autograd through rectifiers that block negative signals |
| `lrp.epsilon` | the logit, as the sum of relevance and absorbed shares |
| `lrp.epsilon` with ε = 1e-12 | input × gradient of the network of secants |
| `deeplift` | the change of the logit from the baseline |
| `grad_cam` | the same feature maps and their gradients, read by hand |
| `occlusion` | windows hidden by hand |

Networks of token ids are explained at their embedding; Grad-CAM and occlusion hide or show regions of an image, so they
do not apply. A detector is explained up to the class scores of its anchors, before boxes are selected, and a
segmentation network by the mean logits of its classes.
"""


LEGEND = """## Architectures

✓ explained and right; – does not apply. The last column is the time of `lrp.epsilon` in forward passes.
"""


def _library(record: Record) -> str:
    return str(record["architecture"]).partition("/")[0]


def _shown(claim: Record) -> str:
    return f"{claim['measured']:.1%}" if "%" in claim["bound"] else f"{claim['measured']:g}"


def _method_rows(records: Sequence[Record], methods: Sequence[str]) -> Iterable[tuple[str, ...]]:
    for method in methods:
        own = [verdict(record, method) for record in records]
        explained = sum(name in ("right", "warned") for name in own)
        refused = sum(name == "refused" for name in own)
        absent = own.count("")
        yield f"`{method}`", str(explained), str(refused), str(len(own) - explained - refused - absent), str(absent)


def _refusal_rows(records: Sequence[Record], methods: Sequence[str]) -> Iterable[tuple[str, ...]]:
    """Yield refusals and failures; those of one architecture with the same message share a row."""
    for record in records:
        messages: dict[str, list[str]] = {}
        for one in record["results"]:
            if one["verdict"] not in ("right", "warned") and one["method"] in methods:
                messages.setdefault(one.get("message", ""), []).append(one["method"])
        for message, own in messages.items():
            names = ", ".join(f"`{method}`" for method in dict.fromkeys(own))
            yield record["architecture"], names, message.replace("|", "\\|")


def _architecture_row(record: Record, methods: Sequence[str]) -> tuple[str, ...]:
    size = "×".join(map(str, record["input"])) if len(record["input"]) > 1 else f"{record['input'][0]} tokens"
    count = f"{record['parameters'] / 1e6:.1f} M" if "parameters" in record else ""
    signs = (SIGNS.get(verdict(record, method), "–") for method in methods)
    return str(record["architecture"]), size, count, *signs, str(record.get("cost", "–"))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    body = [f"| {' | '.join(row)} |" for row in rows] or [f"| {' | '.join('–' for _ in head)} |"]
    return "\n".join([f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *body, ""])
