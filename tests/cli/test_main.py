"""The command line: names are checked before torch is imported, and errors have exit codes."""

import os
import subprocess
import sys
from importlib.metadata import version

import pytest
from rich.console import Console

import pellucid
from pellucid import cli
from pellucid.cli.main import COMMANDS
from pellucid.core.errors import DataError, TrainingError
from pellucid.training.interrupt import Terminated


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "cnm"], "no model 'cnm'; did you mean 'cnn'"),
        (["--dataset", "minst"], "no data set 'minst'; did you mean 'mnist'"),
        (["--hooks", "saliency,tnse"], "no hook 'tnse'; did you mean 'tsne'"),
        (["--methods", "gradient,lrp.epslon"], "no method 'lrp.epslon'; did you mean 'lrp.epsilon'"),
        (["--config", "absent.toml"], "cannot be read"),
        (["--epochs", "0"], "--epochs must be at least 1, got 0"),
        (["--epochs", "x"], "--epochs must be a whole number, at least 1, got 'x'."),
    ],
)
def test_wrong_names_exit_with_2_and_leave_torch_unimported(arguments, message, tmp_path):
    code = f"import sys; from pellucid.cli import main; code = main({['run', *arguments]!r}); "
    code += "assert 'torch' not in sys.modules; sys.exit(code)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "save", "--metrics", "selectivty"], "no metric 'selectivty'; did you mean 'selectivity'"),
        (["evaluate", "save", "--methods", "gradent"], "no method 'gradent'; did you mean 'gradient'"),
        (["evaluate", "save", "--images", "0"], "--images must be at least 1, got 0"),
        (["ground-truth", "--datasets", "planted_pach"], "no data set 'planted_pach'; did you mean 'planted_patch'"),
        (["ground-truth", "--methods", "gradent"], "no method 'gradent'"),
    ],
)
def test_wrong_names_of_other_commands_leave_torch_unimported(arguments, message):
    code = f"import sys; from pellucid.cli import main; code = main({arguments!r}); "
    code += "assert 'torch' not in sys.modules; sys.exit(code)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr


def test_help_does_not_import_torch():
    code = (
        "import sys\nfrom pellucid.cli import main\n"
        "try:\n    main(['run', '--help'])\nexcept SystemExit as leaving:\n    assert leaving.code == 0\n"
        "assert main(['--help']) == 0\nassert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage: pellucid COMMAND" in done.stdout


def test_methods_command_lists_every_method(capsys):
    assert cli.main(["methods"]) == 0
    output = capsys.readouterr().out
    for method in pellucid.methods():
        assert method.name in output
    assert cli.main(["methods", "lrp"]) == 2


def test_build_native_prints_the_path_of_the_kernel(native, capsys):
    assert cli.main(["build-native"]) == 0
    assert capsys.readouterr().out.strip() == native._name
    assert cli.main(["build-native", "--help"]) == 0
    assert cli.main(["build-native", "now"]) == 2


@pytest.mark.parametrize("columns", [80, 120])
def test_methods_are_readable_at_every_width(columns, monkeypatch, capsys):
    screen = Console(width=columns, force_terminal=True, color_system=None)
    monkeypatch.setattr(sys.modules["pellucid.cli.methods"], "console", lambda: screen)
    assert cli.main(["methods"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= columns
    for method in pellucid.methods():
        assert sum(method.name in line.replace(":", " ").split() for line in lines) >= 1
    average = sum(len(line.replace("│", " ").split()) for line in lines) / len(lines)
    assert average > 4  # words are not squeezed into narrow columns


def test_unknown_command(capsys):
    assert cli.main(["runn"]) == 2
    assert "no command 'runn'; did you mean 'run'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (DataError("no images"), 2, "no images"),
        (TrainingError("the loss is nan"), 1, "the loss is nan"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (Terminated(), 143, "terminated"),
        (ZeroDivisionError("a/0"), 1, "unexpected ZeroDivisionError: a/0"),
    ],
)
def test_errors_have_exit_codes(error, code, message, tmp_path, monkeypatch, capsys):
    def fail(config):
        raise error

    monkeypatch.setattr("pellucid.run.pipeline.run", fail)
    assert cli.main(["run", "--save", str(tmp_path / "out")]) == code
    assert message in capsys.readouterr().err
    logs = list((tmp_path / "out" / "errors").glob("*.txt")) if code == 1 and "unexpected" in message else []
    for log in logs:
        assert "ZeroDivisionError: a/0" in log.read_text()
    assert bool(logs) == ("unexpected" in message)


@pytest.mark.parametrize(("processes", "ended"), [("1", "torn down\n"), ("2", "")])
def test_process_skips_interpreter_shutdown_but_not_its_exit_handlers(processes, ended):
    code = """
import atexit
from pellucid.cli import leave

class Kept:
    def __del__(self):
        print("released")

kept = Kept()
atexit.register(print, "torn down")
print("said")
leave(3)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"WORLD_SIZE": processes},
    )
    assert (done.returncode, done.stdout) == (3, "said\n" + ended)


@pytest.mark.parametrize("words", [["--help"], ["help"], ["-h"], []])
def test_overview_names_every_command(words, capsys):
    assert cli.main(words) == 0
    printed = capsys.readouterr().out
    assert all(f"\n  {command} " in printed for command in COMMANDS)


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_version(flag, capsys):
    assert cli.main([flag]) == 0
    assert capsys.readouterr().out == f"pellucid {version('pellucid')}\n"


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("words", ["{} --help", "help {}"])
def test_every_command_has_help(command, words, capsys):
    try:
        code = cli.main(words.format(command).split())
    except SystemExit as error:  # tyro exits by itself
        code = error.code
    assert code == 0
    assert f"usage: pellucid {command}" in capsys.readouterr().out


def test_help_for_an_unknown_command(capsys):
    assert cli.main(["help", "evalute"]) == 2
    assert "did you mean 'evaluate'" in capsys.readouterr().err


@pytest.mark.parametrize("code", [None, 0, 3, "stop"])
def test_exit_called_by_user_code_is_no_success(code, tmp_path, monkeypatch, capsys):
    def leave(config):
        raise SystemExit(code)

    monkeypatch.setattr("pellucid.run.pipeline.run", leave)
    assert cli.main(["run", "--save", str(tmp_path / "out")]) == 2
    assert f"called exit({code})" in capsys.readouterr().err


def test_output_that_nobody_reads_is_not_blamed_on_the_model(monkeypatch, tmp_path, capsys):
    def leave(config):  # as rich does when it meets a broken pipe
        try:
            raise BrokenPipeError
        except BrokenPipeError:
            raise SystemExit(1)  # noqa: B904

    monkeypatch.setattr("pellucid.run.pipeline.run", leave)
    assert cli.main(["run", "--save", str(tmp_path / "out")]) == 1
    assert not capsys.readouterr().err
