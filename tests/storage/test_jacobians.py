"""Jacobians on disk: complete, resumable after any failure, and never mixed with another model or other images."""

import errno
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import pellucid
from pellucid.core.errors import BuildError, SaveError, ShapeError
from pellucid.jacobians import JacobianReport
from pellucid.jacobians._native import build
from pellucid.storage.sharded import Address

X = torch.rand(11, 1, 5, 5, generator=torch.Generator().manual_seed(0))


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(27, 4))


def loader(size: int = 4) -> DataLoader[Any]:
    return DataLoader(TensorDataset(X, torch.zeros(len(X))), batch_size=size)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".partial"  # left by a writer that was killed
    }


def stored(folder: Path) -> np.ndarray:
    return np.asarray(zarr.open_group(folder, mode="r")["jacobian"][:])


def test_the_array_holds_every_jacobian_in_order(tmp_path: Path) -> None:
    folder = pellucid.jacobian_to_disk(network(), loader(), tmp_path / "maps", chunk=3)
    expected = pellucid.jacobian(network(), X).numpy()
    np.testing.assert_allclose(stored(folder), expected, atol=1e-6)
    for consolidated in (True, False):
        array = zarr.open_group(folder, mode="r", use_consolidated=consolidated)["jacobian"]
        assert (array.shape, array.chunks) == ((11, 4, 1, 5, 5), (3, 4, 1, 5, 5))
        assert array.metadata.dimension_names == ("image", "class", "channel", "height", "width")
    marks = zarr.open_group(folder, mode="r")["completed"][:]
    assert len(set(marks)) == 4
    assert all(len(mark) == 64 for mark in marks)


def test_axes_of_other_shapes_are_numbered(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.Unflatten(1, (2, 2)))
    folder = pellucid.jacobian_to_disk(model, [torch.rand(3, 6)], tmp_path)
    array = zarr.open_group(folder, mode="r")["jacobian"]
    assert array.metadata.dimension_names == ("image", "output_0", "output_1", "input_0")
    np.testing.assert_allclose(array[0].reshape(4, 6), model[0].weight.detach().numpy())


def test_the_batch_size_of_the_loader_does_not_matter(tmp_path: Path) -> None:
    folders = [pellucid.jacobian_to_disk(network(), loader(n), tmp_path / str(n), chunk=3) for n in (1, 4, 11)]
    assert contents(folders[0]) == contents(folders[1]) == contents(folders[2])


@pytest.mark.parametrize("fault", range(1, 22))
def test_a_failure_at_any_write_can_be_resumed(fault: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = contents(pellucid.jacobian_to_disk(network(), loader(), tmp_path / "whole", chunk=3))
    writes = 0

    def failing(write: Any) -> Any:
        def count_and_write(*arguments: Any) -> Any:
            nonlocal writes
            writes += 1
            if writes == fault:
                raise KeyboardInterrupt
            return write(*arguments)

        return count_and_write

    with monkeypatch.context() as patch:
        for name in ("write", "create", "sync"):
            patch.setattr(Address, name, failing(getattr(Address, name)))
        with pytest.raises(KeyboardInterrupt):
            pellucid.jacobian_to_disk(network(), loader(), tmp_path / "maps", chunk=3)
    if (tmp_path / "maps" / "jacobian" / "zarr.json").is_file():
        partial = stored(tmp_path / "maps")
        np.testing.assert_allclose(partial, pellucid.jacobian(network(), X).numpy()[: len(partial)], atol=1e-6)
    assert contents(pellucid.jacobian_to_disk(network(), loader(), tmp_path / "maps", chunk=3)) == expected


def test_finished_chunks_are_not_recomputed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pellucid.jacobian_to_disk(network(), loader(), tmp_path, chunk=3)
    (tmp_path / "completed" / "c.2").unlink()
    from pellucid.storage import jacobians as jacobian_store

    sizes: list[int] = []
    compute = jacobian_store.jacobian_report

    def counting(model: nn.Module, x: torch.Tensor, **options: Any) -> JacobianReport:
        sizes.append(len(x))
        return compute(model, x, **options)

    monkeypatch.setattr(jacobian_store, "jacobian_report", counting)
    pellucid.jacobian_to_disk(network(), loader(), tmp_path, chunk=3)
    assert sizes == [1, 3]  # one image to learn the shape, and the missing chunk


def test_a_full_disk_is_reported_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 6:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(SaveError, match="disk is full.*repeat the call to continue"):
            pellucid.jacobian_to_disk(network(), loader(), tmp_path, chunk=3)
    assert not list(tmp_path.rglob("*.tmp"))
    folder = pellucid.jacobian_to_disk(network(), loader(), tmp_path, chunk=3)
    np.testing.assert_allclose(stored(folder), pellucid.jacobian(network(), X).numpy(), atol=1e-6)


@pytest.mark.parametrize("kilobytes", [16, 28, 40, 60])
def test_a_real_full_disk_is_reported_and_resumed(kilobytes: int, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no permission to mount a file system")
    try:
        with pytest.raises(SaveError, match="disk is full"):
            pellucid.jacobian_to_disk(network(), loader(), disk / "maps", chunk=1)
        if (disk / "maps" / "jacobian" / "zarr.json").is_file():
            partial = stored(disk / "maps")
            np.testing.assert_allclose(partial, pellucid.jacobian(network(), X).numpy()[: len(partial)], atol=1e-6)
        subprocess.run(["mount", "-o", "remount,size=10m", str(disk)], check=True)
        pellucid.jacobian_to_disk(network(), loader(), disk / "maps", chunk=1)
        undisturbed = pellucid.jacobian_to_disk(network(), loader(), tmp_path / "undisturbed", chunk=1)
        assert contents(disk / "maps") == contents(undisturbed)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


IMAGES = torch.rand(7, 1, 12, 12, generator=torch.Generator().manual_seed(0))


def large_network() -> nn.Module:
    """Build a network that the native kernel runs."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(1600, 20))


def interrupted() -> Iterator[torch.Tensor]:
    yield IMAGES[:4]
    raise KeyboardInterrupt


@pytest.mark.parametrize("first", ["native", "generic"])
def test_an_array_is_continued_with_the_kernel_or_without_it(
    first: str, native: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a process that started before the library was there
    late = build._State(has_looked=True)
    expected = {}
    for way in ("native", "generic"):
        with monkeypatch.context() as patch:
            if way == "generic":
                patch.setattr(build, "_state", late)
            expected[way] = contents(pellucid.jacobian_to_disk(large_network(), [IMAGES], tmp_path / way, chunk=2))
            if way == first:
                with pytest.raises(KeyboardInterrupt):
                    pellucid.jacobian_to_disk(large_network(), interrupted(), tmp_path / "maps", chunk=2)
    assert (tmp_path / "maps" / "completed" / "c.1").is_file()
    assert not (tmp_path / "maps" / "completed" / "c.2").exists()
    assert expected["native"]["jacobian/c.3.0.0.0.0"] != expected["generic"]["jacobian/c.3.0.0.0.0"]
    if first == "native":
        monkeypatch.setattr(build, "_state", late)
    folder = pellucid.jacobian_to_disk(large_network(), [IMAGES], tmp_path / "maps", chunk=2)
    assert contents(folder) == expected[first]
    assert zarr.open_group(folder, mode="r").attrs["native"] is (first == "native")


def test_an_array_is_not_continued_without_the_kernel_of_its_start(
    native: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyboardInterrupt):
        pellucid.jacobian_to_disk(large_network(), interrupted(), tmp_path, chunk=2)
    before = contents(tmp_path)
    monkeypatch.setenv("PELLUCID_NATIVE", "0")
    build._library_of_run.cache_clear()  # as in a new process
    with pytest.raises(BuildError, match=r"was started with the native kernel.*PELLUCID_NATIVE"):
        pellucid.jacobian_to_disk(large_network(), [IMAGES], tmp_path, chunk=2)
    assert contents(tmp_path) == before


def test_an_array_of_an_earlier_version_is_not_continued(tmp_path: Path) -> None:
    (tmp_path / ".zarray").write_text("{}")
    with pytest.raises(SaveError, match="earlier version of pellucid.*open_explanations"):
        pellucid.jacobian_to_disk(network(), loader(), tmp_path, chunk=3)
    assert contents(tmp_path) == {".zarray": b"{}"}


def test_another_model_other_images_and_other_folders_are_refused(tmp_path: Path) -> None:
    pellucid.jacobian_to_disk(network(), loader(), tmp_path / "maps", chunk=3)
    with pytest.raises(SaveError, match=r"other settings: model is .* there and .* here"):
        pellucid.jacobian_to_disk(network(1), loader(), tmp_path / "maps", chunk=3)
    with pytest.raises(SaveError, match="other settings: shard is 3 there and 4 here"):
        pellucid.jacobian_to_disk(network(), loader(), tmp_path / "maps", chunk=4)
    with pytest.raises(SaveError, match="images of shard 0 have changed"):
        pellucid.jacobian_to_disk(network(), [X.flip(0)], tmp_path / "maps", chunk=3)
    with pytest.raises(ShapeError, match="no images"):
        pellucid.jacobian_to_disk(network(), [], tmp_path / "none")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").write_text("precious")
    with pytest.raises(SaveError, match="contains other files"):
        pellucid.jacobian_to_disk(network(), loader(), tmp_path / "thesis")


def test_bfloat16_is_stored_as_float32(tmp_path: Path) -> None:
    folder = pellucid.jacobian_to_disk(network().bfloat16(), [X.bfloat16()], tmp_path)
    assert stored(folder).dtype == np.float32


def test_the_checksums_stay_those_of_earlier_versions(tmp_path: Path) -> None:
    """A store that was begun is only continued with the same checksums."""
    model = nn.Linear(3, 2)
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(torch.arange(value.numel()).reshape(value.shape) / 8)
    folder = pellucid.jacobian_to_disk(model, [torch.arange(12.0).reshape(4, 3)], tmp_path)
    group = zarr.open_group(folder, mode="r")
    assert group.attrs["model"] == "6584409b447abcd1661c6fe7c71b4bab6672e28180ceaec2fc25f5150161017e"
    assert group["completed"][0] == "5c56044f54b92830424b30ae346b4832339108c8e835136dc4ef5542efdab503"
