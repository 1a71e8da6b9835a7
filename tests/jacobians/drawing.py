"""Hypothesis strategies for random networks of the native kernel's grammar, and for their inputs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from torch import Tensor

from jacobians.networks import FOREIGN, SMOOTH, Network, Step, step

__all__ = ["Case", "cases", "drawn"]

LARGEST = 300
"""Maximum number of values of a hidden layer per image; small, so that many networks run in a short time."""
MOST_OUTPUTS = 40
LAYOUTS = ("plain", "channels_last", "transposed", "strided", "expanded")
VALUES = ("noise", "halves", "zeros")

Draw = Callable[[st.SearchStrategy[Any]], Any]


@dataclass(frozen=True)
class Case:
    """A network, a batch for it, and the outputs to differentiate."""

    network: Network
    batch: int = 1
    outputs: tuple[int, ...] | None = None
    chunk: int = 1
    layout: str = "plain"
    values: str = "noise"

    def images(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """Return a batch (batch, *input) in this layout, representable in float32."""
        shape = (self.batch, *self.network.shape)
        if self.layout == "transposed" and len(shape) > 2:
            return self._noise((*shape[:-2], shape[-1], shape[-2])).to(dtype).transpose(-1, -2)
        if self.layout == "strided":
            return self._noise((*shape[:-1], 2 * shape[-1])).to(dtype)[..., ::2]
        if self.layout == "expanded":
            return self._noise((1, *shape[1:])).to(dtype).expand(shape)
        images = self._noise(shape).to(dtype)
        is_last = self.layout == "channels_last" and images.ndim == 4
        return images.contiguous(memory_format=torch.channels_last) if is_last else images

    def _noise(self, shape: Sequence[int]) -> Tensor:
        if self.values == "zeros":
            return torch.zeros(*shape, dtype=torch.float64)
        noise = torch.randn(*shape, generator=torch.Generator().manual_seed(self.network.seed + 1))
        return ((2 * noise).round() / 2 if self.values == "halves" else noise).double()


def drawn(examples: int) -> settings:
    """Return settings under which every run draws the same examples."""
    return settings(
        max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )


@st.composite
def cases(
    draw: Draw, foreign: bool = False, smooth: bool = True, values: Sequence[str] = VALUES[:1], batches: int = 9
) -> Case:
    """Draw a network and a batch; with `foreign`, one of its layers is outside the grammar."""
    sizes = {3: [1, 3, 2, 8], 2: [1, 3, 5], 1: [1, 4, 12]}
    rank = draw(st.sampled_from([3, 3, 2, 1]))
    sides = [draw(st.integers(1, 7)) for _ in range(rank - 1)]
    network = Network((draw(st.sampled_from(sizes[rank])), *sides), seed=draw(st.integers(0, 9999)))
    count = draw(st.integers(0, 6))
    where = draw(st.integers(0, count)) if foreign else -1
    for number in range(count + 1):
        if number == where:
            _append(network, step(draw(st.sampled_from(sorted(FOREIGN))), _last(network)))
        if number < count and network.shapes[-1]:
            draw(st.sampled_from(BLOCKS))(draw, network, smooth)
    if draw(st.integers(0, 2)):
        _classifier(draw, network)
    batch = draw(st.integers(1, batches))
    return Case(
        network,
        batch,
        _outputs(draw, prod(network.shapes[-1])),
        draw(st.integers(1, batch)),
        draw(st.sampled_from(LAYOUTS)),
        draw(st.sampled_from(list(values))),
    )


def _outputs(draw: Draw, count: int) -> tuple[int, ...] | None:
    """Select some of the outputs, in any order and repeatedly."""
    if count <= MOST_OUTPUTS and draw(st.booleans()):
        return None
    return tuple(draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=12)))


def _last(network: Network) -> int:
    return len(network.steps)


def _append(network: Network, added: Step) -> bool:
    """Add a step unless it does not fit, as often happens with random sizes."""
    try:
        network.add(added)
    except (RuntimeError, ValueError, IndexError, NotImplementedError, AssertionError):
        return False
    if prod(network.shapes[-1]) <= LARGEST:
        return True
    network.remove_last()
    return False


def _source(draw: Draw, network: Network) -> int:
    """Pick a value: the last one most of the time, otherwise any earlier one."""
    last = _last(network)
    place = last if draw(st.integers(0, 4)) else last - draw(st.integers(0, last))
    return place if network.shapes[place] else last


def _layer(draw: Draw, network: Network, smooth: bool) -> None:
    """Append a convolution or linear layer, with optional pooling, affine map and activation."""
    place = _source(draw, network)
    shape = network.shapes[place]
    is_linear = len(shape) == 1 or (len(shape) == 2 and draw(st.booleans()))
    added = _linear(draw, place) if is_linear else _conv(draw, place, shape)
    if not _append(network, added):
        return
    if not is_linear and draw(st.booleans()):
        _max_pool(draw, network, smooth)
    if draw(st.booleans()):
        _affine(draw, network, smooth)
    if draw(st.integers(0, 3)):
        _activation(draw, network, smooth)


def _linear(draw: Draw, place: int) -> Step:
    return step(
        "linear",
        place,
        features=draw(st.integers(1, 9)),
        bias=draw(st.booleans()),
        weights=draw(st.sampled_from(["dense", "sparse", "dead", "transposed"])),
    )


def _conv(draw: Draw, place: int, shape: Sequence[int]) -> Step:
    rank, sides = len(shape) - 1, st.integers(1, 4)
    stride, dilation = draw(st.sampled_from([1, 1, 2, 3])), draw(st.sampled_from([1, 1, 2]))
    kernel = tuple(draw(sides) for _ in range(rank))
    is_same = stride == 1 and draw(st.integers(0, 3)) == 0
    padding = tuple(draw(st.integers(0, 3)) for _ in range(rank))
    divisors = [groups for groups in range(1, shape[0] + 1) if shape[0] % groups == 0]
    groups = draw(st.sampled_from([1, *divisors]))
    # torch itself crashes in float32 if these weights meet nothing but padding
    is_inside = rank == 2 and all(pad < side for pad, side in zip(padding, kernel, strict=True))
    return step(
        "conv",
        place,
        channels=groups * draw(st.integers(1, max(1, 8 // groups))),
        kernel=kernel,
        stride=stride if rank == 1 or draw(st.booleans()) else (stride, 1),
        padding="same" if is_same else padding,
        dilation=dilation,
        groups=groups,
        bias=draw(st.booleans()),
        weights=draw(st.sampled_from(["dense", "sparse", "dead", *["channels_last"] * is_inside])),
    )


def _max_pool(draw: Draw, network: Network, smooth: bool) -> None:
    rank = len(network.shapes[-1]) - 1
    kernel = tuple(draw(st.integers(1, 3)) for _ in range(rank))
    _append(
        network,
        step(
            "max_pool",
            _last(network),
            kernel_size=kernel,
            stride=draw(st.sampled_from([kernel, 1, 2])),
            padding=tuple(draw(st.integers(0, side // 2)) for side in kernel),
            dilation=draw(st.sampled_from([1, 1, 2])),
            ceil_mode=draw(st.booleans()),
        ),
    )


def _avg_pool(draw: Draw, network: Network, smooth: bool) -> None:
    place = _source(draw, network)
    rank = len(network.shapes[place]) - 1
    kind = draw(st.sampled_from(["mean", "sum", *["avg_pool", "adaptive_avg_pool"] * (rank > 0)]))
    if kind == "adaptive_avg_pool":
        _append(network, step(kind, place, output_size=tuple(draw(st.integers(1, 3)) for _ in range(rank))))
    elif kind == "avg_pool":
        kernel = tuple(draw(st.integers(1, 3)) for _ in range(rank))
        options: dict[str, Any] = {
            "kernel_size": kernel,
            "stride": draw(st.sampled_from([kernel, 1, 2])),
            "padding": tuple(draw(st.integers(0, side // 2)) for side in kernel),
            "ceil_mode": draw(st.booleans()),
            "count_include_pad": draw(st.booleans()),
        }
        if rank == 2 and draw(st.booleans()):
            options["divisor_override"] = draw(st.integers(1, 5))
        _append(network, step(kind, place, **options))
    else:
        axes = draw(st.lists(st.integers(1, rank + 1), min_size=1, max_size=rank + 1, unique=True))
        _append(network, step(kind, place, dim=tuple(axes), keepdim=draw(st.booleans())))


def _affine(draw: Draw, network: Network, smooth: bool) -> None:
    place = _last(network)
    if draw(st.booleans()):
        _append(network, step("batch_norm", place, affine=draw(st.booleans()), zeros=draw(st.booleans())))
        return
    operation = draw(st.sampled_from(["multiply", "add", "subtract", "subtract_from", "divide", "multiply_"]))
    broadcast = draw(st.sampled_from(["number", "tensor", "channel", "last", "image", "first"]))
    _append(network, step("constant", place, operation=operation, broadcast=broadcast))


PIECEWISE = (
    step("relu", 0),
    step("relu_", 0),
    step("leaky_relu", 0),
    step("leaky_relu", 0, negative_slope=-0.5),
    step("leaky_relu", 0, negative_slope=2.0),
    step("hardtanh", 0),
    step("hardtanh", 0, min_val=-0.2, max_val=0.7),
    step("relu6", 0),
    step("clamp", 0, min=-0.5),
    step("clamp", 0, max=0.5),
    step("clamp", 0, min=-0.5, max=0.3),
    step("abs", 0),
    step("negative", 0),
)
CURVED = (
    *(step(name, 0) for name in SMOOTH),
    step("gelu", 0, approximate="tanh"),
    step("elu", 0, alpha=0.5),
    step("softplus", 0, beta=2.0, threshold=1.0),
)


def _activation(draw: Draw, network: Network, smooth: bool) -> None:
    chosen = draw(st.sampled_from(PIECEWISE + CURVED if smooth else PIECEWISE))
    name = "relu" if chosen.layer == "relu_" and not _is_modifiable(network) else chosen.layer
    _append(network, step(name, _last(network), **dict(chosen.settings)))


def _is_modifiable(network: Network) -> bool:
    """Return True if autograd allows the last value to be changed in place: no other layer needs it."""
    return bool(network.steps) and network.steps[-1].layer in ("conv", "linear", "batch_norm", "add")


def _join(draw: Draw, network: Network, smooth: bool) -> None:
    """Add, subtract or concatenate the last value and others of the same shape, such as itself."""
    last = _last(network)
    partners = [place for place, shape in enumerate(network.shapes) if shape == network.shapes[-1]]
    others = st.sampled_from(partners[::-1])
    kind = draw(st.sampled_from(["add", "scaled", "three", "subtract", "concatenate", "add_"]))
    if kind == "scaled":
        _append(network, step("add", last, draw(others), alpha=draw(st.sampled_from([2, -0.5, 0]))))
    elif kind == "three":
        _append(network, step("add", last, draw(others), draw(others)))
    elif kind == "concatenate":
        axis = draw(st.integers(1, len(network.shapes[-1])))
        _append(network, step(kind, last, *draw(st.lists(others, min_size=1, max_size=2)), axis=axis))
    elif kind == "add_" and _is_modifiable(network) and (partner := draw(others)) != last:
        _append(network, step(kind, last, partner))
    else:
        _append(network, step("subtract" if kind == "subtract" else "add", last, draw(others)))


def _residual(draw: Draw, network: Network, smooth: bool) -> None:
    """Append a residual block of one or two convolutions or linear layers."""
    start = _last(network)
    shape = network.shapes[-1]
    for number in range(draw(st.integers(1, 2))):
        if number:
            _activation(draw, network, smooth)
        if len(shape) == 1:
            added = step("linear", _last(network), features=shape[0])
        else:
            kernel = (3,) * (len(shape) - 1)
            added = step("conv", _last(network), channels=shape[0], kernel=kernel, padding=1)
        _append(network, added)
    _append(network, step(draw(st.sampled_from(["add", "add_"])), _last(network), start))
    _activation(draw, network, smooth)


def _again(draw: Draw, network: Network, smooth: bool) -> None:
    """Apply an earlier layer with weights once more, to any value that fits."""
    places = [number + 1 for number, each in enumerate(network.steps) if each.layer in ("conv", "linear", "batch_norm")]
    if places:
        _append(network, step("again", _source(draw, network), place=draw(st.sampled_from(places))))


def _reshape(draw: Draw, network: Network, smooth: bool) -> None:
    place = _source(draw, network)
    shape = network.shapes[place]
    rank = len(shape)
    axis = draw(st.integers(1, rank))
    size = shape[axis - 1]
    kind = draw(st.sampled_from([*_RESHAPES]))
    _append(network, step(kind, place, **_RESHAPES[kind](draw, shape, axis, size)))


_RESHAPES: dict[str, Callable[[Draw, Sequence[int], int, int], dict[str, Any]]] = {
    "flatten": lambda draw, shape, axis, size: {"start_dim": axis},
    "view": lambda draw, shape, axis, size: {"sizes": tuple(reversed(shape))},
    "unsqueeze": lambda draw, shape, axis, size: {"dim": axis},
    "squeeze": lambda draw, shape, axis, size: {"dim": axis},
    "transpose": lambda draw, shape, axis, size: {"a": axis, "b": draw(st.integers(1, len(shape)))},
    "permute": lambda draw, shape, axis, size: {"axes": tuple(draw(st.permutations(range(1, len(shape) + 1))))},
    "contiguous": lambda draw, shape, axis, size: {},
    "slice": lambda draw, shape, axis, size: {
        "axis": axis,
        "start": draw(st.integers(0, size - 1)),
        "stop": draw(st.sampled_from([None, size - 1])),
        "by": draw(st.integers(1, 2)),
    },
    "select": lambda draw, shape, axis, size: {"dim": axis, "index": draw(st.integers(-size, size - 1))},
    "split": lambda draw, shape, axis, size: {"size": max(1, size // 2), "axis": axis, "part": draw(st.integers(0, 1))},
    "swap": lambda draw, shape, axis, size: {"axis": axis},
    "shuffle": lambda draw, shape, axis, size: {"groups": draw(st.integers(1, 3))},
    "identity": lambda draw, shape, axis, size: {},
    "dropout": lambda draw, shape, axis, size: {},
}


def _classifier(draw: Draw, network: Network) -> None:
    if len(network.shapes[-1]) > 1:
        _append(network, step("flatten", _last(network), start_dim=1))
    count = draw(st.sampled_from([3, 1, 2, 10, 17, MOST_OUTPUTS]))
    _append(network, step("linear", _last(network), features=count, bias=True))
    if count % 2 == 0 and draw(st.booleans()):
        _append(network, step("view", _last(network), sizes=(2, count // 2)))


BLOCKS = (
    *[_layer] * 4,
    *[_reshape] * 3,
    *[_join] * 2,
    *[_avg_pool] * 2,
    _residual,
    _activation,
    _affine,
    _max_pool,
    _again,
)
"""What a network is drawn from; the most important blocks several times, so that they are drawn more often."""
