"""The pictures of one hook, one for each epoch."""

import re
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from pellucid.report._material import Entry, Material
from pellucid.report._section import Maker, Section

__all__ = ["figures", "other_figures"]

TEXTS = {
    "saliency": (
        "Where it looks",
        (
            "The gradient of each image's true class at the empty image and at the image itself, their difference, "
            "and that times the image. Red: more of this pixel raises the logit; blue: lowers it."
        ),
        "methods_gradient",
    ),
    "jacobian_maps": (
        "How it reacts to each pixel",
        "One row per test image, one column per class: what each pixel does to that class's logit.",
        "jacobian",
    ),
    "explanations": (
        "Why it decides as it does",
        "The same images explained by many methods, each on its own scale. Red speaks for the predicted class.",
        "methods_overview",
    ),
    "prototypes": (
        "What it thinks each class looks like",
        "For each class, the image the network is most sure of, in several ways; the last row is the class mean.",
        "prototypes",
    ),
    "prototypes.each_epoch": (
        "How its idea of each class grows",
        "For each class, the image the network was most sure of after each epoch.",
        "prototypes",
    ),
    "jacobian_classes": (
        "What each logit reacts to",
        "The mean of |∂ logit / ∂ pixel| over test images: rows are the images' classes, columns the logits.",
        "jacobian",
    ),
    "jacobian_classes_all": (
        "What each logit reacts to, over all test images",
        "The same as a mean over the whole test set, with the best weights.",
        "jacobian",
    ),
    "confusion_matrix": ("What it gets wrong", "Rows are the truth, columns the prediction.", ""),
    "tsne": ("How it arranges the classes", "t-SNE of the embedding of test images; errors are ringed.", ""),
    "leaderboard": ("Which explanation can be trusted", "Methods by metrics, the controls below a line.", "evaluation"),
}
"""Title, lead and guide by hook."""

AT_THE_END = ("prototypes", "jacobian_classes_all", "leaderboard", "gallery")
"""Hooks that look at the finished network."""


def figures(hook: str, name: str | None = None) -> Maker:
    """Makes the section of one hook's figures, with `name` as its id on the page."""

    def make(material: Material) -> Section | None:
        shown = [{"name": part, "pictures": _pictures(material, hook, part)} for part in _parts(material, hook)]
        shown = [figure for figure in shown if figure["pictures"]]
        if not shown:
            return None
        title, lead, guide = TEXTS.get(hook, (_heading(hook), f"The pictures of the hook {hook}.", ""))
        data = {"figures": shown, "moment": end_moment(material) if hook in AT_THE_END else ""}
        return Section(name or hook, "figures", title, lead, data, guide, hook=hook)

    make.__qualname__ = hook
    return make


def other_figures(material: Material, shown: Iterable[str]) -> list[Section]:
    """The sections of the hooks that no other section shows, such as a user's own."""
    hooks = dict.fromkeys(entry["hook"] for entry in material.artifacts if entry["kind"] == "figure")
    made: list[Section] = []
    for hook in sorted(set(hooks) - set(shown)):
        name = f"hook-{re.sub(r'[^A-Za-z0-9_.-]', '-', hook)}"
        if any(section.name == name for section in made):
            name = f"{name}-{len(made)}"
        section = figures(hook, name)(material)
        made += [section] if section else []
    return made


def end_moment(material: Material) -> str:
    """When the hooks at the end ran, and with which weights."""
    best = "" if material.best_epoch is None else f", of epoch {material.best_epoch}"
    return f"Made at the end, with the best weights{best}."


def _parts(material: Material, hook: str) -> list[str]:
    """The names of a hook's figures, the unnamed one first."""
    names = {entry["name"] for entry in material.artifacts if (entry["hook"], entry["kind"]) == (hook, "figure")}
    return sorted(names, key=lambda name: (name != hook, name))


def _pictures(material: Material, hook: str, name: str) -> dict[int, dict[str, Any]]:
    def read(entry: Entry) -> dict[str, Any] | None:
        picture = material.picture(entry)
        return None if picture is None else asdict(picture) | {"caption": entry["caption"]}

    return material.by_epoch(material.entries(hook, "figure", name), read)


def _heading(hook: str) -> str:
    """A hook's name as a heading.

    >>> _heading("my_hook.twice")
    'My hook, twice'
    """
    words = hook.replace("_", " ").replace(".", ", ").strip()
    return words[:1].upper() + words[1:] or "Pictures"
