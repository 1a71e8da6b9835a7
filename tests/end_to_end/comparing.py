"""Compare two save folders, ignoring clock readings."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pellucid.training.checkpoint import unpack_state

__all__ = ["assert_equal_runs"]


def without_timing(value: Any) -> Any:
    """Return `value` without the keys `timing`, at any depth."""
    if isinstance(value, dict):
        return {key: without_timing(entry) for key, entry in value.items() if key != "timing"}
    return [without_timing(entry) for entry in value] if isinstance(value, list) else value


def assert_equal_runs(expected: Path, got: Path) -> None:
    """Assert that weights, checkpoint, recordings, metrics, manifest, numbers, pictures, arrays and projector are
    bit-identical."""
    kept = ("models/best.safetensors", "metrics.jsonl", "manifest.json")
    names = {name: list(folder_files(folder)) for name, folder in (("expected", expected), ("got", got))}
    assert names["expected"] == names["got"]
    for name in (*kept, *names["expected"]):
        assert_equal_files(expected / name, got / name)
    first, second = (unpack_state((folder / "models/last.ckpt").read_bytes()) for folder in (expected, got))
    assert replace(first.progress, seconds=0) == replace(second.progress, seconds=0)
    for part in ("model", "optimizer", "schedule", "recording"):
        assert_equal_states(getattr(first, part), getattr(second, part), part)
    records = [without_timing(json.loads((folder / "run.json").read_text())) for folder in (expected, got)]
    for record in records:
        for changing in ("command", "config", "git_revision"):
            record.pop(changing)
    assert records[0] == records[1]
    assert shown_in_tensorboard(expected) == shown_in_tensorboard(got)


def folder_files(folder: Path) -> list[str]:
    parts = ("plots", "errors", "recordings", "logs/projector")
    checkpoints = [str(path.relative_to(folder)) for path in (folder / "models").glob("epoch_*")]
    return sorted(
        [*checkpoints, *(str(path.relative_to(folder)) for part in parts for path in (folder / part).rglob("*.*"))]
    )


def assert_equal_files(expected: Path, got: Path) -> None:
    if expected.suffix in (".json", ".jsonl"):
        contents = [
            [without_timing(json.loads(line)) for line in path.read_text().splitlines()]
            if path.suffix == ".jsonl"
            else without_timing(json.loads(path.read_text()))
            for path in (expected, got)
        ]
        assert contents[0] == contents[1], expected
    elif expected.suffix == ".npz":
        with np.load(expected) as first, np.load(got) as second:
            assert first.files == second.files
            for name in first.files:
                assert first[name].tobytes() == second[name].tobytes(), (expected, name)
    else:
        assert expected.read_bytes() == got.read_bytes(), expected


def assert_equal_states(expected: Any, got: Any, place: str) -> None:
    """Assert that nested mappings and lists are equal, with bit-identical tensors."""
    assert type(expected) is type(got), place
    if isinstance(expected, Mapping):
        assert list(expected) == list(got), place
        for key in expected:
            assert_equal_states(expected[key], got[key], f"{place}.{key}")
    elif isinstance(expected, list | tuple):
        assert len(expected) == len(got), place
        for number, pair in enumerate(zip(expected, got, strict=True)):
            assert_equal_states(*pair, f"{place}.{number}")
    elif isinstance(expected, torch.Tensor):
        assert (expected.dtype, expected.shape) == (got.dtype, got.shape), place
        assert expected.numpy().tobytes() == got.numpy().tobytes(), place
    else:
        assert expected == got, place


def shown_in_tensorboard(folder: Path) -> dict[str, Any]:
    """Return the steps and values of every run and tag, as TensorBoard shows them."""
    shown: dict[str, Any] = {}
    for run in (".", "train", "validation", "test"):
        events = EventAccumulator(str(folder / "logs" / run), size_guidance={"images": 0, "scalars": 0})
        events.Reload()
        tags = events.Tags()
        for tag in tags["scalars"]:
            shown[f"{run}/{tag}"] = [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in tags["images"]:
            shown[f"{run}/{tag}"] = [(event.step, event.encoded_image_string) for event in events.Images(tag)]
    return shown
