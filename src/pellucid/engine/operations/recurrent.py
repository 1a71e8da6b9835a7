"""Recurrent layers, unrolled in time into dense layers, activations and products.

The gates of an LSTM and a GRU are factors of products, like any other sigmoid: the signal receives all relevance, and
the gate none (Arras et al., 2017, LRP-all). All layers, directions and biases of torch's modules are followed.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid.engine.call import Call
from pellucid.engine.table import operation

__all__ = ["long_short_term", "recurrent", "single_step"]


class _Weights(NamedTuple):
    """Weights of one layer in one direction."""

    of_input: Tensor
    of_hidden: Tensor
    input_bias: Tensor | None = None
    hidden_bias: Tensor | None = None
    projection: Tensor | None = None
    """Projection of an LSTM's output, if it has one."""


State = tuple[Tensor, ...]
"""The hidden state; that of an LSTM also has its memory cell."""
Step = Callable[[Tensor, State, _Weights], State]
"""Computes the next state from the input's share of the pre-activations and the last state."""


def _lstm(given: Tensor, state: State, weights: _Weights) -> State:
    """c′ = σ(f) c + σ(i) tanh(g), h′ = σ(o) tanh(c′)."""
    hidden, cell = state
    share = F.linear(hidden, weights.of_hidden, weights.hidden_bias)
    write, keep, new, show = (given + share).chunk(4, -1)
    cell = torch.sigmoid(keep) * cell + torch.sigmoid(write) * torch.tanh(new)
    hidden = torch.sigmoid(show) * torch.tanh(cell)
    return (hidden if weights.projection is None else F.linear(hidden, weights.projection)), cell


def _gru(given: Tensor, state: State, weights: _Weights) -> State:
    """h′ = (1 − σ(z)) tanh(n + σ(r) m) + σ(z) h."""
    share = F.linear(state[0], weights.of_hidden, weights.hidden_bias)
    (reset, update, new), (reset_share, update_share, new_share) = given.chunk(3, -1), share.chunk(3, -1)
    update = torch.sigmoid(update + update_share)
    new = torch.tanh(new + torch.sigmoid(reset + reset_share) * new_share)
    return ((1 - update) * new + update * state[0],)


def _plain(activation: Callable[[Tensor], Tensor], given: Tensor, state: State, weights: _Weights) -> State:
    """h′ = f(x + W h)."""
    return (activation(given + F.linear(state[0], weights.of_hidden, weights.hidden_bias)),)


_STEPS: dict[str, Step] = {
    "lstm": _lstm,
    "gru": _gru,
    "rnn_tanh": partial(_plain, torch.tanh),
    "rnn_relu": partial(_plain, torch.relu),
}


def _layer(step: Step, x: Tensor, state: State, weights: _Weights, *, is_backward: bool) -> tuple[Tensor, State]:
    """Run one layer in one direction over (time, batch, feature); return its outputs and last state."""
    # all time steps at once: the input's share depends on no state
    given = F.linear(x, weights.of_input, weights.input_bias)
    outputs: list[Tensor] = []
    moments = torch.unbind(given, 0)
    for moment in reversed(moments) if is_backward else moments:
        state = step(moment, state, weights)
        outputs.append(state[0])
    return torch.stack(outputs[::-1] if is_backward else outputs), state


def _grouped(flat: Sequence[Tensor], size: int, *, has_biases: bool) -> list[_Weights]:
    """Split torch's flat list of weights: `size` per layer and direction, the projection last."""
    groups = []
    for start in range(0, len(flat), size):
        first, second, *rest = flat[start : start + size]
        input_bias, hidden_bias = rest[:2] if has_biases else (None, None)
        groups.append(_Weights(first, second, input_bias, hidden_bias, rest[-1] if len(rest) % 2 else None))
    return groups


def _unrolled(
    call: Call, x: Tensor, states: State, flat: Sequence[Tensor], has_biases: bool, num_layers: int,
    dropout: float | int, train: bool, bidirectional: bool, batch_first: bool = False,
) -> tuple[Tensor, State]:  # fmt: skip
    """Run all layers and directions; return the outputs of the last layer, and the last state of each."""
    if train and dropout > 0 and num_layers > 1:
        call.refuse("draws random numbers in eval mode")
    if any(call.depends(weight) for weight in flat):
        call.refuse("has a weight that depends on the image")
    directions = 2 if bidirectional else 1
    groups = _grouped(flat, len(flat) // (num_layers * directions), has_biases=has_biases)
    has_batch = x.ndim == 3
    step, last = _STEPS[call.name], list[State]()
    with call.recorder:
        if not has_batch:
            x, states = x[:, None], tuple(state[:, None] for state in states)
        elif batch_first:
            x = x.transpose(0, 1)
        starts = list(zip(*(torch.unbind(state, 0) for state in states), strict=True))
        for layer in range(num_layers):
            outputs = []
            for direction in range(directions):
                place = layer * directions + direction
                output, state = _layer(step, x, starts[place], groups[place], is_backward=direction == 1)
                outputs.append(output)
                last.append(state)
            x = outputs[0] if directions == 1 else torch.cat(outputs, -1)
        final = tuple(torch.stack(list(states)) for states in zip(*last, strict=True))
        if not has_batch:
            return x[:, 0], tuple(state[:, 0] for state in final)
        return (x.transpose(0, 1) if batch_first else x), final


def _check_padding(call: Call, argument: object) -> None:
    # the signature for packed sequences has the batch sizes in second place
    if isinstance(argument, Tensor) and not argument.is_floating_point():
        call.refuse("receives a packed sequence", "pass padded sequences without packing, or choose a gradient method.")


@operation("lstm")
def long_short_term(call: Call, input: Tensor, hx: Any, params: Any, *options: Any, **named: Any) -> Any:
    """Record an LSTM: its outputs, last hidden states and last memory cells."""
    _check_padding(call, hx)
    outputs, (hidden, cell) = _unrolled(call, input, tuple(hx), params, *options, **named)
    return outputs, hidden, cell


@operation("gru", "rnn_tanh", "rnn_relu")
def recurrent(call: Call, input: Tensor, hx: Any, params: Any, *options: Any, **named: Any) -> Any:
    """Record a GRU or a plain recurrent layer: its outputs and last hidden states."""
    if isinstance(params, Tensor):
        _check_padding(call, hx)
    outputs, (hidden,) = _unrolled(call, input, (hx,), params, *options, **named)
    return outputs, hidden


@operation("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
def single_step(
    call: Call, input: Tensor, hx: Any, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> Any:  # fmt: skip
    """Record one time step: the next hidden state, and for an LSTM the next memory cell."""
    if any(call.depends(weight) for weight in (w_ih, w_hh, b_ih, b_hh)):
        call.refuse("has a weight that depends on the image")
    weights = _Weights(w_ih, w_hh, b_ih, b_hh)
    state = (hx,) if isinstance(hx, Tensor) else tuple(hx)
    with call.recorder:
        following = _STEPS[call.name.removesuffix("_cell")](F.linear(input, w_ih, b_ih), state, weights)
    return following[0] if isinstance(hx, Tensor) else following
