"""The choice of `pellucid.recommend`, which sees no mask, on data whose decisive pixels are known.

Networks are trained on the four data sets with known ground truth, several seeds each. For every network, `recommend`
chooses among the twelve default methods. The masks then measure its choice and every fixed method on other images, by
relevance mass, relevance rank and the pointing game, and by their mean, the score. On `confound.control`, where the
mask is a tag without a use, less relevance inside is better, so each value is subtracted from 1. The best fixed method
is the one with the highest mean score over all networks, so it is chosen with hindsight. If `recommend` recommends
none, `DEFAULT_CHOICE` is scored. Intervals are 95% t intervals of the mean difference over networks.

    python benchmarks/recommend.py --data FOLDER [--networks FOLDER] [--seeds 0,1,2] [--resume] [--json FILE]

FOLDER has MNIST's four .gz files; `--networks` keeps the trained networks, and `--resume` the results in
the JSON file. The exit code is 1 if the choice is significantly worse than the best fixed method over all
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
from scipy import stats
from torch import nn

import pellucid
from pellucid.core.contracts import DataSplits, ImageSet
from pellucid.core.seeding import seed_everything
from pellucid.data import Request
from pellucid.data._load import load_data
from pellucid.data._loaders import steps_per_epoch, training_batches
from pellucid.evaluation import DEFAULT_METHODS
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
RACE_IMAGES, TRUTH_IMAGES, EFFECT_IMAGES = 200, 100, 16
SHOWN = ("lrp.alpha_2_beta_1", "deeplift", "integrated_gradients")
TRUTH = ("relevance_mass", "relevance_rank", "pointing_game")
DEFAULT_CHOICE = "gradient"
"""The method to use without any evidence."""


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


def truths(model: nn.Module, part: ImageSet, name: str) -> dict[str, dict[str, float]]:
    """Return the mean values of each fixed method by the masks, with their mean as `score`; higher is better."""
    result = pellucid.evaluate(model, part.floats(), None, DEFAULT_METHODS, TRUTH, masks=part.masks)
    found: dict[str, dict[str, float]] = {}
    for method in DEFAULT_METHODS:
        values = {metric: result.value(method, metric) for metric in TRUTH}
        if name == "confound.control":
            values = {metric: 1 - value for metric, value in values.items()}
        found[method] = {"score": float(np.mean(list(values.values()))), **values}
    return found


def effect_mass(model: nn.Module, part: ImageSet, name: str) -> float:
    """Return the share inside the mask of the logit's decreases when single pixels are set to 0: no method at all.

    A method with a larger relevance mass leaves out effects that pixels outside the mask really have.
    """
    few = part[:EFFECT_IMAGES]
    removal = pellucid.create_analyzer("occlusion", model, window=1, stride=1)
    result = pellucid.evaluate(model, few.floats(), None, [removal], ["relevance_mass"], masks=few.masks)
    value = result.value(result.methods[0], "relevance_mass")
    return 1 - value if name == "confound.control" else value


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
    effects = effect_mass(model, held_out, name)
    return {
        **record,
        "images": result.evaluation.images,
        "effect_mass": effects,
        "values": truths(model, held_out, name),
    }


def interval(differences: list[float]) -> tuple[float, float, float]:
    """Return the mean and its 95% t interval; a percentile bootstrap of three networks would be too narrow."""
    mean, count = float(np.mean(differences)), len(differences)
    if count < 2:
        return mean, -np.inf, np.inf
    half = float(stats.t.ppf(0.975, count - 1) * np.std(differences, ddof=1) / np.sqrt(count))
    return mean, mean - half, mean + half


def summary(networks: Mapping[str, Any]) -> dict[str, Any]:
    """Compare the choices with the best fixed method, by data set and overall, with the network as the unit."""
    fixed = {m: float(np.mean([one["values"][m]["score"] for one in networks.values()])) for m in DEFAULT_METHODS}
    best = max(fixed, key=lambda method: fixed[method])
    groups: dict[str, list[Any]] = {"all": list(networks.values())}
    for key, one in networks.items():
        groups.setdefault(key.partition(" ")[0], []).append(one)
    rows = {}
    for group, members in groups.items():
        for metric in ("score", *TRUTH):
            chosen = [one["values"][one["method"] or DEFAULT_CHOICE][metric] for one in members]
            other = [one["values"][best][metric] for one in members]
            differences = np.subtract(chosen, other).tolist()
            mean, low, high = interval(differences)
            rows[f"{group}, {metric}"] = {
                "chosen": float(np.mean(chosen)),
                "fixed": float(np.mean(other)),
                "difference": mean,
                "low": low,
                "high": high,
                "each": differences,
            }
    return {"best_fixed": best, "fixed": fixed, "rows": rows}


def main() -> int:
    """Measure, print and store the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder with MNIST's four .gz files")
    parser.add_argument("--networks", type=Path, help="folder for the trained networks")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--resume", action="store_true", help="keep the networks in the JSON file")
    parser.add_argument("--budget", default="small")
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "recommend.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    known = json.loads(options.json.read_text())["networks"] if options.resume and options.json.exists() else {}
    for name in TRAINING:
        for seed in map(int, options.seeds.split(",")):
            if f"{name} {seed}" not in known:
                known[f"{name} {seed}"] = measure(name, seed, options)
    result = summary(known)
    record = {"torch": torch.__version__, "budget": options.budget, "summary": result, "networks": known}
    options.json.write_text(json.dumps(record, indent=1) + "\n")
    print(f"best fixed method: {result['best_fixed']}")
    for key, one in known.items():
        mass = {method: f"{one['values'][method]['relevance_mass']:.3f}" for method in SHOWN}
        print(f"{key:20} {one['method'] or 'none':24} single pixels {one['effect_mass']:.3f}, {mass}")
    for label, row in result["rows"].items():
        numbers = f"chosen {row['chosen']:.3f}  fixed {row['fixed']:.3f}  difference {row['difference']:+.3f}"
        print(f"{label:32} {numbers} ({row['low']:+.3f} to {row['high']:+.3f})")
    return int(result["rows"]["all, score"]["high"] < 0)


if __name__ == "__main__":
    sys.exit(main())
