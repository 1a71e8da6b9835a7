"""Robustness: accuracy on corrupted images, smallest adversarial changes, and movement of explanations."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from pellucid.core.errors import PellucidError
from pellucid.diagnostics._classified import classified
from pellucid.diagnostics.robustness import CORRUPTIONS, NORMS, Attack, MovementSearch, first_order_radius
from pellucid.hooks import HOOKS, Artifact, Hook, Scene
from pellucid.hooks._attacked import adversarial_artifact, attack_images
from pellucid.hooks._budget import Allowance
from pellucid.hooks._corrupted import corruption_artifact
from pellucid.hooks._hook import left_out
from pellucid.hooks._methods import explain_each, price_of
from pellucid.hooks._moved import moved_methods, movement_artifact, options_of

__all__ = ["Robustness"]

ATTACKS = (
    Attack(),
    Attack(steps=8, starts=3, rounds=8, tolerance=0.04),
    Attack(steps=6, starts=2, rounds=6, tolerance=0.06),
    Attack(steps=5, starts=1, rounds=4, tolerance=0.1),
)
"""Attacks from the most to the least expensive; a budget takes the first one that covers `WANTED` images."""
SEARCH = MovementSearch()
WANTED = 10
"""Number of attacked images for which a budget chooses a cheaper attack, and below which it leaves attacks out."""
LEVELS = 1 + sum(len(corruption.strengths) for corruption in CORRUPTIONS.values())
OVER_BUDGET = f"the budget (--budget) does not cover attacks on {WANTED} images."


@HOOKS.register("robustness")
@dataclass(frozen=True)
class Robustness(Hook):
    """Accuracy under five corruptions, smallest adversarial changes in two norms, and movement of explanations."""

    when: ClassVar[Literal["epoch", "end"]] = "end"
    is_slow: ClassVar[bool] = True
    default: ClassVar[bool] = False

    images: int = 1000
    """Maximum number of corrupted test images."""
    attacked: int = 100
    """Maximum number of correctly classified test images to attack."""
    explained: int = 50
    """Maximum number of these whose explanations are attacked, too."""
    attack: Attack = ATTACKS[0]
    """Effort of the attacks without a budget; the seed is that of the scene."""
    search: MovementSearch = SEARCH
    """Effort of the attacks on explanations; the seed is that of the scene."""

    def run(self, scene: Scene) -> Iterable[Artifact]:
        """Yield the figures of the corruptions, of the radii (`adversarial`) and of the movement (`explanations`).

        Numbers of the first: `accuracy`, `low`, `high` and `strengths` by corruption, and `left_out` with the reasons
        why other parts are missing. Of `adversarial`: `indices` and `labels`, and for `l2` and `linf` the `radii` (null
        if no attack succeeded), `estimates`, `predictions` of the adversarial images and `nearest_classes`, with the
        arrays `source`, `adversarial_l2` and `adversarial_linf` of the first images. Images that are misclassified
        already are not attacked. Of `explanations`: by method and radius, `attack` and `noise` (1 − cosine similarity),
        `attack_rank` and `noise_rank` (rank correlation), one value per image.
        """
        if not len(scene.test):
            return
        allowance = Allowance(scene, "robustness")
        corrupted, attacked, attack, explained = self._plan(scene, allowance)
        if not corrupted:
            yield left_out(scene, "the budget (--budget) does not cover the corruptions of one image.")
            return
        others, reasons = self._attack(scene, self._choose_images(scene, attacked), attack, explained)
        if not attacked:
            reasons = {"adversarial": OVER_BUDGET}
        # on one line, since errors may have several
        note = "".join(f" Left out ({name}): {' '.join(reason.split())}" for name, reason in reasons.items())
        yield corruption_artifact(scene, corrupted, note, reasons)
        yield from others

    def _attack(
        self, scene: Scene, indices: Tensor, attack: Attack, explained: int
    ) -> tuple[list[Artifact], dict[str, str]]:
        """Return the artifacts of the attacks, and the reasons why some are missing."""
        made: list[Artifact] = []
        if not len(indices):
            return made, {"adversarial": "no test image is classified correctly."}
        try:
            found = attack_images(scene, indices, attack)
        except PellucidError as error:
            return made, {"adversarial": str(error)}
        made.append(adversarial_artifact(scene, found))
        if not explained:
            return made, {"explanations": "the budget (--budget) does not cover them."}
        try:
            made.append(movement_artifact(scene, found, explained, replace(self.search, seed=scene.seed)))
        except PellucidError as error:
            return made, {"explanations": str(error)}
        return made, {}

    @staticmethod
    def _choose_images(scene: Scene, count: int) -> Tensor:
        """Return the indices of correctly classified images, spread evenly over the test set."""
        is_right = (scene.logits.argmax(1) == scene.test.labels) & ~scene.logits.isnan().any(1)
        right = is_right.nonzero()[:, 0]
        count = min(count, len(right))
        return right[torch.arange(count) * len(right) // max(count, 1)]

    def _plan(self, scene: Scene, allowance: Allowance) -> tuple[int, int, Attack, int]:
        """Return the numbers of corrupted, attacked and explained images, and the attack."""
        attack, total = replace(self.attack, seed=scene.seed), len(scene.test)
        if not allowance.is_limited:
            return min(self.images, total), min(self.attacked, total), attack, min(self.explained, total)
        most = min(allowance.images(self.images), total)
        whole = allowance.left
        prices = self._prices(scene, allowance)
        # a share for the corruptions, and what is left of the rest for the explanations
        corrupted = min(most, int(0.3 * whole / LEVELS))
        rest = allowance.left - corrupted * LEVELS
        for attack in ATTACKS:
            slopes, forwards = attack.passes
            price = len(NORMS) * (slopes * prices["step"] + forwards + prices["estimate"])
            attacked = int((0.7 * rest - 20) / max(price, 1))
            if attacked >= WANTED:
                break
        else:
            return max(0, min(most, int((allowance.left - 8) / LEVELS))), 0, attack, 0
        attacked = min(attacked, self.attacked, allowance.images(self.attacked))
        movement = 2 * self.search.explanations * (prices["maps"] + len(moved_methods(scene)))
        explained = int((rest - 20 - attacked * price) / max(movement, 1))
        return corrupted, attacked, replace(attack, seed=scene.seed), max(0, min(explained, self.explained, attacked))

    def _prices(self, scene: Scene, allowance: Allowance) -> dict[str, float]:
        """Return the cost of a gradient step, of an estimate and of the maps of one image, in forward passes."""
        image, label = scene.test.floats([0]), scene.logits[:1].argmax(1)

        def step() -> None:
            with classified(scene.model, image, label) as given:
                given.ascent(given.images, given.labels, None)

        prices = {
            # the check of the model takes one more forward pass
            "step": allowance.price("gradient step", step) - 1,
            "estimate": allowance.price("first-order radius", lambda: first_order_radius(scene.model, image, label)),
        }
        maps, _ = explain_each(
            moved_methods(scene), lambda name: price_of(scene, allowance, name, options_of(scene, name))
        )
        return {**prices, "maps": sum(maps.values())}
