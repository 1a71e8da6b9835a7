"""A run uses only its own folders, and leaves the user's files alone."""

import json
import os
import stat
from pathlib import Path

import pytest
import torch

import pellucid
from pellucid.cli import main
from pellucid.core.errors import SaveError
from pellucid.storage import Store
from pellucid.storage.atomic import write_bytes
from pellucid.storage.lock import locked
from pellucid.storage.ownership import MARK, SHARED, check_ours, mark_as_ours

RUN = ["run", "--dataset", "digits", "--limit-train", "60", "--limit-test", "20", "--epochs", "1", "--hooks", "none"]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "name",
    ["models/mine.pt", "plots/a.png", "report.html", ".notes.tmp", "thesis.tex", "run.json", "manifest.json", ".git/x"],
)
@pytest.mark.parametrize("extra", [[], ["--resume"]])
def test_a_folder_with_files_of_the_user_is_refused_untouched(name, extra, tmp_path, capsys) -> None:
    home = tmp_path / "home"
    (home / name).parent.mkdir(parents=True)
    (home / name).write_text("{}")
    before = contents(home)
    assert main([*RUN, *extra, "--save", str(home)]) == 2
    assert contents(home) == before
    message = capsys.readouterr().err
    assert "Traceback" not in message
    if not extra:
        assert f"is not a save folder of pellucid: it contains {Path(name).parts[0]}" in message


def test_shared_folders_alone_are_fine(tmp_path) -> None:
    for name in SHARED:
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("kept")
    (tmp_path / ".pellucid-0123.tmp").write_text("half")
    check_ours(tmp_path)
    check_ours(tmp_path / "absent")
    (tmp_path / "data2").mkdir()
    with pytest.raises(SaveError, match="contains data2, but no valid run.json"):
        check_ours(tmp_path)


@pytest.mark.parametrize("record", ['{"config": {}, "status": "finished"}', None])
def test_a_folder_with_a_record_or_the_mark_is_ours(record, tmp_path) -> None:
    if record is None:
        mark_as_ours(tmp_path)
    (tmp_path / "run.json").write_text(record or "damaged")
    (tmp_path / "models").mkdir()
    check_ours(tmp_path)


@pytest.mark.parametrize("record", ["", "[]", "{}", '{"config": 3, "status": 1}', "[" * 100_000, "\ud800"])
def test_other_records_do_not_make_a_folder_ours(record, tmp_path) -> None:
    (tmp_path / "run.json").write_bytes(record.encode("utf-8", "surrogatepass"))
    with pytest.raises(SaveError, match="contains run.json"):
        check_ours(tmp_path)


def test_a_density_marks_its_folder(tmp_path) -> None:
    pellucid.fit_density("gaussian_mixture", torch.rand(50, 1, 4, 4), save=tmp_path)
    assert (tmp_path / MARK).is_file()
    check_ours(tmp_path)


def test_a_density_does_not_make_a_folder_of_the_user_ours(tmp_path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mine.pt").write_text("x")
    pellucid.fit_density("gaussian_mixture", torch.rand(50, 1, 4, 4), save=tmp_path)
    assert (tmp_path / "models" / "gaussian_mixture.safetensors").is_file()
    with pytest.raises(SaveError, match="contains models, but no valid run.json"):
        check_ours(tmp_path)


def test_a_run_marks_its_folder(tmp_path) -> None:
    Store(tmp_path).begin({})
    (tmp_path / "run.json").unlink()
    check_ours(tmp_path)


@pytest.mark.parametrize("words", [["run", "--save", ""], ["run", "--save="], ["run", "--save", " "], ["report", ""]])
def test_an_empty_path_is_an_error(words, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert "path is empty" in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_the_umask_is_respected(mask, tmp_path) -> None:
    before = os.umask(mask)
    try:
        write_bytes(tmp_path / "file", b"x")
        (tmp_path / "other").write_bytes(b"x")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("file", "other")]
    assert modes[0] == modes[1] == 0o666 & ~mask


@pytest.mark.parametrize("arguments", [["--model", "absent_module:net"], ["--device", "cuda:77"], ["--classes", "x"]])
def test_a_start_that_fails_leaves_nothing_behind(arguments, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*RUN, *arguments, "--save", "new/deep/save"]) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_failed_start_keeps_what_was_there(tmp_path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(ZeroDivisionError), locked(tmp_path):
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    Store(tmp_path).write_run({"config": {}})
    with pytest.raises(ZeroDivisionError), locked(tmp_path):
        raise ZeroDivisionError
    assert json.loads((tmp_path / "run.json").read_text()) == {"config": {}}
