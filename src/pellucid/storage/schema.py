"""Types of the entries in the records of a run, checked when they are read from a save folder."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pellucid.core.errors import SaveError

__all__ = ["MANIFEST", "METRICS", "RUN", "Record", "check_record"]

Kind = Any
"""A type, a tuple of types, a `Record`, or a list with the kind of its entries."""

MAYBE_INT, MAYBE_TEXT = (int, type(None)), (str, type(None))
NUMBER, MAYBE_NUMBER = (int, float), (int, float, type(None))


@dataclass(frozen=True)
class Record:
    """The kinds of a JSON object's entries; other entries are not checked."""

    required: Mapping[str, Kind] = field(default_factory=dict)
    optional: Mapping[str, Kind] = field(default_factory=dict)


RUN = Record(
    optional={
        "config": Record(
            optional={
                "dataset": str,
                "data_dir": MAYBE_TEXT,
                "mirror": [str],
                "image_size": MAYBE_INT,
                "limit_train": MAYBE_INT,
                "limit_test": MAYBE_INT,
                "model": str,
                "seed": int,
                "max_megapixels": int,
                "save": str,
                "keep_checkpoints": (bool, type(None)),
            }
        ),
        "dataset": Record(
            optional={"name": str, "title": str, "classes": [str], "image_shape": [int], "sha256": MAYBE_TEXT}
        ),
        "model": Record(optional={"name": str}),
        "kind": str,
        "status": str,
        "epochs": int,
        "extensions": [Record({"epoch": int, "step": int, "from": int, "to": int})],
        "threads": MAYBE_INT,
        "timing": Record(optional={"started": MAYBE_TEXT, "finished": MAYBE_TEXT}),
        "test_accuracy": MAYBE_NUMBER,
    }
)
"""run.json: nothing is required, since a run that was interrupted early has only part of it."""
MANIFEST = Record(
    required={
        "artifacts": [
            Record(
                {"hook": str, "epoch": int, "name": str, "path": str, "kind": str}, {"caption": str, "numbers": dict}
            )
        ],
        "failures": [Record({"hook": str, "epoch": int}, {"error": str, "log": str})],
    }
)
"""manifest.json."""
CONFUSION = Record({"label": str, "prediction": str, "images": int, "of": int})
METRICS = Record(
    {"epoch": int},
    {
        "best": bool,
        "test_accuracy": MAYBE_NUMBER,
        "validation_accuracy": MAYBE_NUMBER,
        "most_common_confusion": CONFUSION,
    },
)
"""One line of metrics.jsonl."""


def check_record(record: Any, kind: Kind, place: str) -> None:
    """Raise `SaveError` if a value read from JSON is not of the kind; `place` names it in the message.

    >>> check_record({"epoch": "one"}, METRICS, "metrics.jsonl")
    Traceback (most recent call last):
    pellucid.core.errors.SaveError: metrics.jsonl is damaged: 'epoch' is a string, expected an integer.
    """
    _check(record, kind, place, "")


def _check(value: Any, kind: Kind, place: str, path: str) -> None:
    expected = dict if isinstance(kind, Record) else list if isinstance(kind, list) else kind
    kinds = expected if isinstance(expected, tuple) else (expected,)
    # JSON's true is an int in Python
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        what = f"{path!r} is {_name(type(value))}" if path else f"it is {_name(type(value))}"
        raise SaveError(f"{place} is damaged: {what}, expected {' or '.join(map(_name, kinds))}.")
    if isinstance(kind, list):
        for number, entry in enumerate(value):
            _check(entry, kind[0], place, f"{path}[{number}]")
    if isinstance(kind, Record):
        for name, own in {**kind.required, **kind.optional}.items():
            inner = f"{path}.{name}" if path else name
            if name in value:
                _check(value[name], own, place, inner)
            elif name in kind.required:
                raise SaveError(f"{place} is damaged: {inner!r} is missing.")


def _name(kind: type) -> str:
    """Name a Python type as JSON does."""
    names = {dict: "an object", list: "a list", str: "a string", int: "an integer", float: "a number"}
    return {**names, bool: "true or false", type(None): "null"}.get(kind, kind.__name__)
