"""Conclusions of a comparison: a difference is claimed only where a test supports it."""

from collections.abc import Iterator
from dataclasses import replace
from math import isfinite

import numpy as np
from scipy.stats import binomtest

from pellucid.report._verdict import Sentence
from pellucid.report.comparison._comparison import Agreement, Comparison, Pair

__all__ = ["verdict"]

SIGNIFICANT = 0.05
MOST_SENTENCES = 4
"""Maximum number of sentences about accuracy."""


def verdict(comparison: Comparison) -> list[Sentence]:
    """Return the conclusions, the most important first."""
    sentences = [
        *_accuracies(comparison),
        *(sentence for pair in comparison.pairs[:1] for sentence in _predictions(comparison, pair)),
        *_explanations(comparison),
        *(sentence for pair in comparison.pairs[:1] for sentence in _layers(pair)),
    ]
    if not _is_one_run(comparison):
        return sentences  # they begin with names of folders, whose case matters
    return [replace(one, text=one.text[0].upper() + one.text[1:]) for one in sentences]


def _is_one_run(comparison: Comparison) -> bool:
    return len({model.folder.resolve() for model in comparison.models}) == 1


def _name(comparison: Comparison, number: int) -> str:
    """Return the name of a model as part of a sentence: "the best epoch" for the best weights of a single run."""
    model = comparison.models[number]
    return f"the {model.name}" if _is_one_run(comparison) and model.name.startswith("best epoch") else model.name


def _accuracies(comparison: Comparison) -> Iterator[Sentence]:
    """Yield one sentence per setting other than the first model's, and one about its other seeds."""
    others: dict[int, Pair] = {}
    for pair in comparison.pairs:
        if not _is_noise(comparison, pair):
            # all seeds of a setting have the same test
            others.setdefault(comparison.models[pair.second].setting, pair)
    texts = [(_networks if pair.seeds is None else _settings)(comparison, pair) for pair in others.values()]
    yield from (Sentence(text, "runs") for text in texts[:MOST_SENTENCES])
    if len(texts) > MOST_SENTENCES:
        left = len(texts) - MOST_SENTENCES
        yield Sentence(f"The table of differences has {left} more comparison{'' if left == 1 else 's'}.", "runs")
    if any(
        pair.seeds is not None and max(pair.seeds.first_seeds, pair.seeds.second_seeds) == 2 for pair in others.values()
    ):
        yield Sentence("Two seeds give a poor estimate of the seed noise; train more.", "runs")
    same = [pair for pair in comparison.pairs if _is_noise(comparison, pair)]
    if same:
        yield Sentence(_seeds(comparison, same), "runs")


def _is_noise(comparison: Comparison, pair: Pair) -> bool:
    return comparison.models[pair.first].setting == comparison.models[pair.second].setting


def _settings(comparison: Comparison, pair: Pair) -> str:
    """Compare two settings by their seeds."""
    one, two = (comparison.settings[comparison.models[number].setting] for number in (pair.first, pair.second))
    seeds = pair.seeds
    assert seeds is not None
    if not isfinite(seeds.p):
        return (
            f"The difference in accuracy between {one.name} and {two.name} cannot be tested: the accuracy does not "
            "vary between seeds, so there is no estimate of the seed noise."
        )
    difference, low, high = seeds.difference, seeds.low, seeds.high
    if pair.seeds_p < SIGNIFICANT and difference < 0:
        difference, low, high = -difference, -high, -low
    interval = f"{points(difference)} [{points(low)}, {points(high)}]"
    if pair.seeds_p >= SIGNIFICANT:
        return (
            f"No difference in accuracy between {one.name} and {two.name} beyond seed noise: {interval} points "
            f"(p {p_value(pair.seeds_p)})."
        )
    better, worse = (one, two) if seeds.difference > 0 else (two, one)
    return (
        f"{better.name} is more accurate than {worse.name} on these {len(comparison.labels):,} test images, beyond "
        f"seed noise: {interval} points (p {p_value(pair.seeds_p)})."
    )


def _networks(comparison: Comparison, pair: Pair) -> str:
    """Compare two networks on the test images."""
    one, two = (_name(comparison, number) for number in (pair.first, pair.second))
    accuracy, count = pair.accuracy, len(comparison.labels)
    shares = f"{comparison.accuracy(pair.first):.2%} and {comparison.accuracy(pair.second):.2%}"
    interval = f"{points(accuracy.difference)} [{points(accuracy.low)}, {points(accuracy.high)}] points"
    if pair.p >= SIGNIFICANT:
        if not accuracy.first_only + accuracy.second_only:
            share = f"{comparison.accuracy(pair.first):.2%}"
            return f"{one} and {two} classify the same test images correctly ({share} of {count:,})."
        return (
            f"No significant difference in accuracy between {one} and {two} on {count:,} test images: "
            f"{shares}, {interval}, p {p_value(pair.p)}."
        )
    is_first_better = accuracy.difference > 0
    better, worse = (one, two) if is_first_better else (two, one)
    order = (pair.first, pair.second) if is_first_better else (pair.second, pair.first)
    shares = " vs. ".join(f"{comparison.accuracy(number):.2%}" for number in order)
    low, high = (accuracy.low, accuracy.high) if is_first_better else (-accuracy.high, -accuracy.low)
    models = comparison.models[pair.first], comparison.models[pair.second]
    is_one_run = models[0].folder.resolve() == models[1].folder.resolve()
    known = models[0].seed is not None and models[1].seed is not None
    caveat = (
        ""
        if is_one_run or not known
        else " This holds for these two networks only: with one seed each, the seed alone could be the cause."
    )
    return (
        f"{better} is more accurate than {worse} on {count:,} test images: {shares}, "
        f"{points(abs(accuracy.difference))} [{points(low)}, {points(high)}] points, p {p_value(pair.p)}.{caveat}"
    )


def _seeds(comparison: Comparison, pairs: list[Pair]) -> str:
    """Describe the models that differ from the first only in their seed, whose differences are noise."""
    setting = comparison.settings[comparison.models[0].setting]
    shares = [comparison.accuracy(number) for number in setting.models]
    if len(shares) == 1:
        others = ", ".join(comparison.models[pair.second].name for pair in pairs)
        first = comparison.models[0].predictions
        is_same = all(np.array_equal(first, comparison.models[pair.second].predictions) for pair in pairs)
        outcome = "identical" if is_same else "different"
        return f"{comparison.models[0].name} and {others} have the same settings and seed, and {outcome} predictions."
    *names, last = (comparison.models[number].name for number in setting.models)
    deviation = points(float(np.std(shares, ddof=1))).lstrip("+")
    spread = f", standard deviation {deviation} points" if len(shares) > 2 else ""
    return (
        f"{', '.join(names)} and {last} differ only in their seed, so their differences in accuracy "
        f"({min(shares):.2%} to {max(shares):.2%}{spread}) are seed noise."
    )


def _predictions(comparison: Comparison, pair: Pair) -> Iterator[Sentence]:
    one, two = (_name(comparison, number) for number in (pair.first, pair.second))
    accuracy = pair.accuracy
    if accuracy.first_only + accuracy.second_only:
        images = "1 test image is" if accuracy.first_only == 1 else f"{accuracy.first_only:,} test images are"
        yield Sentence(
            f"{images} classified correctly only by {one}, and {accuracy.second_only:,} only by {two}.",
            "disagreements",
        )
    change = _largest_change(comparison, pair)
    if change:
        yield Sentence(change, "confusion")


def _largest_change(comparison: Comparison, pair: Pair) -> str:
    """Describe the confusion whose count changes most, if the change is significant among all confusions."""
    one, two = comparison.models[pair.first], comparison.models[pair.second]
    size = len(comparison.classes)
    counts = [
        np.bincount(comparison.labels * size + model.predictions, minlength=size * size).reshape(size, size)
        for model in (one, two)
    ]
    change = counts[0] - counts[1]
    np.fill_diagonal(change, 0)
    label, prediction = divmod(int(np.abs(change).argmax()), size)
    own = comparison.labels == label
    first, second = (own & (model.predictions == prediction) for model in (one, two))
    only = int((first & ~second).sum()), int((second & ~first).sum())
    if not sum(only) or change[label, prediction] == 0:
        return ""
    # the largest of all confusions that at least one of the models makes
    tests = max(1, int(((counts[0] + counts[1]) * (1 - np.eye(size, dtype=int)) > 0).sum()))
    if binomtest(only[0], sum(only), 0.5).pvalue * tests >= SIGNIFICANT or _is_noise(comparison, pair):
        return ""
    classes = comparison.classes
    return (
        f"The confusion that differs most is {classes[label]} predicted as {classes[prediction]}: "
        f"{counts[0][label, prediction]:,} images by {_name(comparison, pair.first)}, "
        f"{counts[1][label, prediction]:,} by {_name(comparison, pair.second)}."
    )


def _explanations(comparison: Comparison) -> Iterator[Sentence]:
    pair = comparison.pairs[0]
    shown = next((one for one in pair.agreement if one.method == comparison.method), None)
    if shown is None or not isfinite(shown.mean):
        return
    one, two = (_name(comparison, number) for number in (pair.first, pair.second))
    text = f"The {shown.method} maps of {one} and {two} have a mean rank correlation of {correlation(shown)}"
    noise = next((one for one in comparison.between_seeds if one.method == shown.method), None)
    if noise is not None and not _is_noise(comparison, pair):
        text += f"; other seeds of {one} give {correlation(noise)}"
    elif comparison.between_methods is not None:
        text += f"; different methods on {one} give {correlation(comparison.between_methods)}"
    yield Sentence(f"{text}.", "agreement")


def correlation(one: Agreement) -> str:
    """Format a mean correlation with its interval."""
    return f"{one.mean:.2f} [{one.low:.2f}, {one.high:.2f}]".replace("-", "−")


def _layers(pair: Pair) -> Iterator[Sentence]:
    if pair.layers is None or pair.layers[0] != pair.layers[1]:
        return
    names, _, similarity = pair.layers
    values = similarity.diagonal()
    if len(names) < 2 or not np.isfinite(values).all():
        return
    least, most = int(values.argmin()), int(values.argmax())
    if values[least] > 0.9995:
        yield Sentence("All layers have the same representation up to rotation and scale (CKA 1.00).", "layers")
        return
    yield Sentence(
        f"Corresponding layers are most similar at {names[most]} (CKA {values[most]:.2f}) and least similar at "
        f"{names[least]} (CKA {values[least]:.2f}).",
        "layers",
    )


def points(share: float) -> str:
    """Format a difference of shares in percentage points, with a true minus sign.

    >>> points(0.0123), points(-0.5), points(0.0)
    ('+1.23', '−50.00', '0.00')
    """
    text = f"{100 * share:+.2f}"
    return "0.00" if text in ("+0.00", "-0.00") else text.replace("-", "−")


def p_value(p: float) -> str:
    """Format a p-value with its relation.

    >>> p_value(0.0312), p_value(1e-9), p_value(1.0)
    ('= 0.031', '< 0.001', '= 1')
    """
    return "< 0.001" if p < 0.001 else f"= {p:.2g}"
