"""Sections that show the figures of a hook, one per epoch."""

import re
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from pellucid.report import Entry, Maker, Material, Section

__all__ = ["figures", "other_figures"]

TEXTS = {
    "saliency": (
        "Saliency maps: which pixels does it look at?",
        (
            "Gradient of the true class's logit at an empty image and at the test image, their difference, and the "
            "difference times the image. Red: increasing the pixel raises the logit; blue: it lowers the logit."
        ),
        "methods_gradient",
    ),
    "jacobian_maps": (
        "Jacobian: how does each logit react to each pixel?",
        (
            "Derivative of each class's logit (columns) with respect to the pixels of each test image (rows). Red: "
            "increasing the pixel raises the logit; blue: it lowers the logit."
        ),
        "jacobian",
    ),
    "explanations": (
        "Explanations: why this prediction?",
        (
            "The same images explained by several methods, each with its own color scale. Red: evidence for the "
            "predicted class; blue: evidence against it."
        ),
        "methods_overview",
    ),
    "prototypes": (
        "Class prototypes: what does each class look like to the network?",
        "For each class, the image that maximizes the network's confidence under several priors. Last row: class mean.",
        "prototypes",
    ),
    "prototypes.each_epoch": (
        "Class prototypes by epoch",
        "For each class, the image that maximizes the network's confidence after each epoch.",
        "prototypes",
    ),
    "jacobian_classes": (
        "Mean sensitivity by class (Jacobian)",
        "Mean of |∂ logit / ∂ pixel| over test images. Rows: true class; columns: logit.",
        "jacobian",
    ),
    "jacobian_classes_all": (
        "Mean sensitivity by class (Jacobian), all test images",
        "Mean of |∂ logit / ∂ pixel| over the whole test set, with the best weights. Rows: true class; columns: logit.",
        "jacobian",
    ),
    "confusion_matrix": (
        "Confusion matrix: what does it get wrong?",
        "Rows are the true classes, columns the predictions.",
        "",
    ),
    "calibration": (
        "Calibration: can its confidence be trusted?",
        "Accuracy by confidence with 95% intervals, and the error rate on the most confident images.",
        "calibration",
    ),
    "tsne": ("Embedding (t-SNE)", "t-SNE of the embedding of test images. Circled: misclassified.", ""),
    "dynamics": (
        "Training dynamics: what was easy and hard to learn?",
        (
            "Predictions on a sample of the training images, several times per epoch. Hard images are often mislabeled "
            "or unlike the others; ambiguous ones are learned and forgotten."
        ),
        "recordings",
    ),
    "out_of_distribution": (
        "Out of distribution: does it notice unfamiliar images?",
        "AUROC of several scores for images unlike the training images, and the test images least like them.",
        "out_of_distribution",
    ),
    "leaderboard": (
        "Leaderboard: which explanations can be trusted?",
        "Explanation methods by metrics, with controls below the line.",
        "evaluation",
    ),
    "robustness": (
        "Robustness: how stable are predictions and explanations?",
        (
            "Accuracy on corrupted images; the smallest change of an image that changes its prediction, found by "
            "attacks and estimated from the Jacobian; the movement of explanations while the prediction stays."
        ),
        "robustness",
    ),
}
"""Title, lead and documentation page of each hook's section."""

AT_THE_END = ("prototypes", "jacobian_classes_all", "leaderboard", "gallery", "out_of_distribution", "robustness")
"""Hooks that run once, with the best weights."""
MOMENTS = {"dynamics": "Recorded throughout training."}
"""When the values of hooks that need no weights were computed."""


def figures(hook: str, name: str | None = None) -> Maker:
    """Return a function that builds the section of a hook's figures, with `name` as its id on the page."""

    def make(material: Material) -> Section | None:
        shown = [{"name": part, "pictures": _pictures(material, hook, part)} for part in _parts(material, hook)]
        shown = [figure for figure in shown if figure["pictures"]]
        if not shown:
            return None
        title, lead, guide = TEXTS.get(hook, (_heading(hook), f"Figures of the hook {hook}.", ""))
        moment = end_moment(material) if hook in AT_THE_END else MOMENTS.get(hook, "")
        data = {"figures": shown, "moment": moment}
        return Section(name or hook, "figures", title, lead, data, guide, hook=hook)

    # names the section in the note about an unexpected error
    make.__qualname__ = hook
    return make


def other_figures(material: Material, shown: Iterable[str]) -> list[Section]:
    """Build sections for the hooks that no other section shows, such as user-defined hooks."""
    hooks = dict.fromkeys(entry["hook"] for entry in material.artifacts if entry["kind"] == "figure")
    made: list[Section] = []
    for hook in sorted(set(hooks) - set(shown)):
        # the name becomes an id in the page, and hooks of users can have any name
        name = f"hook-{re.sub(r'[^A-Za-z0-9_.-]', '-', hook)}"
        if any(section.name == name for section in made):
            name = f"{name}-{len(made)}"
        section = figures(hook, name)(material)
        made += [section] if section else []
    return made


def end_moment(material: Material) -> str:
    """Describe when the end hooks ran and with which weights."""
    match material.run.get("kind"):
        case "inspect":
            return ""
        case "watch":
            return "Computed at the end of training with the last weights."
    best = "" if material.best_epoch is None else f" (epoch {material.best_epoch})"
    return f"Computed at the end of training with the best checkpoint{best}."


def _parts(material: Material, hook: str) -> list[str]:
    """Return the names of a hook's figures, the main one first."""
    names = {entry["name"] for entry in material.artifacts if (entry["hook"], entry["kind"]) == (hook, "figure")}
    return sorted(names, key=lambda name: (name != hook, name))


def _pictures(material: Material, hook: str, name: str) -> dict[int, dict[str, Any]]:
    def read(entry: Entry) -> dict[str, Any] | None:
        picture = material.picture(entry)
        return None if picture is None else asdict(picture) | {"caption": entry["caption"]}

    return material.by_epoch(material.entries(hook, "figure", name), read)


def _heading(hook: str) -> str:
    """Return a hook's name as a heading.

    >>> _heading("my_hook.twice")
    'My hook, twice'
    """
    words = hook.replace("_", " ").replace(".", ", ").strip()
    return words[:1].upper() + words[1:] or "Figures"
