"""Header of the report: data set, model, accuracy, settings and failures."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pellucid.report._material import Entry, Material
from pellucid.report._verdict import Sentence, conclusions
from pellucid.storage.resuming import resume_command

__all__ = ["Activity", "Head", "head"]

EXPLAINED = "live"
"""Hook whose section says why it has nothing to show."""
STATUSES = {"interrupted": "was interrupted", "failed": "failed"}


@dataclass(frozen=True)
class Activity:
    """State of a running run at the time the page was written; the run may have been killed since."""

    written: datetime
    during: str
    resume: str
    """Command that resumes the run; empty for a model trained elsewhere."""


@dataclass(frozen=True)
class Head:
    """Header of the page."""

    title: str
    status: str
    notes: tuple[str, ...]
    """Notices shown first, such as an unfinished run."""
    facts: tuple[tuple[str, str], ...]
    """Pairs of name and value, in reading order."""
    details: tuple[tuple[str, str], ...]
    """Secondary details, as pairs of name and value."""
    failures: tuple[tuple[str, str], ...]
    """Pairs of failure message and traceback."""
    sentences: tuple[Sentence, ...] = ()
    """Conclusions about the run, each with `text` and the `section` that supports it."""
    line: tuple[str, ...] = ()
    """Most important facts, shown below the title."""
    activity: Activity | None = None
    """Current stage of a running run; None if it is not running."""


def head(material: Material) -> Head:
    """Build the header of a run's report; unknown values are omitted."""
    run, data, model = material.run, material.data, material.model
    facts = {
        "test accuracy": _accuracy(material),
        "data": data.get("title", data.get("name")),
        "images": _images(data),
        "sample": data.get("sample"),
        "model": model.get("name"),
        "weights": model.get("weights"),
        "parameters": _count(model.get("parameters")),
        "epochs": _epochs(material),
        "device": run.get("device"),
        # a resumed run keeps its first start time
        "duration (including pauses)" if _of(run.get("config"), "resume") else "duration": _duration(run.get("timing")),
        "seed": run.get("seed"),
    }
    details = {
        "command": run.get("command"),
        "git revision": run.get("git_revision"),
        "started": _of(run.get("timing"), "started"),
        "threads": run.get("threads"),
        "data checksum (SHA-256)": data.get("sha256"),
        "embedding layer": model.get("embedding_layer"),
        "preprocessing": _listed(model.get("preprocessing")),
        "budget of the hooks": run.get("budget"),
        "versions": _listed(run.get("versions")),
        "settings": _listed(run.get("config")),
    }
    subject = "Inspection" if run.get("kind") == "inspect" else "Training report"
    return Head(
        title=f"{subject}: {model.get('name', 'network')} on {data.get('title', 'unknown data')}",
        status=material.status,
        notes=tuple(
            note
            for note in (_unfinished(material), _text(data.get("notice")), _left_out(material), *_empty(material))
            if note
        ),
        facts=_known(facts),
        details=_known(details),
        failures=tuple(_failure(material, one) for one in material.failures),
        sentences=tuple(material.attempt("The verdict", lambda: conclusions(material), [])),
        line=_line(material),
        activity=_activity(material) if material.status == "running" else None,
    )


def _line(material: Material) -> tuple[str, ...]:
    run, data, model = material.run, material.data, material.model
    parameters, images, epochs = _count(model.get("parameters")), _count(data.get("train_images")), _epochs(material)
    facts = (
        f"{parameters} parameters" if parameters else None,
        f"{images} training images" if images else None,
        f"{epochs} epoch{'' if epochs == '1' else 's'}" if epochs else None,
        _duration(run.get("timing")),
    )
    return tuple(fact for fact in facts if fact)


def _known(facts: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple((name, str(value)) for name, value in facts.items() if value not in (None, ""))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _of(part: Any, name: str) -> Any:
    return part.get(name) if isinstance(part, dict) else None


def _count(value: Any) -> str | None:
    return f"{value:,}" if isinstance(value, int) else None


def _accuracy(material: Material) -> str | None:
    """Return the test accuracy of the best epoch so far, or of the last one if no checkpoint is marked as the best."""
    accuracy, best = material.run.get("test_accuracy"), material.best_epoch
    if accuracy is None:
        # run.json gets its accuracy at the end; until then, metrics.jsonl has it
        shown = _last_epoch(material) if best is None and material.run.get("kind") == "watch" else best
        accuracy = next((line.get("test_accuracy") for line in material.metrics if line["epoch"] == shown), None)
    if not isinstance(accuracy, int | float):
        return None
    return f"{accuracy:.2%}" + ("" if best is None else f" (best checkpoint by validation, epoch {best})")


def _images(data: Mapping[str, Any]) -> str | None:
    parts = [(name, _count(data.get(f"{name}_images"))) for name in ("train", "validation", "test")]
    counts = ", ".join(f"{count} {'training' if name == 'train' else name}" for name, count in parts if count)
    shape, classes = data.get("image_shape"), data.get("classes")
    size = f"; {'×'.join(map(str, shape))}" if isinstance(shape, list) else ""
    known = f"; {len(classes)} classes" if isinstance(classes, list) else ""
    return f"{counts}{size}{known}" if counts else None


def _epochs(material: Material) -> str | None:
    wanted, done = material.run.get("epochs"), _last_epoch(material)
    if material.run.get("kind") == "inspect":
        return None  # nothing is trained
    if not isinstance(wanted, int):
        return None if done is None else str(done)
    extended = [f"{one['from']} after epoch {one['epoch']}" for one in material.run.get("extensions", ())]
    planned = f" (extended from {', from '.join(extended)})" if extended else ""
    return (str(wanted) if done == wanted else f"{done or 0} of {wanted}") + planned


def _last_epoch(material: Material) -> int | None:
    return int(material.metrics[-1]["epoch"]) if material.metrics else None


def _duration(timing: Any) -> str | None:
    """Format the time from start to finish, such as 1 h 2 min 3 s or 53 s; None if the run is not finished."""
    try:
        started, finished = (datetime.fromisoformat(timing[name]) for name in ("started", "finished"))
        seconds = int((finished - started) / timedelta(seconds=1))
    except (KeyError, TypeError, ValueError):
        return None
    hours, minutes = divmod(seconds // 60, 60)
    shown = [part for part in (f"{hours} h" * bool(hours), f"{minutes} min" * bool(minutes or hours)) if part]
    return " ".join([*shown, f"{seconds % 60} s"])


def _listed(record: Any) -> str | None:
    """Format a record on one line."""
    if not isinstance(record, dict):
        return None
    return ", ".join(f"{name} {value}" for name, value in record.items() if not _is_nothing(value))


def _is_nothing(value: Any) -> bool:
    """Return True for an unset value; 0 counts as set."""
    return value is None or value is False or value == []


def _unfinished(material: Material) -> str:
    """Describe the state of a run that has ended early or is unknown; empty for one that is finished or running."""
    done = _last_epoch(material)
    if material.status in ("finished", "running"):
        return ""
    reached = "before the end of the first epoch" if done is None else f"after epoch {done}"
    if isinstance(wanted := material.run.get("epochs"), int) and done is not None:
        reached += f" of {wanted}"
    if material.status not in ("interrupted", "failed"):
        return f"The status of this run is unknown; the report was written {reached}."
    status = STATUSES[material.status]
    match material.run.get("kind"):
        case "inspect":
            return f"This inspection {status}, so some figures are missing. Run it again to complete it."
        case "watch":
            return f"This training {status} {reached}. Restart it from its checkpoint to continue in this folder."
    return f"This run {status} {reached}. Resume it with: {_resume_command(material)}"


def _activity(material: Material) -> Activity:
    done, wanted = _last_epoch(material), material.run.get("epochs")
    if material.run.get("kind") == "inspect":
        return Activity(datetime.now(UTC).replace(microsecond=0), "during the inspection", "")
    during = f"during epoch {(done or 0) + 1}" + (f" of {wanted}" if isinstance(wanted, int) else "")
    if isinstance(wanted, int) and (done or 0) >= wanted:
        during = "after the last epoch"
    command = _resume_command(material) if material.run.get("kind") != "watch" else ""
    return Activity(datetime.now(UTC).replace(microsecond=0), during, command)


def _resume_command(material: Material) -> str:
    return resume_command(material.run, material.store.folder)


def _left_out(material: Material) -> str:
    """Describe the content omitted to limit the size of the page; empty if it is complete."""
    reductions = []
    if material.left_out:
        reductions.append(f"omits the figures of epochs {', '.join(map(str, sorted(material.left_out)))}")
    if not material.scale:
        reductions.append("shows no figures")
    elif material.scale < 1:
        reductions.append(f"reduces figures to {material.scale:.0%} of their width")
    if not reductions:
        return ""
    return f"To limit its size, this page {' and '.join(reductions)}; the save folder has the originals."


def _empty(material: Material) -> list[str]:
    """Return the reasons why hooks had nothing to show at their last epoch."""
    last = {one["hook"]: one for one in material.artifacts if one["name"] == "left_out" and one["hook"] != EXPLAINED}
    return [f"{hook}: {str(one['caption']).partition(': ')[2]}" for hook, one in last.items()]


def _failure(material: Material, failure: Entry) -> tuple[str, str]:
    log = failure.get("log")
    text = material.text(log) if isinstance(log, str) else None
    missing = f"The log {log} cannot be read."
    message = f"{failure.get('hook')}, epoch {failure.get('epoch')}: {failure.get('error')}"
    return message, missing if text is None else text
