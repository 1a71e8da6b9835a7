"""A callback for PyTorch Lightning.

```python
from pellucid.integrations.lightning import PellucidCallback

trainer = Trainer(max_epochs=10, callbacks=[PellucidCallback(classes=["cat", "dog"], save="save")])
trainer.fit(module, train_loader, validation_loader)
```
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from pellucid.core.errors import ConfigError, ModelError
from pellucid.integrations._training import Training, missing

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ModuleNotFoundError as error:
    try:  # the older package has the same classes
        from pytorch_lightning import Callback, LightningModule, Trainer
    except ModuleNotFoundError:
        raise missing("lightning", error) from error

__all__ = ["PellucidCallback"]


class PellucidCallback(Callback):
    """Lightning callback that writes figures and a report to the folder `save`, before training and after epochs.

    The metrics that the module has logged (`trainer.callback_metrics`) become learning curves: `train_loss`,
    `val_loss`, `train_acc`, `val_accuracy` and the like. Metrics logged in the module's own `on_train_epoch_end` are
    missing, because Lightning calls callbacks first. Only rank 0 does any work. With `ckpt_path`, the earlier run is
    continued.

    Args:
        data: test images with labels: a data set, a `DataLoader` or a pair (images, labels). Default: the validation
            images.
        model: function from the `LightningModule` to the network that is explained. Default: the module itself, whose
            `forward` must return logits.
        options: keyword arguments of `pellucid.watch`: `classes`, `save`, `mean`, `std`, `hooks`, `budget`, `log_to`…

    Raises a `PellucidError` when the training starts if data, model or options do not fit.
    """

    def __init__(
        self, data: Any = None, *, model: Callable[[LightningModule], nn.Module] | None = None, **options: Any
    ) -> None:
        super().__init__()
        self._data, self._is_whole = data, model is None
        self._training = Training(model, options)
        self._stale: dict[str, Tensor] = {}
        self._learning_rate: float | None = None

    # `on_fit_start` would be too early: the checkpoint is not restored yet, and the sanity check is still to come.
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the network before training."""
        if not trainer.is_global_zero:
            return
        if self._is_whole and type(pl_module).forward.__qualname__ == "LightningModule.forward":
            raise ModelError(
                f"{type(pl_module).__name__} has no forward method, which must return logits. Add one, or name the "
                "network: PellucidCallback(model=lambda module: module.net)."
            )
        data = _validation_data(trainer.val_dataloaders) if self._data is None else self._data
        self._training.start(pl_module, data, trainer.current_epoch)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the metrics of the last epoch, which Lightning keeps until they are logged again."""
        self._stale = dict(trainer.callback_metrics)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Remember the learning rate, because at the end of the epoch the scheduler has set the next one."""
        self._learning_rate = optimizer.param_groups[0]["lr"]

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the epoch, after its validation."""
        if not trainer.is_global_zero:
            return
        logged = trainer.callback_metrics.items()
        metrics: dict[str, Any] = {name: value for name, value in logged if value is not self._stale.get(name)}
        if self._learning_rate is not None:
            metrics.setdefault("learning_rate", self._learning_rate)
        self._training.epoch(trainer.current_epoch + 1, metrics)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Run the end hooks and write the last report."""
        self._training.end("finished")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Record that the training was interrupted or failed."""
        # SystemExit: Lightning's answer to SIGTERM
        self._training.end("interrupted" if isinstance(exception, KeyboardInterrupt | SystemExit) else "failed")


def _validation_data(loaders: Any) -> Any:
    """Return the only validation loader."""
    listed = list(loaders.values()) if isinstance(loaders, dict) else loaders
    listed = listed if isinstance(listed, list | tuple) else [] if listed is None else [listed]
    if len(listed) != 1:
        raise ConfigError(
            f"the trainer has {len(listed) or 'no'} validation loaders; pass the images to show, as "
            "PellucidCallback(data)."
        )
    return listed[0]
