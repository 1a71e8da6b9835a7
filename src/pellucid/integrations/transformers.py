"""A callback for the `Trainer` of transformers.

```python
from pellucid.integrations.transformers import PellucidCallback

trainer = Trainer(model, arguments, train_dataset=train, eval_dataset=test, callbacks=[PellucidCallback(test)])
trainer.train()
```
"""

from collections.abc import Callable
from math import ceil
from typing import Any

from torch import nn

from pellucid.integrations._training import Training, missing

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ModuleNotFoundError as error:
    raise missing("transformers", error) from error

__all__ = ["PellucidCallback"]

LEAST_SHARE = 1e-6
"""Tolerance for rounding, because `state.epoch` counts epochs as a float."""


class PellucidCallback(TrainerCallback):
    """`Trainer` callback that writes figures and a report to the folder `save`, before training and after epochs.

    Metrics of an evaluation at the end of an epoch (`eval_strategy="epoch"`) become learning curves: `eval_loss`,
    `eval_accuracy` and the like. `train_loss` is the mean of the losses that the trainer logged during the epoch. Only
    rank 0 does any work. With `resume_from_checkpoint`, the earlier run is continued.

    Args:
        data: test images with labels: a data set whose items have `pixel_values` and `labels`, or anything else that
            `pellucid.watch` takes. Required, because callbacks have no access to the trainer's `eval_dataset`.
        model: function from the trained model to the network that is explained. Default: the model itself.
        options: keyword arguments of `pellucid.watch`: `classes`, `save`, `mean`, `std`, `hooks`, `budget`, `log_to`…

    Raises a `PellucidError` when the training starts if data, model or options do not fit.
    """

    def __init__(self, data: Any, *, model: Callable[[nn.Module], nn.Module] | None = None, **options: Any) -> None:
        self._data = data
        self._training = Training(model, options)
        self._due: int | None = None
        self._losses: list[tuple[float, int]] = []
        self._metrics: dict[str, Any] = {}
        self._logged_step = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **parts: Any
    ) -> None:
        """Show the network before training."""
        self._due, self._losses, self._metrics, self._logged_step = None, [], {}, state.global_step
        if state.is_world_process_zero:
            self._training.start(parts["model"], self._data, _epochs(state) if state.global_step else 0)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **parts: Any,
    ) -> None:
        """Collect the losses of the epoch; the trainer logs the mean since its last log."""
        if logs and "loss" in logs:
            self._losses.append((float(logs["loss"]), state.global_step - self._logged_step))
            self._logged_step = state.global_step
            if not control.should_evaluate:
                self._record()

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **parts: Any) -> None:
        """Record the epoch, or wait for its pending loss and evaluation."""
        self._due = _epochs(state)
        if parts.get("optimizer") is not None:
            self._metrics["learning_rate"] = parts["optimizer"].param_groups[0]["lr"]
        if not (control.should_evaluate or control.should_log):
            self._record()

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, Any] | None = None,
        **parts: Any,
    ) -> None:
        """Record the epoch with the metrics of its evaluation."""
        if self._due is not None:
            timing = ("_runtime", "_per_second", "_preparation_time")  # speed rather than quality of the model
            self._metrics |= {key: value for key, value in (metrics or {}).items() if not key.endswith(timing)}
            self._metrics.pop("epoch", None)
            self._record()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **parts: Any) -> None:
        """Run the end hooks and write the last report."""
        self._record()
        self._training.end("finished")

    def _record(self) -> None:
        """Record the pending epoch, if there is one."""
        if self._due is None:
            return
        steps = sum(count for _, count in self._losses)
        if steps:
            self._metrics["train_loss"] = sum(loss * count for loss, count in self._losses) / steps
        number, metrics = self._due, self._metrics
        self._due, self._losses, self._metrics = None, [], {}
        self._training.epoch(number, metrics)


def _epochs(state: TrainerState) -> int:
    """Return the number of epochs, including an incomplete last one."""
    return ceil((state.epoch or 0) - LEAST_SHARE)
