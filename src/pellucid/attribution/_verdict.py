"""Texts about an explanation: prediction, target, and the verdict on the sum of a map."""

from math import isfinite
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from pellucid.attribution._explanation import Explanation

__all__ = ["is_within_tolerance", "predicted", "shortened", "targeted", "verdict"]

LONGEST_NAME = 60
"""Maximum length of the name of a class or a file, in characters."""

ABSORBED_SHARE = 0.01
"""Minimum absorbed share of the promised sum that the verdict mentions."""


def verdict(explanation: "Explanation", index: tuple[int, ...]) -> str:
    """Return a sentence on the sum of one map and whether it is as promised; `index` is (image,) or (image, class)."""
    if explanation.expected is None or explanation.residual is None or explanation.allowed is None:
        return "The method promises no sum."
    expected, residual, allowed = (
        float(values[index]) for values in (explanation.expected, explanation.residual, explanation.allowed)
    )
    total = expected + residual
    if not is_within_tolerance(explanation, index):
        return (
            f"Attributions sum to {_number(total)} instead of the expected {_number(expected)} "
            f"(residual {_small(residual)}, beyond the tolerance of {_small(allowed)})."
        )
    text = f"Attributions sum to {_number(total)}, as expected (residual {_small(residual)}, within tolerance)."
    absorbed = sum(float(values[index]) for values in explanation.absorbed.values())
    if abs(absorbed) <= ABSORBED_SHARE * abs(expected + absorbed):
        return text
    return f"{text} Biases and constants absorb {_number(absorbed)} of {_number(expected + absorbed)}."


def is_within_tolerance(explanation: "Explanation", index: tuple[int, ...]) -> bool:
    """Return True if a map has the promised sum, up to the method's tolerance, or if none is promised."""
    if explanation.residual is None or explanation.allowed is None:
        return True
    return abs(float(explanation.residual[index])) <= float(explanation.allowed[index])  # False for NaN


def predicted(explanation: "Explanation", image: int) -> str:
    """Describe the model's output for one image: the predicted class and its softmax probability."""
    if explanation.explained:
        return explanation.explained
    logits = explanation.logits[image]
    if logits.ndim == 0 or (logits.ndim == 1 and len(logits) == 1):
        return f"output {_number(float(logits))}"
    if logits.ndim > 1:
        return f"output of shape {tuple(logits.shape)}"
    label = int(logits.argmax())
    return f"predicted as {name_of(explanation, label)} ({_percent(explanation, image, label)})"


def targeted(explanation: "Explanation", index: tuple[int, ...]) -> str:
    """Describe the explained target of one map."""
    image, label = index[0], int(explanation.target[index])
    if label < 0:
        return explanation.explained or "a custom score"
    logits = explanation.logits[image]
    if logits.ndim == 0 or len(logits) == 1:
        return "the output"
    shown = name_of(explanation, label)
    against = explanation.details.get("against")
    if against is not None:
        return f"{shown} rather than {name_of(explanation, int(against[index]))}"
    is_predicted = label == int(logits.argmax())
    return shown if is_predicted else f"{shown} ({_percent(explanation, image, label)})"


def name_of(explanation: "Explanation", label: int) -> str:
    """Return the name of a class, or its number if names are unknown."""
    names = explanation.classes
    if names is None or label >= len(names):
        return f"class {label}"
    # in a sentence, a bare digit would read like a quantity
    return f"class {names[label]}" if names[label].isdecimal() else shortened(names[label])


def shortened(text: str) -> str:
    """Return a name that fits on a line.

    >>> shortened("a" * 100)[-3:], len(shortened("a" * 100))
    ('aa…', 60)
    """
    return text if len(text) <= LONGEST_NAME else f"{text[: LONGEST_NAME - 1]}…"


def _percent(explanation: "Explanation", image: int, label: int) -> str:
    share = float(torch.softmax(explanation.logits[image].detach().cpu().double(), 0)[label])
    if 0 < share < 0.0005:
        return "below 0.1%"
    return "above 99.9%" if 0.9995 <= share < 1 else f"{share:.1%}"


def _number(value: float) -> str:
    """Format with four significant digits.

    >>> _number(16.0412), _number(123456.0), _number(-0.00001234)
    ('16.04', '123,456', '-1.234e-5')
    """
    if abs(value) >= 1e4 and isfinite(value):
        return f"{value:,.0f}" if abs(value) < 1e9 else _short_exponent(f"{value:.3e}")
    return _short_exponent(f"{value:.4g}")


def _small(value: float) -> str:
    return _short_exponent(f"{abs(value):.1g}")


def _short_exponent(text: str) -> str:
    mantissa, e, exponent = text.partition("e")
    return f"{mantissa}e{int(exponent)}" if e else text
