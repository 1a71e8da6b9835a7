"""The explanation method that the run's leaderboard recommends."""

from pellucid.evaluation import Evaluation
from pellucid.evaluation._conclusions import name_of
from pellucid.report._material import Entry, Material

__all__ = ["last_evaluation", "recommended_method"]


def recommended_method(material: Material) -> str | None:
    """Return the registered name of the recommended method, such as "deeplift"; None if there is no recommendation.

    The name has no options, even if the leaderboard measured the method with some.
    """
    evaluation = last_evaluation(material)
    method = None if evaluation is None else evaluation.recommendation.method
    return None if method is None else name_of(method)


def last_evaluation(material: Material) -> Evaluation | None:
    """Read the run's last leaderboard; None, with a note if it is damaged, if there is none."""
    found = material.by_epoch(material.entries("leaderboard", "data"), lambda entry: _evaluation(material, entry))
    return found[max(found)] if found else None


def _evaluation(material: Material, entry: Entry) -> Evaluation | None:
    record = material.numbers(entry)
    if record is None:
        return None
    evaluation = Evaluation.from_dict(record)
    # drawn here, so that an invalid record is noted instead of raising later
    _ = evaluation.recommendation, evaluation.agreeing
    return evaluation
