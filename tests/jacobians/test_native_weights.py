"""Weights that a model computes in each pass, whose memory a later chunk may use for others."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pellucid
from pellucid.jacobians._native import program


class Computed(nn.Module):
    """Two convolutions whose weights are computed in alternating order, next to tensors that come and go."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3)
        self.one, self.two = (nn.Parameter(torch.randn(8, 8, 3, 3)) for _ in range(2))
        self.passes, self.kept = 0, []

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        if self.passes % 3 == 0:
            self.kept.append(torch.empty_like(self.one))
        if self.passes % 3 == 1:
            self.kept.clear()
        if self.passes % 2:
            one, two = self.one * 2, self.two * 2
        else:
            two, one = self.two * 2, self.one * 2
        return F.conv2d(F.relu(F.conv2d(self.first(x), one)), two).flatten(1)[:, :10]


def test_chunks_do_not_mix_up_weights_at_the_same_address(native) -> None:
    torch.manual_seed(0)
    model, x = Computed().double().eval(), torch.randn(40, 1, 9, 9).double()
    expected = pellucid.jacobian(model, x, method="loop")
    for chunk in (2, 3, 4, 5, 7, 10):
        torch.testing.assert_close(pellucid.jacobian(model, x, chunk=chunk, method="native"), expected)


def test_weights_in_another_memory_format_are_rearranged_once(native, monkeypatch) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Conv2d(c, 8, 3) for c in (1, 8, 8)), nn.Flatten(), nn.Linear(72, 5))
    model = model.eval().to(memory_format=torch.channels_last)
    x, calls = torch.randn(12, 1, 9, 9), []
    for name in ("_in_panels", "_by_row"):
        change = getattr(program, name)
        monkeypatch.setattr(program, name, lambda *given, change=change: calls.append(1) or change(*given))
    rows = pellucid.jacobian(model, x, chunk=2, method="native")
    torch.testing.assert_close(rows, pellucid.jacobian(model, x, method="loop"))
    assert len(calls) <= 4  # one for each layer, not for each chunk
