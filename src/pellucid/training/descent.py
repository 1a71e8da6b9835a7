"""Minimize any loss of a module: resumable, with a progress bar, and safe to stop with Ctrl-C."""

from collections.abc import Callable, Mapping
from time import monotonic

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from pellucid.core.errors import SaveError, TrainingError
from pellucid.core.terminal import track
from pellucid.training.checkpoint import Progress, TrainingState
from pellucid.training.interrupt import deferred_interrupt

__all__ = ["SECONDS_BETWEEN_CHECKPOINTS", "descend"]

SECONDS_BETWEEN_CHECKPOINTS = 15.0
"""The most training time lost if the process is killed."""


def descend(
    module: nn.Module,
    loss: Callable[[int], Tensor],
    *,
    steps: int,
    learning_rate: float,
    label: str = "fitting",
    start: TrainingState | None = None,
    keep: Callable[[TrainingState], None] = lambda _: None,
) -> None:
    """Train `module` in place: minimize `loss(step)` by `steps` steps of AdamW with a one-cycle schedule.

    `loss` returns a scalar that must depend only on the module and its step; resuming from `start` then gives
    bit-identical results. `keep` receives the state every 15 seconds, and on Ctrl-C, which ends in `KeyboardInterrupt`.

    Raises `TrainingError` if the loss is not finite, and `SaveError` if `start` does not fit the module.

    >>> layer = nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.zeros_(layer.weight)
    >>> descend(layer, lambda _: (layer.weight - 3).square().sum(), steps=200, learning_rate=0.1)
    >>> round(layer.weight.item(), 1)
    3.0
    """
    # fused, where torch supports it: one kernel updates all parameters
    optimizer = AdamW(
        module.parameters(), learning_rate, fused=next(module.parameters()).device.type in ("cpu", "cuda")
    )
    # at least 1.5 warm-up steps: OneCycleLR divides by zero if the warm-up is exactly one step
    schedule = OneCycleLR(optimizer, learning_rate, max(steps, 2), pct_start=min(max(0.1, 1.5 / steps), 0.99))
    first = _restore(start, {"model": module, "optimizer": optimizer, "schedule": schedule})

    def save(step: int) -> None:
        keep(TrainingState(Progress(step=step), *(part.state_dict() for part in (module, optimizer, schedule))))

    saved_at = monotonic()
    with track(label, steps) as tracker, deferred_interrupt() as interrupted:
        for step in range(first, steps):
            value = loss(step)
            optimizer.zero_grad()
            value.backward()
            if not torch.isfinite(value):
                raise TrainingError(
                    f"{label}: the loss is {value.item()} at step {step} of {steps}; check that all images are finite."
                )
            optimizer.step()
            schedule.step()
            tracker.update(step + 1, f"loss {value.item():.4g}")
            # checked after the step, so that the saved state belongs to a whole number of steps
            if interrupted():
                save(step + 1)
                raise interrupted.error()
            if monotonic() - saved_at > SECONDS_BETWEEN_CHECKPOINTS and step + 1 < steps:
                save(step + 1)
                saved_at = monotonic()
    # the caller keeps the module, but has no use for its last gradients
    optimizer.zero_grad()


def _restore(state: TrainingState | None, parts: Mapping[str, nn.Module | AdamW | OneCycleLR]) -> int:
    """Load the state into the parts and return its step; without a state, return 0."""
    if state is None:
        return 0
    try:
        for name, part in parts.items():
            part.load_state_dict(dict(getattr(state, name)))
    except (RuntimeError, ValueError, KeyError) as error:
        raise SaveError(f"the checkpoint does not fit the module ({error}); remove it.") from error
    return state.progress.step
