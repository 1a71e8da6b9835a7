"""Checkpoints survive a round trip, and damaged ones are refused."""

import pickle

import pytest
import torch

from pellucid.core.errors import SaveError
from pellucid.training.checkpoint import Progress, TrainingState, pack_state, unpack_state


def test_a_round_trip_preserves_everything():
    state = TrainingState(Progress(2, 7, 0.1 + 0.2, 3, 9), {"w": torch.rand(3)}, {"lr": 0.1}, {"step": 4})
    restored = unpack_state(pack_state(state))
    assert restored.progress == state.progress
    assert torch.equal(restored.model["w"], state.model["w"])
    assert (restored.optimizer, restored.schedule) == ({"lr": 0.1}, {"step": 4})


class Evil:
    def __reduce__(self):
        return print, ("unpickled",)


@pytest.mark.parametrize("content", [b"", b"garbage", pickle.dumps(Evil())])
def test_damaged_checkpoints_are_refused_without_unpickling(content, capsys):
    with pytest.raises(SaveError, match="the checkpoint cannot be read"):
        unpack_state(content)
    assert "unpickled" not in capsys.readouterr().out


def test_a_truncated_checkpoint_is_refused():
    content = pack_state(TrainingState(Progress(), {"w": torch.rand(300)}, {}, {}))
    with pytest.raises(SaveError, match="restart the run without --resume"):
        unpack_state(content[: len(content) // 2])
