"""Export a network as a program, from the tape of one forward pass."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pellucid.core.errors import UnsupportedOperation
from pellucid.engine.linear_maps import Convolution, Dense, Diagonal, LinearFunction
from pellucid.engine.programs.functions import recognized
from pellucid.engine.programs.program import Program, Step
from pellucid.engine.programs.windows import measured_windows
from pellucid.engine.relevance import fold_batch_norms, record
from pellucid.engine.tape import Activation, Addition, Affine, Maximum, Move, Node

__all__ = ["export_program"]


def export_program(model: nn.Module, image: Tensor) -> Program:
    """Return a frozen model on the CPU as a program, from its forward pass of one image (1, channel, height, width).

    Batch norms are folded into the layers before them, as `lrp.epsilon` does. Dropout, views and other operations that
    change nothing are omitted.

    Raises `UnsupportedOperation`, naming the operation and its module, if a program cannot express one.

    >>> from pellucid.engine.model import frozen
    >>> layers = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)
    >>> with frozen(nn.Sequential(*layers)) as model:
    ...     program = export_program(model, torch.zeros(1, 1, 4, 4))
    >>> [(step["op"], step["shape"]) for step in program.steps]
    [('convolution', [2, 2, 2]), ('activation', [2, 2, 2]), ('dense', [3])]
    """
    if image.ndim != 4 or len(image) != 1:
        raise UnsupportedOperation(f"an image of shape {tuple(image.shape)} cannot be drawn; expected (1, c, h, w)")
    if image.dtype not in (torch.float32, torch.float64):
        raise UnsupportedOperation(f"it computes in {str(image.dtype).removeprefix('torch.')}, not in float32")
    tape = record(model, image, is_watched=True)
    fold_batch_norms(tape)
    writer = _Writer(tape.image)
    with torch.no_grad():
        for node in tape.needed():
            writer.add(node)
    if writer.values.get(tape.output) != (writer.steps[-1]["to"] if writer.steps else 0):
        raise UnsupportedOperation("its last operation does not return the logits")
    if tape.logits.ndim != 2:
        raise UnsupportedOperation(f"its output has shape {tuple(tape.logits.shape)}; expected one row of logits")
    channels, height, width = image.shape[1:]
    return Program((channels, height, width), writer.steps, *writer.arrays(), writer.multiply_adds)


class _Writer:
    """Translates the nodes of a tape, in order, to steps."""

    def __init__(self, image: int) -> None:
        self.values = {image: 0}
        """Number of the value in each slot of the tape."""
        self.steps: list[Step] = []
        self.multiply_adds = 0
        self._count = 1
        self._weights: list[np.ndarray] = []
        self._indices: list[np.ndarray] = []
        self._sizes = {"weights": 0, "indices": 0}

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Return all weights and all indices, each as one array."""
        empty = np.zeros(0)
        return (
            np.concatenate([empty, *self._weights]).astype(np.float32),
            np.concatenate([empty, *self._indices]).astype(np.int64),
        )

    def add(self, node: Node) -> None:
        """Append the step of a node; raises `UnsupportedOperation` if there is none."""
        shape = list(_shape_of(node))
        for kind, write in _WRITERS.items():
            if isinstance(node, kind):
                fields = write(self, node)
                break
        else:
            raise _unknown(node)
        if fields is None:  # the value stays the same
            (slot,) = [slot for slot in node.inputs if slot is not None]
            self.values[node.output] = self.values[slot]
            return
        sources = [None if slot is None else self.values[slot] for slot in node.inputs]
        place = f"{node.operation} in {node.path}" if node.path else node.operation
        self.values[node.output] = self._count
        self.steps.append({"from": sources, "to": self._count, "shape": shape, "place": place, **fields})
        self._count += 1

    def keep(self, values: Tensor | None) -> list[int] | None:
        """Store weights and return their [offset, length]; None for none."""
        if values is None:
            return None
        flat = values.detach().double().flatten().numpy(force=True)
        return self._kept(self._weights, "weights", flat)

    def keep_positions(self, positions: np.ndarray) -> list[int]:
        """Store indices and return their [offset, length]."""
        return self._kept(self._indices, "indices", positions)

    def _kept(self, store: list[np.ndarray], name: str, values: np.ndarray) -> list[int]:
        place = [self._sizes[name], len(values)]
        store.append(values)
        self._sizes[name] += len(values)
        return place


def _unknown(node: Node, why: str = "which the report does not support") -> UnsupportedOperation:
    return UnsupportedOperation(f"it uses {node.place}, {why}")


def _shape_of(node: Node) -> torch.Size:
    """Return the shape of the output without the batch."""
    value = getattr(node, "z", None)
    if value is None:
        value = getattr(node, "y", None)
    # nodes that others were merged into keep the shape of the first
    shape: torch.Size = node.shape if value is None else value.shape
    if not shape or shape[0] != 1:
        raise _unknown(node, "whose output does not begin with the batch axis")
    return shape[1:]


def _affine(writer: _Writer, node: Affine) -> dict[str, Any] | None:
    if node.replay is not None:
        raise _unknown(node)
    if isinstance(node.map, Convolution) and node.weight is not None:
        return _convolution(writer, node, node.map, node.weight)
    if isinstance(node.map, Dense) and node.weight is not None:
        if node.x.numel() != node.weight.shape[1]:
            raise _unknown(node, "applied to several vectors")
        writer.multiply_adds += node.weight.numel()
        return {"op": "dense", "weight": writer.keep(node.weight), "bias": writer.keep(node.bias)}
    if isinstance(node.map, Diagonal) and node.weight is not None:
        writer.multiply_adds += node.x.numel()
        bias = None if node.bias is None else _compact(node.bias, node.x.shape)
        return {
            "op": "scale",
            "weight": writer.keep(_compact(node.weight, node.x.shape)),
            "bias": writer.keep(bias),
            # a batch norm without a layer before it has the rule of a layer, a factor passes relevance on
            "rule": "pass" if node.kind == "scale" else "epsilon",
        }
    if isinstance(node.map, LinearFunction) and node.bias is None:
        return _window(writer, node, "average", node.x, node.map.function)
    raise _unknown(node)


def _convolution(writer: _Writer, node: Affine, geometry: Convolution, weight: Tensor) -> dict[str, Any]:
    if geometry.transposed or weight.ndim != 4:
        raise _unknown(node)
    writer.multiply_adds += weight[0].numel() * node.z.numel()
    return {
        "op": "convolution",
        "weight": writer.keep(weight),
        "bias": writer.keep(node.bias),
        "kernel": list(weight.shape[2:]),
        "stride": list(geometry.stride),
        "padding": list(geometry.padding),
        "dilation": list(geometry.dilation),
        "groups": geometry.groups,
    }


def _compact(constant: Tensor, shape: torch.Size) -> Tensor:
    """Return a constant that broadcasts to `shape` (1, …): one number, one number per channel, or all of them."""
    if constant.numel() == 1:
        return constant.flatten()
    wide = constant.expand(shape)[0].flatten(1) if len(shape) > 2 else constant.expand(shape)[0][:, None]
    return wide[:, 0] if bool((wide == wide[:, :1]).all()) else wide.flatten()


def _window(
    writer: _Writer, node: Node, op: str, x: Tensor, function: Callable[[Tensor], Tensor]
) -> dict[str, Any] | None:
    if x.ndim != 4:
        raise _unknown(node, "applied to something else than feature maps")
    windows = measured_windows(function, x, is_maximum=op == "max")
    if windows is None:
        raise _unknown(node)
    writer.multiply_adds += x.shape[1] * int((windows.rows != 0).sum() * (windows.columns != 0).sum())
    return {"op": op, **windows.indices(), **(windows.weights() if op == "average" else {})}


def _maximum(writer: _Writer, node: Maximum) -> dict[str, Any] | None:
    # the derivative of other maxima is shared among equal values
    if node.operation not in ("max_pool2d", "adaptive_max_pool2d"):
        raise _unknown(node)
    return _window(writer, node, "max", node.x, node.replay)


def _activation(_writer: _Writer, node: Activation) -> dict[str, Any] | None:
    known = recognized(node.replay, node.x)
    if known is None or not isinstance(node.at_zero, (int, float)) or not math.isfinite(node.at_zero):
        raise _unknown(node)
    return {"op": "activation", "function": known[0], "options": known[1], "at_zero": float(node.at_zero)}


def _addition(writer: _Writer, node: Addition) -> dict[str, Any] | None:
    constant = None
    for slot, term in zip(node.inputs, node.terms, strict=True):
        if slot is None:
            constant = writer.keep(_compact(term, node.z.shape))
        elif term.shape != node.z.shape:
            raise _unknown(node, "which repeats one of its terms")
    return {"op": "add", "signs": [float(sign) for sign in node.signs], "constant": constant}


def _move(writer: _Writer, node: Move) -> dict[str, Any] | None:
    size = node.shape.numel()
    ones = torch.ones(node.shape, device="cpu", dtype=torch.float32)
    # relevance sent back through a move shows where it came from: first how often each input is used, then where
    used = [_numbers(one) for one in node.pull(ones)]
    counted = torch.arange(1.0, size + 1, device="cpu", dtype=torch.float32)
    places = [_numbers(one) for one in node.pull(counted.reshape(node.shape))]
    if size >= 2**24 or any(one is None or (one > 1).any() for one in used):
        raise _unknown(node, "which copies values")
    tables = []
    for place in places:
        assert place is not None
        table = np.full(size, -1)
        (kept,) = np.nonzero(place)
        table[place[kept].astype(int) - 1] = kept
        tables.append(table)
    if len(tables) == 1 and np.array_equal(tables[0], np.arange(size)):
        return None  # only the shape changes, which the next step knows
    return {"op": "move", "indices": [writer.keep_positions(table) for table in tables]}


def _numbers(values: Tensor | None) -> np.ndarray | None:
    return None if values is None else values.flatten().numpy(force=True)


_WRITERS: dict[type[Node], Callable[[_Writer, Any], dict[str, Any] | None]] = {
    Affine: _affine,
    Maximum: _maximum,
    Activation: _activation,
    Addition: _addition,
    Move: _move,
}
"""The translation of each kind of node to the fields of a step; None if it changes nothing."""
