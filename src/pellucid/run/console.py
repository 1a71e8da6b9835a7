"""Terminal output of a run: at its start, after each epoch and at its end."""

import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from pellucid.core.importing import is_function_name
from pellucid.core.terminal import console
from pellucid.data._spec import is_function
from pellucid.models._build import count_parameters
from pellucid.run.session import Session
from pellucid.storage.store import Store
from pellucid.training.loop import Epoch

__all__ = [
    "print_epoch",
    "print_interruption",
    "print_pictures",
    "print_report_path",
    "print_start",
    "print_summary",
]

TENSORBOARD_ADDRESS = "http://localhost:6006/#projector"


def print_start(session: Session, moved: Path | None) -> None:
    """Print the data set, the model and the device."""
    screen, data = console(), session.data
    if data.notice:
        screen.print(Text(f"Notice: {data.notice}", style="bold yellow"))
    if moved is not None:
        screen.print(f"Moved the earlier run to {moved}.", markup=False)
    counts = f"{len(data.train):,} training, {len(data.validation):,} validation and {len(data.test):,} test images"
    shape = "×".join(str(side) for side in data.train.image_shape)
    screen.print(f"Data   {data.title}: {counts}, {shape}, {len(data.classes)} classes", markup=False)
    name, parameters = session.config.training.model, count_parameters(session.model)
    screen.print(f"Model  {name}: {parameters:,} parameters, on {session.device}", markup=False)
    if session.resumed is not None:
        at = session.resumed.progress
        screen.print(f"Resuming in epoch {at.epoch}, after step {at.step} of {session.recipe.steps_per_epoch}.")
    if session.extended_from is not None:
        screen.print(
            f"Extending the run from {session.extended_from} to {session.recipe.epochs} epochs, with a new "
            "learning-rate schedule."
        )


def print_epoch(epoch: Epoch, epochs: int) -> None:
    """Print one line per finished epoch."""
    parts = [f"Epoch {epoch.number}/{epochs}"]
    if epoch.train is not None:
        parts.append(f"train loss {epoch.train.loss:.4f}, accuracy {epoch.train.accuracy:.2%}")
    parts.append(f"validation {epoch.validation.accuracy:.2%}")
    parts.append(f"test {epoch.test.accuracy:.2%}")
    if epoch.seconds:
        parts.append(f"{epoch.seconds:.1f} s, {epoch.images / epoch.seconds:,.0f} images/s")
    console().print(" | ".join(parts), markup=False)


def print_pictures(hook: str, epoch: int | None, seconds: float, paths: Sequence[Path]) -> None:
    """Print one line per picture that a hook has written: epoch (None: end of training), hook, seconds, path.

    `seconds` is the time of the whole hook, which stands in its first line. Paths are never wrapped; in the default
    save folder, the lines of the default hooks fit 80 columns.
    """
    moment, width = ("end", 20) if epoch is None else (f"epoch {epoch}", 16)
    for number, path in enumerate(paths):
        time = "" if number else f"{seconds:.1f} s"
        # `Text`, because rich would read brackets in a path as markup
        console().print(Text(f"{moment}  {hook:<{width}}  {time:>6}  {path}"), soft_wrap=True)


def print_report_path(store: Store) -> None:
    """Print the address of the report; called when it is written for the first time."""
    console().print(Text(f"Report: {report_uri(store)} (updated after every epoch)"), soft_wrap=True)


def report_uri(store: Store) -> str:
    """Return the absolute, percent-encoded file:// address of the report."""
    return (store.folder / "report.html").absolute().as_uri()


def print_interruption(session: Session) -> None:
    """Print the command that resumes an interrupted run."""
    # resume with the program that the user started
    script = Path(sys.argv[0])
    program = ["pellucid", "run"]
    if script.suffix == ".py":
        program = ["python", "-m", "pellucid", "run"] if script.name == "__main__.py" else ["python", str(script)]
    save = str(session.store.folder)
    # "save" is the default folder
    command = [*program, "--resume", *([] if save == "save" else ["--save", save])]
    if is_function_name(session.config.training.model) or is_function(session.data.name):
        command.append("--trust")
    console().print(f"\nInterrupted. Resume with: {shlex.join(command)}", markup=False)


def print_summary(store: Store) -> None:
    """Print a table of the files written, the failures and the TensorBoard command."""
    screen, record, manifest = console(), store.run(), store.manifest()
    # `Text`, because rich would read brackets in a name as markup
    title = Text(f"{record['dataset']['title']}: test accuracy {record['test_accuracy']:.2%}", style="bold")
    table = Table(title=title, title_justify="left")
    table.add_column("Output")
    table.add_column("Files", justify="right")
    table.add_column("Location", overflow="fold")
    films = [entry for entry in manifest["artifacts"] if entry["kind"] == "film"]
    others = [entry for entry in manifest["artifacts"] if entry["kind"] != "film"]
    for hook, count in Counter(entry["hook"] for entry in others).items():
        # the projector writes a folder for each epoch: show the one that contains them
        folders = {str(Path(entry["path"]).parent) for entry in others if entry["hook"] == hook}
        where = min(folders, key=len) if len(folders) == 1 else str(Path(min(folders)).parent)
        table.add_row(hook, str(count), Text(str(store.folder / where)))
    if films:
        table.add_row("animations over the epochs", str(len(films)), Text(str(store.folder / "films")))
    for what, where in (
        ("interactive report", "report.html"),
        ("best weights", "models/best.safetensors"),
        ("metrics, one line per epoch", "metrics.jsonl"),
        ("list of all artifacts", "manifest.json"),
        ("settings and versions", "run.json"),
    ):
        if (store.folder / where).exists():
            table.add_row(what, "1", Text(str(store.folder / where)))
    screen.print(table)
    for failure in manifest["failures"]:
        what = "The report" if failure["hook"] == "report" else f"Hook {failure['hook']}"
        text = f"{what} failed at epoch {failure['epoch']}: {failure['error']}"
        screen.print(Text(f"{text} ({store.folder / failure['log']})", style="bold red"))
    logs = shlex.quote(str(store.folder / "logs"))
    screen.print(f"TensorBoard: tensorboard --logdir={logs}   then open {TENSORBOARD_ADDRESS}", markup=False)
