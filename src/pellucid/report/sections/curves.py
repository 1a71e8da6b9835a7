"""Loss and accuracy over the epochs."""

from pellucid.report._material import Material
from pellucid.report._section import Section

__all__ = ["curves"]

KEYS = ("epoch", "train_loss", "validation_loss", "test_loss", "train_accuracy", "validation_accuracy", "test_accuracy")


def curves(material: Material) -> Section | None:
    """Two charts, with the chosen epoch marked."""
    if not material.metrics:
        return None
    lines = [{key: line.get(key) for key in KEYS} | {"best": bool(line.get("best"))} for line in material.metrics]
    return Section(
        name="curves",
        kind="curves",
        title="How it learned",
        lead="Loss in nats (lower is better) and the share of images recognised, after each epoch; 0 is the untrained network.",
        data={"lines": lines},
    )
