"""Validate influence by removal: retrain without the strongest proponents of a class, and without random images of it.

    python benchmarks/influence_removal.py --data FOLDER [--json FILE]

For each seed, the network is trained three times with equal batches, in which removed images have weight 0 in the loss
(their pixels still enter the statistics of batch norm, in both cases). Measured is the drop of the class's logit, and
of its margin, over the test images of the class; intervals are bootstrapped over test images, averaged over the seeds.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from influence_networks import load_images, logits_of, margins, network, train_network
from torch import Tensor

from pellucid.core.seeding import derive_seed, generator
from pellucid.diagnostics import trak

EPOCHS = 6
DRAWS = 2000


def interval(values: Tensor) -> dict[str, float]:
    """Return the mean of values (test,) and its 95% interval by a bootstrap over test images."""
    numbers, draw = values.double().numpy(), np.random.default_rng(0)
    means = [draw.choice(numbers, len(numbers)).mean() for _ in range(DRAWS)]
    low, high = np.quantile(means, [0.025, 0.975])
    return {"mean": round(float(numbers.mean()), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def main() -> None:
    """Run the validation from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--json", type=Path)
    numbers = {"train": 10_000, "test": 2000, "label": 9, "removed": 500, "seeds": 3}
    for name, number in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=number)
    given = parser.parse_args()
    torch.set_num_threads(1)
    train, test = load_images(given.data, given.train, given.test)
    images, own = train.floats(), test[test.labels == given.label]
    seeds = [derive_seed(5, number) for number in range(given.seeds)]
    started = time.process_time()
    full = [train_network(images, train.labels, seed, epochs=EPOCHS)[0] for seed in seeds]
    scores = trak(network().eval(), full, train.pixels, train.labels, own.pixels, own.labels).scores.mean(0)
    strongest = scores.topk(given.removed).indices
    of_class = (train.labels == given.label).nonzero()[:, 0]
    shuffled = torch.randperm(len(of_class), generator=generator(5, "random"))
    chosen = {"proponents": strongest, "random": of_class[shuffled[: given.removed]]}
    drops: dict[str, list[list[Tensor]]] = {name: [[], []] for name in chosen}
    for seed, state in zip(seeds, full, strict=True):
        before = logits_of(state, own.floats())
        for name, removed in chosen.items():
            weights = torch.ones(len(train)).index_fill_(0, removed, 0.0)
            after = logits_of(
                train_network(images, train.labels, seed, epochs=EPOCHS, weights=weights)[0], own.floats()
            )
            drops[name][0].append((before - after)[:, given.label])
            drops[name][1].append(margins(before, own.labels) - margins(after, own.labels))
    result: dict[str, object] = {**{name: getattr(given, name) for name in numbers}, "test_images": len(own)}
    result["proponents_of_the_class"] = int((train.labels[strongest] == given.label).sum())
    for place, unit in enumerate(("logit", "margin")):
        means = {name: torch.stack(both[place]).mean(0) for name, both in drops.items()}
        result[unit] = {name: interval(one) for name, one in means.items()}
        result[unit] |= {"difference": interval(means["proponents"] - means["random"])}  # type: ignore[operator]
        result[f"{unit}_by_seed"] = {
            name: [round(float(one.mean()), 4) for one in both[place]] for name, both in drops.items()
        }
    result["cpu_seconds"] = round(time.process_time() - started, 1)
    print(json.dumps(result, indent=1))
    if given.json:
        given.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
