"""Movement of an explanation within a small ball around the image, while the prediction stays the same."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64
from scipy.stats import rankdata
from torch import Tensor, nn

from pellucid.core.errors import ConfigError, ModelError, ShapeError
from pellucid.core.finite import first_bad_row
from pellucid.core.options import Count, Options
from pellucid.core.seeding import generator
from pellucid.core.types import Images
from pellucid.diagnostics._arguments import check_tensors
from pellucid.diagnostics._balls import Ball
from pellucid.diagnostics._classified import Classified, classified

__all__ = ["Movement", "MovementSearch", "explanation_movement", "map_distance"]

Explain = Callable[[Tensor, Tensor], Tensor]
"""A function of images and their predicted classes that returns one map per image."""


@dataclass(frozen=True)
class MovementSearch(Options):
    """Effort of the search for the explanation that differs most."""

    draws: Count = 8
    """Number of random changes: the control, and the starts of the search."""
    steps: Count = 40
    """Number of changes tried one after the other."""
    seed: int = 0
    """Random seed."""

    @property
    def explanations(self) -> int:
        """Number of explanations per image, each with one forward pass more."""
        return self.draws + self.steps + 3


@dataclass(frozen=True, eq=False)
class Movement:
    """Distances between the explanation of each image and those of images nearby with the same prediction."""

    attack: Float64[Tensor, " image"]
    """1 − cosine similarity for the explanation that differs most, from 0 (equal up to scale) to 2 (opposite). 0 if no
    change tried kept the prediction."""
    attack_rank: Float64[Tensor, " image"]
    """Spearman's rank correlation of the same two explanations, from −1 to 1."""
    noise: Float64[Tensor, " image"]
    """Mean of 1 − cosine similarity over random changes of the same size that keep the prediction: the control. NaN if
    none did."""
    noise_rank: Float64[Tensor, " image"]
    """Mean rank correlation over the same random changes."""
    images: Float[Tensor, "image channel height width"]
    """The changed images."""
    maps: Float[Tensor, "image ..."]
    """Explanations of the original images."""
    moved_maps: Float[Tensor, "image ..."]
    """Explanations of the changed images, of the same class."""


def explanation_movement(
    model: nn.Module,
    explain: Explain,
    images: Images,
    radii: Float[Tensor, " batch"],
    *,
    pixel_range: tuple[float, float] = (0.0, 1.0),
    search: MovementSearch | None = None,
) -> Movement:
    r"""Search for the explanation that differs most, among images nearby with the same prediction.

    The explanation of an image x is attacked by changes \(\lVert x' - x \rVert_\infty \le r\) within the pixel range
    (idea: Ghorbani et al., "Interpretation of neural networks is fragile", 2019). Their attack needs second
    derivatives, which are zero in networks of ReLU layers and do not exist for every explanation, so this search only
    evaluates explanations. Every pixel changes by r or −r. The search starts from random signs and from the signs of
    the margin's gradient, and each step redraws the sign of a random square (Andriushchenko et al., "Square attack",
    2020). Changes of the prediction are rejected. The result is a lower bound of the largest movement.

    The control is random noise of equal norm: the same random signs, without a search.

    Args:
        model: maps images to logits.
        explain: maps images and their predicted classes to maps (batch, …), such as `analyzer.analyze`.
        images: (batch, channel, height, width), within the pixel range.
        radii: largest change of a pixel of each image.
        pixel_range: pixel values of black and white.
        search: effort of the search.

    Raises:
        ConfigError: for radii that are negative or not finite.
        ShapeError: if images, radii, maps and model do not fit together.
        DataError: for pixels that are not finite or outside the pixel range.
        ModelError: for explanations that are not finite.

    >>> import pellucid
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    >>> explain = pellucid.create_analyzer("gradient", model).analyze
    >>> moved = explanation_movement(model, explain, torch.rand(2, 1, 8, 8), torch.full((2,), 0.01))
    >>> moved.attack.tolist()  # the gradient of a linear model is constant
    [0.0, 0.0]
    """
    check_tensors(images=images, radii=radii)
    if radii.shape != images.shape[:1]:
        raise ShapeError(f"got radii of shape {tuple(radii.shape)} for {len(images)} images; pass one radius each.")
    if not bool((radii.isfinite() & (radii >= 0)).all()):
        raise ConfigError("radii must be finite and at least 0; leave out images without an adversarial radius.")
    labels = torch.zeros(len(images), dtype=torch.int64, device="cpu")
    with classified(model, images, labels, pixel_range) as given:
        parts = [
            _MapAttack(given, explain, Ball("linf", pixel_range), search or MovementSearch()).run(radii, start)
            for start in range(0, len(images), given.chunk)
        ]
    if not parts:
        none = torch.zeros(0, dtype=torch.float64, device="cpu")
        return Movement(none, none, none, none, images, images, images)
    return Movement(*(torch.cat(values) for values in zip(*parts, strict=True)))


def map_distance(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return 1 − cosine similarity and Spearman's rank correlation of pairs of maps (batch, …), in float64 on the CPU.

    Equal maps have distance 0 and correlation 1, also constant ones.

    >>> one = torch.tensor([[1.0, 2.0, 3.0]])
    >>> [round(float(value), 6) for value in map_distance(one, -one)]
    [2.0, -1.0]
    """
    flat = [maps.detach().flatten(1).cpu().double() for maps in (first, second)]
    ranks = [torch.from_numpy(rankdata(maps.numpy(), axis=1)).double() for maps in flat]
    return 1 - _cosine(*flat), _cosine(*(rank - rank.mean(1, keepdim=True) for rank in ranks))


def _cosine(first: Tensor, second: Tensor) -> Tensor:
    # scaled first, because the squares of tiny values underflow
    one, other = (maps / maps.abs().amax(1, keepdim=True).clamp(min=1e-300) for maps in (first, second))
    cosine = F.cosine_similarity(one, other, dim=1, eps=1e-12).clamp(-1, 1)
    return torch.where((first == second).all(1), 1.0, cosine)


@dataclass(eq=False)
class _MapAttack:
    """The attack on the explanations of one chunk of the images."""

    given: Classified
    explain: Explain
    ball: Ball
    effort: MovementSearch
    images: Tensor = field(init=False)
    targets: Tensor = field(init=False)
    """Predicted classes."""
    signs: Tensor = field(init=False)
    """Signs of the changes with the worst explanation so far."""

    def run(self, radii: Tensor, start: int) -> tuple[Tensor, ...]:
        """Return the fields of `Movement` for the images from position `start` on."""
        self.images = self.given.images[start : start + self.given.chunk]
        radii = radii[start : start + len(self.images)]
        self.targets = self.given.logits(self.images).argmax(1)
        self.signs = torch.zeros_like(self.images)
        own = self._maps(self.images)
        best, moved = self.images.clone(), own.clone()
        worst, controls = torch.zeros(len(best), dtype=torch.float64, device="cpu"), []
        for number, signs in enumerate(self._candidates(start)):
            reach = radii.to(self.images).view(-1, 1, 1, 1)
            changed = self.ball.project(self.images, self.images + reach * signs, radii)
            maps = self._maps(changed)
            is_kept = (self.given.logits(changed).argmax(1) == self.targets).cpu()
            distance, rank = self._distances(own, maps, with_ranks=number < self.effort.draws)
            if number < self.effort.draws:
                controls.append(torch.stack([distance, rank]).masked_fill(~is_kept, torch.nan))
            is_worse = is_kept & (distance > worst)
            worst[is_worse] = distance[is_worse]
            for kept, new in ((best, changed), (moved, maps), (self.signs, signs)):
                kept[is_worse.to(kept.device)] = new[is_worse.to(kept.device)]
        noise, noise_rank = torch.stack(controls).nanmean(0)
        return worst, map_distance(own, moved)[1], noise, noise_rank, best.cpu(), own.cpu(), moved.cpu()

    @staticmethod
    def _distances(own: Tensor, maps: Tensor, *, with_ranks: bool) -> tuple[Tensor, Tensor]:
        """Return the distances, and the rank correlations if wanted, which take longer than the explanation."""
        if with_ranks:
            return map_distance(own, maps)
        distance = 1 - _cosine(*(one.flatten(1).cpu().double() for one in (own, maps)))
        return distance, distance

    def _maps(self, images: Tensor) -> Tensor:
        maps = self.explain(images, self.targets).detach()
        if maps.ndim < 2 or len(maps) != len(images):
            raise ShapeError(
                f"the explanation has shape {tuple(maps.shape)} for {len(images)} images; expected one map per image."
            )
        bad = first_bad_row(maps)
        if bad is not None:
            raise ModelError(f"the explanation of image {bad} is not finite; leave the image out.")
        return maps

    def _candidates(self, start: int) -> Iterator[Tensor]:
        """Yield signs to try: random ones, those of the margin's gradient, and variations of the worst ones so far."""
        draws = [generator(self.effort.seed, "movement", start + place) for place in range(len(self.images))]
        shape = self.images.shape[1:]
        for _ in range(self.effort.draws):
            bits = [torch.randint(2, shape, generator=draw, dtype=torch.int8, device="cpu") for draw in draws]
            yield (2 * torch.stack(bits) - 1).to(self.images)
        slope = self.given.ascent(self.images, self.targets, None)[1].nan_to_num(0, 0, 0).sign()
        yield slope
        yield -slope
        for step in range(self.effort.steps):
            yield self._varied(draws, step / self.effort.steps)

    def _varied(self, draws: list[torch.Generator], progress: float) -> Tensor:
        """Return the worst signs so far with those of one random square per image redrawn, one per channel."""
        channels, height, width = self.images.shape[1:]
        # from half of the image's area down to single pixels
        side = max(1, round((0.5 * (1 - progress) ** 2 * height * width) ** 0.5))
        signs = self.signs.clone()
        for place, draw in enumerate(draws):
            row, column = (_whole(max(1, size - side + 1), draw) for size in (height, width))
            new = 2 * torch.randint(2, (channels, 1, 1), generator=draw, device="cpu") - 1
            signs[place, :, row : row + side, column : column + side] = new.to(signs)
        return signs


def _whole(below: int, draw: torch.Generator) -> int:
    return int(torch.randint(below, (), generator=draw, device="cpu"))
