"""The native library: where it comes from, and what happens when something is in the way."""

import ctypes
import logging
import multiprocessing
import os
import shlex
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import pellucid
from pellucid.errors import BuildError
from pellucid.jacobians._native import build, cache, compiler

LARGE, SMALL = 10 * build.REPAID_SECONDS, 0.1 * build.REPAID_SECONDS
SOURCE = '#include <cstdint>\nextern "C" int64_t pellucid_abi(void) {{ return {}; }}\n'

needs_fork = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="there is no fork here")


class Machine:
    """A cache folder, a small kernel that compiles quickly, and a compiler that counts its calls."""

    def __init__(self, folder: Path, compiler: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.compiler, self._patch = folder, compiler, monkeypatch
        self.cache = folder / "cache" / "native"
        self.source = folder / "kernel.cpp"
        self.source.write_text(SOURCE.format(build.ABI))
        monkeypatch.setattr(build, "SOURCE", self.source)
        monkeypatch.setenv("PELLUCID_NATIVE", "1")
        monkeypatch.setenv("PELLUCID_CACHE", str(folder / "cache"))
        self.set_compiler(f'exec {shlex.quote(compiler)} "$@"')
        self.restart()

    def set_compiler(self, script: str) -> None:
        """Let `CXX` name a shell script that first counts the call."""
        path = self.folder / "counting compiler"
        path.write_text(f"#!/bin/sh\necho $$ >> {shlex.quote(str(self.folder / 'calls'))}\n{script}\n")
        path.chmod(0o755)
        self._patch.setenv("CXX", str(path))

    def restart(self) -> None:
        """Forget what this process has loaded, as a new process would."""
        self._patch.setattr(build, "_state", build._State())

    def calls(self) -> list[int]:
        """Return the process ids of all calls of the compiler."""
        path = self.folder / "calls"
        return list(map(int, path.read_text().split())) if path.exists() else []

    def libraries(self) -> list[Path]:
        return sorted(self.cache.glob("*.so"))

    def leftovers(self) -> list[str]:
        """Return the names of all files in the cache but libraries and the lock."""
        names = (path.name for path in self.cache.iterdir() if path.suffix != ".so")
        return [name for name in names if name != ".lock"]


@pytest.fixture
def machine(tmp_path: Path, compiler: str, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, compiler, monkeypatch)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def in_child(work: Callable[[], object]) -> multiprocessing.process.BaseProcess:
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    return child


def test_the_kernel_has_the_version_that_is_expected(native: ctypes.CDLL) -> None:
    assert native.pellucid_abi() == build.ABI
    assert "kernel.cpp" in str(build.SOURCE)


def test_a_library_is_built_once_and_then_found(machine: Machine) -> None:
    path = pellucid.build_native()
    assert [path] == machine.libraries()
    assert machine.leftovers() == []
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(machine.cache.stat().st_mode) == 0o700
    first = build.library()
    assert first is not None
    assert first.pellucid_abi() == build.ABI
    assert pellucid.build_native() == build.compiled() == path
    machine.restart()
    assert build.library() is first
    assert build.library_for(SMALL) is first
    assert len(machine.calls()) == 1


def test_force_compiles_again(machine: Machine) -> None:
    path = pellucid.build_native()
    path.rename(older := path.with_name(path.name[:-6] + "000.so"))  # of another version of the compiler
    pellucid.build_native(force=True)
    assert len(machine.calls()) == 2
    assert machine.libraries() == [path]
    assert not older.exists()


def test_looking_for_a_library_starts_nothing(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler.subprocess, "Popen", lambda *_, **__: pytest.fail("a process was started"))
    assert build.library() is None
    assert build.library_for(SMALL) is None
    assert not machine.cache.exists()


def test_a_large_job_builds_the_library_for_large_jobs_only(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    assert build.library_for(SMALL) is None
    assert build.library_for(LARGE) is not None
    # equal calls get equal results, so a small job stays with what it was computed by before
    assert build.library_for(SMALL) is None
    assert build.library_for(LARGE) is not None
    assert len(machine.calls()) == 1
    [line] = warnings(caplog)
    assert "building the native Jacobian kernel" in line
    assert "\n" not in line
    machine.restart()
    assert build.library_for(SMALL) is not None


def test_a_library_of_another_process_is_found_by_large_jobs(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    assert build.library() is None
    build.compiled()  # as another process would, without a change of this one's state
    assert build.library() is None
    assert build.library_for(LARGE) is not None
    assert build.library_for(SMALL) is None
    assert len(machine.calls()) == 1
    assert warnings(caplog) == []  # nothing was built


@pytest.mark.parametrize("value", ["0", "false", "OFF"])
def test_a_variable_switches_everything_off(machine: Machine, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pellucid.build_native()
    monkeypatch.setenv("PELLUCID_NATIVE", value)
    assert build.library() is None
    assert build.library_for(LARGE) is None
    with pytest.raises(BuildError, match="PELLUCID_NATIVE"):
        pellucid.build_native()
    with pytest.raises(BuildError, match="PELLUCID_NATIVE"):
        build.compiled()


def test_the_key_depends_on_source_flags_and_cpu(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [build.compiled(), build.compiled(checked=True)]
    machine.source.write_text(machine.source.read_text() + "// changed\n")
    paths.append(build.compiled())
    monkeypatch.setattr(cache, "_cpu", lambda: "another CPU")
    paths.append(build.compiled())
    assert sorted(paths) == machine.libraries()
    assert len(machine.calls()) == len({path.name.partition("-")[0] for path in paths}) == 4


def test_the_cpu_is_told_by_its_instructions() -> None:
    assert len(cache._cpu()) > 5
    if Path("/proc/cpuinfo").exists():
        assert "processor" not in cache._cpu()  # not the number of a CPU


def test_only_the_newest_libraries_are_kept(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "KEPT", 3)
    paths = []
    for number in range(5):
        machine.source.write_text(SOURCE.format(build.ABI) + f"// {number}\n")
        paths.append(build.compiled())
        os.utime(paths[-1], (number, number))
    stale = machine.cache / ".pellucid-0.tmp"
    stale.write_bytes(b"from a process that was killed")
    os.utime(stale, (0, 0))
    machine.source.write_text(SOURCE.format(build.ABI) + "// last\n")
    assert sorted([*paths[-2:], build.compiled()]) == machine.libraries()
    assert machine.leftovers() == []


@pytest.mark.parametrize("bytes_left", [0, 1000, -1])
def test_a_truncated_library_is_never_loaded(
    machine: Machine, bytes_left: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = pellucid.build_native()
    content = path.read_bytes()
    path.unlink()  # a new file, since the old one is mapped into this process
    path.write_bytes(content[:bytes_left])
    path.chmod(0o700)
    machine.restart()
    with monkeypatch.context() as patch:
        patch.setattr(build, "load", lambda path: pytest.fail(f"{path} was loaded"))
        assert build.library() is None
    assert "is damaged" in warnings(caplog)[0]
    again = pellucid.build_native()
    assert machine.libraries() == [again]
    assert again.read_bytes()[:bytes_left] == content[:bytes_left]
    assert len(machine.calls()) == 2


@pytest.mark.parametrize("part", ["folder", "library"])
@pytest.mark.parametrize("threat", ["mode", "owner"])
def test_nothing_is_loaded_that_others_can_write(
    machine: Machine, part: str, threat: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = pellucid.build_native()
    machine.restart()
    endangered = path if part == "library" else machine.cache
    if threat == "mode":
        endangered.chmod(0o770)
    else:
        honest = cache.distrust
        monkeypatch.setattr(
            cache,
            "distrust",
            distrust := lambda it: honest(it) or ("belongs to another user" if it == endangered else None),
        )
        monkeypatch.setattr(build, "distrust", distrust)
    assert build.library() is None
    reason = "can be written by other users" if threat == "mode" else "belongs to another user"
    [line] = warnings(caplog)
    assert reason in line
    assert str(endangered) in line
    if part == "folder":
        with pytest.raises(BuildError, match=f"{reason}.*PELLUCID_CACHE"):
            pellucid.build_native()
        assert build.library_for(LARGE) is None
        assert warnings(caplog) == [line]  # once
    elif threat == "mode":  # replaced by one that this process has written
        assert stat.S_IMODE(pellucid.build_native().stat().st_mode) == 0o700
        assert len(machine.libraries()) == 1


def test_other_owners_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache.distrust(tmp_path) is None
    monkeypatch.setattr(os, "getuid", lambda: tmp_path.stat().st_uid + 1, raising=False)
    assert cache.distrust(tmp_path) == "belongs to another user"


def test_a_machine_without_a_compiler(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(machine.folder))
    with pytest.raises(BuildError, match=r"no C\+\+ compiler was found \(c\+\+, g\+\+, clang\+\+\).*Install one"):
        pellucid.build_native()
    assert build.library_for(LARGE) is None
    assert warnings(caplog) == []
    assert not machine.cache.exists()


@pytest.mark.parametrize(
    "value", ["c++; touch {}", "$(touch {})", "c++ -v", "`touch {}`", "c++ && touch {}", "/", "no"]
)
def test_only_one_executable_is_accepted_as_compiler(
    machine: Machine, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", value.format(machine.folder / "made"))
    with pytest.raises(BuildError, match="CXX is .*, which is not an executable file. Set it to"):
        pellucid.build_native()
    assert not (machine.folder / "made").exists()
    assert not machine.cache.exists()


def test_a_compiler_that_fails(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    machine.set_compiler("for line in 1 2 3 4 5 6 7 8 9; do echo $LC_ALL message $line >&2; done; exit 3")
    with pytest.raises(BuildError, match=r"failed with exit code 3:\n  C message 4\n(.*\n)*  C message 9$"):
        pellucid.build_native()
    assert machine.libraries() == machine.leftovers() == []
    # a job goes on without the library, and does not try again
    assert build.library_for(LARGE) is None
    assert build.library_for(LARGE) is None
    assert len(machine.calls()) == 2
    announced, failed = warnings(caplog)
    assert "building" in announced
    assert "continuing without the native Jacobian kernel" in failed


def test_a_full_disk(machine: Machine) -> None:
    machine.set_compiler(
        f'ulimit -f 1; exec {shlex.quote(machine.compiler)} "$@"'
    )  # the linker's file becomes too large
    with pytest.raises(BuildError, match="failed with exit code"):
        pellucid.build_native()
    assert machine.libraries() == machine.leftovers() == []


def test_a_compiler_that_never_ends_is_killed(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    survived = machine.folder / "survived"
    machine.set_compiler(f"(sleep 0.5; touch {shlex.quote(str(survived))}) & wait")
    monkeypatch.setattr(compiler, "SECONDS", 0.1)
    with pytest.raises(BuildError, match="did not finish within"):
        pellucid.build_native()
    time.sleep(0.6)
    assert not survived.exists()  # its child is gone, too
    assert machine.leftovers() == []


def test_an_interruption_while_the_compiler_starts_ends_it(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.set_compiler("exec sleep 60")
    started: list[subprocess.Popen] = []

    def start(*arguments: object, **options: object) -> subprocess.Popen:
        process = real(*arguments, **options)
        started.append(process)
        os.kill(os.getpid(), signal.SIGTERM)  # to any thread that does not block it
        time.sleep(0.2)
        return process

    def end(*_: object) -> None:
        raise SystemExit(1)

    real, before, is_over = subprocess.Popen, signal.signal(signal.SIGTERM, end), threading.Event()
    monkeypatch.setattr(subprocess, "Popen", start)
    other = threading.Thread(target=is_over.wait)
    other.start()
    try:
        with pytest.raises(SystemExit):
            build.compiled()
        assert signal.getsignal(signal.SIGTERM) is end
        assert started[0].poll() == -signal.SIGKILL
    finally:
        is_over.set()
        other.join()
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("int other() { return 0; }", "cannot be loaded: .*pellucid_abi"),
        ('int missing(); extern "C" int pellucid_abi() { return missing(); }', "cannot be loaded: .*missing"),
        (SOURCE.format(build.ABI + 1), "has version 2, expected 1; reinstall"),
        ("no C++", "failed with exit code 1"),
    ],
)
def test_a_library_that_cannot_be_used_is_not_kept(machine: Machine, source: str, problem: str) -> None:
    machine.source.write_text(source)
    with pytest.raises(BuildError, match=problem):
        pellucid.build_native()
    assert machine.libraries() == machine.leftovers() == []


def test_an_unwritable_folder(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PELLUCID_CACHE", str(machine.source))  # a file
    with pytest.raises(BuildError, match="cannot be written to .*Not a directory.*PELLUCID_CACHE"):
        pellucid.build_native()
    assert build.library_for(SMALL) is None
    assert warnings(caplog) == []
    assert build.library_for(LARGE) is None
    assert len(warnings(caplog)) == 1
    monkeypatch.setenv("PELLUCID_CACHE", str(machine.folder / "cache"))
    monkeypatch.setattr(Path, "touch", lambda *_, **__: (_ for _ in ()).throw(OSError(30, "Read-only file system")))
    with pytest.raises(BuildError, match=r"cannot be written to .*native: Read-only file system"):
        pellucid.build_native()
    assert machine.calls() == []


def test_a_missing_source(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    pellucid.build_native()
    machine.source.unlink()
    machine.restart()
    assert build.library() is None
    assert "kernel.cpp cannot be read: No such file or directory; reinstall pellucid." in warnings(caplog)[0]


def test_a_file_system_without_locks(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    assert pellucid.build_native().exists()


@needs_fork
def test_processes_that_start_together_compile_once(machine: Machine) -> None:
    machine.set_compiler(f'sleep 0.3; exec {shlex.quote(machine.compiler)} "$@"')
    children = [in_child(lambda: build.library_for(LARGE).pellucid_abi()) for _ in range(3)]  # type: ignore[union-attr]
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0, 0, 0]
    assert len(machine.calls()) == 1
    assert build.library() is not None


@needs_fork
def test_a_process_killed_while_compiling_blocks_nobody(machine: Machine) -> None:
    machine.set_compiler("sleep 1000")
    child = in_child(pellucid.build_native)
    while not machine.calls():
        assert child.is_alive()
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    machine.set_compiler(f'exec {shlex.quote(machine.compiler)} "$@"')
    try:
        assert build.library() is None
        assert [pellucid.build_native()] == machine.libraries()
    finally:
        os.killpg(machine.calls()[0], signal.SIGKILL)


@needs_fork
def test_children_use_and_build_the_library(machine: Machine) -> None:
    assert build.library_for(LARGE) is not None
    child = in_child(lambda: build.library_for(LARGE).pellucid_abi())  # type: ignore[union-attr]
    child.join(60)
    assert child.exitcode == 0
    machine.restart()
    machine.source.write_text(machine.source.read_text() + "// changed\n")
    assert build.library() is None
    child = in_child(lambda: build.library_for(LARGE).pellucid_abi())  # type: ignore[union-attr]
    child.join(60)
    assert child.exitcode == 0
    assert build.library_for(LARGE) is not None
    assert len(machine.calls()) == 2


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"PELLUCID_CACHE": "/somewhere", "XDG_CACHE_HOME": "/xdg"}, "/somewhere/native"),
        ({"XDG_CACHE_HOME": "/xdg"}, "/xdg/pellucid/native"),
        ({"XDG_CACHE_HOME": "not/absolute"}, "/home/me/.cache/pellucid/native"),
    ],
)
def test_where_the_cache_is(variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("HOME", "/home/me")
    for name in ("PELLUCID_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert str(cache.cache_folder()) == expected


def test_each_architecture_has_its_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = {}
    for machine in ("x86_64", "AMD64", "arm64", "aarch64", "riscv64"):
        monkeypatch.setattr("platform.machine", lambda name=machine: name)
        flags[machine] = [flag for flag in compiler.compiler_flags() if "native" in flag]
    assert flags == {
        "x86_64": ["-march=native"],
        "AMD64": ["-march=native"],
        "arm64": ["-mcpu=native"],
        "aarch64": ["-mcpu=native"],
        "riscv64": [],
    }
