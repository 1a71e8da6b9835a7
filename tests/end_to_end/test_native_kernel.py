"""Runs with the native kernel: serial, parallel to training, interrupted and resumed, all with the same bits."""

import json
import stat
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep

import numpy as np
import pytest
from comparing import assert_equal_runs

from pellucid.cli import main
from pellucid.jacobians._native import build
from pellucid.run import native, pipeline, schedule

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="hooks run in the main process on this platform"),
]

RUN = (
    "run --dataset digits --epochs 1 --limit-train 60 --limit-test 20 --batch-size 32 --threads 1 --classes 0,1 "
    "--methods gradient --seed 3 --hooks jacobian_classes,jacobian_classes_all,gallery"
).split()


@pytest.fixture(scope="module")
def compiled(compiler) -> Path:
    """The library in the cache of all tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PELLUCID_NATIVE", raising=False)
        return build.compiled()


@pytest.fixture
def large_run(compiled, tmp_path, monkeypatch) -> Path:
    """A cache without the library, a compiler that takes two seconds, and runs that are large enough to use it."""
    script = tmp_path / "compiler"
    script.write_text(f'#!/bin/sh\nfor last; do :; done\nsleep 2\nexec cp {compiled} "$last"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CXX", str(script))
    monkeypatch.setenv("PELLUCID_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PELLUCID_NATIVE", raising=False)
    monkeypatch.setattr(native, "REPAID_DERIVATIVES", 1)
    monkeypatch.setattr(native, "_can_fork", lambda: True)
    monkeypatch.setattr(pipeline, "worker_count", lambda *_: 1)
    return script


@pytest.fixture(autouse=True)
def first_look(monkeypatch) -> None:
    """Let the process look into the cache as if for the first time."""
    monkeypatch.setattr(build, "_state", build._State())
    build._library_of_run.cache_clear()
    yield
    build._library_of_run.cache_clear()


def kernel_of(save: Path) -> str | None:
    return json.loads((save / "run.json").read_text())["jacobian_kernel"]


def arrays_of(save: Path) -> dict[str, np.ndarray]:
    files = sorted((save / "plots").rglob("*.npz"))
    return {f"{path.relative_to(save)} {name}": np.load(path)[name] for path in files for name in np.load(path).files}


def commands() -> Iterator[bytes]:
    """Yield the command lines of all processes."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended meanwhile
            yield path.read_bytes()


def interrupt_and_resume(save: Path, monkeypatch, *, off: bool = False) -> None:
    """Run up to the end hooks, and the rest in another run; `off` keeps the kernel from the first of them."""

    def stop(_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(schedule.Schedule, "finish", stop)
        if off:
            patch.setenv("PELLUCID_NATIVE", "0")
        assert main([*RUN, "--serial", "--save", str(save)]) == 130
    assert main(["run", "--resume", "--save", str(save)]) == 0


def test_runs_in_all_orders_have_the_same_bits(large_run, tmp_path, monkeypatch, capsys) -> None:
    assert main([*RUN, "--save", str(tmp_path / "parallel")]) == 0
    assert "Compiling the native Jacobian kernel" in capsys.readouterr().out
    assert kernel_of(tmp_path / "parallel") == "native"
    build._state = build._State()  # as another process, which finds the library
    assert main([*RUN, "--serial", "--save", str(tmp_path / "serial")]) == 0
    assert "Compiling" not in capsys.readouterr().out
    assert_equal_runs(tmp_path / "parallel", tmp_path / "serial")

    interrupt_and_resume(tmp_path / "resumed", monkeypatch)
    assert_equal_runs(tmp_path / "serial", tmp_path / "resumed")

    # a run that began without the kernel goes on without it, and has the same numbers up to rounding
    with monkeypatch.context() as patch:
        patch.setenv("PELLUCID_NATIVE", "0")
        assert main([*RUN, "--serial", "--save", str(tmp_path / "generic")]) == 0
    interrupt_and_resume(tmp_path / "resumed-generic", monkeypatch, off=True)
    assert kernel_of(tmp_path / "generic") == "generic"
    assert_equal_runs(tmp_path / "generic", tmp_path / "resumed-generic")
    one, other = arrays_of(tmp_path / "serial"), arrays_of(tmp_path / "generic")
    assert list(one) == list(other)
    for name, array in one.items():
        if array.dtype.kind == "f":
            np.testing.assert_allclose(other[name], array, rtol=1e-4, atol=1e-5 * float(np.abs(array).max()))
    assert any((other[name] != array).any() for name, array in one.items())


def test_run_goes_on_if_the_compiler_fails(large_run, tmp_path, capsys) -> None:
    large_run.write_text("#!/bin/sh\nsleep 1\necho 'error: no memory' >&2\nexit 1\n")
    assert main([*RUN, "--save", str(tmp_path / "failing")]) == 0
    out = capsys.readouterr().out
    assert out.count("Continuing without the native Jacobian kernel") == 1
    assert "no memory" in out
    assert kernel_of(tmp_path / "failing") == "generic"
    assert not json.loads((tmp_path / "failing/manifest.json").read_text())["failures"]


def test_interrupted_run_ends_the_build(large_run, tmp_path, monkeypatch) -> None:
    large_run.write_text("#!/bin/sh\nsleep 60\n")
    monkeypatch.setattr(schedule.Schedule, "add_epoch", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main([*RUN, "--save", str(tmp_path / "stopped")]) == 130
    assert kernel_of(tmp_path / "stopped") is None
    deadline = monotonic() + 10  # a killed process stays in the list until it is reaped
    while is_running := any(str(large_run).encode() in command for command in commands()):
        if monotonic() > deadline:
            break
        sleep(0.1)
    assert not is_running
    assert not list((tmp_path / "cache").rglob("*.tmp"))
