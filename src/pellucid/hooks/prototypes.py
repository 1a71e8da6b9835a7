"""Class prototypes with three priors, compared with the mean of the training images of each class."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from pellucid.core.contracts import ImageSet
from pellucid.core.types import Images
from pellucid.densities import held_out
from pellucid.hooks import HOOKS, Artifact, Hook, Scene
from pellucid.hooks._budget import Allowance
from pellucid.hooks._hook import left_out
from pellucid.hooks._priors import DENSITIES, brightnesses, choose_priors
from pellucid.plots._text import short_log_probability
from pellucid.plots.captioned_images import captioned_images
from pellucid.plots.labels import Label
from pellucid.synthesis import Prior, Prototypes, objective, synthesise
from pellucid.synthesis.code import Code
from pellucid.synthesis.expert import Expert
from pellucid.synthesis.l2 import L2

__all__ = ["ClassPrototypes", "ClassPrototypesOfEachEpoch"]

VARIANTS = ("prototypes", "prototypes.each_epoch")

WAYS = {
    "l2": "small and smooth",
    "expert": "Gaussian mixture",
    "code": "decoder of a VAE",
}
"""Rows of the figure, with the prior of each."""


@HOOKS.register("prototypes")
@dataclass(frozen=True)
class ClassPrototypes(Hook):
    """Class prototypes by activation maximization with an L2 prior, a Gaussian mixture and a VAE decoder."""

    when: ClassVar[Literal["epoch", "end"]] = "end"
    is_slow: ClassVar[bool] = True
    densities: ClassVar[tuple[str, ...]] = tuple(DENSITIES.values())

    columns: int = 12
    """Maximum number of classes."""

    def run(self, scene: Scene) -> Iterable[Artifact]:
        """Yield a figure with the arrays `images` (prior, class, channel, height, width) and `class_means` and numbers.

        For each prior: `log_probability` (nats), `logit`, `objective`, the objective of the class mean at its best
        brightness, cosine distances to the class mean and to the nearest training image of the class, and the
        hyperparameters. For each density: the held-out log-likelihood of test images, in nats per image and bits per
        dimension. `refused` maps the priors that do not apply to the reason. Under a budget, only the L2 prior is
        searched, with fewer steps; the training images are the first of each class, and `left_out` holds the other
        priors with the reason.
        """
        if scene.train is None:
            yield left_out(scene, "prototypes are compared with training images, and none were given.")
            return
        if not scene.is_displayed:
            yield left_out(scene, "the normalization is unknown, and with it the bounds of a pixel.")
            return
        started = perf_counter()
        allowance = Allowance(scene, HOOKS.name_of(type(self)))
        classes = scene.shown_classes(allowance.classes(self.columns))
        count, priors, refused, unaffordable = choose_priors(scene, allowance, classes)
        if not priors:
            yield left_out(scene, "the budget (--budget) does not cover a single prototype.")
            return
        # chosen again, because fewer classes are those with more errors
        classes = scene.shown_classes(min(count, len(classes)))
        if scene.budget is not None:
            scene = replace(scene, train=_first_of(scene.train, classes, scene.budget.images))
        assert scene.train is not None
        means = _class_means(scene.train, classes)
        results: dict[str, Prototypes] = {}
        rows: dict[str, dict[str, Any]] = {}
        with allowance.spending():
            for way, prior in priors.items():
                results[way] = synthesise(scene.model, classes, prior, seed=scene.seed)
                rows[way] = _summarize(scene, results[way], prior, means)
            of_means = _log_probability_of_means(scene, classes, means)
        densities = {way: prior.density for way, prior in priors.items() if isinstance(prior, Expert | Code)}
        numbers = {
            "seed": scene.seed,
            "classes": classes,
            "names": [scene.classes[label] for label in classes],
            "ways": rows,
            "class_mean": {"log_probability": of_means},
            "densities": _evaluate_densities(scene, densities),
            "refused": refused,
            **({"left_out": unaffordable} if unaffordable else {}),
            "timing": {"seconds": perf_counter() - started},
        }
        title = f"{scene.title}: class prototypes"
        count = int(torch.isin(scene.train.labels, torch.tensor(classes)).sum())
        based = f"Class mean of {count:,} training images.{scene.choice(len(classes))}"
        ways = "one prior" if len(results) == 1 else f"{len(results)} priors"
        yield Artifact(
            caption=f"{title} with {ways}, and the mean of the training images. {based}",
            figure=_figure(results, means, numbers, (title, based)),
            arrays={
                "images": np.stack([one.images.float().numpy() for one in results.values()]),
                "class_means": np.nan_to_num(means.numpy()),
            },
            numbers=numbers,
        )


@HOOKS.register("prototypes.each_epoch")
@dataclass(frozen=True)
class ClassPrototypesOfEachEpoch(ClassPrototypes):
    """Class prototypes after every epoch, including epoch 0 (untrained); off by default because it is slow."""

    when: ClassVar[Literal["epoch", "end"]] = "epoch"
    default: ClassVar[bool] = False


def _first_of(images: ImageSet, classes: list[int], at_most: int) -> ImageSet:
    """Return the first images of each class, at most `at_most` of each."""
    firsts = [(images.labels == label).nonzero().flatten()[:at_most] for label in classes]
    return images[torch.cat(firsts)]


def _class_means(images: ImageSet, classes: list[int]) -> Images:
    """Return the mean image of each class (class, channel, height, width) in [0, 1]; NaN for a class without images."""
    means = []
    for label in classes:
        chosen = (images.labels == label).nonzero().flatten()
        # 0 / 0 gives NaN for a class without images, as promised
        total = sum((images.floats(part).sum(0, dtype=torch.float64) for part in chosen.split(2000)), torch.zeros(()))
        means.append((total / len(chosen)).expand(images.image_shape).float())
    return torch.stack(means)


def _summarize(scene: Scene, prototypes: Prototypes, prior: Prior, means: Images) -> dict[str, Any]:
    assert scene.train is not None
    assert prototypes.log_probability is not None
    images, labels = prototypes.images.float(), prototypes.classes.tolist()
    nearest = _distances_to_nearest(images, scene.train, labels)
    to_mean = 1 - F.cosine_similarity(images.flatten(1), means.flatten(1))
    return {
        "log_probability": prototypes.log_probability.tolist(),
        "probability": prototypes.log_probability.exp().tolist(),
        "logit": prototypes.logit.tolist(),
        "objective": prototypes.objective.tolist(),
        "log_prior": prototypes.log_prior.tolist(),
        "objective_of_class_mean": _objective_of_means(scene, prior, labels, means),
        "cosine_distance_to_class_mean": _listed(to_mean),
        "cosine_distance_to_nearest": nearest,
        "knobs": prior.summary(),
    }


def _distances_to_nearest(images: Images, train: ImageSet, labels: list[int]) -> list[float | None]:
    """Return the cosine distance of each image to the nearest training image of its class; None for an empty class."""
    distances = []
    for image, label in zip(images, labels, strict=True):
        chosen = (train.labels == label).nonzero().flatten()
        # in parts, because all images of a class as floats may not fit into memory
        parts = chosen.split(2000) if len(chosen) else ()
        cosines = [float(_cosines(train.floats(part).flatten(1), image.flatten()).max()) for part in parts]
        distances.append(1 - max(cosines) if cosines else None)
    return distances


def _cosines(images: Tensor, other: Tensor) -> Tensor:
    """Return the cosine similarity of each row to `other`, by a matrix product."""
    norms = torch.linalg.vector_norm(images, dim=1) * torch.linalg.vector_norm(other)
    return images @ other / norms.clamp_min(1e-8)


def _objective_of_means(scene: Scene, prior: Prior, labels: list[int], means: Images) -> list[float | None]:
    """Return the objective of each class mean at its best brightness; None for a class without images."""
    # a mean is dim, so compare at its best brightness: otherwise it would lose by contrast alone
    brightest = means / means.amax((1, 2, 3), keepdim=True).clamp_min(1e-6)
    count = brightnesses(scene)
    levels = torch.linspace(0, 1, count)
    scaled = (levels[:, None, None, None, None] * brightest).flatten(0, 1)
    # NaN means become black images, whose values the last line discards
    values = objective(scene.model, torch.cat([scaled, means]).nan_to_num(), labels, prior)
    # + 1 for the unscaled means; the diagonal pairs each mean with its own class
    best = values.view(count + 1, len(labels), len(labels)).amax(0).diagonal()
    return _listed(torch.where(means.isnan().flatten(1).any(1), torch.nan, best))


def _log_probability_of_means(scene: Scene, classes: list[int], means: Images) -> list[float | None]:
    # with weight 0, the objective is log p(class | x)
    prior = L2(image_shape=(means.shape[1], means.shape[2], means.shape[3]), weight=0.0)
    values = objective(scene.model, means.nan_to_num(), classes, prior).diagonal()
    return _listed(torch.where(means.isnan().flatten(1).any(1), torch.nan, values))


def _evaluate_densities(scene: Scene, densities: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return the held-out log-likelihood of the test images under each density."""
    numbers = {}
    for way, density in densities.items():
        result = held_out(density, scene.test.pixels)
        numbers[DENSITIES[way]] = {
            "held_out_nats_per_image": result.nats,
            "held_out_bits_per_dim": result.bits_per_dim,
            "held_out_images": result.images,
        }
    return numbers


def _listed(values: Tensor) -> list[float | None]:
    return [None if np.isnan(value) else value for value in values.tolist()]


def _figure(
    results: dict[str, Prototypes], means: Images, numbers: dict[str, Any], headline: tuple[str, str]
) -> Figure:
    """Draw one row per prior; `headline` is the title and the end of the subtitle."""
    images = [one.images.float() for one in results.values()]
    values = [numbers["ways"][way]["log_probability"] for way in results] + [numbers["class_mean"]["log_probability"]]
    rows = [Label(way, WAYS[way]) for way in results] + [Label("class mean", "of training images")]
    subtitle = "Below each image: log p(class | image) in nats; 0 is certainty. " + headline[1]
    for meaning, name in (("Not applicable", "refused"), ("Omitted to stay within the budget", "left_out")):
        subtitle += f" {meaning}: {', '.join(numbers[name])}." if numbers.get(name) else ""
    return captioned_images(
        torch.stack([*images, means]).numpy(),
        [["–" if value is None else short_log_probability(value) for value in line] for line in values],
        rows,
        numbers["names"],
        (headline[0], subtitle),
    )
