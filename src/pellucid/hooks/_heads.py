"""Attention heads of a transformer: the relevance that each carries, and attention rollout of some images."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pellucid.attribution import create_analyzer
from pellucid.attribution._explanation import without_warnings
from pellucid.core.contracts import Artifact
from pellucid.core.errors import PellucidError
from pellucid.diagnostics import LayerStatistics
from pellucid.engine.model import dtype_of
from pellucid.hooks._budget import TOO_EXPENSIVE, Allowance
from pellucid.hooks._hook import Scene
from pellucid.plots.heads import heads_figure

__all__ = ["attention_heads"]

EXPLAINED = 8
"""Maximum number of images whose relevance is averaged."""
DRAWN = 5
"""Maximum number of images with a rollout."""


def attention_heads(scene: Scene, statistics: LayerStatistics, allowance: Allowance) -> Iterator[Artifact]:
    """Yield an artifact for a model with attention; nothing for others.

    The arrays are `shares` (layer, head), the mean relevance of a head by LRP-ε as a share of the mean logit of the
    predicted class, with NaN where a layer has fewer heads; `rollout` (image, height, width); and `images`
    (image, channel, height, width), the pixels. The numbers are the `layers`, the `indices` of the test images, and
    `refused`, reasons for what is missing.
    """
    if not statistics.attention:
        return
    chosen = torch.arange(min(EXPLAINED, len(scene.test))) * len(scene.test) // min(EXPLAINED, len(scene.test))
    refused: dict[str, str] = {}

    def attempt(name: str, work: Callable[[Tensor], Any], most: int) -> Any:
        try:
            price = allowance.price(f"heads {name}", lambda: work(_images(scene, chosen[:1])))
            count = allowance.affordable(price, most)
            if not count:
                refused[name] = TOO_EXPENSIVE.format(name=name)
                return None
            with allowance.spending():
                return work(_images(scene, chosen[:count]))
        except PellucidError as error:
            refused[name] = str(error)
            return None

    first = next((row.name for row in statistics.rows if not row.is_activation and "@" not in row.name), None)
    table = None if first is None else attempt("lrp.epsilon", lambda images: _shares(scene, images, first), EXPLAINED)
    rollout = attempt("attention_rollout", lambda images: _rollout(scene, images), DRAWN)
    layers, shares = table or ([], np.zeros((0, 0), np.float32))
    maps = np.zeros((0, *scene.test.image_shape[1:]), np.float32) if rollout is None else rollout
    indices = chosen[: len(maps)]
    images = scene.test.shown(indices.tolist()).numpy().astype(np.float32)
    title = f"{scene.title}: attention heads"
    text = _summary(layers, shares) + " ".join(f" Left out: {name}, because {why}" for name, why in refused.items())
    yield Artifact(
        caption=f"{title}. {' '.join(text.split())}",
        name="attention",
        figure=heads_figure(shares, layers, (title, text), images, maps) if layers or len(maps) else None,
        arrays={"shares": shares, "rollout": maps, "images": images},
        numbers={"layers": layers, "indices": indices.tolist(), "refused": refused},
    )


def _images(scene: Scene, indices: Tensor) -> Tensor:
    return scene.test.floats(indices).to(scene.device, dtype_of(scene.model))


def _shares(scene: Scene, images: Tensor, first: str) -> tuple[list[str], np.ndarray] | None:
    """Return the attention layers and the share of each head in the logit of the predicted class."""
    with without_warnings():
        flow = create_analyzer("lrp.epsilon", scene.model).explain(images, to=first).flow()
    found = {
        junction.removesuffix(": heads"): [row.mean_share for row in rows if row.branch.startswith("head ")]
        for junction, rows in flow.junctions.items()
    }
    found = {layer: shares for layer, shares in found.items() if shares}
    if not found:
        return None
    table = np.full((len(found), max(map(len, found.values()))), np.nan, np.float32)
    for number, shares in enumerate(found.values()):
        table[number, : len(shares)] = shares
    return list(found), table


def _rollout(scene: Scene, images: Tensor) -> np.ndarray:
    explained = create_analyzer("attention_rollout", scene.model).explain(images)
    # the same for all channels
    return explained.relevance[:, 0].float().cpu().numpy()


def _summary(layers: list[str], shares: np.ndarray) -> str:
    if not layers or not np.isfinite(shares).any():
        return ""
    layer, head = np.unravel_index(int(np.nanargmax(shares)), shares.shape)
    return (
        "Share of the predicted class's logit that each head carries (LRP-ε, mean of the images); most: "
        f"{shares[layer, head]:.0%} by head {head} of {layers[layer]}."
    )
