"""A plain numpy interpreter of programs in float64: slow, short, and the reference for the one in the report.

Each operation is a matrix in all but name: `forward` applies it, `transpose` applies its transpose. Gradients and
relevance differ only in what they send back.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from pellucid.engine.programs.functions import FUNCTIONS
from pellucid.engine.programs.program import EPSILON, Program, Step

__all__ = ["Outcome", "run_program"]

Values = np.ndarray
Inputs = list[Values | None]
"""The values that a step reads; None for a constant."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """Logits (class,), and maps (channel, height, width) of one class."""

    logits: Values
    gradient: Values
    relevance: Values
    """Relevance by `lrp.epsilon`."""
    absorbed: dict[str, float]
    """Relevance that biases, stabilizers and constants absorbed."""


def run_program(program: Program, image: Values, target: int | None = None) -> Outcome:
    """Run a program on an image (channel, height, width); explain the class `target`, or else the predicted one.

    >>> step = {"op": "dense", "from": [0], "to": 1, "shape": [2], "weight": [0, 2], "bias": None, "place": ""}
    >>> program = Program((1, 1, 1), [step], np.array([2.0, -1.0]), np.zeros(0), 2)
    >>> run_program(program, np.full((1, 1, 1), 0.5)).logits
    array([ 1. , -0.5])
    """
    values: dict[int, Values] = {0: np.asarray(image, float)}
    for step in program.steps:
        inputs = _inputs(step, values)
        values[step["to"]] = _FORWARD[step["op"]](program, step, *inputs).reshape(step["shape"])
    last = program.steps[-1]["to"] if program.steps else 0
    logits = values[last]
    seed = np.zeros_like(logits)
    chosen = int(logits.argmax()) if target is None else target
    seed[chosen] = 1.0
    absorbed = dict.fromkeys(("bias", "stabiliser", "constant"), 0.0)
    back = partial(_back, program, values, last)
    return Outcome(
        logits, back(seed, _derivative), back(seed * logits[chosen], partial(_relevance, absorbed)), absorbed
    )


def _inputs(step: Step, values: dict[int, Values]) -> Inputs:
    read = [None if source is None else values[source] for source in step["from"]]
    # flattening is no step: an elementwise one may see its input in another shape than the step that made it
    is_elementwise = step["op"] in ("activation", "add", "scale")
    return [one.reshape(step["shape"]) if one is not None and is_elementwise else one for one in read]


def _back(
    program: Program, values: dict[int, Values], last: int, seed: Values, rule: Callable[..., list[Values]]
) -> Values:
    """Send `seed` from the last value to the image by `rule`."""
    arrived = {last: seed}
    for step in reversed(program.steps):
        if step["to"] not in arrived:
            continue
        inputs = _inputs(step, values)
        shares = rule(program, step, inputs, values[step["to"]], arrived.pop(step["to"]))
        for source, share in zip(step["from"], shares, strict=True):
            if source is not None:
                arrived[source] = arrived.get(source, 0) + share.reshape(values[source].shape)
    return arrived.get(0, np.zeros_like(values[0]))


def _derivative(program: Program, step: Step, inputs: Inputs, _output: Values, arrived: Values) -> list[Values]:
    return _TRANSPOSE[step["op"]](program, step, arrived, *inputs)


def _relevance(
    absorbed: dict[str, float], program: Program, step: Step, inputs: Inputs, output: Values, arrived: Values
) -> list[Values]:
    """Distribute relevance by the rules of `lrp.epsilon`."""
    op = step["op"]
    if op == "activation":
        if step["at_zero"] == 0:
            return [arrived]
        s = arrived / _stable(output, 1e-9)
        absorbed["constant"] += float((s * step["at_zero"]).sum())
        absorbed["stabiliser"] += float((s * (_stable(output, 1e-9) - output)).sum())
        return [s * (output - step["at_zero"])]
    if op == "scale" and step["rule"] == "pass":
        return [arrived]
    if op in ("move", "max"):
        shares = _TRANSPOSE[op](program, step, arrived, *inputs)
        absorbed["constant"] += float(arrived.sum() - sum(share.sum() for share in shares))
        return shares
    s = arrived / _stable(output, EPSILON)
    absorbed["stabiliser"] += float((s * (_stable(output, EPSILON) - output)).sum())
    if op == "add":
        constant = _constant(program, step, output.shape)
        terms = [constant if one is None else one for one in inputs]
        shares = [s * term * sign for term, sign in zip(terms, step["signs"], strict=True)]
        absorbed["constant"] += sum(
            float(share.sum()) for share, one in zip(shares, inputs, strict=True) if one is None
        )
        return shares
    if step.get("bias") is not None:
        absorbed["bias"] += float((s * _wide(program.array(step["bias"]), output.shape)).sum())
    (x,) = inputs
    assert x is not None
    return [_TRANSPOSE[op](program, step, s, x)[0].reshape(x.shape) * x]


def _stable(z: Values, epsilon: float) -> Values:
    return z + np.where(z >= 0, epsilon, -epsilon)


def _wide(parts: Values | None, shape: tuple[int, ...]) -> Values:
    """Repeat n numbers so that entry i covers the i-th n-th part of a value."""
    assert parts is not None
    return np.repeat(parts.astype(float), int(np.prod(shape)) // len(parts)).reshape(shape)


def _constant(program: Program, step: Step, shape: tuple[int, ...]) -> Values:
    return np.zeros(shape) if step["constant"] is None else _wide(program.array(step["constant"]), shape)


# ── kernels ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _with_bias(program: Program, step: Step, z: Values) -> Values:
    return z if step["bias"] is None else z + _wide(program.array(step["bias"]), z.shape)


def _kernel(program: Program, step: Step, channels: int) -> Values:
    groups = step["groups"]
    weight = program.array(step["weight"])
    assert weight is not None
    return weight.astype(float).reshape(groups, step["shape"][0] // groups, channels // groups, *step["kernel"])


def _taps(step: Step, x_shape: tuple[int, ...]) -> list[tuple[int, int, tuple[slice, slice], tuple[slice, slice]]]:
    """Return for each kernel cell the outputs that have an input there, and these inputs."""
    taps = []
    for row in range(step["kernel"][0]):
        for column in range(step["kernel"][1]):
            outs, ins = [], []
            for axis, cell in enumerate((row, column)):
                stride, start = step["stride"][axis], cell * step["dilation"][axis] - step["padding"][axis]
                # the first and the last output whose input at start + stride · output lies in the image
                first = max(0, -(start // stride))
                last = min(step["shape"][axis + 1] - 1, (x_shape[axis + 1] - 1 - start) // stride)
                outs.append(slice(first, max(first, last + 1)))
                ins.append(slice(start + stride * first, start + stride * last + 1, stride))
            if all(out.stop > out.start for out in outs):
                taps.append((row, column, (outs[0], outs[1]), (ins[0], ins[1])))
    return taps


def _convolution(program: Program, step: Step, x: Values) -> Values:
    kernel = _kernel(program, step, len(x))
    z = np.zeros((kernel.shape[0], kernel.shape[1], *step["shape"][1:]))
    grouped = x.reshape(kernel.shape[0], -1, *x.shape[1:])
    for row, column, outs, ins in _taps(step, x.shape):
        z[:, :, outs[0], outs[1]] += np.einsum(
            "goi,girc->gorc", kernel[..., row, column], grouped[:, :, ins[0], ins[1]]
        )
    return _with_bias(program, step, z.reshape(step["shape"]))


def _convolution_transposed(program: Program, step: Step, s: Values, x: Values) -> list[Values]:
    kernel = _kernel(program, step, len(x))
    result = np.zeros((kernel.shape[0], kernel.shape[2], *x.shape[1:]))
    grouped = s.reshape(kernel.shape[0], kernel.shape[1], *s.shape[1:])
    for row, column, outs, ins in _taps(step, x.shape):
        part = np.einsum("goi,gorc->girc", kernel[..., row, column], grouped[:, :, outs[0], outs[1]])
        result[:, :, ins[0], ins[1]] += part
    return [result.reshape(x.shape)]


def _matrix(program: Program, step: Step) -> Values:
    weight = program.array(step["weight"])
    assert weight is not None
    return weight.astype(float).reshape(step["shape"][-1], -1)


def _dense(program: Program, step: Step, x: Values) -> Values:
    return _with_bias(program, step, (_matrix(program, step) @ x.ravel()).reshape(step["shape"]))


def _dense_transposed(program: Program, step: Step, s: Values, x: Values) -> list[Values]:
    return [(s.ravel() @ _matrix(program, step)).reshape(x.shape)]


def _scale(program: Program, step: Step, x: Values) -> Values:
    return _with_bias(program, step, x * _wide(program.array(step["weight"]), x.shape))


def _scale_transposed(program: Program, step: Step, s: Values, _x: Values) -> list[Values]:
    return [s * _wide(program.array(step["weight"]), s.shape)]


# ── windows ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _table(reads: list[list[int]], weights: list[list[float]], size: int) -> Values:
    table = np.zeros((len(reads), size))
    for line, places, own in zip(table, reads, weights, strict=True):
        line[places] = own
    return table


def _average_tables(step: Step, x_shape: tuple[int, ...]) -> tuple[Values, Values]:
    return (
        _table(step["rows"], step["row_weights"], x_shape[1]),
        _table(step["columns"], step["column_weights"], x_shape[2]),
    )


def _average(_program: Program, step: Step, x: Values) -> Values:
    rows, columns = _average_tables(step, x.shape)
    result: Values = rows @ x @ columns.T
    return result


def _average_transposed(_program: Program, step: Step, s: Values, x: Values) -> list[Values]:
    rows, columns = _average_tables(step, x.shape)
    return [rows.T @ s.reshape(len(x), len(rows), len(columns)) @ columns]


def _winners(step: Step, x: Values) -> Values:
    """Return the position of the first largest value in each window, (channel, row, column)."""
    winners = np.zeros((len(x), len(step["rows"]), len(step["columns"])), int)
    for row, rows in enumerate(step["rows"]):
        for column, columns in enumerate(step["columns"]):
            window = x[:, rows][:, :, columns].reshape(len(x), -1)
            places = np.add.outer(np.array(rows) * x.shape[2], np.array(columns)).ravel()
            winners[:, row, column] = places[window.argmax(1)]
    return winners


def _max(_program: Program, step: Step, x: Values) -> Values:
    winners = _winners(step, x).reshape(len(x), -1)
    return np.take_along_axis(x.reshape(len(x), -1), winners, 1)


def _max_transposed(_program: Program, step: Step, s: Values, x: Values) -> list[Values]:
    winners, result = _winners(step, x).reshape(len(x), -1), np.zeros((len(x), x[0].size))
    for own, places, values in zip(result, winners, s.reshape(len(x), -1), strict=True):
        np.add.at(own, places, values)
    return [result.reshape(x.shape)]


# ── the rest ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _activation(_program: Program, step: Step, x: Values) -> Values:
    return FUNCTIONS[step["function"]](x, **step["options"])[0]


def _activation_transposed(_program: Program, step: Step, s: Values, x: Values) -> list[Values]:
    return [s.reshape(x.shape) * FUNCTIONS[step["function"]](x, **step["options"])[1]]


def _add(program: Program, step: Step, *terms: Values | None) -> Values:
    constant = _constant(program, step, tuple(step["shape"]))
    shape = constant.shape
    return sum(
        (
            sign * (constant if term is None else term.reshape(shape))
            for sign, term in zip(step["signs"], terms, strict=True)
        ),
        np.zeros(shape),
    )


def _add_transposed(_program: Program, step: Step, s: Values, *_terms: Values | None) -> list[Values]:
    return [s * sign for sign in step["signs"]]


def _move(program: Program, step: Step, *inputs: Values) -> Values:
    result = np.zeros(int(np.prod(step["shape"])))
    for (offset, length), x in zip(step["indices"], inputs, strict=True):
        places = program.indices[offset : offset + length]
        result[places >= 0] = x.ravel()[places[places >= 0]]
    return result


def _move_transposed(program: Program, step: Step, s: Values, *inputs: Values) -> list[Values]:
    shares = []
    for (offset, length), x in zip(step["indices"], inputs, strict=True):
        places, share = program.indices[offset : offset + length], np.zeros(x.size)
        share[places[places >= 0]] = s.ravel()[places >= 0]
        shares.append(share.reshape(x.shape))
    return shares


_FORWARD: dict[str, Callable[..., Values]] = {
    "convolution": _convolution, "dense": _dense, "scale": _scale, "average": _average, "max": _max,
    "activation": _activation, "add": _add, "move": _move,
}  # fmt: skip
_TRANSPOSE: dict[str, Callable[..., list[Values]]] = {
    "convolution": _convolution_transposed, "dense": _dense_transposed, "scale": _scale_transposed,
    "average": _average_transposed, "max": _max_transposed, "activation": _activation_transposed,
    "add": _add_transposed, "move": _move_transposed,
}  # fmt: skip
