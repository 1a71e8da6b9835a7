"""Label errors: the training images whose label is most probably wrong, with the evidence for each."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from matplotlib.figure import Figure

from pellucid.hooks import HOOKS, Artifact, Hook, Scene
from pellucid.hooks._hook import left_out
from pellucid.hooks._suspects import Assessed, assess
from pellucid.hooks._thumbnails import lossless_size, thumbnails
from pellucid.plots._text import class_names
from pellucid.plots.label_errors import SuspiciousImage, suspicious_images

__all__ = ["LabelErrorsHook"]

PAGE_SIDE = 56
"""Maximum side of the report's thumbnails, in pixels."""
MOST_PAIRS = 100
"""Maximum number of pairs of classes in the numbers."""
IN_SAMPLE = (
    "The network was trained on these labels, so it may have memorized wrong ones, and these are missed; "
    "`pellucid.label_errors` takes out-of-fold probabilities."
)


@HOOKS.register("label_errors")
@dataclass(frozen=True)
class LabelErrorsHook(Hook):
    """Training images whose label is most probably wrong, by confident learning and the neighbors in the embedding.

    The probabilities are those of the trained network for its own training images.
    """

    when: ClassVar[Literal["epoch", "end"]] = "end"

    images: int = 100_000
    """Maximum number of training images, spread evenly over the training set."""
    shown: int = 24
    """Number of images in the figure."""
    listed: int = 60
    """Number of images in the arrays and in the report."""

    def run(self, scene: Scene) -> Iterable[Artifact]:
        """Yield a figure with the array `thumbnails` and numbers, and the scores of all images.

        The numbers `indices` (positions among the training images), `labels`, `suggested`, `scores` (log-odds in nats
        that the label is wrong), `label_probabilities`, `suggested_probabilities`, `neighbors` (share of the nearest
        neighbors with another label) and `self_influence` have one value per listed image; the last two are None if
        the model has no embedding, for the reason `no_embedding`. `suspects` is the estimated number of label errors,
        `pairs` the same by `given` and `true` class. The second artifact, `scores`, has the arrays `indices`, `scores`
        and `suggested` of all images.
        """
        assessed = assess(scene, self.images)
        if isinstance(assessed, str):
            yield left_out(scene, assessed)
            return
        listed = assessed.most_suspicious(self.listed, scene.chosen_classes)
        if not len(listed):
            yield left_out(scene, "there are no training images of the selected classes (--classes)")
            return
        numbers = _numbers(scene, assessed, listed)
        title = f"{scene.title}: label errors"
        assert scene.train is not None
        source = scene.train[numbers["indices"]]
        summary = f"About {assessed.errors.suspects:,} of {assessed.text} are estimated to have a wrong label."
        yield Artifact(
            caption=f"{title}: the {min(self.shown, len(listed))} most suspicious training images, each with its label "
            f"and the suggested class. {summary} {IN_SAMPLE}",
            figure=_figure(scene, source.shown(slice(self.shown)).numpy(), numbers, (title, summary)),
            arrays={"thumbnails": thumbnails(source, PAGE_SIDE)},
            numbers={**numbers, "lossless_size": lossless_size(source, PAGE_SIDE)},
        )
        yield Artifact(
            caption=f"{title}: scores of all {len(assessed.indices):,} training images that were assessed.",
            name="scores",
            arrays={
                "indices": assessed.indices.numpy().astype(np.int32),
                "scores": assessed.errors.score.numpy().astype(np.float32),
                "suggested": assessed.errors.suggested.numpy().astype(np.int32),
            },
        )


def _numbers(scene: Scene, assessed: Assessed, listed: torch.Tensor) -> dict[str, Any]:
    errors = assessed.errors
    evidence = {name: values[listed] for name, values in errors.evidence.items()}
    probabilities = assessed.probabilities[listed]
    own, other = (probabilities.gather(1, of[listed, None])[:, 0] for of in (errors.labels, errors.suggested))
    pairs = [{"given": one.given, "true": one.true, "count": round(one.count, 1)} for one in errors.pairs]
    return {
        "indices": assessed.indices[listed].tolist(),
        "labels": errors.labels[listed].tolist(),
        "suggested": errors.suggested[listed].tolist(),
        "scores": _rounded(errors.score[listed]),
        "label_probabilities": _rounded(own),
        "suggested_probabilities": _rounded(other),
        "neighbors": _rounded(evidence["neighbors"]) if "neighbors" in evidence else None,
        "self_influence": _rounded(evidence["self_influence"]) if "self_influence" in evidence else None,
        "no_embedding": assessed.no_embedding,
        "suspects": errors.suspects,
        "pairs": pairs[:MOST_PAIRS],
        "images": len(assessed.indices),
        "not_finite": assessed.not_finite,
        "of": 0 if scene.train is None else len(scene.train),
        "probabilities": "in-sample",
        "chosen_classes": None if scene.chosen_classes is None else list(scene.chosen_classes),
    }


def _rounded(values: torch.Tensor) -> list[float]:
    return [float(f"{value:.6g}") for value in values.tolist()]


def _figure(scene: Scene, images: np.ndarray, numbers: dict[str, Any], headline: tuple[str, str]) -> Figure:
    names = class_names(scene.classes, 28)
    count = len(images)
    columns = [numbers[name] for name in ("labels", "suggested", "scores", "label_probabilities")]
    texts = [
        SuspiciousImage(
            _name(names, label),
            _name(names, suggested),
            (f"score {score:+.1f}".replace("-", "−"), f"p(label) {probability:.1%}", *_neighbors(numbers, row)),
        )
        for row, (label, suggested, score, probability) in enumerate(zip(*columns, strict=True))
    ]
    title, summary = headline
    subtitle = (
        f"{summary} Below each image: label, → suggested class, log-odds that the label is wrong, probability of the "
        "label, share of the nearest neighbors in the embedding with another label. The network was trained on these "
        f"labels: errors that it memorized are missed.{scene.scale_note}"
    )
    return suspicious_images(images, texts[:count], (title, subtitle))


def _name(names: Sequence[str], label: int) -> str:
    return names[label] if label < len(names) else str(label)


def _neighbors(numbers: dict[str, Any], row: int) -> tuple[str, ...]:
    return () if numbers["neighbors"] is None else (f"neighbors {numbers['neighbors'][row]:.0%}",)
