"""Live explanations of any image by any method, in pages that `pellucid serve` sends."""

from pellucid.report import Material, Section

__all__ = ["live"]

METHOD = "lrp.epsilon_plus_flat"
"""Method shown first: it applies to most networks and is readable."""


def live(material: Material) -> Section | None:
    """Build the section from what the server says about itself; None for a file on disk."""
    served = material.served
    if served is None:
        return None
    classes = [str(name) for name in served["classes"]]
    epoch = "" if served["epoch"] is None else f", epoch {served['epoch']}"
    missing = f"The data of this run are not available: {served['missing']}" if served["missing"] else ""
    names = [method["name"] for method in served["methods"]]
    return Section(
        name="live",
        kind="serve",
        title="Live explanations: any image, method and option",
        lead="Choose a test image, or open or drop a picture of your own. The server that sent this page computes the "
        f"maps with the weights of the best checkpoint{epoch}.",
        data={**served, "classes": classes, "method": METHOD if METHOD in names else names[0]},
        guide="methods_overview",
        notes=(missing,) if missing else (),
        label="Live",
        hook="",
    )
