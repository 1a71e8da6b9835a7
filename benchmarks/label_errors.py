"""Label errors on MNIST with 5% of the labels flipped, compared with cleanlab on the same probabilities.

Symmetric noise replaces a label by any other class, class-dependent noise by the class that looks most like it. The
default network is trained on the noisy labels with the default recipe. Its probabilities come from three sources: a
pass over its own training images at the end (`in-sample`, as in the hook), the mean of such passes after each epoch
(`recorded`), and a cross-validation (`out-of-fold`). cleanlab counts as better where it leads by more than
0.0001 in the whole 95% interval of the paired difference, over 200 resamples of the images. An MLP that has memorized
the labels of 10,000 images shows the limit of in-sample probabilities; no bound applies to it.

    python benchmarks/label_errors.py --data FOLDER [--peer PYTHON] [--folds 5] [--json FILE]

FOLDER has MNIST's four .gz files, PYTHON is the interpreter of an environment with cleanlab. The exit code is 1 if a
bound is missed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import pellucid
from pellucid.core.contracts import DataSplits, ImageSet
from pellucid.core.seeding import generator, seed_everything
from pellucid.data import DATASETS, RawData, Request
from pellucid.data._loaders import steps_per_epoch, training_batches
from pellucid.models import MODELS
from pellucid.training.loop import Recipe, train

FLIPPED_SHARE, EPOCHS, BATCH_SIZE = 0.05, 2, 256
RESAMPLES, MARGIN = 200, 0.0001
MEMORIZED_IMAGES, MEMORIZED_EPOCHS = 10_000, 20
SIMILAR = (6, 7, 7, 8, 9, 6, 0, 1, 3, 4)
"""The class that replaces each digit under class-dependent noise."""
BOUNDS = {"symmetric": {"auroc": 0.999, "precision": 0.95}, "class-dependent": {"auroc": 0.995, "precision": 0.90}}
PEER = """
import json, sys, time
import numpy as np
from cleanlab.count import num_label_issues
from cleanlab.rank import get_label_quality_scores
data = np.load(sys.argv[1])
labels, probabilities = data["labels"], data["probabilities"]
result = {"scores": {}}
for method in ("self_confidence", "normalized_margin", "confidence_weighted_entropy"):
    started = time.process_time()
    scores = get_label_quality_scores(labels, probabilities, method=method)
    result["scores"][method] = {"seconds": time.process_time() - started, "values": (-scores).tolist()}
result["suspects"] = int(num_label_issues(labels, probabilities))
json.dump(result, open(sys.argv[2], "w"))
"""


def flip(labels: Tensor, kind: str, seed: int) -> tuple[Tensor, Tensor]:
    """Return noisy labels and the mask of those that were flipped."""
    draws = generator(seed, "flip", kind)
    chosen = torch.randperm(len(labels), generator=draws)[: round(FLIPPED_SHARE * len(labels))]
    shifted = (labels[chosen] + torch.randint(1, 10, (len(chosen),), generator=draws)) % 10
    noisy, is_flipped = labels.clone(), torch.zeros(len(labels), dtype=torch.bool)
    noisy[chosen] = shifted if kind == "symmetric" else torch.tensor(SIMILAR)[labels[chosen]]
    is_flipped[chosen] = True
    return noisy, is_flipped


def fit(
    raw: RawData, images: ImageSet, seed: int, *, network: str = "small_cnn", epochs: int = EPOCHS
) -> Iterable[nn.Module]:
    """Train a network with the default recipe; yield it after each epoch. Only the default network sees shifts."""
    few = raw.test[:100]  # not used
    shift = raw.shift_share if network == "small_cnn" else 0.0
    data = DataSplits("mnist", "mnist", "MNIST", images, few, few, raw.classes, "", shift)
    recipe = Recipe(epochs, steps_per_epoch(len(images), BATCH_SIZE), seed=seed)
    seed_everything(seed)
    model = MODELS[network](channels=1, classes=10, image_size=(28, 28))

    def batches(epoch: int, step: int) -> Iterable[tuple[Tensor, Tensor]]:
        return training_batches(data, BATCH_SIZE, seed, 0, 1, epoch, step)

    for epoch in train(model, data, batches, recipe, device=torch.device("cpu")):
        if epoch.number:
            yield model.eval()


def outputs(model: nn.Module, images: ImageSet) -> tuple[Tensor, Tensor]:
    """Return probabilities and embedding of images."""
    *layers, last = model.children()
    probabilities, embeddings = [], []
    with torch.no_grad():
        for part in torch.arange(len(images)).split(500):
            embedding = nn.Sequential(*layers)(images.floats(part))
            embeddings.append(embedding)
            probabilities.append(last(embedding).double().softmax(1))
    return torch.cat(probabilities), torch.cat(embeddings)


def out_of_fold(raw: RawData, images: ImageSet, folds: int, seed: int) -> Tensor:
    """Return the probabilities of every image by a network that was not trained on it."""
    fold = torch.randperm(len(images), generator=generator(seed, "folds")) % folds
    probabilities = torch.zeros(len(images), 10, dtype=torch.float64)
    for number in range(folds):
        (*_, model) = fit(raw, images[fold != number], seed + number)
        probabilities[fold == number] = outputs(model, images[fold == number])[0]
    return probabilities


def quality(score: np.ndarray, is_flipped: np.ndarray) -> tuple[float, float]:
    """Return AUROC, and precision at the number of flipped labels; the order of equal scores is that of the images."""
    order = np.argsort(-score, kind="stable")
    found, flipped = is_flipped[order], int(is_flipped.sum())
    # the sum of ranks, as of Mann and Whitney: the number of pairs in which the flipped label comes first
    correct = np.cumsum(found)[~found].sum()
    return float(correct / flipped / (len(found) - flipped)), float(found[:flipped].mean())


def differences(score: np.ndarray, other: np.ndarray, is_flipped: np.ndarray) -> dict[str, list[float]]:
    """Return 95% intervals of the paired differences of both measures, from resampled images."""
    draws = np.random.default_rng(0)
    resampled = []
    for _ in range(RESAMPLES):
        chosen = np.sort(draws.integers(0, len(score), len(score)))
        pair = [quality(values[chosen], is_flipped[chosen]) for values in (score, other)]
        resampled.append(np.subtract(*pair))
    low, high = np.percentile(resampled, [2.5, 97.5], axis=0)
    return {"auroc_difference": [low[0], high[0]], "precision_difference": [low[1], high[1]]}


def own(
    probabilities: Tensor, labels: Tensor, truth: Tensor, embedding: Tensor | None
) -> tuple[dict[str, Any], np.ndarray]:
    """Measure `pellucid.label_errors`; return the results and the scores."""
    is_flipped, started = labels != truth, time.process_time()
    errors = pellucid.label_errors(probabilities, labels, embedding=embedding)
    seconds, score = time.process_time() - started, errors.score.numpy()
    auroc, precision = quality(score, is_flipped.numpy())
    suggested = (errors.suggested == truth)[is_flipped].double().mean().item()
    measured = {"auroc": auroc, "precision": precision, "suspects": errors.suspects, "suggested": suggested}
    return measured | {"seconds": seconds}, score


def peer(
    python: str, probabilities: Tensor, labels: Tensor, is_flipped: np.ndarray, score: np.ndarray
) -> dict[str, Any]:
    """Measure cleanlab in its own environment, and compare each of its scores with ours."""
    with tempfile.TemporaryDirectory() as folder:
        given, result = Path(folder) / "given.npz", Path(folder) / "result.json"
        np.savez(given, probabilities=probabilities.numpy(), labels=labels.numpy())
        subprocess.run([python, "-c", PEER, str(given), str(result)], check=True)
        measured = json.loads(result.read_text())
    rows = {}
    for method, entry in measured["scores"].items():
        other = np.array(entry["values"])
        auroc, precision = quality(other, is_flipped)
        rows[f"cleanlab, {method}"] = {
            "auroc": auroc,
            "precision": precision,
            "suspects": measured["suspects"],
            "seconds": entry["seconds"],
            **differences(score, other, is_flipped),
        }
    return rows


def measure(raw: RawData, kind: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return the results by source of probabilities and by method."""
    truth = raw.train.labels
    labels, is_flipped = flip(truth, kind, options.seed)
    images, passes, embedding = ImageSet(raw.train.pixels, labels), [], None
    for model in fit(raw, images, options.seed):
        probabilities, embedding = outputs(model, images)
        passes.append(probabilities)
    sources: dict[str, tuple[Tensor, Tensor | None]] = {
        "in-sample": (passes[-1], embedding),
        "recorded": (torch.stack(passes).mean(0), embedding),
        f"out-of-fold, {options.folds} folds": (out_of_fold(raw, images, options.folds, options.seed), None),
    }
    results: dict[str, Any] = {}
    for source, (probabilities, points) in sources.items():
        row, score = own(probabilities, labels, truth, None)
        rows = {"label_errors": row}
        if points is not None:
            rows["label_errors, with embedding"], _ = own(probabilities, labels, truth, points)
        if options.peer:
            rows |= peer(options.peer, probabilities, labels, is_flipped.numpy(), score)
        results[source] = rows
        for method, row in rows.items():
            print(kind, source, method, {name: np.round(value, 5).tolist() for name, value in row.items()}, flush=True)
    return results


def memorized(raw: RawData, kind: str, seed: int) -> dict[str, Any]:
    """Return the results of an MLP that has fitted 10,000 noisy labels, by the probabilities for these images."""
    few = raw.train[:MEMORIZED_IMAGES]
    labels, is_flipped = flip(few.labels, kind, seed)
    images = ImageSet(few.pixels, labels)
    (*_, model) = fit(raw, images, seed, network="mlp", epochs=MEMORIZED_EPOCHS)
    probabilities, embedding = outputs(model, images)
    accuracy = (probabilities.argmax(1) == labels).double().mean().item()
    fitted = (probabilities.argmax(1) == labels)[is_flipped].double().mean().item()
    rows = {
        "label_errors": own(probabilities, labels, few.labels, None)[0],
        "label_errors, with embedding": own(probabilities, labels, few.labels, embedding)[0],
    }
    print(kind, "memorized", accuracy, fitted, rows, flush=True)
    return {"training_accuracy": accuracy, "flipped_labels_fitted": fitted, **rows}


def misses(results: dict[str, Any]) -> list[str]:
    """Return the bounds that were missed, and the measures in which cleanlab is significantly better."""
    missed = []
    for kind, sources in results.items():
        for source, rows in sources.items():
            for method, row in rows.items():
                for name, bound in BOUNDS[kind].items():
                    if method.startswith("label_errors") and row[name] < bound:
                        missed.append(f"{kind}, {source}, {method}: {name} {row[name]:.4f} < {bound}")
                    if f"{name}_difference" in row and row[f"{name}_difference"][1] < -MARGIN:
                        missed.append(f"{kind}, {source}: {method} has the better {name}, {row[name]:.5f}")
    return missed


def main() -> int:
    """Measure, print and store the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder with MNIST's four .gz files")
    parser.add_argument("--peer", help="Python interpreter of an environment with cleanlab")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "label_errors.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        raw = DATASETS["mnist"](Request(Path(folder), mirrors=(options.data,)))
    results = {kind: measure(raw, kind, options) for kind in BOUNDS}
    missed = misses(results)
    facts = {"torch": torch.__version__, "folds": options.folds, "epochs": EPOCHS, "flipped_share": FLIPPED_SHARE}
    facts |= {"resamples": RESAMPLES, "margin": MARGIN}
    overfitted = {kind: memorized(raw, kind, options.seed) for kind in BOUNDS}
    record = {**facts, "bounds": BOUNDS, "results": results, "memorized": overfitted, "missed": missed}
    options.json.write_text(json.dumps(record, indent=1) + "\n")
    print("\n".join(missed) or "all bounds hold")
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
