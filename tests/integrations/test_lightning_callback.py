"""The callback for Lightning, in trainings by its own Trainer."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from architectures import required
from learnable import CLASSES, images_and_labels, lines_of, network, record_of, same_weights
from torch.utils.data import DataLoader, TensorDataset

from pellucid.core.errors import ConfigError, ModelError
from pellucid.storage.store import Store

pytestmark = [
    pytest.mark.integrations,
    pytest.mark.filterwarnings("ignore"),  # of Lightning: few workers, no logger, deprecations
]


@pytest.fixture(scope="module")
def lightning() -> Any:
    required("lightning")
    import lightning.pytorch

    return lightning.pytorch


@pytest.fixture
def callback(lightning: Any, tmp_path: Path) -> Any:
    from pellucid.integrations.lightning import PellucidCallback

    def make(*data: Any, **options: Any) -> Any:
        standard = {"classes": CLASSES, "save": tmp_path / "save", "hooks": "confusion_matrix", "budget": "small"}
        return PellucidCallback(*data, **(standard | options))

    return make


def module(lightning: Any, **changes: Any) -> Any:
    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x)

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            loss = F.cross_entropy(self.net(batch[0]), batch[1])
            self.log("train_loss", loss, on_step=True, on_epoch=True)
            return loss

        def validation_step(self, batch: Any, index: int) -> None:
            logits = self.net(batch[0])
            self.log_dict(
                {
                    "val_loss": F.cross_entropy(logits, batch[1]),
                    "val_acc": (logits.argmax(1) == batch[1]).float().mean(),
                    "margin": logits.max() - logits.min(),
                }
            )

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)
            return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)]

    for name, value in changes.items():
        setattr(Module, name, value)
    return Module()


def loader(seed: int = 0, shuffle: bool = False) -> Any:
    return DataLoader(TensorDataset(*images_and_labels(seed=seed)), batch_size=8, shuffle=shuffle)


def fit(lightning: Any, model: Any, callbacks: list[Any], folder: Path, ckpt: Any = None, **options: Any) -> Any:
    standard = {"max_epochs": 2, "accelerator": "cpu", "logger": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(
        callbacks=callbacks, default_root_dir=folder, enable_model_summary=False, **(standard | options)
    )
    torch.manual_seed(3)
    trainer.fit(model, loader(shuffle=True), loader(seed=1), ckpt_path=ckpt)
    return trainer


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_training_is_bit_identical_with_and_without_it(lightning, callback, tmp_path, precision):
    states = []
    for callbacks in ([callback(hooks="confusion_matrix,saliency")], []):
        model = module(lightning)
        fit(lightning, model, callbacks, tmp_path, precision=precision)
        states.append((model, torch.rand(3)))
    (watched, draws), (plain, other_draws) = states
    assert same_weights(watched, plain)
    assert torch.equal(draws, other_draws)
    assert not same_weights(watched, module(lightning))
    kinds = [(entry["hook"], entry["epoch"]) for entry in Store(tmp_path / "save").manifest()["artifacts"]]
    assert {(hook, epoch) for hook in ("confusion_matrix", "saliency") for epoch in (0, 1, 2)} <= set(kinds)
    assert Store(tmp_path / "save").manifest()["failures"] == []


def test_logged_metrics_become_learning_curves(lightning, callback, tmp_path):
    model, expected = module(lightning), []

    class Witness(lightning.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            expected.append({name: float(value) for name, value in trainer.callback_metrics.items()})

    trainer = fit(lightning, model, [Witness(), callback()], tmp_path)
    untrained, *lines = lines_of(tmp_path / "save")
    assert (untrained["epoch"], untrained["train_loss"], untrained["validation_loss"]) == (0, None, None)
    assert [line["epoch"] for line in lines] == [1, 2]
    for line, values in zip(lines, expected, strict=True):
        assert line["train_loss"] == values["train_loss_epoch"]
        assert line["validation_loss"] == values["val_loss"]
        assert line["validation_accuracy"] == values["val_acc"]
        assert line["given"] == {"margin": values["margin"]}
    assert [line["learning_rate"] for line in lines] == [0.1, 0.05]
    images, labels = images_and_labels(seed=1)
    with torch.no_grad():
        logits = model.eval()(images)
    assert lines[-1]["test_loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    assert float(trainer.callback_metrics["val_loss"]) == pytest.approx(lines[-1]["test_loss"], rel=1e-5)
    assert record_of(tmp_path / "save")["status"] == "finished"


def test_metrics_of_an_earlier_epoch_are_not_repeated(lightning, callback, tmp_path):
    fit(lightning, module(lightning), [callback()], tmp_path, max_epochs=3, check_val_every_n_epoch=2)
    assert [line["validation_loss"] is None for line in lines_of(tmp_path / "save")] == [True, True, False, True]


def test_training_goes_on_after_a_checkpoint(lightning, callback, tmp_path):
    class Broken(RuntimeError): ...

    class Breaker(lightning.Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.current_epoch == 2:
                raise Broken

    checkpoint = lightning.callbacks.ModelCheckpoint(tmp_path / "kept", save_last=True)
    with pytest.raises(Broken):
        fit(lightning, module(lightning), [callback(), Breaker(), checkpoint], tmp_path, max_epochs=4)
    assert record_of(tmp_path / "save")["status"] == "failed"
    model = module(lightning)
    fit(lightning, model, [callback()], tmp_path, max_epochs=4, ckpt=tmp_path / "kept" / "last.ckpt")
    assert [line["epoch"] for line in lines_of(tmp_path / "save")] == [0, 1, 2, 3, 4]
    assert record_of(tmp_path / "save")["status"] == "finished"
    assert not (tmp_path / "save" / "previous").exists()
    # into another folder, the pictures start with the restored network
    fit(
        lightning,
        model,
        [callback(save=tmp_path / "new")],
        tmp_path,
        max_epochs=4,
        ckpt=tmp_path / "kept" / "last.ckpt",
    )
    assert [line["epoch"] for line in lines_of(tmp_path / "new")] == [2, 3, 4]
    # a training from the beginning does not continue the earlier one
    fit(lightning, module(lightning), [callback()], tmp_path, max_epochs=1)
    assert [line["epoch"] for line in lines_of(tmp_path / "save")] == [0, 1]
    assert (tmp_path / "save" / "previous").is_dir()


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt, "interrupted"), (ValueError, "failed")])
def test_the_end_of_a_broken_training_is_recorded(lightning, callback, tmp_path, error, status):
    def training_step(self: Any, batch: Any, index: int) -> Any:
        raise error

    with pytest.raises((error, SystemExit)):
        fit(lightning, module(lightning, training_step=training_step), [callback()], tmp_path)
    assert record_of(tmp_path / "save")["status"] == status


def test_a_part_of_the_module_can_be_explained(lightning, callback, tmp_path):
    model = module(lightning, forward=lightning.LightningModule.forward)
    with pytest.raises(ModelError, match=r"no forward method.*PellucidCallback\(model=lambda module: module.net\)"):
        fit(lightning, model, [callback()], tmp_path)
    assert not (tmp_path / "save").exists()
    fit(lightning, model, [callback(model=lambda module: module.net)], tmp_path, max_epochs=1)
    assert record_of(tmp_path / "save")["model"]["name"] == "Sequential"


def test_mistakes_are_reported_before_the_training(lightning, callback, tmp_path):
    with pytest.raises(TypeError, match="hook"):
        callback(hook="saliency")
    with pytest.raises(ConfigError, match="expected a function"):
        callback(model=network())
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        callbacks=[callback()],
        enable_progress_bar=False,
        enable_checkpointing=False,
    )
    with pytest.raises(ConfigError, match=r"no validation loaders.*PellucidCallback\(data\)"):
        trainer.fit(module(lightning), loader())
    model = module(lightning)
    with pytest.raises(ConfigError, match="bigger"):
        fit(lightning, model, [callback(budget="bigger")], tmp_path)
    assert same_weights(model, module(lightning))


def test_other_processes_draw_nothing(lightning, callback, tmp_path, monkeypatch):
    monkeypatch.setattr(lightning.Trainer, "is_global_zero", property(lambda trainer: False))
    fit(lightning, module(lightning), [callback()], tmp_path, enable_checkpointing=False)
    assert not (tmp_path / "save").exists()
