import pytest
import torch
from torch import nn

from pellucid.core.errors import SaveError, TrainingError
from pellucid.training import descent
from pellucid.training.checkpoint import TrainingState, pack_state, unpack_state
from pellucid.training.descent import descend


def make_layer() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def noisy_loss(layer: nn.Module, stop: int | None = None):
    def loss(step: int) -> torch.Tensor:
        if step == stop:
            raise KeyboardInterrupt
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        return (layer(x) - x[:, :2]).square().mean()

    return loss


def test_the_loss_decreases() -> None:
    layer = make_layer()
    before = noisy_loss(layer)(1000).item()
    descend(layer, noisy_loss(layer), steps=150, learning_rate=0.05)
    assert noisy_loss(layer)(1000).item() < 0.01 * before


@pytest.mark.parametrize("stop", [1, 7, 19])
def test_an_interrupted_training_resumes_to_the_same_bits(stop: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descent, "SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    whole, broken, kept = make_layer(), make_layer(), []
    descend(whole, noisy_loss(whole), steps=20, learning_rate=0.05)
    with pytest.raises(KeyboardInterrupt):
        descend(
            broken,
            noisy_loss(broken, stop),
            steps=20,
            learning_rate=0.05,
            keep=lambda state: kept.append(pack_state(state)),
        )
    resumed = make_layer()
    state = unpack_state(kept[-1])
    assert state.progress.step == stop
    descend(resumed, noisy_loss(resumed), steps=20, learning_rate=0.05, start=state)
    assert torch.equal(resumed.weight, whole.weight)


def test_invalid_losses_and_states_are_refused() -> None:
    layer = make_layer()
    with pytest.raises(TrainingError, match="bars: the loss is nan at step 0 of 5"):
        descend(layer, lambda _: layer.weight.sum() * torch.nan, steps=5, learning_rate=0.1, label="bars")
    states: list[TrainingState] = []
    descend(layer, noisy_loss(layer), steps=3, learning_rate=0.1, keep=states.append)
    other = nn.Linear(4, 4)
    good = {"model": layer.state_dict(), "optimizer": {}, "schedule": {}}
    with pytest.raises(SaveError, match="does not fit the module"):
        descend(other, noisy_loss(other), steps=3, learning_rate=0.1, start=TrainingState(_progress(), **good))


def _progress():
    from pellucid.training.checkpoint import Progress

    return Progress(step=1)
