"""The pictures of one hook, one for each epoch."""

from pellucid.report._material import Material
from pellucid.report._section import Maker, Section

__all__ = ["figures"]

TEXTS = {
    "saliency": (
        "Where it looks",
        "The gradient of each image's true class at the empty image and at the image itself, their difference, and "
        "that times the image. Red: more of this pixel raises the logit; blue: lowers it.",
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
        "For each class, the image the network is most sure of, in three ways; the last row is the class mean.",
        "prototypes",
    ),
}
"""Title, lead and guide by hook."""


def figures(hook: str) -> Maker:
    """Makes the section of one hook's figures."""

    def make(material: Material) -> Section | None:
        entries = material.entries(hook, "figure")
        pictures = {
            epoch: {"uri": uri, "caption": entry["caption"]}
            for epoch, entry in sorted(entries.items())
            if (uri := material.picture(entry)) is not None
        }
        if not pictures:
            return None
        title, lead, guide = TEXTS[hook]
        return Section(name=hook, kind="figures", title=title, lead=lead, data={"pictures": pictures}, guide=guide)

    return make
