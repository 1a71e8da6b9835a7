"""A network as data: a list of steps between numbered values, with all weights in one array."""

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["EPSILON", "Program", "Step"]

EPSILON = 1e-7
"""The ε of `lrp.epsilon`."""

Step = dict[str, Any]
"""One operation, as JSON.

`op`: convolution, dense, scale, average, max, activation, add or move. `from`: the values that it reads (null: a
constant of a sum), `to`: the value that it writes, `shape`: the shape of that value, without the batch. `place`: the
operation and its module in the network. Arrays are given as [offset, length] in the weights, or in the indices for
`move`.

- convolution: `weight` (output, input of a group, height, width), `bias` or null, `kernel`, `stride`, `padding`,
  `dilation` (two numbers each), `groups`
- dense: `weight` (output, input), `bias` or null
- scale: `weight` and `bias` (or null) of length n; entry i applies to the i-th n-th part of the value. `rule`: the
  relevance rule, `epsilon` or `pass`
- average: Σ `row_weights` · `column_weights` over the input `rows` and `columns` of each output row and column
- max: the maximum over these rows and columns; the first of equal values wins
- activation: `function` with `options`, see `functions`; `at_zero`: its value at 0
- add: Σ `signs` · terms; `constant`: the term without a value, in parts as for scale
- move: for each output, the position of its input, −1 for zero; `indices`: one array for each input
"""


@dataclass(frozen=True, eq=False)
class Program:
    """A network as steps and weights. Value 0 is the image and the last step's value are the logits."""

    input_shape: tuple[int, int, int]
    """Channels, height and width."""
    steps: list[Step]
    weights: np.ndarray
    """All weights, float32."""
    indices: np.ndarray
    """All positions of moves, int64."""
    multiply_adds: int
    """Multiplications of a forward pass."""

    @property
    def classes(self) -> int:
        """Number of logits."""
        return int(np.prod(self.steps[-1]["shape"])) if self.steps else 0

    @property
    def record(self) -> dict[str, Any]:
        """Everything except the arrays, as JSON."""
        return {
            "input": list(self.input_shape),
            "classes": self.classes,
            "epsilon": EPSILON,
            "multiply_adds": self.multiply_adds,
            "steps": self.steps,
        }

    def array(self, place: list[int] | None) -> np.ndarray | None:
        """Return the weights at [offset, length]; None for null."""
        return None if place is None else self.weights[place[0] : place[0] + place[1]]
