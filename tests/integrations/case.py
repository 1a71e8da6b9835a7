"""An architecture that is ready to be explained, with the independent values that its checks share."""

from functools import cached_property
from typing import Any

import oracles
import torch
import torch.nn.functional as F
from architectures import Architecture
from torch import Tensor, nn

from pellucid import create_analyzer

TARGET = 3
"""Index of the explained class."""


class Case:
    """An architecture that is ready to be explained, with the reference values that its checks share."""

    def __init__(self, architecture: Architecture, count: int = 2) -> None:
        self.architecture = architecture
        self.model = architecture.ready()
        self.inputs = architecture.inputs()[:count]
        self._noise: float | None = None

    @cached_property
    def differences(self) -> oracles.Differences:
        """Central differences of all logits."""

        def rows(x: Tensor) -> Tensor:
            with torch.no_grad():
                return self.logits(x)

        return oracles.Differences(rows, self.x)

    @cached_property
    def occluded(self) -> Tensor:
        """Occlusion by hand."""
        return oracles.occluded(self.measured, self.x, **self.windows)

    @property
    def windows(self) -> dict[str, tuple[int, ...]]:
        """Size and stride of the windows of occlusion: two along each axis that is long enough, which overlap."""
        sides = self.inputs.shape[2:]
        third = sides[-1] // 3
        return {
            "window": tuple(min(sides[-1] - third, side) for side in sides),
            "stride": tuple(min(third, side) for side in sides),
        }

    @cached_property
    def has_islands(self) -> bool:
        """True if the network computes some parts in float32 whatever its dtype, and float64 promises little."""
        with torch.no_grad(), oracles.FloatWatch() as watch:
            self.to("float64").logits(self.x)
        return watch.has_single

    def to(self, dtype: str) -> "Case":
        """Convert model and images; float32 values survive the way to float64 and back."""
        self.model.to(getattr(torch, dtype))
        self.model.train().eval()  # LeViT caches biases, and forgets them in training mode
        self.model.requires_grad_(False)
        return self

    @property
    def x(self) -> Tensor:
        """The images, or the embeddings of the tokens, in the dtype of the model."""
        dtype = next(parameter.dtype for parameter in self.model.parameters() if parameter.is_floating_point())
        if self.architecture.reads_tokens:
            return F.embedding(self.inputs, self._embedding.weight)
        return self.inputs.to(dtype)

    @property
    def given(self) -> Tensor:
        """What an analyzer gets: images or token ids."""
        return self.inputs if self.architecture.reads_tokens else self.x

    @property
    def _embedding(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def logits(self, x: Tensor) -> Tensor:
        """Run the model on images, or on embeddings in place of those of the tokens."""
        if not self.architecture.reads_tokens:
            return self._read(self.model(x))
        ids = self.inputs[:1].expand(len(x), -1) if len(x) != len(self.inputs) else self.inputs
        with oracles.Embedded(self._embedding.weight, ids, x):
            return self._read(self.model(ids))

    def _read(self, outputs: Any) -> Tensor:
        return outputs if self.architecture.output is None else self.architecture.output(outputs)

    def score(self, x: Tensor) -> Tensor:
        """Explained logit of each input."""
        return self.logits(x)[:, TARGET]

    def measured(self, x: Tensor) -> Tensor:
        """Explained logit, without a graph."""
        with torch.no_grad():
            return self.score(x)

    def analyzer(self, name: str, **options: Any) -> Any:
        """Create an analyzer as a user would."""
        if self.architecture.output is not None:
            options["output"] = self.architecture.output
        return create_analyzer(name, self.model, **options)

    def noise(self) -> float:
        """Relative error of plain autograd in float32; leaves the model in float64."""
        if self._noise is None:
            try:
                single = oracles.autograd(self.to("float32").score, self.x)
                double = oracles.autograd(self.to("float64").score, self.x)
                self._noise = oracles.relative(single, double)
            except (RuntimeError, ValueError, TypeError):
                self._noise = 0.0
        self.to("float64")
        return self._noise
