"""Agreement of two models' explanations of the same images and classes."""

from math import isfinite
from typing import Any

from pellucid.report import Section
from pellucid.report.comparison._comparison import Agreement, Comparison

__all__ = ["agreement"]


def agreement(comparison: Comparison) -> Section | None:
    """Build the section; None without maps."""
    if not any(pair.agreement for pair in comparison.pairs):
        return None
    notes = [f"{name} is left out: {reason}" for name, reason in comparison.refused.items()]
    between = comparison.between_methods
    return Section(
        name="agreement",
        kind="compare_agreement",
        title="Agreement of explanations: do the models use the same pixels?",
        label="Explanations",
        lead=f"Mean rank correlation (Spearman, over the pixels) of both models' maps for the true class of "
        f"{comparison.explained_images:,} test images, with its 95% bootstrap interval over images. 1: the same order "
        "of pixels; 0: unrelated.",
        data={
            "names": [model.name for model in comparison.models],
            "pairs": [
                {"second": pair.second, "rows": [_row(one) for one in pair.agreement]} for pair in comparison.pairs
            ],
            "between_methods": None if between is None else _row(between),
            "between_seeds": [_row(one) for one in comparison.between_seeds],
            "seeds": [
                comparison.models[number].name
                for number in comparison.settings[comparison.models[0].setting].models
                if number
            ],
        },
        notes=tuple(notes),
        hook="",
    )


def _row(one: Agreement) -> dict[str, Any]:
    values = {name: getattr(one, name) for name in ("mean", "low", "high")}
    return {"method": one.method, **{name: round(v, 4) if isfinite(v) else None for name, v in values.items()}}
