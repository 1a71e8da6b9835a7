"""Terminal output of a run: at its start, after each epoch and at its end."""

import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.text import Text

from pellucid.core.opening import opens_in_browser
from pellucid.core.terminal import console, print_line
from pellucid.models._build import count_parameters
from pellucid.report import Material
from pellucid.report._verdict import Sentence, verdict
from pellucid.run.session import Session
from pellucid.storage.resuming import resume_command
from pellucid.storage.store import Store
from pellucid.training.loop import Epoch

__all__ = [
    "open_report",
    "print_already_finished",
    "print_epoch",
    "print_interruption",
    "print_pictures",
    "print_report_path",
    "print_start",
    "print_summary",
]

PARTS = {"report": "The report", "summary": "The summary picture"}
"""Parts of a run that can fail and are no hooks."""
TENSORBOARD_ADDRESS = "http://localhost:6006"


def print_start(session: Session, moved: Path | None) -> None:
    """Print the data set, the model and the device."""
    data = session.data
    if data.notice:
        console().print(Text(f"Notice: {data.notice}", style="bold yellow"))
    if moved is not None:
        print_line(f"Moved the earlier run to {moved}.")
    counts = f"{len(data.train):,} training, {len(data.validation):,} validation, {len(data.test):,} test"
    shape = "×".join(str(side) for side in data.train.image_shape)
    print_line(f"Data    {data.title}, {len(data.classes)} classes")
    print_line(f"Images  {counts}, {shape}")
    if session.network.notice:
        console().print(Text(f"Notice: {session.network.notice}", style="bold yellow"))
    name, parameters = session.config.training.model, count_parameters(session.model)
    print_line(f"Model   {name}, {parameters:,} parameters, on {session.device}")
    if session.resumed is not None:
        at = session.resumed.progress
        print_line(f"Resuming in epoch {at.epoch}, after step {at.step} of {session.recipe.steps_per_epoch}.")
    if session.extended_from is not None:
        change = f"from {session.extended_from} to {session.recipe.epochs} epochs"
        print_line(f"Extending the run {change}, with a new learning-rate schedule.")


def print_already_finished(session: Session) -> None:
    """Print that there is nothing to resume, and how to train further."""
    print_line(f"The run in {session.store.folder} is already finished; there is nothing to resume.")
    print_line(f"To train further, pass --epochs with more than {session.recipe.epochs}.")


def print_epoch(epoch: Epoch, epochs: int, *, is_pretrained: bool = False) -> None:
    """Print one line per finished epoch: training loss, accuracies, and seconds of training."""
    parts = ["before training" if is_pretrained else "untrained"]
    if epoch.train is not None:
        parts = [f"loss {epoch.train.loss:.4f}", f"train {epoch.train.accuracy:.2%}"]
    parts += [f"validation {epoch.validation.accuracy:.2%}", f"test {epoch.test.accuracy:.2%}"]
    if epoch.seconds:
        parts.append(f"{epoch.seconds:.1f} s")
    print_line(f"Epoch {epoch.number}/{epochs}: {', '.join(parts)}", "bold")


def print_pictures(hook: str, epoch: int | None, seconds: float, paths: Sequence[Path]) -> None:
    """Print one line per picture that a hook has written: epoch (None: end of training), hook, seconds, path.

    `seconds` is the time of the whole hook, printed in its first line. Paths are never wrapped; in the default
    save folder, the lines of the default hooks fit 80 columns.
    """
    moment, width = ("end", 20) if epoch is None else (f"epoch {epoch}", 16)
    for number, path in enumerate(paths):
        time = "" if number else f"{seconds:.1f} s"
        print_line(f"{moment}  {hook:<{width}}  {time:>6}  {path}")


def print_report_path(store: Store) -> None:
    """Print the address of the report; called when it is written for the first time."""
    print_line(f"Report: {report_uri(store)} (updated after every epoch)")


def report_uri(store: Store) -> str:
    """Return the absolute, percent-encoded file:// address of the report."""
    return (store.folder / "report.html").absolute().as_uri()


def print_interruption(session: Session) -> None:
    """Print the command that resumes an interrupted run."""
    # not read from run.json, which may be gone
    names = {"model": {"name": session.config.training.model}, "dataset": {"name": session.data.name}}
    command = resume_command({"command": shlex.join(sys.argv), **names}, session.store.folder)
    print_line(f"\nInterrupted. Resume with: {command}")


def print_summary(store: Store) -> None:
    """Print the verdict on the run, what failed, where the files are, and how to open the report and TensorBoard."""
    manifest = store.manifest()
    material = Material(store)
    sentences: list[Sentence] = material.attempt("The verdict", lambda: verdict(material), [])
    for number, sentence in enumerate(one for one in sentences if one.section != "failures"):
        print_line(sentence.text, "" if number else "bold")
    for failure in manifest["failures"]:
        what = PARTS.get(failure["hook"], f"Hook {failure['hook']}")
        text = f"{what} failed at epoch {failure['epoch']}: {failure['error']}"
        print_line(f"{text} ({store.folder / failure['log']})", "bold red")
    _print_files(store, manifest["artifacts"])
    if (store.folder / "report.html").is_file():
        print_line(f"Open {report_uri(store)}")
    logs = shlex.quote(str(store.folder / "logs"))
    print_line(f"TensorBoard: tensorboard --logdir={logs}, then {TENSORBOARD_ADDRESS}")


def _print_files(store: Store, artifacts: Sequence[Mapping[str, Any]]) -> None:
    """Print the places of the most important files; one line each, because a wrapped path cannot be copied."""
    kinds = Counter(entry["kind"] for entry in artifacts)
    counts = {"plots": kinds["figure"], "films": kinds["film"]}
    for what, where in (
        ("Figures", "plots"),
        ("Animations", "films"),
        ("Weights", "models/best.safetensors"),
        ("Metrics", "metrics.jsonl"),
        ("Summary", "summary.png"),
    ):
        if (store.folder / where).exists():
            count = f" ({counts[where]})" if where in counts else ""
            print_line(f"{what:<10}  {store.folder / where}{count}")


def open_report(store: Store) -> None:
    """Open the report in the default browser; prints a message if there is none."""
    if not opens_in_browser(report_uri(store)):
        print_line("No browser could be started; open the address above yourself.")
