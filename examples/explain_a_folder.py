"""Explain a folder of images with two processes, kill them halfway, and finish with one.

    python examples/explain_a_folder.py [FOLDER] [IMAGES]

Writes IMAGES small digits (default: 2,000), a network and its explanations to FOLDER (default: save/example_folder).
The finished store is compared with one that was never interrupted: they are equal, byte for byte.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import nn

from pellucid.cli import main as pellucid
from pellucid.models import build_model


def write_images(folder: Path, count: int) -> None:
    """Write noisy digits of 8×8 pixels, in a folder per class."""
    digits, draws = load_digits(), np.random.default_rng(0)
    for label in range(10):
        Path(folder, "images", str(label)).mkdir(parents=True, exist_ok=True)
    for index in range(count):
        digit = index % len(digits.target)
        pixels = digits.images[digit] * 15 + draws.integers(0, 16, (8, 8))
        path = Path(folder, "images", str(digits.target[digit]), f"{index:06}.png")
        Image.fromarray(pixels.astype(np.uint8)).save(path)


def network() -> nn.Module:
    """Build the network for gray images of 8×8 pixels."""
    return build_model("small_cnn", (1, 8, 8), 10)


def train(weights: Path) -> None:
    """Train the network on digits without noise, and save its weights."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] * 15 / 255
    torch.manual_seed(0)
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), 0.003)
    for part in torch.randperm(5 * len(images)).remainder(len(images)).split(64):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[part]), torch.tensor(digits.target)[part]).backward()
        optimizer.step()
    save_file({name: one.contiguous() for name, one in model.state_dict().items()}, weights)


def command(store: Path, shard: int) -> list[str]:
    """Return the arguments of `pellucid` that explain the folder of images beside a store."""
    flags = {
        "--dataset": f"folder:{store.parent / 'images'}",
        "--model": "explain_a_folder:network",
        "--weights": store.parent / "weights.safetensors",
        "--methods": "gradient,lrp.epsilon",
        "--shard": shard,
        "--threads": 1,
        "--out": store,
    }
    return ["explain", *(str(part) for pair in flags.items() for part in pair)]


def complete(store: Path) -> int:
    """Return the number of complete shards."""
    return len(list((store / "completed").glob("c.*[0-9]")))


def start_and_kill(arguments: list[str], store: Path, after: int) -> None:
    """Explain with two processes, and kill both when some shards are complete."""
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    jobs = []
    for rank in ("0", "1"):
        # as torchrun sets them
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "PYTHONPATH": os.pathsep.join(paths)}
        jobs.append(subprocess.Popen([sys.executable, "-m", "pellucid", *arguments], env=os.environ | place))  # noqa: S603
    while complete(store) < after and any(job.poll() is None for job in jobs):
        time.sleep(0.01)
    for job in jobs:
        job.kill()
        job.wait()


def contents(store: Path) -> dict[str, object]:
    """Return the files of a store by name, without what killed processes left and when the store was begun."""
    files: dict[str, object] = {
        path.relative_to(store).as_posix(): path.read_bytes()
        for path in store.rglob("*")
        if path.is_file() and path.suffix != ".partial"
    }
    description = json.loads(Path(store, "zarr.json").read_text())
    del description["attributes"]["provenance"]
    return files | {"zarr.json": description}


def main(folder: Path, count: int) -> int:
    """Explain, kill, finish and compare; return the exit code."""
    write_images(folder, count)
    train(folder / "weights.safetensors")
    shard = max(8, min(500, count // 50))
    shards = -(-count // shard)
    interrupted, undisturbed = folder / "maps.zarr", folder / "undisturbed.zarr"
    begun = time.perf_counter()
    start_and_kill(command(interrupted, shard), interrupted, shards // 2)
    print(f"Killed two processes after {time.perf_counter() - begun:.1f} s.")
    print(f"{complete(interrupted)} of {shards} shards were complete.")
    for store in (interrupted, undisturbed):
        begun = time.perf_counter()
        if pellucid(command(store, shard)):
            return 1
        print(f"One process, {store.name}: {time.perf_counter() - begun:.1f} s.")
    first, second = contents(interrupted), contents(undisturbed)
    print(f"{sum(first.get(name) == content for name, content in second.items())} of {len(second)} files are equal.")
    return 0 if first == second else 1


if __name__ == "__main__":
    arguments = sys.argv[1:]
    sys.exit(main(Path(arguments[0] if arguments else "save/example_folder"), int((arguments[1:] or [2000])[0])))
