"""Live explanations of any image by any method, in pages that `pellucid serve` sends."""

from pellucid.report import Material, Section
from pellucid.report._recommended import recommended_method

__all__ = ["live"]

METHOD = "lrp.epsilon_plus_flat"
"""Method shown first if the run recommends none: it applies to most networks, and its maps are easy to read."""


def live(material: Material) -> Section | None:
    """Build the section from what the server says about itself; None for a file on disk."""
    served = material.served
    if served is None:
        return None
    classes = [str(name) for name in served["classes"]]
    epoch = "" if served["epoch"] is None else f" (epoch {served['epoch']})"
    missing = f"The data of this run are not available: {served['missing']}" if served["missing"] else ""
    names = [method["name"] for method in served["methods"]]
    first = next((name for name in (recommended_method(material), METHOD) if name in names), names[0])
    return Section(
        name="live",
        kind="serve",
        title="Live explanations: any image, method and option",
        lead="Choose a test image, or open or drop an image of your own. The server that sent this page computes the "
        f"maps with the weights of the best checkpoint{epoch}.",
        data={**served, "classes": classes, "method": first},
        guide="methods_overview",
        notes=(missing,) if missing else (),
        label="Live",
        hook="",
    )
