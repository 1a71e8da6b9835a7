"""What stands at the top: which data, which model, how good, and what went wrong."""

from dataclasses import dataclass

from pellucid.report._material import Material

__all__ = ["Head", "head"]


@dataclass(frozen=True)
class Head:
    """The top of the page."""

    title: str
    status: str
    notice: str | None
    facts: tuple[tuple[str, str], ...]
    """Name and value, in reading order."""
    failures: tuple[tuple[str, str], ...]
    """What failed, and its traceback."""


def head(material: Material) -> Head:
    """The top of the page of a run; what is not known is left out."""
    run = material.run
    data, model = run.get("dataset", {}), run.get("model", {})
    accuracy = run.get("test_accuracy")
    facts = {
        "test accuracy": None if accuracy is None else f"{accuracy:.2%}",
        "data": data.get("title", data.get("name")),
        "model": model.get("name"),
        "parameters": f"{model['parameters']:,}" if "parameters" in model else None,
        "device": run.get("device"),
        "seed": run.get("seed"),
    }
    return Head(
        title=f"What has {model.get('name', 'the network')} learned of {data.get('title', 'its data')}?",
        status=run.get("status", "unknown"),
        notice=data.get("notice"),
        facts=tuple((name, str(value)) for name, value in facts.items() if value is not None),
        failures=tuple(
            (f"{one['hook']}, epoch {one['epoch']}: {one['error']}", "") for one in material.manifest["failures"]
        ),
    )
