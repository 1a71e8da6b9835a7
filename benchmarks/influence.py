"""Validate influence by the linear datamodeling score (LDS), and compare TRAK with that of dattri.

Networks are trained on random halves of the training images. For each test image, the LDS is the Spearman correlation,
over these networks, of its margin and the sum of the scores of the images in the half (Park et al., 2023). dattri needs
an environment of its own:

    python -m venv peer && peer/bin/pip install torch dattri==0.3.0
    python benchmarks/influence.py --data FOLDER [--peer peer/bin/python] [--json FILE]

MNIST's four .gz files are in FOLDER. One thread; times are CPU times, of which each program measures its own.
"""

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from influence_networks import Weights, load_images, logits_of, margins, network, train_network
from scipy.stats import rankdata
from torch import Tensor

from pellucid.core.contracts import ImageSet
from pellucid.core.seeding import derive_seed, generator
from pellucid.diagnostics import Influence, Projection, tracin, trak

EPOCHS = 12
PEER = Path(__file__).with_name("influence_peer.py")
PEER_BATCH = 512
"""Images per batch of dattri, which draws its matrix again for each batch, so that small ones would be slower."""
PROJECTIONS = 4
"""Number of random projections, because the LDS depends on the draw."""
DRAWS = 1000
"""Bootstrap draws over test images for the intervals."""


class Case:
    """Training and test images, networks on halves with their margins, and networks on all images."""

    def __init__(self, train: ImageSet, test: ImageSet, networks: int, seeds: int, cache: Path | None) -> None:
        self.train, self.test = train, test
        self.halves = torch.stack([_half(len(train), number) for number in range(networks)])
        known = None if cache is None or not cache.exists() else torch.load(cache)
        if known is None:
            known = {"margins": self._margins(), "runs": self._runs(seeds)}
            if cache is not None:
                torch.save(known, cache)
        self.margins: Tensor = known["margins"]
        self.runs: list[list[Weights]] = known["runs"]

    def _margins(self) -> Tensor:
        """Train one network on each half and return the margins of the test images (network, test)."""
        rows, started = [], time.process_time()
        for number, half in enumerate(self.halves):
            own = self.train[half]
            (state,) = train_network(own.floats(), own.labels, derive_seed(1, number), epochs=EPOCHS)
            rows.append(margins(logits_of(state, self.test.floats()), self.test.labels))
        print(f"{len(rows)} networks on halves: {time.process_time() - started:.0f} s CPU", flush=True)
        return torch.stack(rows)

    def _runs(self, seeds: int) -> list[list[Weights]]:
        """Train networks on all images; returns the checkpoints of all their epochs."""
        return [
            train_network(self.train.floats(), self.train.labels, derive_seed(2, seed), epochs=EPOCHS, keep=True)
            for seed in range(seeds)
        ]

    def lds(self, scores: Tensor) -> dict[str, float]:
        """Return the mean LDS over test images with its 95% interval, by a bootstrap over test images."""
        predicted = (scores.double() @ self.halves.double().T).numpy()
        each = np.array([_spearman(*pair) for pair in zip(predicted, self.margins.T.numpy(), strict=True)])
        draw = np.random.default_rng(0)
        means = [draw.choice(each, len(each)).mean() for _ in range(DRAWS)]
        low, high = np.quantile(means, [0.025, 0.975])
        return {"lds": round(float(each.mean()), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def _half(images: int, number: int) -> Tensor:
    chosen = torch.randperm(images, generator=generator(3, "half", number))[: images // 2]
    return torch.zeros(images, dtype=torch.bool).index_fill_(0, chosen, True)


def _spearman(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.corrcoef(rankdata(first), rankdata(second))[0, 1])


def ours(case: Case, states: list[Weights], projection: Projection, ridge: float) -> tuple[Influence, float]:
    """Return TRAK's scores for the true classes, with CPU seconds."""
    return timed(
        lambda: trak(
            network().eval(), states, case.train.pixels, case.train.labels, case.test.pixels, case.test.labels,
            projection=projection, ridge=ridge,
        )
    )  # fmt: skip


def timed(call: Callable[[], Influence]) -> tuple[Influence, float]:
    """Return the result of a call, with CPU seconds."""
    started = time.process_time()
    return call(), time.process_time() - started


def theirs(case: Case, peer: str, states: list[Weights], projection: Projection, ridge: float) -> tuple[Tensor, float]:
    """Return the scores of dattri's TRAK, with CPU seconds."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = f"{folder}/case.pt", f"{folder}/scores.pt"
        sets = {name: (one.floats(), one.labels) for name, one in (("train", case.train), ("test", case.test))}
        kind = {"gaussian": "normal"}.get(projection.kind, projection.kind)
        settings = {"dimensions": projection.dimensions, "kind": kind, "ridge": ridge, "batch": PEER_BATCH}
        settings["seed"] = projection.seed
        # a plain Sequential, since the peer has no pellucid
        torch.save({"model": network(), "checkpoints": states, **sets, **settings}, source)
        subprocess.run([peer, str(PEER), source, target], check=True)
        result = torch.load(target)
    return result["scores"], result["seconds"]


def rows_of(case: Case, peer: str | None, dimensions: int) -> list[dict[str, Any]]:
    """Compute all rows of the table."""
    rows: list[dict[str, Any]] = []

    def add(name: str, scores: Tensor, seconds: float, **settings: Any) -> None:
        rows.append({"method": name, **settings, **case.lds(scores), "cpu_seconds": round(seconds, 2)})
        print(rows[-1], flush=True)

    finals = [run[-1] for run in case.runs]
    parameters = sum(value.numel() for value in network().parameters())
    for kind in ("rademacher", "sparse"):
        for ridge in (0.0, 0.1):
            setting = {"dimensions": dimensions, "ridge": ridge, "projection": kind, "checkpoints": len(finals)}
            projections = [Projection(dimensions, kind=kind, seed=seed) for seed in range(PROJECTIONS)]
            results = [ours(case, finals, projection, ridge) for projection in projections]
            draws = [case.lds(result.scores)["lds"] for result, _ in results]
            result, seconds = results[0]
            add("trak", result.scores, seconds, **setting, lds_of_projections=draws)
            if peer is not None and kind == "rademacher":
                # dattri divides gradients by the root of the number of parameters
                absolute = sum(result.ridges) / len(result.ridges) / parameters
                peers = [theirs(case, peer, finals, projection, absolute) for projection in projections]
                draws = [case.lds(scores)["lds"] for scores, _ in peers]
                add("dattri trak", *peers[0], **setting, lds_of_projections=draws)
    result, seconds = ours(case, finals, Projection(), 0.1)
    add("trak, defaults", result.scores, seconds, dimensions=1024, ridge=0.1, projection="sparse", checkpoints=3)
    result, seconds = ours(case, finals[:1], Projection(), 0.1)
    add("trak, one network", result.scores, seconds, dimensions=1024, ridge=0.1, projection="sparse", checkpoints=1)
    result, seconds = ours(case, case.runs[0][-3:], Projection(), 0.1)
    add("trak, last 3 epochs", result.scores, seconds, dimensions=1024, ridge=0.1, projection="sparse", checkpoints=3)
    rates = _rates(len(case.runs[0]))
    result, seconds = timed(
        lambda: tracin(
            network().eval(), case.runs[0], case.train.pixels, case.train.labels, case.test.pixels, case.test.labels,
            learning_rates=rates,
        )
    )  # fmt: skip
    add("tracin, one network", result.scores, seconds, dimensions=1024, projection="sparse", checkpoints=len(rates))
    return rows


def _rates(epochs: int) -> list[float]:
    """Return mean learning rates of the epochs of a one-cycle schedule, roughly: a rise in 30%, then a cosine."""
    places = (np.arange(epochs) + 0.5) / epochs
    rise, fall = 0.5 - 0.5 * np.cos(np.pi * places / 0.3), 0.5 + 0.5 * np.cos(np.pi * (places - 0.3) / 0.7)
    return [float(rate) for rate in 0.01 * np.where(places < 0.3, rise, fall)]


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--peer", help="Python with torch and dattri")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--cache", type=Path, help="file to keep the trained networks in")
    for name, number in (("train", 2000), ("test", 500), ("networks", 50), ("seeds", 3), ("dimensions", 512)):
        parser.add_argument(f"--{name}", type=int, default=number)
    given = parser.parse_args()
    torch.set_num_threads(1)
    train, test = load_images(given.data, given.train, given.test)
    case = Case(train, test, given.networks, given.seeds, given.cache)
    rows = rows_of(case, given.peer, given.dimensions)
    if given.json:
        sizes = {"train_images": len(train), "test_images": len(test), "networks": given.networks}
        given.json.write_text(json.dumps({**sizes, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
