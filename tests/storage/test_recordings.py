"""Recordings on disk: a round trip, and damaged or missing files."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pellucid.core.errors import SaveError
from pellucid.storage.recordings import Recorded, write_recording
from pellucid.storage.store import Store
from pellucid.training.recording import Recording

LABELS = torch.tensor([0, 1, 2, 1, 0])


def recording(epoch: int, *, classes: int | None = 3, moments: int = 2) -> Recording:
    draws = torch.Generator().manual_seed(epoch)
    distributions = None if classes is None else torch.rand(moments, 3, classes, generator=draws).half()
    return Recording(
        epoch=epoch,
        steps=4,
        probabilities=torch.rand(5, generator=draws).half(),
        predictions=torch.randint(3, (5,), generator=draws).int(),
        sample=torch.tensor([0, 2, 4], dtype=torch.int32),
        moments=torch.tensor([2, 4][:moments], dtype=torch.int32),
        sample_probabilities=torch.rand(moments, 3, generator=draws).half(),
        sample_predictions=torch.randint(3, (moments, 3), generator=draws).int(),
        sample_distributions=distributions,
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path)
    for epoch in (1, 2):
        write_recording(store, recording(epoch), LABELS)
    return store


def test_arrays_of_all_epochs(store: Store) -> None:
    recorded, parts = Recorded(store), [recording(epoch) for epoch in (1, 2)]
    recorded.check(2)
    assert recorded.epochs == (1, 2)
    assert recorded.labels.tolist() == LABELS.tolist()
    assert recorded.sample.tolist() == [0, 2, 4]
    assert recorded.moments.tolist() == [0.5, 1.0, 1.5, 2.0]
    assert torch.equal(recorded.probabilities, torch.stack([one.probabilities for one in parts]).float())
    assert torch.equal(recorded.predictions, torch.stack([one.predictions for one in parts]))
    assert torch.equal(recorded.sample_probabilities, torch.cat([one.sample_probabilities for one in parts]).float())
    assert torch.equal(recorded.sample_predictions, torch.cat([one.sample_predictions for one in parts]))
    assert recorded.sample_distributions is not None
    assert recorded.sample_distributions.shape == (4, 3, 3)


def test_distributions_are_optional(tmp_path: Path) -> None:
    write_recording(Store(tmp_path), recording(1, classes=None), LABELS)
    assert Recorded(Store(tmp_path)).sample_distributions is None


def test_missing_epochs_are_named(store: Store) -> None:
    with pytest.raises(SaveError, match=r"not recorded in epoch 3; runs of earlier versions"):
        Recorded(store).check(3)
    (store.folder / "recordings/epoch_001.npz").unlink()
    with pytest.raises(SaveError, match=r"not recorded in epochs 1, 3, 4, 5, 6 …; runs"):
        Recorded(store).check(9)
    (store.folder / "recordings/epoch_002.npz").unlink()
    with pytest.raises(SaveError, match="holds no recordings"):
        _ = Recorded(store).probabilities


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": None}, "the array labels is missing"),
        ({"probabilities": np.zeros(4, np.float16)}, r"probabilities has shape \(4,\), expected \(5,\)"),
        ({"probabilities": np.zeros(5, np.int32)}, "probabilities has dtype int32"),
        (
            {"sample_predictions": np.zeros((1, 3), np.int32)},
            r"sample_predictions has shape \(1, 3\), expected \(2, 3\)",
        ),
        ({"sample_distributions": np.zeros((2, 2, 3), np.float16)}, "sample_distributions has shape"),
        ({"sample": np.array([0, 2, 5], np.int32)}, "its sample has indices outside 0…4"),
        ({"sample": np.array([0, 1, 4], np.int32)}, "its sample differ from those of epoch 1"),
        ({"sample_distributions": np.zeros((2, 3, 3), "U5")}, "sample_distributions has dtype <U5"),
        ({"labels": np.array([0, 1, 2, 1, -1], np.int32)}, "its labels go down to -1"),
        ({"predictions": np.full(5, 2**40)}, "predictions has numbers beyond 32 bits"),
        ({"moments": np.array([4, 2], np.int32)}, "its moments are not in order within 0…4"),
        ({"moments": np.array([2, 9], np.int32)}, "its moments are not in order within 0…4"),
        ({"steps": np.array(0)}, "steps is 0"),
        ({"steps": np.array(5)}, "its steps differ from those of epoch 1"),
    ],
)
def test_damaged_arrays_are_refused(changes: dict[str, np.ndarray | None], message: str, store: Store) -> None:
    path = store.folder / "recordings/epoch_002.npz"
    with np.load(path) as arrays:
        content = {name: arrays[name] for name in arrays.files}
    np.savez(path, **{name: one for name, one in (content | changes).items() if one is not None})
    with pytest.raises(SaveError, match=rf"epoch_002\.npz cannot be used: {message}"):
        Recorded(store).check(2)


def test_truncated_file_is_refused(store: Store) -> None:
    path = store.folder / "recordings/epoch_002.npz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(SaveError, match=r"epoch_002\.npz cannot be used: damaged or not an \.npz file"):
        _ = Recorded(store).moments


def test_recordings_are_moved_aside_with_their_run(store: Store) -> None:
    store.write_run({"timing": {"started": "2026-01-31T12:00:00Z"}})
    target = store.move_previous_run()
    assert target is not None
    assert Recorded(Store(target)).epochs == (1, 2)
    assert store.recorded_epochs() == []


def rewrite(path: Path, **changes: np.ndarray) -> None:
    with np.load(path) as arrays:
        content = {name: arrays[name] for name in arrays.files}
    np.savez(path, **content | changes)


def test_numbers_of_other_sizes_and_other_arrays_are_read(store: Store) -> None:
    expected = Recorded(store).probabilities
    path = store.folder / "recordings/epoch_002.npz"
    rewrite(
        path,
        probabilities=expected[1].numpy().astype(">f4"),
        labels=LABELS.numpy().astype(">i8"),
        note=np.array(["text"]),
    )
    recorded = Recorded(store)
    assert torch.equal(recorded.probabilities, expected)
    assert recorded.labels.tolist() == LABELS.tolist()


def test_epochs_with_other_classes_are_refused(store: Store) -> None:
    rewrite(store.folder / "recordings/epoch_002.npz", sample_distributions=np.zeros((2, 3, 4), np.float16))
    with pytest.raises(SaveError, match="differ in their numbers of classes, 3 to 4"):
        _ = Recorded(store).sample_distributions
