"""The callback for the Trainer of transformers, in trainings of a small vision transformer."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from architectures import required
from learnable import CLASSES, images_and_labels, lines_of, record_of, same_weights

from pellucid.core.errors import DataError
from pellucid.storage.store import Store

pytestmark = [
    pytest.mark.integrations,
    pytest.mark.filterwarnings("ignore"),  # of transformers and accelerate
]


class Items(torch.utils.data.Dataset):
    """Images as the image models of transformers take them."""

    def __init__(self, seed: int = 0) -> None:
        self.images, self.labels = images_and_labels(seed=seed)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"pixel_values": self.images[index], "labels": int(self.labels[index])}


@pytest.fixture(scope="module")
def transformers() -> Any:
    required("accelerate")
    return required("transformers")


@pytest.fixture
def callback(transformers: Any, tmp_path: Path) -> Any:
    from pellucid.integrations.transformers import PellucidCallback

    def make(data: Any = None, **options: Any) -> Any:
        standard = {"save": tmp_path / "save", "hooks": "confusion_matrix", "budget": "small"}
        return PellucidCallback(Items(seed=1) if data is None else data, **(standard | options))

    return make


def new_model(transformers: Any) -> Any:
    torch.manual_seed(5)
    names = dict(enumerate(CLASSES))
    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.ViTConfig(
        image_size=6,
        patch_size=2,
        num_channels=1,
        id2label=names,
        label2id={name: key for key, name in names.items()},
        hidden_dropout_prob=0.1,
        **size,
    )
    return transformers.ViTForImageClassification(config)


def train(transformers: Any, model: Any, callbacks: list[Any], folder: Path, resume: Any = None, **options: Any) -> Any:
    standard = {"num_train_epochs": 2, "per_device_train_batch_size": 8, "eval_strategy": "epoch", "report_to": "none"}
    standard |= {"logging_strategy": "epoch", "save_strategy": "no", "disable_tqdm": True, "use_cpu": True}
    standard |= {"learning_rate": 0.01}
    trainer = transformers.Trainer(
        model,
        transformers.TrainingArguments(str(folder / "checkpoints"), **(standard | options)),
        train_dataset=Items(),
        eval_dataset=Items(seed=1),
        callbacks=callbacks,
        compute_metrics=lambda given: {"accuracy": float((given.predictions.argmax(1) == given.label_ids).mean())},
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def test_training_is_bit_identical_with_and_without_it(transformers, callback, tmp_path):
    states = []
    for callbacks in ([callback(hooks="confusion_matrix,saliency")], []):
        model = new_model(transformers)
        train(transformers, model, callbacks, tmp_path)
        states.append((model, torch.rand(3), np.random.rand()))
    (watched, *draws), (plain, *other_draws) = states
    assert same_weights(watched, plain)
    assert torch.equal(draws[0], other_draws[0])
    assert draws[1] == other_draws[1]
    assert not same_weights(watched, new_model(transformers))
    manifest = Store(tmp_path / "save").manifest()
    kinds = {(entry["hook"], entry["epoch"]) for entry in manifest["artifacts"]}
    assert {(hook, epoch) for hook in ("confusion_matrix", "saliency") for epoch in (0, 1, 2)} <= kinds
    assert manifest["failures"] == []


@pytest.mark.parametrize("logging", [{"logging_strategy": "epoch"}, {"logging_strategy": "steps", "logging_steps": 1}])
def test_logged_metrics_become_learning_curves(transformers, callback, tmp_path, logging):
    model = new_model(transformers)
    trainer = train(transformers, model, [callback()], tmp_path, **logging)
    untrained, *lines = lines_of(tmp_path / "save")
    assert (untrained["epoch"], untrained["train_loss"], untrained["validation_loss"]) == (0, None, None)
    assert [line["epoch"] for line in lines] == [1, 2]
    for line in lines:
        logs = [entry for entry in trainer.state.log_history if line["epoch"] - 1 < entry["epoch"] <= line["epoch"]]
        assert line["train_loss"] == pytest.approx(np.mean([entry["loss"] for entry in logs if "loss" in entry]))
        (evaluated,) = [entry for entry in logs if "eval_loss" in entry]
        assert line["validation_loss"] == evaluated["eval_loss"]
        assert line["validation_accuracy"] == evaluated["eval_accuracy"]
        assert line["learning_rate"] > 0 or line["epoch"] == 2
        assert "given" not in line
    images, labels = images_and_labels(seed=1)
    with torch.no_grad():
        logits = model.eval()(images).logits
    assert lines[-1]["test_loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    assert lines[-1]["test_loss"] == pytest.approx(lines[-1]["validation_loss"], rel=1e-5)
    record = record_of(tmp_path / "save")
    assert record["status"] == "finished"
    assert record["dataset"]["classes"] == CLASSES  # from the model's own table


@pytest.mark.parametrize("options", [{"eval_strategy": "no"}, {"eval_strategy": "no", "logging_strategy": "no"}])
def test_epochs_without_evaluation_are_recorded(transformers, callback, tmp_path, options):
    train(transformers, new_model(transformers), [callback()], tmp_path, **options)
    lines = lines_of(tmp_path / "save")
    assert [line["epoch"] for line in lines] == [0, 1, 2]
    assert [line["validation_loss"] for line in lines] == [None] * 3
    assert [line["train_loss"] is None for line in lines[1:]] == ["logging_strategy" in options] * 2


def test_training_goes_on_after_a_checkpoint(transformers, callback, tmp_path):
    class Broken(RuntimeError): ...

    class Breaker(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
            if state.global_step == 7:
                raise Broken

    broken, options = callback(), {"save_strategy": "epoch", "num_train_epochs": 4}
    with pytest.raises(Broken):
        train(transformers, new_model(transformers), [broken, Breaker()], tmp_path, **options)
    assert record_of(tmp_path / "save")["status"] == "running"  # the trainer does not tell callbacks about errors
    broken._training.end("interrupted")  # as the end of the process does
    train(transformers, new_model(transformers), [callback()], tmp_path, resume=True, **options)
    assert [line["epoch"] for line in lines_of(tmp_path / "save")] == [0, 1, 2, 3, 4]
    assert record_of(tmp_path / "save")["status"] == "finished"
    assert not (tmp_path / "save" / "previous").exists()


def test_data_that_does_not_fit_is_an_error_before_the_training(transformers, callback, tmp_path):
    model = new_model(transformers)
    with pytest.raises(DataError, match="for 2 class names"):
        train(transformers, model, [callback(classes=["a", "b"])], tmp_path)
    assert same_weights(model, new_model(transformers))
    assert not (tmp_path / "save").exists()
