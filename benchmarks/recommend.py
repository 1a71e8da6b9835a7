"""The choice of `pellucid.recommend`, which sees no mask, on data whose decisive pixels are known.

Networks are trained on the four data sets with known ground truth, several seeds each. For every network, `recommend`
chooses among the twelve default methods. The masks then measure its choice and every fixed method on other images, by
relevance mass, relevance rank and the pointing game, and by their mean, the score. On `confound.control`, where the mask
is a tag without a use, less relevance inside is better, so each value is subtracted from 1. The best fixed method is the
one with the highest mean score over all networks, so it is chosen with hindsight. If `recommend` recommends none, it
scores as `DEFAULT_CHOICE`, the method to use without any evidence.

    python benchmarks/recommend.py --data FOLDER [--networks FOLDER] [--seeds 0,1,2] [--only DATASET] [--json FILE]

FOLDER has MNIST's four .gz files; `--networks` keeps the trained networks. `--only` measures one data set and keeps the
others in the JSON file. The exit code is 1 if the choice is significantly worse than the best fixed method over all
networks.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import pellucid
from pellucid.core.contracts import DataSplits, ImageSet
from pellucid.core.seeding import seed_everything
from pellucid.data import Request
from pellucid.data._load import load_data
from pellucid.data._loaders import steps_per_epoch, training_batches
from pellucid.evaluation import CONTROLS, DEFAULT_METHODS
from pellucid.evaluation._statistics import intervals
from pellucid.models import MODELS
from pellucid.training.loop import Recipe, train

TRAINING = {
    "planted_patch": (12_000, 3),
    "two_digits": (20_000, 6),
    "confound": (10_000, 3),
    "confound.control": (15_000, 4),
}
"""Number of training images and epochs, as many as each network needs to be accurate."""
LEAST_ACCURACY = 0.98
BATCH_SIZE, TEST_IMAGES = 128, 500
RACE_IMAGES, TRUTH_IMAGES = 200, 100
TRUTH = ("relevance_mass", "relevance_rank", "pointing_game")
DEFAULT_CHOICE = "gradient"


def load(name: str, seed: int, mirror: str) -> DataSplits:
    """Load a data set."""
    with tempfile.TemporaryDirectory() as folder:
        request = Request(Path(folder), mirrors=(mirror,), seed=seed)
        return load_data(name, request, limit_train=TRAINING[name][0], limit_test=TEST_IMAGES)


def network(data: DataSplits, name: str, seed: int, kept: Path | None) -> nn.Module:
    """Train the network `cnn`, or load it; returns the weights with the best validation score."""
    model = MODELS["cnn"](channels=1, classes=len(data.classes), image_size=data.train.image_shape[1:])
    file = None if kept is None else kept / f"{name}_{seed}.pt"
    if file is not None and file.exists():
        model.load_state_dict(torch.load(file))
        return model.eval()
    seed_everything(seed)
    model = MODELS["cnn"](channels=1, classes=len(data.classes), image_size=data.train.image_shape[1:])
    recipe = Recipe(TRAINING[name][1], steps_per_epoch(len(data.train), BATCH_SIZE), seed=seed)

    def batches(epoch: int, step: int) -> Any:
        return training_batches(data, BATCH_SIZE, seed, 0, 1, epoch, step)

    best, accuracy = {}, 0.0
    for epoch in train(model, data, batches, recipe, device=torch.device("cpu")):
        if epoch.is_best:
            accuracy = epoch.validation.accuracy
            best = {key: value.clone() for key, value in model.state_dict().items()}
    if accuracy < LEAST_ACCURACY:
        raise SystemExit(f"{name}, seed {seed}: validation accuracy {accuracy:.1%}")
    model.load_state_dict(best)
    if file is not None:
        torch.save(best, file)
    return model.eval()


def truths(model: nn.Module, part: ImageSet, name: str) -> dict[str, dict[str, list[float]]]:
    """Return the per-image values of each fixed method by the masks, higher is better."""
    result = pellucid.evaluate(model, part.floats(), None, DEFAULT_METHODS, TRUTH, masks=part.masks)
    found: dict[str, dict[str, list[float]]] = {}
    for (method, metric), scores in result.scores.items():
        if method not in CONTROLS:
            values = np.array(scores.values, dtype=float)
            found.setdefault(method, {})[metric] = (1 - values if name == "confound.control" else values).tolist()
    return found


def measure(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return the choice for one network, its cost, and the values of all methods."""
    data = load(name, seed, options.data)
    model = network(data, name, seed, options.networks)
    # the test images of `confound` have no tags
    part = data.test if data.test.masks is not None else data.validation
    race, held_out = part[:RACE_IMAGES], part[RACE_IMAGES : RACE_IMAGES + TRUTH_IMAGES]
    result = pellucid.recommend(model, race.floats(), budget=options.budget, seed=seed)
    print(name, seed, result, flush=True)
    record = {"method": result.method, "reason": result.reason, "tied": result.tied, "cost": result.cost}
    return {**record, "images": result.evaluation.images, "values": truths(model, held_out, name)}


def scored(network: Mapping[str, Any], method: str, metric: str) -> np.ndarray:
    """Return the (image,) values of a method; the metric `score` is the mean of all."""
    values = network["values"][method]
    if metric == "score":
        return np.nanmean([np.array(values[one], dtype=float) for one in TRUTH], axis=0)
    return np.array(values[metric], dtype=float)


def summary(networks: Mapping[str, Any]) -> dict[str, Any]:
    """Compare the choices with the best fixed method, by data set and overall, with the network as the unit."""
    methods = next(iter(networks.values()))["values"]
    fixed = {m: np.mean([np.nanmean(scored(one, m, "score")) for one in networks.values()]) for m in methods}
    best = max(fixed, key=lambda method: fixed[method])
    groups: dict[str, list[Any]] = {}
    for key, one in networks.items():
        groups.setdefault(key.partition(" ")[0], []).append(one)
    rows = {}
    for group, members in (*groups.items(), ("all", list(networks.values()))):
        for metric in ("score", *TRUTH):
            chosen = [np.nanmean(scored(one, one["method"] or DEFAULT_CHOICE, metric)) for one in members]
            other = [np.nanmean(scored(one, best, metric)) for one in members]
            differences = np.subtract(chosen, other)[:, None]
            mean, low, high = (float(value[0]) for value in intervals(differences, 0))
            rows[f"{group}, {metric}"] = [float(np.mean(chosen)), float(np.mean(other)), mean, low, high]
    return {"best_fixed": best, "fixed": {m: float(value) for m, value in fixed.items()}, "rows": rows}


def main() -> int:
    """Measure, print and store the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder with MNIST's four .gz files")
    parser.add_argument("--networks", type=Path, help="folder for the trained networks")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--only", help="one data set")
    parser.add_argument("--budget", default="small")
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "recommend.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    known = json.loads(options.json.read_text())["networks"] if options.only and options.json.exists() else {}
    for name in [options.only] if options.only else TRAINING:
        for seed in map(int, options.seeds.split(",")):
            known[f"{name} {seed}"] = measure(name, seed, options)
    result = summary(known)
    record = {"torch": torch.__version__, "budget": options.budget, "summary": result, "networks": known}
    options.json.write_text(json.dumps(record, indent=1) + "\n")
    print(f"best fixed method: {result['best_fixed']}")
    for label, (chosen, other, mean, low, high) in result["rows"].items():
        print(f"{label:34} chosen {chosen:.3f}  fixed {other:.3f}  difference {mean:+.3f} ({low:+.3f} to {high:+.3f})")
    return int(result["rows"]["all, score"][4] < 0)


if __name__ == "__main__":
    sys.exit(main())
