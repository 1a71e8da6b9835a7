"""The native kernel in a run: decided once, recorded, and built in a child process that leaves nothing behind."""

import importlib
import json
import multiprocessing
import os
import signal
import stat
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import pellucid
from pellucid.hooks import HOOKS
from pellucid.jacobians._native import build
from pellucid.jacobians._native.build import library_for
from pellucid.jacobians._native.decision import decision
from pellucid.run import native
from pellucid.run.native import Kernel, repays
from pellucid.storage.store import Store

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks on this platform")

CORRECT = """#!/bin/sh
for last; do :; done
exec cp {library} "$last"
"""
"""A compiler that takes no time."""
WRONG = "#!/bin/sh\necho 'kernel.cpp:7: error: expected ;' >&2\nexit 1\n"
ENDLESS = "#!/bin/sh\ntouch {marker}\nsleep 60\n"


@pytest.fixture(scope="module")
def compiled(compiler) -> Path:
    """The library in the cache of all tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PELLUCID_NATIVE", raising=False)
        return build.compiled()


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch) -> None:
    """A cache without the library, in a process that has not looked yet and may fork."""
    monkeypatch.setenv("PELLUCID_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PELLUCID_NATIVE", raising=False)
    monkeypatch.setattr(build, "_state", build._State())
    build._library_of_run.cache_clear()
    monkeypatch.setattr(native, "_can_fork", lambda: True)
    yield
    build._library_of_run.cache_clear()
    assert not multiprocessing.active_children()
    assert not list((tmp_path / "cache").rglob("*.tmp"))


@pytest.fixture
def store(tmp_path) -> Store:
    folder = Store(tmp_path / "save")
    folder.begin({"kind": "run"})
    return folder


@pytest.fixture
def compile_with(tmp_path, monkeypatch):
    def use(script: str, **places: object) -> None:
        path = tmp_path / "compiler"
        path.write_text(script.format(**places))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("CXX", str(path))

    return use


def answer_of_child() -> bool:
    """Return what a forked process decides, which then also loads the library if there is one."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        code = 1
        try:
            found = library_for(0.0) is not None
            assert decision() is found
            os.write(writing, bytes([found]))
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    assert os.waitpid(child, 0)[1] == 0
    with os.fdopen(reading, "rb") as pipe:
        return bool(pipe.read()[0])


def recorded(store: Store) -> str | None:
    return store.run().get("jacobian_kernel")


def test_all_processes_use_the_library_that_is_built_in_the_background(compiled, compile_with, store, capsys) -> None:
    compile_with(CORRECT, library=compiled)
    with Kernel(store, None, builds=True) as kernel:
        assert recorded(store) is None
        assert answer_of_child() is True
        kernel.record()
        assert recorded(store) == "native"
        assert library_for(0.0) is not None
    # what a run has built is not used by small jobs outside of it, which were computed without it before
    assert decision() is None
    assert library_for(0.0) is None
    assert capsys.readouterr().out.count("Compiling the native Jacobian kernel") == 1


def test_library_in_the_cache_is_used_without_a_build(compiled, compile_with, store, capsys) -> None:
    compile_with(CORRECT, library=compiled)
    build.compiled()
    compile_with(WRONG)
    with Kernel(store, None) as kernel:
        assert recorded(store) == "native"
        assert kernel.is_native()
        assert answer_of_child() is True
    assert not capsys.readouterr().out


@pytest.mark.parametrize("forks", [True, False])
def test_compiler_that_fails_is_reported_in_one_line(forks, compile_with, store, monkeypatch, capsys) -> None:
    compile_with(WRONG)
    monkeypatch.setattr(native, "_can_fork", lambda: forks)
    with Kernel(store, None, builds=True) as kernel:
        assert kernel.is_native() is False
        assert answer_of_child() is False
        kernel.record()
        kernel.record()
    out = capsys.readouterr().out
    assert out.count("Continuing without the native Jacobian kernel") == 1
    assert "expected ;" in out
    assert recorded(store) == "generic"


def test_wrong_compiler_is_reported(store, monkeypatch, capsys) -> None:
    monkeypatch.setenv("CXX", "g++ -O3")
    with Kernel(store, None, builds=True) as kernel:
        assert not kernel.is_native()
    assert "CXX" in capsys.readouterr().out
    assert recorded(store) == "generic"


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_running(text: str) -> bool:
    commands = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            commands.append(path.read_bytes())
        except OSError:
            continue
    return any(text.encode() in command for command in commands)


def test_killed_build_leaves_the_generic_algorithms(compile_with, store, tmp_path, capsys) -> None:
    compile_with(ENDLESS, marker=tmp_path / "started")
    with Kernel(store, None, builds=True) as kernel:
        wait_for(tmp_path / "started")
        (child,) = multiprocessing.active_children()
        os.kill(child.pid, signal.SIGTERM)
        assert answer_of_child() is False
        assert kernel.is_native() is False
        kernel.record()
    assert "was killed" in capsys.readouterr().out
    assert recorded(store) == "generic"


def test_interrupted_run_ends_the_compiler_and_records_no_decision(compile_with, store, tmp_path) -> None:
    compile_with(ENDLESS, marker=tmp_path / "started")
    with pytest.raises(KeyboardInterrupt), Kernel(store, None, builds=True):
        wait_for(tmp_path / "started")
        raise KeyboardInterrupt
    assert recorded(store) is None
    if Path("/proc").is_dir():
        assert not is_running(str(tmp_path / "compiler"))


@pytest.mark.parametrize("reason", ["generic", "off", "gpu", "small"])
def test_generic_algorithms_need_no_build(reason, compiled, compile_with, store, monkeypatch, capsys) -> None:
    compile_with(CORRECT, library=compiled)
    if reason != "small":  # where the library would be found
        build.compiled()
    if reason == "off":
        monkeypatch.setenv("PELLUCID_NATIVE", "0")
    earlier = "generic" if reason == "generic" else None
    with Kernel(store, earlier, on_cpu=reason != "gpu", builds=reason != "small") as kernel:
        assert not kernel.is_native()
        assert library_for(1e9) is None
    assert recorded(store) == "generic"
    assert not capsys.readouterr().out


@pytest.mark.parametrize("reason", ["off", "compiler"])
def test_resumed_run_says_if_the_kernel_is_missing(reason, compile_with, store, monkeypatch, capsys) -> None:
    compile_with(WRONG)
    if reason == "off":
        monkeypatch.setenv("PELLUCID_NATIVE", "0")
    with Kernel(store, "native") as kernel:
        assert not kernel.is_native()
        kernel.record()
    out = " ".join(capsys.readouterr().out.split())
    assert out.count("The last bits of the remaining Jacobians may differ") == 1
    assert ("PELLUCID_NATIVE" if reason == "off" else "expected ;") in out


def test_resumed_run_builds_the_kernel_that_it_needs(compiled, compile_with, store, capsys) -> None:
    compile_with(CORRECT, library=compiled)
    with Kernel(store, "native") as kernel:
        assert kernel.is_native()
        kernel.record()
    assert recorded(store) == "native"
    assert "Notice" not in capsys.readouterr().out


def test_only_runs_with_many_derivatives_build() -> None:
    hooks = [HOOKS[name]() for name in ("confusion_matrix", "jacobian_classes", "jacobian_classes_all")]
    assert [hook.derivatives((10_000, 1, 28, 28), 10) for hook in hooks] == [0, 7_840_000, 78_400_000]
    # of many classes, only those drawn are computed
    assert hooks[1].derivatives((10_000, 3, 8, 8), 1000) == 1000 * 192 * 12
    assert repays(hooks, 2, (10_000, 1, 28, 28), 10)
    assert not repays(hooks[:2], 2, (10_000, 1, 28, 28), 10)
    assert repays(hooks[:2], 5, (10_000, 1, 28, 28), 10) is False
    assert repays(hooks[:2], 1000, (10_000, 1, 28, 28), 10)
    assert not repays(hooks, 10, (360, 1, 8, 8), 10)


def watched(save: Path, **options: object) -> tuple[dict, np.ndarray, bool]:
    """Watch an epoch of a network; return run.json, its Jacobians, and True if the kernel has computed them."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3200, 4)).eval()
    images, labels = torch.rand(12, 1, 12, 12), torch.arange(12) % 4
    runs: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        algorithm = importlib.import_module("pellucid.jacobians._algorithms.native")
        run = algorithm.run_kernel
        patch.setattr(algorithm, "run_kernel", lambda *rest: runs.append(1) or run(*rest))
        with pellucid.watch(model, (images, labels), save=save, hooks="jacobian_classes", **options) as watcher:
            watcher.epoch(1)
    path = save / "plots/jacobian_classes/epoch_001.npz"
    return json.loads((save / "run.json").read_text()), np.load(path)["mean_absolute_jacobian"], bool(runs)


@pytest.mark.slow
def test_watched_training_follows_the_cache_and_then_its_own_record(compiled, compile_with, tmp_path) -> None:
    compile_with(CORRECT, library=compiled)
    record, expected, is_native = watched(tmp_path / "one")
    # never compiled for a watched training, whose cost is bounded
    assert (record["jacobian_kernel"], is_native) == ("generic", False)
    build.compiled()
    build._state = build._State()
    record, maps, is_native = watched(tmp_path / "two")
    assert (record["jacobian_kernel"], is_native) == ("native", True)
    np.testing.assert_allclose(maps, expected, rtol=1e-5, atol=1e-6)
    record, maps, is_native = watched(tmp_path / "one", resume=True)
    assert (record["jacobian_kernel"], is_native) == ("generic", False)
    np.testing.assert_array_equal(maps, expected)


def test_build_that_is_ended_at_once_leaves_no_compiler(tmp_path, monkeypatch) -> None:
    """The child inherits a handler that only notes the signal, until it has its own."""
    script = tmp_path / "compiler_that_sleeps"
    script.write_text("#!/bin/sh\nsleep 60\n")
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    monkeypatch.delenv("PELLUCID_NATIVE", raising=False)
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        for _ in range(5):
            with native._Build():
                pass
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not is_running(str(script))
