"""Out-of-distribution detection: scores that should be higher for images unlike the training images."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.core.errors import ConfigError, DataError, ShapeError
from pellucid.core.isolation import without_autocast
from pellucid.core.types import Images, Logits
from pellucid.densities import Density
from pellucid.diagnostics._arguments import check_tensors
from pellucid.diagnostics._embedding import EmbeddingReference
from pellucid.diagnostics._separation import Separation, separation
from pellucid.diagnostics._shifts import SHIFTS, shift_images

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "SHIFTS",
    "EmbeddingReference",
    "OutOfDistribution",
    "Separation",
    "detect",
    "energy",
    "maximum_logit",
    "maximum_softmax",
    "negative_log_density",
    "ood_scores",
    "separation",
    "shift_images",
]

IMAGES_AT_ONCE = 500

Scores = Float[Tensor, " batch"]
"""One value per image, float64 on the CPU; higher is less like the training data."""


def energy(logits: Logits, temperature: float = 1.0) -> Scores:
    r"""Return the energy of each image (Liu et al., *Energy-based out-of-distribution detection*, 2020), equation 4.

    $$
    E(x) = -T \log \sum_c e^{f_c(x) / T}
    $$

    It falls by $k$ if $k$ is added to all logits $f$, while their softmax does not change.

    Raises `ShapeError` and `DataError` as `ood_scores` does, and `ConfigError` for a temperature that is not positive.

    >>> energy(torch.tensor([[0.0, 0.0], [3.0, -3.0]])).numpy().round(3)
    array([-0.693, -3.002])
    """
    if not 0 < temperature < float("inf"):
        raise ConfigError(f"temperature is {temperature}; pass a positive number, such as 1.")
    return -temperature * (_checked(logits) / temperature).logsumexp(1)


def maximum_logit(logits: Logits) -> Scores:
    r"""Return $-\max_c f_c(x)$, the negative maximum logit.

    (Hendrycks et al., *Scaling out-of-distribution detection for real-world settings*, 2022.)

    >>> maximum_logit(torch.tensor([[1.0, 2.0]]))
    tensor([-2.], dtype=torch.float64)
    """
    return -_checked(logits).amax(1)


def maximum_softmax(logits: Logits) -> Scores:
    r"""Return $1 - \max_c p(c \mid x)$, in 0…1, the baseline of all scores.

    (Hendrycks and Gimpel, *A baseline for detecting misclassified and out-of-distribution examples in neural networks*,
    2017.) It is computed as the sum of the other probabilities: the difference from 1 would round to 0 for confident
    predictions, which could then no longer be ranked.

    >>> maximum_softmax(torch.tensor([[0.0, 0.0], [60.0, 0.0]]))
    tensor([5.0000e-01, 8.7565e-27], dtype=torch.float64)
    """
    probabilities = _checked(logits).softmax(1)
    return probabilities.scatter(1, probabilities.argmax(1, keepdim=True), 0.0).sum(1)


def negative_log_density(density: Density, images: Images) -> Scores:
    r"""Return $-\log p(x)$ in nats under a density of the training images.

    Likelihoods can be fooled: images unlike the training images, such as smooth or dark ones, can have a higher density
    than these (Nalisnick et al., *Do deep generative models know what they don't know?*, 2019).

    >>> from pellucid import fit_density
    >>> density = fit_density("gaussian_mixture", torch.rand(50, 1, 4, 4))
    >>> negative_log_density(density, torch.rand(3, 1, 4, 4)).shape
    torch.Size([3])
    """
    with torch.no_grad(), without_autocast():
        parts = [-density.log_density(part).to("cpu", torch.float64) for part in images.split(IMAGES_AT_ONCE)]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64, device="cpu")


def ood_scores(
    logits: Logits,
    embedding: Tensor | None = None,
    reference: EmbeddingReference | None = None,
    *,
    temperature: float = 1.0,
) -> dict[str, Scores]:
    """Return the scores of images by name, each higher for images less like the training images.

    From the logits: `softmax`, `max_logit` and `energy` (see `maximum_softmax`, `maximum_logit` and `energy`). With an
    embedding and a reference: `mahalanobis` and `nearest_neighbors` (see `EmbeddingReference.scores`).

    Args:
        logits: (image, class).
        embedding: (image, feature): the same layer that the reference was fitted to.
        reference: embeddings of training images.
        temperature: temperature of the energy.

    Raises `ShapeError` for the wrong shape, `DataError` for values that are not finite, and `ConfigError` if only one
    of `embedding` and `reference` is given.

    >>> logits, embedding = torch.randn(6, 3), torch.randn(6, 4)
    >>> reference = EmbeddingReference.fit(torch.randn(50, 4), torch.arange(50) % 3)
    >>> list(ood_scores(logits, embedding, reference))
    ['softmax', 'max_logit', 'energy', 'mahalanobis', 'nearest_neighbors']
    """
    if (embedding is None) != (reference is None):
        missing = "embedding" if embedding is None else "reference"
        raise ConfigError(f"{missing} is missing; pass both embedding and reference, or neither.")
    scores = {
        "softmax": maximum_softmax(logits),
        "max_logit": maximum_logit(logits),
        "energy": energy(logits, temperature),
    }
    if embedding is None or reference is None:
        return scores
    if len(embedding) != len(logits):
        raise ShapeError(f"got {len(embedding)} embeddings but {len(logits)} rows of logits; pass the same images.")
    return scores | reference.scores(embedding)


@dataclass(frozen=True, eq=False)
class OutOfDistribution:
    """Separation of in-distribution images from several sets of other images by several scores."""

    inside: Mapping[str, Tensor]
    """Scores of the in-distribution images, by name."""
    outside: Mapping[str, Mapping[str, Tensor]]
    """Scores of the images of each set, by name of the set and of the score."""
    separations: Mapping[str, Mapping[str, Separation]]
    """AUROC and FPR, by name of the score and of the set."""

    @property
    def auroc(self) -> Float[Tensor, "score set"]:
        """AUROC of each score (row) for each set (column), in the order of `separations`."""
        rows = [[one.auroc for one in row.values()] for row in self.separations.values()]
        return torch.tensor(rows, dtype=torch.float64, device="cpu")

    @property
    def best(self) -> str:
        """Score with the highest mean AUROC over the sets; the first of equal ones."""
        # chosen on the very images that it is measured with, so its mean AUROC is slightly optimistic
        return list(self.separations)[int(self.auroc.mean(1).argmax())]

    def column(self, name: str) -> list[tuple[float, float, float, float]]:
        """Return AUROC, the ends of its interval, and FPR, of each score for one set."""
        cells = [row[name] for row in self.separations.values()]
        return [(one.auroc, one.low, one.high, one.fpr) for one in cells]

    def figure(self, title: str = "Out-of-distribution detection", subtitle: str = "") -> "Figure":
        """Draw AUROC and FPR of each score and set, and the histograms of the best score."""
        from pellucid.plots.labels import Label
        from pellucid.plots.out_of_distribution import Column, out_of_distribution

        best = self.best
        columns = [Column(name, self.column(name), scores[best].numpy()) for name, scores in self.outside.items()]
        rows = [Label(name, "highest mean AUROC" if name == best else "") for name in self.separations]
        return out_of_distribution(rows, columns, (best, self.inside[best].numpy()), (title, subtitle))

    def to_dict(self) -> dict[str, Any]:
        """Return the table as JSON values: `best`, and one row per score and set."""
        rows = [
            {"score": score, "set": name, **vars(one)}
            for score, row in self.separations.items()
            for name, one in row.items()
        ]
        return {"best": self.best, "rows": rows}


def detect(
    inside: Mapping[str, Tensor], outside: Mapping[str, Mapping[str, Tensor]], *, level: float = 0.95
) -> OutOfDistribution:
    """Measure how well each score separates in-distribution images from each set of other images.

    The sets have to be independent of the in-distribution images: make modified copies from other images of the data.

    Args:
        inside: (image,) scores of in-distribution images by name, such as those of `ood_scores`.
        outside: for each set of out-of-distribution images, the same scores.
        level: confidence level of the intervals.

    Raises `ConfigError` if there is no score, no set, or if the names of the scores differ, and the errors of
    `separation`.

    >>> inside = ood_scores(torch.tensor([[9.0, 0.0], [0.0, 8.0], [7.0, 0.0]]))
    >>> result = detect(inside, {"uncertain": ood_scores(torch.tensor([[1.0, 0.0], [0.0, 0.5]]))})
    >>> result.auroc.tolist()
    [[1.0], [1.0], [1.0]]
    """
    if not inside or not outside:
        raise ConfigError(f"got {len(inside)} scores and {len(outside)} sets; pass at least one of each.")
    for name, scores in outside.items():
        if set(scores) != set(inside):
            raise ConfigError(
                f"the set {name!r} has the scores {', '.join(scores)}, but the in-distribution images have "
                f"{', '.join(inside)}; compute the same scores for all."
            )
    table = {
        score: {name: separation(values, other[score], level=level) for name, other in outside.items()}
        for score, values in inside.items()
    }
    return OutOfDistribution(dict(inside), {name: dict(scores) for name, scores in outside.items()}, table)


def _checked(logits: Any) -> Float[Tensor, "batch class"]:
    check_tensors(logits=logits)
    if logits.ndim != 2 or not logits.shape[1] or not logits.is_floating_point():
        raise ShapeError(
            f"got logits of shape {tuple(logits.shape)} and dtype {logits.dtype}; expected floats of shape "
            "(image, class)."
        )
    logits = logits.detach().to("cpu", torch.float64)
    if unusable := int((~logits.isfinite()).any(1).sum()):
        raise DataError(
            f"the logits of {unusable} of {len(logits)} images contain NaN or infinite values; leave these images out."
        )
    return logits
