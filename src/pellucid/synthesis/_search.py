"""Gradient ascent on the objective of a network and a prior, for all prototypes in one batch."""

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid.core.errors import ConfigError, ModelError, UnsupportedOperation
from pellucid.core.isolation import isolated
from pellucid.core.options import check_argument
from pellucid.core.seeding import generator
from pellucid.engine.inputs import check_is_model
from pellucid.engine.model import Network, device_of, dtype_of, frozen, unwrap
from pellucid.synthesis._goal import Classes, Goal, Response, make_goal
from pellucid.synthesis._prior import Parameters, Prior
from pellucid.synthesis._prototypes import Prototypes
from pellucid.synthesis._regularisers import similarity, warped

__all__ = ["synthesise"]

MOVED_SHARE = 0.5
"""Share of the steps with randomly transformed images; the rest, and the refinement, use the objective itself."""
RANKED_AT_ONCE = 250
ALIKE = 0.9
"""Several prototypes of one class start, if possible, at images with a cosine similarity below this."""


def synthesise(
    model: Network,
    classes: Classes,
    prior: Prior,
    *,
    seed: int = 0,
    unit: Response | None = None,
    diversity: int = 1,
) -> Prototypes:
    """Find the images with the largest log p(class | x) + weight · log p(x); all classes are searched in one batch.

    Equal arguments give equal images, bit for bit on the CPU. The model is not modified.

    Args:
        model: any module from images to logits.
        classes: one class index or several; None: all classes. A hidden `Unit`, or several, takes their place.
        prior: which images are plausible, and how to search them.
        seed: random seed.
        unit: alternative to `classes`: (layer, channel), (layer, channels) or a function of the model's outputs. Its
            value (a channel's mean over the image) replaces log p(class | x).
        diversity: number of prototypes per class, pushed apart.

    Raises `ShapeError`, `UnknownName`, `ModelError`, `UnsupportedOperation` or `ConfigError` for invalid arguments,
    before the search starts.

    >>> from pellucid.synthesis.l2 import L2
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    >>> result = synthesise(model, [0, 2], L2(image_shape=(1, 4, 4), steps=5))
    >>> result.images.shape, result.history.shape
    (torch.Size([2, 1, 4, 4]), torch.Size([2, 10]))
    """
    check_is_model(unwrap(model))
    check_argument("prototypes", "seed", seed, int)
    check_argument("prototypes", "prior", prior, Prior)
    check_argument("prototypes", "diversity", diversity, int)
    if diversity < 1:
        raise ConfigError(f"got diversity={diversity}; expected a number of prototypes per class, at least 1.")
    model = unwrap(model)
    device, dtype = device_of(model), torch.promote_types(dtype_of(model), torch.float32)
    # torch's optimizers create their step counters on the default device
    with isolated(), torch.device(device), frozen(model):
        prior = prior.on(device)
        draws = generator(seed, "sample")
        sample = torch.rand(2, *prior.shape, generator=draws, dtype=dtype, device="cpu").to(device)
        goal = make_goal(model, classes, unit, sample)
        plan = _Plan(goal, prior, diversity, seed)
        parameters, history = _climb(plan, plan.begin(device, dtype), prior.steps, int(MOVED_SHARE * prior.steps))
        kept = _best_starts(plan, parameters)
        parameters, history = parameters[kept], history[kept]
        # only the best start of each prototype is refined
        plan = replace(plan, prior=replace(prior, starts=1))
        if further := round(prior.refined_share * prior.steps):
            parameters, more = _climb(plan, parameters, further)
            history = torch.cat([history, more], 1)
        return _result(plan, parameters, history)


@dataclass(frozen=True, eq=False)
class _Plan:
    """The search problem; batch entries are ordered as (target, start, one of `diversity`)."""

    goal: Goal
    prior: Prior
    diversity: int
    seed: int

    @property
    def groups(self) -> int:
        """Number of groups; the prototypes within a group are pushed apart."""
        return len(self.goal.targets) * self.prior.starts

    @property
    def places(self) -> Tensor:
        """Index of each entry's target among the targets."""
        return torch.arange(len(self.goal.targets), device="cpu").repeat_interleave(self.prior.starts * self.diversity)

    def begin(self, device: torch.device, dtype: torch.dtype) -> Parameters:
        """Return the starting point of each entry: the candidates with the best objective."""
        # candidates are ranked once for all targets, by one forward pass each
        per_target = self.prior.starts * self.diversity
        count = len(self.goal.targets) * per_target
        candidates = self.prior.begin(count, self.seed).to(device, dtype)
        if len(candidates) == count:
            return candidates
        with torch.no_grad():
            scores = torch.cat([self._score(part) for part in candidates.split(RANKED_AT_ONCE)])
        order = scores.argsort(dim=0, descending=True, stable=True).T  # (target, rank)
        if self.diversity > 1:
            with torch.no_grad():
                unit = F.normalize(self.prior.decode(candidates).flatten(1), dim=1)
            order = torch.stack([_apart(ranked, unit, self.diversity, self.prior.starts) for ranked in order])
        order = order[:, :per_target]
        # with fewer candidates than entries, reuse them cyclically
        order = order.repeat(1, math.ceil(per_target / order.shape[1]))[:, :per_target]
        return candidates[order.reshape(-1)].clone()

    def _score(self, parameters: Parameters) -> Tensor:
        images = self.prior.decode(parameters)
        values, _ = self.goal.read(images)
        return values + self.prior.weight * self.prior.log_prior(parameters, images)[:, None]

    def objective(self, parameters: Parameters, draws: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return the penalized objective, the objective and the network's part; with `draws`, of transformed images."""
        prior = self.prior
        images = prior.decode(parameters)
        # the prior judges the image itself; only the network sees it transformed
        seen = images
        if draws is not None:
            seen = warped(images, prior.shift_share, prior.rotation_degrees, prior.scale_share, draws)
        values, _ = self.goal.read(seen)
        own = values.gather(1, self.places.to(values.device)[:, None])[:, 0]
        total = own + prior.weight * prior.log_prior(parameters, images)
        return total - prior.repulsion * similarity(images, self.groups, self.diversity), total, own


def _apart(ranked: Tensor, unit: Tensor, size: int, groups: int) -> Tensor:
    """Reorder `ranked` so that it starts with `groups` groups of `size` dissimilar members; similar ones move alike."""
    remaining, chosen = ranked.tolist(), []
    for _ in range(groups):
        group: list[int] = []
        while remaining and len(group) < size:
            far = (index for index in remaining if not group or float((unit[group] @ unit[index]).max()) < ALIKE)
            index = next(far, remaining[0])
            remaining.remove(index)
            group.append(index)
        chosen += group
    return torch.tensor(chosen + remaining, device=ranked.device)


def _climb(plan: _Plan, parameters: Parameters, steps: int, moved: int = 0) -> tuple[Parameters, Tensor]:
    """Return the best parameters and the objective at each step, (entry, step); the first `moved` steps transform."""
    prior, draws = plan.prior, generator(plan.seed, "prototypes", "moves")
    parameters = parameters.requires_grad_()
    # fused, where torch supports it: one kernel for the whole step
    is_fused = parameters.device.type in ("cpu", "cuda")
    optimizer = torch.optim.Adam([parameters], prior.learning_rate, fused=is_fused)
    best, height, history = parameters.detach().clone(), None, []
    # one more evaluation than steps, for the result of the last one
    for step in range(steps + 1):
        climbed, total, own = plan.objective(parameters, draws if step < moved else None)
        if step >= moved:  # values of transformed images are not comparable
            # −∞ on the right device and in the right dtype
            height = climbed.detach() - torch.inf if height is None else height
            is_better = climbed.detach() > height
            height = torch.where(is_better, climbed.detach(), height)
            best = torch.where(is_better.view(-1, *[1] * (best.ndim - 1)), parameters.detach(), best)
        if step == steps:
            break
        if not torch.isfinite(climbed).all():
            raise ModelError(f"the objective is not finite at step {step}; lower learning_rate, or check the model.")
        history.append(total.detach())
        # one backward pass for all entries; in eval mode they interact only through the repulsion
        (slope,) = torch.autograd.grad(-climbed.sum(), parameters)
        _check_slope(own, slope, step)
        parameters.grad = slope
        # linear decay to zero
        optimizer.param_groups[0]["lr"] = prior.learning_rate * (1 - step / steps)
        optimizer.step()
        with torch.no_grad():
            prior.constrain(parameters)
    return best, torch.stack(history, 1)


def _check_slope(own: Tensor, slope: Tensor, step: int) -> None:
    if not own.requires_grad:
        raise UnsupportedOperation("in some steps, the values to maximize have no gradient with respect to the images.")
    if not torch.isfinite(slope).all():
        raise ModelError(
            f"a gradient is not finite at step {step}; check the model for divisions by zero and square roots of zero."
        )


def _best_starts(plan: _Plan, parameters: Parameters) -> Tensor:
    """Return the entries of the best start of each prototype."""
    starts, diversity, targets = plan.prior.starts, plan.diversity, len(plan.goal.targets)
    with torch.no_grad():
        climbed, _, _ = plan.objective(parameters, None)
    heights = climbed.view(targets, starts, diversity).sum(2).argmax(1)  # whole groups, since each was pushed apart
    entries = torch.arange(len(parameters), device=parameters.device).view(targets, starts, diversity)
    return entries[torch.arange(targets, device=parameters.device), heights].reshape(-1)


def _result(plan: _Plan, parameters: Parameters, history: Tensor) -> Prototypes:
    """Collect the prototypes and their scores."""
    with torch.no_grad():
        _, total, own = plan.objective(parameters, None)
        images = plan.prior.decode(parameters)
        raw = plan.goal.read(images)[1].gather(1, plan.places.to(images.device)[:, None])[:, 0]
        log_prior = plan.prior.log_prior(parameters, images)
    if not torch.isfinite(total).all():
        raise ModelError("the objective of a prototype is not finite; lower learning_rate, or check the model.")
    return Prototypes(
        images=images.clamp(0, 1).cpu(),
        classes=torch.tensor(plan.goal.targets, device="cpu").repeat_interleave(plan.diversity),
        log_probability=own.cpu() if plan.goal.is_of_classes else None,
        logit=raw.cpu(),
        objective=total.cpu(),
        log_prior=log_prior.cpu(),
        history=history.cpu(),
        seed=plan.seed,
        prior=type(plan.prior).__module__.rpartition(".")[2],
    )
