"""The smallest adversarial change of each image: projected gradient ascent, and a search over its radius."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn

from pellucid.core.options import Count, Options, Share, check_argument
from pellucid.core.seeding import generator
from pellucid.core.types import Images, Labels
from pellucid.diagnostics._balls import Ball, Norm
from pellucid.diagnostics._classified import Classified, classified, margins
from pellucid.diagnostics._first_order import FirstOrder, first_order_radius

__all__ = ["Adversarial", "Attack", "adversarial_radius"]

SECANTS = 6
"""Steps of the search for the boundary between an image and an adversarial one."""
SMALLEST_STEP = 0.05
"""Last step of an attack, as a share of the radius; the first step is the whole radius."""


@dataclass(frozen=True)
class Attack(Options):
    """Effort of the search for adversarial images."""

    steps: Count = 10
    """Gradient steps per attack."""
    starts: Count = 5
    """Attacks at each radius: from the closest adversarial image so far, from the image itself toward the class that is
    nearest to first order, and from random images within the radius. More starts help more than more steps."""
    rounds: Count = 12
    """Maximum number of radii per image."""
    tolerance: Share = 0.02
    """The bisection ends when the largest radius without success is this close to the smallest one with success, as a
    share of it."""
    seed: int = 0
    """Random seed of the starts."""

    @property
    def passes(self) -> tuple[int, int]:
        """Maximum number of gradients, and of forward passes besides, per image and norm."""
        return self.rounds * self.starts * self.steps, self.rounds * (self.starts + SECANTS + 1) + 4


@dataclass(frozen=True, eq=False)
class Adversarial:
    """The closest adversarial image that was found for each image."""

    radius: Float64[Tensor, " image"]
    """Norm of the change, in units of the pixels. It is that of an actual adversarial image, so it is an upper bound of
    the smallest change. 0 for images that are misclassified already; infinite if no attack succeeded."""
    images: Float[Tensor, "image channel height width"]
    """The adversarial images, as floats; the original ones where the radius is 0 or infinite."""
    predictions: Int64[Tensor, " image"]
    """Predicted classes of `images`."""
    first_order: FirstOrder
    """Estimates of the radius, from `first_order_radius`."""


def adversarial_radius(
    model: nn.Module,
    images: Images,
    labels: Labels,
    *,
    norm: Norm = "l2",
    pixel_range: tuple[float, float] = (0.0, 1.0),
    attack: Attack | None = None,
) -> Adversarial:
    """Search for the smallest change of each image that changes its prediction.

    At each radius, projected gradient ascent on the margin of another class stays within the ball around the image and
    within the pixel range (PGD: Madry et al., "Towards deep learning models resistant to adversarial attacks", 2018).
    The radius is bisected for each image. An adversarial image is first moved back toward its image, up to the decision
    boundary, which shrinks the radius faster.

    A failed attack proves nothing, so the radii are upper bounds. Attacks fail on networks that hide their gradients; a
    large radius is no proof of robustness.

    Args:
        model: maps images to logits.
        images: (batch, channel, height, width), within the pixel range.
        labels: true class of each image.
        norm: "l2" or "linf", in which the change is measured.
        pixel_range: pixel values of black and white.
        attack: effort of the search.

    Raises:
        ShapeError: if images, labels and model do not fit together.
        DataError: for pixels that are not finite or outside the pixel range.
        ModelError: for logits or derivatives that are not finite.
        UnsupportedOperation: for a model whose logits have no gradient.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
    >>> _ = model[1].weight.data.copy_(torch.tensor([[3.0, 0, 0, 0], [0, 0, 4.0, 0]]))
    >>> image = torch.tensor([0.9, 0.5, 0.1, 0.5]).view(1, 1, 2, 2)
    >>> result = adversarial_radius(model, image, torch.tensor([0]))
    >>> round(float(result.radius), 3), result.predictions  # (3 × 0.9 − 4 × 0.1) / 5
    (0.46, tensor([1]))
    """
    check_argument("adversarial_radius", "norm", norm, Norm)
    with classified(model, images, labels, pixel_range) as given:
        nearest = first_order_radius(model, given.images, given.labels, norm=norm)
        searches = [
            _Search(given, slice(start, start + given.chunk), Ball(norm, pixel_range), attack or Attack())
            for start in range(0, len(images), given.chunk)
        ]
        for search in searches:
            search.run(nearest)
    if not searches:
        return Adversarial(nearest.radius, images, nearest.nearest, nearest)
    radius, changed = (torch.cat([getattr(one, name) for one in searches]) for name in ("high", "best"))
    # rounded to integers, the images would no longer be adversarial
    changed = changed.to(images) if images.is_floating_point() else changed.to(images.device)
    return Adversarial(radius, changed, torch.cat([one.predictions for one in searches]), nearest)


@dataclass(eq=False)
class _Search:
    """The search over the radii of some of the images, each with its own bounds; radii are on the CPU."""

    given: Classified
    place: slice
    """Positions of the images."""
    ball: Ball
    effort: Attack
    images: Tensor = field(init=False)
    labels: Tensor = field(init=False)
    high: Tensor = field(init=False)
    """Smallest radius with success so far, infinite before the first one."""
    best: Tensor = field(init=False)
    """The adversarial image of that radius; the image itself before the first one."""
    predictions: Tensor = field(init=False)

    def run(self, nearest: FirstOrder) -> None:
        """Search for the closest adversarial image of each image."""
        self.images, self.labels = self.given.images[self.place], self.given.labels[self.place]
        estimate, self.best = nearest.radius[self.place], self.images.clone()
        is_wrong = margins(self.given.logits(self.images), self.labels) > 0
        self.high = torch.where(is_wrong, 0.0, torch.inf).double()
        low, most = torch.zeros_like(self.high), self.ball.largest(self.images)
        # just beyond the boundary of the linearized network or, if it has none, a twentieth of the range
        guess = torch.where(estimate.isfinite() & (estimate > 0), 1.05 * estimate, most / 20)
        for round_ in range(self.effort.rounds):
            is_found = self.high.isfinite()
            radius = torch.where(is_found, (low + self.high) / 2, torch.maximum(guess, 2 * low)).minimum(most)
            is_open = torch.where(is_found, self.high - low > self.effort.tolerance * self.high, low < most)
            rows = is_open.nonzero()[:, 0]
            if not len(rows):
                break
            failed = self._attack(rows, radius, nearest.nearest[self.place].to(self.labels.device), round_)
            low[failed] = radius[failed]
        self.predictions = self.given.logits(self.best).argmax(1).cpu()

    def _attack(self, rows: Tensor, radius: Tensor, nearest: Tensor, round_: int) -> Tensor:
        """Attack the images at `rows` from one start after the other; return the rows where all starts failed."""
        for start in range(self.effort.starts):
            # toward the class with the largest logit at each step, except from the first two starts
            targets: Tensor | None = None
            if start == 0:
                begin, targets = self.best[rows], self._targets(nearest)[rows]
            elif start == 1:
                begin, targets = self.images[rows], nearest[rows]
            else:
                begin = self._random(rows, radius[rows], f"{round_}, {start}")
            won, changed = self._ascend(rows, radius[rows], begin, targets)
            self._keep_closest(rows[won], changed[won])
            rows = rows[~won]
            if not len(rows):
                break
        return rows

    def _targets(self, nearest: Tensor) -> Tensor:
        """Return the predicted class of the best images so far; the nearest class to first order if there is none."""
        predictions = self.given.logits(self.best).argmax(1)
        return torch.where(predictions == self.labels, nearest, predictions)

    def _random(self, rows: Tensor, radius: Tensor, place: str) -> Tensor:
        """Return images with random changes at `rows`, drawn per image so that the batch does not matter."""
        begin = self.images[rows]
        for image, row, reach in zip(begin, rows.tolist(), radius.tolist(), strict=True):
            position = (self.place.start or 0) + row
            draws = generator(self.effort.seed, "adversarial", self.ball.norm, position, place)
            noise = torch.randn(image.shape, generator=draws, dtype=torch.float32, device="cpu")
            image += (reach * noise).to(image)
        return begin

    def _ascend(self, rows: Tensor, radius: Tensor, begin: Tensor, targets: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return which attacks succeed, and their images: the first adversarial ones, or the last ones."""
        images, labels = self.images[rows], self.labels[rows]
        changed = self.ball.project(images, begin, radius)
        won = torch.zeros(len(rows), dtype=torch.bool, device="cpu")
        active = torch.arange(len(rows), device="cpu")
        for step in range(self.effort.steps):
            aims = None if targets is None else targets[active]
            logits, slopes = self.given.ascent(changed[active], labels[active], aims)
            is_over = margins(logits, labels[active]) > 0
            won[active[is_over]] = True
            active = active[~is_over]
            if not len(active):
                return won, changed
            length = max(SMALLEST_STEP, 1 - step / self.effort.steps) * radius[active]
            direction = self.ball.steepest(changed[active], slopes[~is_over])
            moved = changed[active] + length.to(images).view(-1, 1, 1, 1) * direction
            changed[active] = self.ball.project(images[active], moved, radius[active])
        won[active] = margins(self.given.logits(changed[active]), labels[active]) > 0
        return won, changed

    def _keep_closest(self, rows: Tensor, changed: Tensor) -> None:
        """Move adversarial images toward the originals up to the boundary, and keep those that are closest so far."""
        if not len(rows):
            return
        images, labels, closest = self.images[rows], self.labels[rows], changed.clone()
        inner, outer = torch.zeros(2, len(rows), dtype=torch.float64, device="cpu")
        outer += 1
        below, above = (margins(self.given.logits(part), labels) for part in (images, changed))
        for step in range(SECANTS):
            # a secant, slightly beyond the boundary; every third step halves, in case the margin is far from linear
            secant = (1.0001 * below / (below - above)).nan_to_num(0.5).clamp(0, 1)
            share = inner + (outer - inner) * (0.5 if step % 3 == 2 else secant)
            tried = images + (changed - images) * share.to(images).view(-1, 1, 1, 1)
            gap = margins(self.given.logits(tried), labels)
            is_over = gap > 0
            closest[is_over] = tried[is_over]
            # the margin of an end that stays is halved (the Illinois rule); otherwise it could stay for good
            outer, above = torch.where(is_over, share, outer), torch.where(is_over, gap, above / 2)
            inner, below = torch.where(is_over, inner, share), torch.where(is_over, below / 2, gap)
        size = self.ball.size(closest.cpu().double() - images.cpu().double())
        is_closer = size < self.high[rows]
        self.high[rows[is_closer]] = size[is_closer]
        self.best[rows[is_closer]] = closest[is_closer]
