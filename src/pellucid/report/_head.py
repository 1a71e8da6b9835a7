"""What stands at the top: which data, which model, how good, and what went wrong."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pellucid.report._material import Entry, Material

__all__ = ["Head", "head"]


@dataclass(frozen=True)
class Head:
    """The top of the page."""

    title: str
    status: str
    notes: tuple[str, ...]
    """What the reader must know before anything else."""
    facts: tuple[tuple[str, str], ...]
    """Name and value, in reading order."""
    details: tuple[tuple[str, str], ...]
    """The same, of what few ask for."""
    failures: tuple[tuple[str, str], ...]
    """What failed, and its traceback."""


def head(material: Material) -> Head:
    """The top of the page of a run; what is not known is left out."""
    run, data, model = material.run, material.data, material.model
    facts = {
        "test accuracy": _accuracy(material),
        "data": data.get("title", data.get("name")),
        "images": _images(data),
        "model": model.get("name"),
        "parameters": _count(model.get("parameters")),
        "epochs": _epochs(material),
        "device": run.get("device"),
        "duration, pauses included" if _of(run.get("config"), "resume") else "duration": _duration(run.get("timing")),
        "seed": run.get("seed"),
    }
    details = {
        "command": run.get("command"),
        "git revision": run.get("git_revision"),
        "started": _of(run.get("timing"), "started"),
        "threads": run.get("threads"),
        "checksum of the data": data.get("sha256"),
        "embedding layer": model.get("embedding_layer"),
        "versions": _listed(run.get("versions")),
        "settings": _listed(run.get("config")),
    }
    return Head(
        title=f"What has {model.get('name', 'the network')} learned of {data.get('title', 'its data')}?",
        status=str(run.get("status", "unknown")),
        notes=tuple(note for note in (_unfinished(material), _text(data.get("notice")), _left_out(material)) if note),
        facts=_known(facts),
        details=_known(details),
        failures=tuple(_failure(material, one) for one in material.failures),
    )


def _known(facts: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple((name, str(value)) for name, value in facts.items() if value not in (None, ""))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _of(part: Any, name: str) -> Any:
    return part.get(name) if isinstance(part, dict) else None


def _count(value: Any) -> str | None:
    return f"{value:,}" if isinstance(value, int) else None


def _accuracy(material: Material) -> str | None:
    """Of the best epoch; of a run that goes on, of the best one so far."""
    accuracy, best = material.run.get("test_accuracy"), material.best_epoch
    if accuracy is None:
        accuracy = next((line.get("test_accuracy") for line in material.metrics if line["epoch"] == best), None)
    if not isinstance(accuracy, int | float):
        return None
    return f"{accuracy:.2%}" + ("" if best is None else f" (epoch {best}, the best by validation)")


def _images(data: Mapping[str, Any]) -> str | None:
    parts = [(name, _count(data.get(f"{name}_images"))) for name in ("train", "validation", "test")]
    counts = ", ".join(f"{count} {'training' if name == 'train' else name}" for name, count in parts if count)
    shape, classes = data.get("image_shape"), data.get("classes")
    size = f" of {'×'.join(map(str, shape))}" if isinstance(shape, list) else ""
    known = f"; {len(classes)} classes" if isinstance(classes, list) else ""
    return f"{counts}{size}{known}" if counts else None


def _epochs(material: Material) -> str | None:
    wanted, done = material.run.get("epochs"), _last_epoch(material)
    if not isinstance(wanted, int):
        return None if done is None else str(done)
    return str(wanted) if done == wanted else f"{done or 0} of {wanted}"


def _last_epoch(material: Material) -> int | None:
    return int(material.metrics[-1]["epoch"]) if material.metrics else None


def _duration(timing: Any) -> str | None:
    """From start to finish, as 1:02:03 hours or 2:29 minutes; None where a run has no end yet."""
    try:
        started, finished = (datetime.fromisoformat(timing[name]) for name in ("started", "finished"))
        seconds = int((finished - started) / timedelta(seconds=1))
    except (KeyError, TypeError, ValueError):
        return None
    hours, minutes = divmod(seconds // 60, 60)
    return f"{hours}:{minutes:02}:{seconds % 60:02} h" if hours else f"{minutes}:{seconds % 60:02} min"


def _listed(record: Any) -> str | None:
    """A record on a line."""
    if not isinstance(record, dict):
        return None
    return ", ".join(f"{name} {value}" for name, value in record.items() if not _is_nothing(value))


def _is_nothing(value: Any) -> bool:
    """Whether a setting was not made; 0 is one that was."""
    return value is None or value is False or value == []


def _unfinished(material: Material) -> str:
    """What is to be said of a run that did not come to its end."""
    status, done = material.run.get("status"), _last_epoch(material)
    if status == "finished":
        return ""
    reached = "before its first epoch was done" if done is None else f"after epoch {done}"
    if isinstance(wanted := material.run.get("epochs"), int) and done is not None:
        reached += f" of {wanted}"
    go_on = "--resume goes on with it."
    told = {
        "running": f"This run is not finished: it was written {reached}. Load the page again to see more.",
        "interrupted": f"This run was interrupted {reached}; {go_on}",
        "failed": f"This run failed {reached}; {go_on}",
    }
    return told.get(str(status), f"It is not known how this run ended; what is here was written {reached}.")


def _left_out(material: Material) -> str:
    """How the page was kept small."""
    told = []
    if material.left_out:
        told.append(f"leaves out the pictures of epochs {', '.join(map(str, sorted(material.left_out)))}")
    if not material.scale:
        told.append("shows no figures")
    elif material.scale < 1:
        told.append(f"shrinks figures to {material.scale:.0%} of their width")
    return f"To stay small, the page {' and '.join(told)}; all of them are in the save folder." if told else ""


def _failure(material: Material, failure: Entry) -> tuple[str, str]:
    log = failure.get("log")
    text = material.text(log) if isinstance(log, str) else None
    missing = f"The log {log} cannot be read."
    told = f"{failure.get('hook')}, epoch {failure.get('epoch')}: {failure.get('error')}"
    return told, missing if text is None else text
