"""The file of a checkpoint."""

import pickle

import pytest
import torch

from pellucid.core.errors import SaveError
from pellucid.training.checkpoint import Progress, TrainingState, pack_state, unpack_state


def test_everything_comes_back():
    state = TrainingState(Progress(2, 7, 0.1 + 0.2, 3, 9), {"w": torch.rand(3)}, {"lr": 0.1}, {"step": 4})
    again = unpack_state(pack_state(state))
    assert again.progress == state.progress
    assert torch.equal(again.model["w"], state.model["w"])
    assert (again.optimizer, again.schedule) == ({"lr": 0.1}, {"step": 4})


class Evil:
    def __reduce__(self):
        return print, ("unpickled",)


@pytest.mark.parametrize("content", [b"", b"garbage", pickle.dumps(Evil())])
def test_nothing_is_unpickled_and_damage_is_named(content, capsys):
    with pytest.raises(SaveError, match="the checkpoint cannot be read"):
        unpack_state(content)
    assert "unpickled" not in capsys.readouterr().out


def test_a_checkpoint_cut_short_is_named():
    content = pack_state(TrainingState(Progress(), {"w": torch.rand(300)}, {}, {}))
    with pytest.raises(SaveError, match="start the run anew"):
        unpack_state(content[: len(content) // 2])
