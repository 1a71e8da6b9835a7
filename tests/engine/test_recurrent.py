"""Recurrent layers are unrolled: the values are torch's, and the rules for gates and sums apply inside them."""

import pytest
import torch
from torch import Tensor, nn

from pellucid import create_analyzer
from pellucid.core.errors import UnsupportedOperation
from pellucid.engine.composites import Step
from pellucid.engine.model import frozen
from pellucid.engine.relevance import propagate
from pellucid.engine.rules import Derivative

LAYERS = {
    "lstm": lambda: nn.LSTM(4, 3, batch_first=True),
    "lstm, two layers in both directions": lambda: nn.LSTM(4, 3, 2, bidirectional=True),
    "lstm without biases": lambda: nn.LSTM(4, 3, bias=False, batch_first=True),
    "lstm with a projection": lambda: nn.LSTM(4, 5, 2, bidirectional=True, proj_size=3, batch_first=True),
    "gru": lambda: nn.GRU(4, 3, 2, dropout=0.5),
    "gru in both directions without biases": lambda: nn.GRU(4, 3, bidirectional=True, bias=False, batch_first=True),
    "rnn": lambda: nn.RNN(4, 3, 2, batch_first=True),
    "rnn with relu": lambda: nn.RNN(4, 3, bidirectional=True, nonlinearity="relu"),
}
CELLS = {
    "lstm cell": lambda: nn.LSTMCell(4, 3),
    "gru cell": lambda: nn.GRUCell(4, 3, bias=False),
    "rnn cell": lambda: nn.RNNCell(4, 3),
    "rnn cell with relu": lambda: nn.RNNCell(4, 3, nonlinearity="relu"),
}


class Recurrent(nn.Module):
    """A layer over (batch, time, feature) that starts at a state computed from the input, or at zeros."""

    def __init__(self, layer: nn.RNNBase, *, starts_at_zero: bool) -> None:
        super().__init__()
        self.layer, self.starts_at_zero = layer, starts_at_zero
        self.head = nn.LazyLinear(3)

    def forward(self, x: Tensor) -> Tensor:
        layer = self.layer
        state = None
        if not self.starts_at_zero:
            count = layer.num_layers * (1 + layer.bidirectional)
            hidden = x.mean(1)[None, :, :3].expand(count, -1, -1).contiguous()
            cell = x.sum(1)[None, :, :1].expand(count, -1, layer.hidden_size).contiguous()
            state = (hidden, cell) if isinstance(layer, nn.LSTM) else hidden
        outputs, last = layer(x if layer.batch_first else x.transpose(0, 1), state)
        outputs = outputs if layer.batch_first else outputs.transpose(0, 1)
        finals = last if isinstance(last, tuple) else (last,)
        return self.head(torch.cat([outputs.flatten(1), *(final.transpose(0, 1).flatten(1) for final in finals)], 1))


class Steps(nn.Module):
    """A cell run over (batch, time, feature)."""

    def __init__(self, cell: nn.RNNCellBase) -> None:
        super().__init__()
        self.cell, self.head = cell, nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for moment in x.unbind(1):
            state = self.cell(moment, state)
        return self.head(state[0] if isinstance(state, tuple) else state)


def network(name: str, *, starts_at_zero: bool = True) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    if name in CELLS:
        model: nn.Module = Steps(CELLS[name]())
    else:
        model = Recurrent(LAYERS[name](), starts_at_zero=starts_at_zero)
    x = torch.randn(2, 4, 4)
    model(x)
    return model.double().eval(), x.double()


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("starts_at_zero", [True, False])
@pytest.mark.parametrize("name", [*LAYERS, *CELLS])
def test_values_and_derivatives_are_those_of_torch(name, starts_at_zero) -> None:
    model, x = network(name, starts_at_zero=starts_at_zero)
    with frozen(model):
        result = propagate(model, x, (Step(Derivative()),), lambda logits: [torch.ones_like(logits)])[0]
    leaf = x.clone().requires_grad_()
    logits = model(leaf)
    torch.testing.assert_close(result.logits, logits.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(result.relevance, torch.autograd.grad(logits.sum(), leaf)[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", ["lrp.epsilon", "deeplift"])
@pytest.mark.parametrize("name", [*LAYERS, *CELLS])
def test_explanations_are_complete(name, method) -> None:
    model, x = network(name)
    explanation = create_analyzer(method, model).explain(x, 1, strict=True)
    size = explanation.relevance.flatten(1).abs().sum(1)
    assert (explanation.residual.abs() < 1e-9 * size).all()
    expected = model(x)[:, 1] - (model(torch.zeros_like(x))[:, 1] if method == "deeplift" else 0)
    absorbed = sum(explanation.absorbed.values())
    torch.testing.assert_close(explanation.relevance.flatten(1).sum(1) + absorbed, expected.detach())


def test_relevance_of_an_lstm_is_that_of_its_equations() -> None:
    """One step from zero: h = σ(o) tanh(σ(i) tanh(g)), where the gates receive nothing (Arras et al., 2017)."""
    torch.manual_seed(0)
    lstm = nn.LSTM(4, 3, bias=False, batch_first=True).double()
    model, x = nn.Sequential(lstm, Last()), torch.randn(1, 1, 4).double()
    relevance = create_analyzer("lrp.epsilon", model, epsilon=0).analyze(x, 2)
    weight = lstm.weight_ih_l0[6 + 2]  # of g, the third of the four blocks
    hidden = model(x)[0, 2]
    torch.testing.assert_close(relevance[0, 0], (hidden * weight * x[0, 0] / (weight @ x[0, 0])).detach())


class Last(nn.Module):
    def forward(self, outputs: tuple[Tensor, object]) -> Tensor:
        return outputs[0][:, -1]


def test_packed_sequences_are_refused_by_name() -> None:
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.GRU(4, 3, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            packed = nn.utils.rnn.pack_padded_sequence(x, torch.full((len(x),), 4), batch_first=True)
            return self.layer(packed)[1][0]

    with pytest.raises(UnsupportedOperation, match=r"pack"):
        create_analyzer("lrp.epsilon", Packed()).analyze(torch.randn(2, 5, 4))
