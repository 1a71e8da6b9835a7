"""Out-of-distribution detection: scores, their AUROC for several sets of images, and the most unusual test images."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pellucid.core.errors import DataError
from pellucid.core.text import listed
from pellucid.diagnostics import EmbeddingReference, OutOfDistribution, detect, maximum_softmax, ood_scores
from pellucid.hooks import HOOKS, Artifact, Hook, Scene
from pellucid.hooks._budget import Allowance
from pellucid.hooks._hook import left_out, missing_embedding
from pellucid.hooks._ood_images import ImageSample, Sizes, affordable_sizes, choose_images
from pellucid.hooks._predictions import predictions_of
from pellucid.hooks._readings import Reader, Reading
from pellucid.hooks._thumbnails import thumbnails
from pellucid.plots._text import class_names
from pellucid.plots.captioned_images import captioned_images
from pellucid.plots.labels import Label
from pellucid.plots.out_of_distribution import Column, histogram_edges, out_of_distribution

__all__ = ["OutOfDistributionHook"]

DETAILS = {
    "softmax": "1 − largest probability",
    "max_logit": "− largest logit",
    "energy": "− log Σ exp logit",
    "mahalanobis": "from the closest class mean",
    "nearest_neighbors": "distance in the embedding",
    "gaussian_mixture": "− log density",
    "vae": "− log density (bound)",
}
"""Short description of each score."""
THUMBNAIL_SIDE = 56
"""Maximum side of the thumbnails in the report, in pixels."""


@HOOKS.register("out_of_distribution")
@dataclass(frozen=True)
class OutOfDistributionHook(Hook):
    """Scores of unfamiliar images, and how well each detects modified test images and other data."""

    when: ClassVar[Literal["epoch", "end"]] = "end"
    default: ClassVar[bool] = False
    densities: ClassVar[tuple[str, ...]] = ("gaussian_mixture", "vae")
    imports: ClassVar[tuple[str, ...]] = ("sklearn.datasets",)

    test_images: int = 10_000
    """Maximum number of test images."""
    set_images: int = 1000
    """Maximum number of images in each out-of-distribution set; at most half of the test images are modified."""
    train_images: int = 5000
    """Maximum number of training images in the embedding."""
    neighbors: int = 10
    """Number k of the nearest neighbor in the embedding whose distance is the score."""
    density_names: tuple[str, ...] = ("gaussian_mixture", "vae")
    """Densities whose likelihoods are scores."""
    shown: int = 9
    """Number of test images shown for each score."""

    def run(self, scene: Scene) -> Iterable[Artifact]:
        """Yield a table of AUROC with histograms, and as `least_like` the test images least like the training images.

        The numbers of the table are `rows` (score, set, auroc, low, high, fpr, inside, outside), `best` (the score with
        the highest mean AUROC), `sets` (description, number of images and mean confidence of each), `histograms`
        (edges and counts of each score), `refused` (scores that do not apply, with the reason) and `unusable` (number
        of images left out because the network's outputs for them are not finite). The array `scores` (score, image) has
        the scores of the test images at `indices`.

        The numbers of `least_like` have, for each score, the indices, labels, predictions, confidences and values of
        the images with the highest score; the array `thumbnails` has their pictures, in the order of `indices`.
        """
        sample, reader, reason = self._prepare(scene)
        if sample is None or reader is None:
            yield left_out(scene, reason)
            return
        with Allowance(scene, "out_of_distribution").spending():
            measured = _measure(sample, reader, self.neighbors)
        if isinstance(measured, str):
            yield left_out(scene, measured)
            return
        yield _table(sample, measured)
        yield _least_like(sample, measured, self.shown)

    def _prepare(self, scene: Scene) -> tuple[ImageSample | None, Reader | None, str]:
        """Return the images and their reader, or the reason for leaving the hook out."""
        if len(scene.test) < 2:
            return None, None, f"the number of test images is {len(scene.test)}; at least two are needed."
        allowance = Allowance(scene, "out_of_distribution")
        train = 0 if scene.train is None else min(self.train_images, len(scene.train))
        wanted = Sizes(self.test_images, self.set_images, train)
        if not allowance.is_limited:
            return choose_images(scene, wanted), Reader.of(scene, self.density_names), ""
        too_expensive = "the budget (--budget) does not cover any out-of-distribution images."
        # the measurements of the prices below
        if allowance.affordable(1.0, 1, 2) < 1:
            return None, None, too_expensive
        each_set = min(self.set_images, len(scene.embedded) // 2)
        sets = len(choose_images(scene, wanted).descriptions)
        wanted = Sizes(len(scene.embedded), each_set, min(train, sets * each_set))
        features = 0 if missing_embedding(scene) else scene.embedding.shape[1]
        with allowance.spending():
            reader = Reader.of(scene, self.density_names)
        image = scene.test.floats([0])
        price = allowance.price("out_of_distribution", lambda: reader.read([image]))
        sizes = affordable_sizes(allowance, wanted, price, sets, features)
        if sizes is None:
            return None, None, too_expensive
        return choose_images(scene, sizes), reader, ""


@dataclass(frozen=True, eq=False)
class _Measured:
    """Scores of all images."""

    indices: Tensor
    """Test images with finite outputs."""
    scores: Mapping[str, Tensor]
    """Scores of these test images, by name."""
    result: OutOfDistribution
    confidences: Mapping[str, float]
    """Mean confidence of the in-distribution images ("test") and of each set."""
    refused: Mapping[str, str]
    unusable: Mapping[str, int]
    """Number of images without finite outputs: "test", "train" and each set."""
    train: int
    neighbors: int


def _measure(sample: ImageSample, reader: Reader, neighbors: int) -> _Measured | str:
    """Compute the scores of all images; return the reason if the outputs are finite for hardly any."""
    readings = {name: reader.read(sample.parts(name)) for name in sample.descriptions}
    test = reader.test(sample.test)
    usable = {name: one.is_finite for name, one in {"test": test, **readings}.items()}
    unusable = {name: int((~finite).sum()) for name, finite in usable.items()}
    is_inside = usable["test"] & ~sample.is_source
    if not is_inside.any():
        return "the network's outputs are NaN or infinite for all test images; the training has diverged."
    reference, refused = None, dict(reader.refused)
    reason = refused.pop("embedding", None)
    if reason is None:
        reference, reason, unusable["train"] = _reference(sample, reader, neighbors)
    refused |= dict.fromkeys(("mahalanobis", "nearest_neighbors"), reason) if reference is None else reference.refused
    test = test[usable["test"]]
    scores = _scores(test, reference)
    inside = {name: values[is_inside[usable["test"]]] for name, values in scores.items()}
    chosen = {name: one[usable[name]] for name, one in readings.items() if usable[name].any()}
    if not chosen:
        return "the network's outputs are NaN or infinite for all out-of-distribution images."
    confidences = {
        name: 1 - float(maximum_softmax(one.logits).mean()) for name, one in {"test": test, **chosen}.items()
    }
    return _Measured(
        sample.test[usable["test"]],
        scores,
        detect(inside, {name: _scores(one, reference) for name, one in chosen.items()}),
        confidences,
        refused,
        {name: count for name, count in unusable.items() if count},
        len(sample.train) - unusable.get("train", 0),
        0 if reference is None else reference.neighbors,
    )


def _reference(sample: ImageSample, reader: Reader, neighbors: int) -> tuple[EmbeddingReference | None, str, int]:
    """Return the training images in the embedding, or the reason, and the number of those left out."""
    if not len(sample.train) or sample.scene.train is None:
        return None, "no training images were given", 0
    assert reader.outputs.tap is not None
    embedding = torch.cat(
        [reader.outputs.tap.read(part.to(sample.scene.device)).cpu() for part in sample.train_parts()]
    )
    finite = embedding.isfinite().all(1)
    unusable = int((~finite).sum())
    try:
        labels = sample.scene.train.labels[sample.train]
        return EmbeddingReference.fit(embedding[finite], labels[finite], neighbors=neighbors), "", unusable
    except DataError as error:
        return None, str(error), unusable


def _scores(reading: Reading, reference: EmbeddingReference | None) -> dict[str, Tensor]:
    embedding = None if reference is None else reading.embedding
    return {**ood_scores(reading.logits, embedding, reference), **reading.densities}


def _table(sample: ImageSample, measured: _Measured) -> Artifact:
    scene, result = sample.scene, measured.result
    best, means = result.best, result.auroc.mean(1)
    title = f"{scene.title}: out-of-distribution detection"
    mean = float(means[list(result.separations).index(best)])
    count = len(result.outside)
    summary = f"the best score is {best}, with a mean AUROC of {mean:.3f} over {count} sets"
    sets = {
        name: {
            "description": sample.descriptions[name],
            "images": len(scores[best]),
            "mean_confidence": measured.confidences[name],
        }
        for name, scores in result.outside.items()
    }
    return Artifact(
        caption=f"{title}: {summary}. AUROC of {len(result.inside[best]):,} test images and modified copies of others, "
        "with 95% intervals; 0.5 is chance.",
        figure=_figure(sample, measured, title, summary),
        arrays={
            "scores": np.stack([one.numpy() for one in measured.scores.values()]).astype(np.float32),
            "indices": measured.indices.numpy(),
        },
        numbers={
            **result.to_dict(),
            "scores": {name: DETAILS.get(name, "") for name in result.separations},
            "sets": sets,
            "mean_confidence": measured.confidences["test"],
            "histograms": {name: _histogram(result, name) for name in result.separations},
            "train_images": measured.train,
            "neighbors": measured.neighbors,
            "refused": dict(measured.refused),
            "unusable": dict(measured.unusable),
        },
    )


def _histogram(result: OutOfDistribution, score: str) -> dict[str, Any]:
    samples = {"test": result.inside[score], **{name: one[score] for name, one in result.outside.items()}}
    arrays = {name: values.numpy() for name, values in samples.items()}
    edges, is_logarithmic = histogram_edges(list(arrays.values()))
    counts = {
        name: np.histogram(values.clip(edges[0], edges[-1]), bins=edges)[0].tolist() for name, values in arrays.items()
    }
    return {"edges": edges.tolist(), "is_logarithmic": is_logarithmic, "counts": counts}


def _figure(sample: ImageSample, measured: _Measured, title: str, summary: str) -> Figure:
    result, best = measured.result, measured.result.best
    subtitle = f"{summary[0].upper()}{summary[1:]}. Cells: AUROC with its 95% interval (0.5 is chance; below it, the "
    subtitle += "images look more like the training images than test images do), and FPR at 95% TPR. "
    subtitle += f"Mean confidence in test images: {measured.confidences['test']:.0%}."
    subtitle += "".join(f" No {names}: {reason}." for names, reason in _reasons(measured.refused).items())
    if measured.unusable:
        subtitle += f" Left out: {sum(measured.unusable.values()):,} images with outputs that are not finite."
    columns = [
        Column(
            name,
            result.column(name),
            scores[best].numpy(),
            f"{sample.descriptions[name]}; mean confidence {measured.confidences[name]:.0%}",
            sample.example(name),
        )
        for name, scores in result.outside.items()
    ]
    rows = [Label(name, DETAILS.get(name, "")) for name in result.separations]
    return out_of_distribution(rows, columns, (best, result.inside[best].numpy()), (title, subtitle))


def _reasons(refused: Mapping[str, str]) -> dict[str, str]:
    """Return the first clause of each reason, by the names of the scores that share it."""
    clauses = {name: reason.partition(";")[0].rstrip(".") for name, reason in refused.items()}
    shared = {reason: [name for name in clauses if clauses[name] == reason] for reason in clauses.values()}
    return {listed(names): reason for reason, names in shared.items()}


def _least_like(sample: ImageSample, measured: _Measured, shown: int) -> Artifact:
    scene, count = sample.scene, min(shown, len(measured.indices))
    lists, chosen = {}, {}
    for name, values in measured.scores.items():
        # a stable order, so that ties keep the order of the test set
        order = values.argsort(descending=True, stable=True)[:count]
        chosen[name] = measured.indices[order]
        lists[name] = {
            **predictions_of(scene, chosen[name].tolist()).numbers,
            "values": [float(f"{value:.6g}") for value in values[order].tolist()],
        }
    indices = torch.cat(list(chosen.values())).unique()
    title = f"{scene.title}: test images least like the training images"
    return Artifact(
        caption=f"{title}: the {count} of {len(measured.indices):,} with the highest score, for each score.",
        name="least_like",
        figure=_images_figure(scene, chosen, lists, title),
        arrays={"thumbnails": thumbnails(scene.test[indices], THUMBNAIL_SIDE)},
        numbers={"indices": indices.tolist(), "least_like": lists, "best": measured.result.best},
    )


def _images_figure(
    scene: Scene, chosen: Mapping[str, Tensor], lists: Mapping[str, Mapping[str, list[Any]]], title: str
) -> Figure:
    names = class_names(scene.classes, 12)
    images = np.stack([scene.test.shown(indices).numpy() for indices in chosen.values()])
    captions = [
        [
            f"{names[label]}" if label == prediction else f"{names[label]} → {names[prediction]}"
            for label, prediction in zip(one["labels"], one["predictions"], strict=True)
        ]
        for one in lists.values()
    ]
    rows = [
        Label(name, f"score {one['values'][0]:.3g} … {one['values'][-1]:.3g}".replace("-", "−"))
        for name, one in lists.items()
    ]
    columns = [str(rank + 1) for rank in range(images.shape[1])]
    subtitle = f"Highest score first. Below each image: true class, then → prediction, if wrong.{scene.scale_note}"
    return captioned_images(images, captions, rows, columns, (title, subtitle))
