"""Robustness: accuracy on corrupted images, smallest adversarial changes, and movement of explanations."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from pellucid.core.errors import PellucidError
from pellucid.diagnostics._classified import classified
from pellucid.diagnostics.robustness import CORRUPTIONS, NORMS, Attack, MovementSearch, first_order_radius
from pellucid.hooks import HOOKS, Artifact, Hook, Scene
from pellucid.hooks._attacked import METHODS, adversarial_artifact, attack_images, movement_artifact
from pellucid.hooks._budget import Allowance
from pellucid.hooks._corrupted import corruption_artifact
from pellucid.hooks._hook import left_out
from pellucid.hooks._methods import bounded_options, explain_each, price_of

__all__ = ["Robustness"]

ATTACKS = (
    Attack(),
    Attack(steps=8, starts=3, rounds=8, tolerance=0.04),
    Attack(steps=6, starts=2, rounds=6, tolerance=0.06),
    Attack(steps=6, starts=1, rounds=5, tolerance=0.1),
)
"""Attacks from the most to the least expensive; a budget takes the first one that covers `WANTED` images."""
WANTED = 12
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
        indices, reasons, others = self._choose_images(scene, attacked), {}, []
        if not attacked:
            reasons["adversarial"] = OVER_BUDGET
        elif not len(indices):
            reasons["adversarial"] = "no test image is classified correctly."
        else:
            try:
                found = attack_images(scene, indices, attack)
                others.append(adversarial_artifact(scene, found))
                if explained:
                    moved, refused = movement_artifact(scene, found, explained)
                    others += [moved] if moved is not None else []
                    reasons.update(refused)
            except PellucidError as error:
                reasons["adversarial"] = str(error)
        note = "".join(f" Left out ({name}): {reason}" for name, reason in reasons.items())
        yield corruption_artifact(scene, corrupted, " ".join(note.split()) and f" {' '.join(note.split())}", reasons)
        yield from others

    @staticmethod
    def _choose_images(scene: Scene, count: int) -> Tensor:
        """Return the indices of correctly classified images, spread evenly over the test set."""
        is_right = (scene.logits.argmax(1) == scene.test.labels) & ~scene.logits.isnan().any(1)
        right = is_right.nonzero()[:, 0]
        count = min(count, len(right))
        return right[torch.arange(count) * len(right) // max(count, 1)]

    def _plan(self, scene: Scene, allowance: Allowance) -> tuple[int, int, Attack, int]:
        """Return the numbers of corrupted, attacked and explained images, and the attack."""
        attack, total = Attack(seed=scene.seed), len(scene.test)
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
        movement = 2 * MovementSearch().explanations * (prices["maps"] + len(self._methods(scene)))
        explained = int((rest - 20 - attacked * price) / max(movement, 1))
        attack = Attack(attack.steps, attack.starts, attack.rounds, attack.tolerance, scene.seed)
        return corrupted, attacked, attack, min(explained, self.explained, attacked)

    @staticmethod
    def _methods(scene: Scene) -> tuple[str, ...]:
        return (scene.methods or METHODS)[:2]

    def _prices(self, scene: Scene, allowance: Allowance) -> dict[str, float]:
        """Return the cost of a gradient step, of an estimate and of the maps of one image, in forward passes."""
        image, label = scene.test.floats([0]), scene.logits[:1].argmax(1)

        def step() -> None:
            with classified(scene.model, image, label) as given:
                given.ascent(given.images, given.labels, None)

        prices = {
            "step": allowance.price("gradient step", step),
            "estimate": allowance.price("first-order radius", lambda: first_order_radius(scene.model, image, label)),
        }
        maps, _ = explain_each(
            self._methods(scene), lambda name: price_of(scene, allowance, name, bounded_options(scene, name))
        )
        return {**prices, "maps": sum(maps.values())}
