"""The attribution method that the leaderboard of a run recommends."""

from pellucid.evaluation import Evaluation
from pellucid.report._material import Entry, Material

__all__ = ["recommended_method"]


def recommended_method(material: Material) -> str | None:
    """Return the name of the recommended method; None if the run has no leaderboard or it supports no choice."""
    evaluations = material.by_epoch(material.entries("leaderboard", "data"), lambda entry: _evaluation(material, entry))
    if not evaluations:
        return None
    best = evaluations[max(evaluations)].best("selectivity")
    return None if best is None else str(best).partition("(")[0]


def _evaluation(material: Material, entry: Entry) -> Evaluation | None:
    record = material.numbers(entry)
    return None if record is None else Evaluation.from_dict(record)
