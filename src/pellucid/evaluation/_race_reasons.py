"""Sentences about the end of a race: the recommended method with its numbers, or why no method is recommended."""

from collections.abc import Sequence

from pellucid.core.text import listed
from pellucid.evaluation._conclusions import name_in
from pellucid.evaluation._evaluation import CERTAIN, Evaluation
from pellucid.evaluation._race import FEWEST_IMAGES, Finish
from pellucid.evaluation._ranks import mean_ranks, worse_than
from pellucid.evaluation._recommendation import faithfulness, number_text, qualified

__all__ = ["no_recommendation", "not_worse", "quantity", "recommendation", "too_small", "worse_than_control"]


def recommendation(finish: Finish, method: str, tied: Sequence[str]) -> str:
    """Return the reason for the recommended method: means with intervals, controls, rank, ties, and dropped methods."""
    evaluation = finish.evaluation
    return " ".join(
        [
            evaluation.recommendation.reason,
            _intervals(evaluation, method),
            _rank(finish, method),
            *_passed_over(finish, method),
            *([_dropped(finish)] if any(one.is_dropped for one in finish.ranking) else []),
            *([_ties(finish, method, tied)] if tied else []),
        ]
    )


def no_recommendation(finish: Finish) -> str:
    """Return the reason for recommending none, after enough images or all of them."""
    evaluation, excluded = finish.evaluation, finish.excluded
    names = [name for name in evaluation.methods if name in excluded or name in {one.method for one in finish.ranking}]
    if not names:
        return f"No method is recommended: each one was excluded, for example {_example(finish)}"
    number = quantity(evaluation.images, "image")
    few = f" Only {number} could be measured; differences on fewer than {FEWEST_IMAGES} can hardly be significant."
    return evaluation.recommendation.reason + (few if evaluation.images < FEWEST_IMAGES else "")


def too_small(finish: Finish, budget: int, methods: int) -> str:
    """Return the reason for recommending none because the budget covers too few images."""
    if not finish.wanted:
        return f"No method is recommended: each one was excluded, for example {_example(finish)}"
    return (
        f"No method is recommended: comparing {quantity(methods, 'method')} on {FEWEST_IMAGES} images takes about "
        f"{finish.wanted:,} forward passes, and differences on fewer images can hardly be significant. The budget is "
        f"{budget:,}; raise it, or pass fewer methods or metrics."
    )


def not_worse(evaluation: Evaluation, method: str, seed: int) -> tuple[str, ...]:
    """Return the other qualified methods whose mean rank is not significantly worse than that of `method`."""
    metrics = faithfulness(evaluation)
    rivals = [method, *(name for name in qualified(evaluation, metrics) if name != method)]
    worse = worse_than(mean_ranks(evaluation, rivals, metrics), 0, CERTAIN, seed)
    return tuple(name for column, name in enumerate(rivals) if column and column not in worse)


def quantity(number: int, noun: str) -> str:
    """Return a number with its noun.

    >>> quantity(1, "image"), quantity(2000, "image")
    ('1 image', '2,000 images')
    """
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def worse_than_control(evaluation: Evaluation, method: str) -> str:
    """Return the faithfulness metrics in which a control has a better mean; an empty string if there is none."""
    beaten = [metric for metric in faithfulness(evaluation) if evaluation.beaten_by(method, metric)]
    return listed([metric.replace("_", " ") for metric in beaten])


def _passed_over(finish: Finish, method: str) -> list[str]:
    """Name the methods that have a better mean rank, but are worse than a control."""
    own = next(one for one in finish.ranking if one.method == method)
    better = [one.method for one in finish.ranking if not one.is_dropped and one.rank < own.rank]
    beaten = {name: where for name in better if (where := worse_than_control(finish.evaluation, name))}
    if not beaten:
        return []
    names, where = listed(list(beaten)), listed(list(dict.fromkeys(beaten.values())))
    verb, each = ("ranks", "it is") if len(beaten) == 1 else ("rank", "they are")
    return [f"{names} {verb} better, but {each} worse than a control in {where}."]


def _intervals(evaluation: Evaluation, method: str) -> str:
    rows = {row.metric: row for row in evaluation.rows if row.method == method}
    parts = [
        f"{metric.replace('_', ' ')} {number_text(rows[metric].low)} to {number_text(rows[metric].high)}"
        for metric in faithfulness(evaluation)
    ]
    return f"Its 95% intervals over {evaluation.images} images: {listed(parts)}."


def _rank(finish: Finish, method: str) -> str:
    own = next(one for one in finish.ranking if one.method == method)
    among = f" of {own.rivals}" if own.rivals > 1 else ""
    return f"Its mean rank over these metrics is {own.rank:.2f}{among} ({own.low:.2f} to {own.high:.2f})."


def _dropped(finish: Finish) -> str:
    count, total = sum(one.is_dropped for one in finish.ranking), len(finish.ranking)
    why = "was dropped because its mean rank was" if count == 1 else "were dropped because their mean ranks were"
    return f"Of {total} methods in the race, {count} {why} significantly worse than the best."


def _ties(finish: Finish, method: str, tied: Sequence[str]) -> str:
    """Describe the tied methods: those whose means agree to three digits, and those that more images may separate."""
    evaluation = finish.evaluation
    groups = [group.methods for group in evaluation.agreeing if method in group.methods]
    same = [name for name in tied if any(name in group for group in groups)]
    rest = [name for name in tied if name not in same]
    parts = []
    if same:
        verb = "agrees" if len(same) == 1 else "agree"
        parts.append(f"{_names(evaluation, same)} {verb} with it to three digits in every metric.")
    if rest:
        verb, more = "is" if len(rest) == 1 else "are", "a larger budget" if finish.ended == "budget" else "more images"
        parts.append(f"In mean rank, {_names(evaluation, rest)} {verb} not significantly worse; {more} may tell.")
    return " ".join(parts)


def _names(evaluation: Evaluation, labels: Sequence[str]) -> str:
    return listed([name_in(evaluation, label) for label in labels])


def _example(finish: Finish) -> str:
    name, why = next(iter(finish.excluded.items()))
    return f"{name}: {why}"
