"""Explanation targets: the predicted class, given classes, a contrast, all classes, or a custom score."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid.core.errors import ConfigError, PellucidError, ShapeError
from pellucid.engine.arrays import check_tensor
from pellucid.engine.input_errors import INPUT_ERRORS
from pellucid.engine.model import Readout
from pellucid.engine.units import Unit

__all__ = ["Contrast", "Question", "Request", "Score", "Target", "rows_of", "weighted"]

Score = Callable[[Tensor], Tensor]
"""A function from outputs, (batch, …), to one number per image, (batch,)."""
Classes = int | Tensor | np.ndarray | np.integer | Sequence[int]
"""One class for all images, or one per image."""

KINDS = (
    "an index, one index per image (a tensor such as logits.argmax(1), or a list), 'all', Contrast(a, b), "
    "a hidden Unit, or a function outputs -> (batch,)"
)
"""Valid targets, for messages."""


@dataclass(frozen=True, eq=False)
class Contrast:
    """The target "class `target` minus class `against`": why this class rather than that one.

    The explained score is the difference of the two logits. Each class is one index, one per image, or None for the
    predicted class (not both). If both are the same class, the difference and the map are zero.

    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    >>> from pellucid.attribution import create_analyzer
    >>> explanation = create_analyzer("lrp.epsilon", model).explain(torch.rand(2, 1, 2, 2), Contrast(2, 0))
    >>> explanation.target.tolist(), explanation.details["against"].tolist()
    ([2, 2], [0, 0])
    """

    target: Classes | None = None
    against: Classes | None = None

    def __post_init__(self) -> None:
        if self.target is None and self.against is None:
            raise ConfigError(
                "a contrast of the predicted class with itself is zero; name the other class, as in Contrast(None, 3)."
            )


Request = Classes | Contrast | Unit | Score | str | None
"""Anything accepted as a target."""


@dataclass(frozen=True, eq=False)
class Target:
    """The explained output, as requested by the user; `None` means the predicted class."""

    request: Request = None

    def __post_init__(self) -> None:
        if isinstance(self.request, str) and self.request != "all":
            raise ConfigError(
                f"target is {self.request!r}, but class names are not supported here; "
                f"pass {KINDS}. To look up the index of a name: classes.index({self.request!r})."
            )
        if self.score is None and not self.is_all:
            for asked in self._asked.values():
                if asked is not None:
                    _as_tensor(asked)  # raises for anything that is not an index

    @property
    def is_all(self) -> bool:
        """True if every class is explained."""
        return isinstance(self.request, str)

    @property
    def index(self) -> int | None:
        """The class requested for all images by its index; None for any other request."""
        return self.request if type(self.request) is int else None

    @property
    def score(self) -> Score | None:
        """The custom score function, or that of a hidden unit; None for classes."""
        if isinstance(self.request, Unit):
            return self.request.score
        return self.request if callable(self.request) and not isinstance(self.request, Tensor | type) else None

    @property
    def unit(self) -> Unit | None:
        """The hidden unit that is explained, or None."""
        return self.request if isinstance(self.request, Unit) else None

    @property
    def is_of_batch(self) -> bool:
        """True if the score of an image may depend on the rest of the batch."""
        return self.score is not None and self.unit is None

    @property
    def _asked(self) -> dict[Literal["target", "against"], Classes | None]:
        """The requested classes by role."""
        if isinstance(self.request, Contrast):
            return {"target": self.request.target, "against": self.request.against}
        assert self.score is None
        assert not isinstance(self.request, str)
        return {"target": self.request}  # type: ignore[dict-item]  # the other types are handled above

    @property
    def key(self) -> tuple[object, ...] | None:
        """The requested classes as plain numbers, equal for equal requests; None for a custom score."""
        if self.score is not None:
            return None
        if self.is_all:
            return ("all",)
        asked = [None if one is None else _as_tensor(one) for one in self._asked.values()]
        return tuple(None if one is None else (one.ndim, *one.flatten().tolist()) for one in asked)

    def check(self, images: int) -> None:
        """Raise `ShapeError` before any computation if the target does not have one class per image."""
        if self.is_all or self.score is not None:
            return
        for asked in self._asked.values():
            classes = None if asked is None else _as_tensor(asked)
            if classes is not None and classes.ndim and len(classes) != images:
                raise ShapeError(
                    f"target has {len(classes)} entries for {images} images; "
                    "pass one class index per image, e.g. logits.argmax(1)."
                )

    def each(self, outputs: Tensor) -> list["Target"]:
        """Return the target itself, or one target per class for "all"."""
        return [Target(index) for index in range(rows_of(outputs).shape[1])] if self.is_all else [self]

    def part(self, which: slice | Tensor) -> "Target":
        """Return the target for some of the images."""
        if self.is_all or self.score is not None:
            return self
        chosen = {name: _some(asked, which) for name, asked in self._asked.items()}
        return Target(Contrast(**chosen) if "against" in chosen else chosen["target"])

    def held(self, outputs: Tensor) -> "Target":
        """Return the target with None replaced by the class predicted here, for use on other images."""
        if self.score is not None or self.index is not None:
            return self
        own, other = self.classes(outputs), self.against(outputs)
        return Target(own if other is None else Contrast(own, other))

    def classes(self, outputs: Tensor) -> Tensor:
        """Explained class of each image, (batch,) int64; −1 for a custom score."""
        if self.score is not None:
            # No class stands for a score of several outputs.
            return torch.full((len(outputs),), -1, dtype=torch.int64, device=outputs.device)
        return _classes(self._asked["target"], rows_of(outputs))

    def against(self, outputs: Tensor) -> Tensor | None:
        """Class that a contrast subtracts, (batch,) int64; None for other targets."""
        if not isinstance(self.request, Contrast):
            return None
        return _classes(self.request.against, rows_of(outputs))

    def scores(self, outputs: Tensor) -> Tensor:
        """Explained score of each image, (batch,); differentiable in `outputs`."""
        if self.score is not None:
            return self._custom_scores(self.score, outputs)
        rows, against = rows_of(outputs), self.against(outputs)
        scores = rows.gather(1, self.classes(outputs)[:, None])[:, 0]
        return scores if against is None else scores - rows.gather(1, against[:, None])[:, 0]

    def scores_of_copies(self, outputs: Tensor) -> Tensor:
        """Explained score of each image in each copy of the batch, (copy, batch), from outputs (copy, batch, …).

        >>> Target(1).scores_of_copies(torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]]]))
        tensor([[2.],
                [4.]])
        """
        if self.score is not None or any(asked is None for asked in self._asked.values()):
            return torch.stack([self.scores(copy) for copy in outputs])
        first = rows_of(outputs[0])
        # Images first, because each has the same class in all copies.
        rows = outputs.reshape(len(outputs), *first.shape).movedim(1, 0)
        scores = rows[torch.arange(len(rows), device=rows.device), :, self.classes(first)]
        against = self.against(first)
        if against is not None:
            scores = scores - rows[torch.arange(len(rows), device=rows.device), :, against]
        return scores.T

    @staticmethod
    def _custom_scores(score: Score, outputs: Tensor) -> Tensor:
        try:
            scores: object = score(outputs)
        except INPUT_ERRORS as error:
            if isinstance(error, PellucidError):
                raise
            raise ConfigError(
                f"the target function raised {type(error).__name__} for outputs of shape {tuple(outputs.shape)}: "
                f"{error}."
            ) from error
        if not isinstance(scores, Tensor) or scores.shape != outputs.shape[:1]:
            received = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise ShapeError(
                f"the target function returns {received} for {len(outputs)} images; return one number per image."
            )
        if outputs.requires_grad and not scores.requires_grad:
            raise ShapeError(
                "the target function's scores have no gradient with respect to the logits; do not detach them."
            )
        return scores

    def slope(self, outputs: Tensor) -> Tensor:
        """∂ score / ∂ outputs, like `outputs`: 1 at the explained class, −1 at the class it is contrasted with."""
        if self.score is not None:
            # Callers may be inside no_grad, since a recorded pass needs no gradient.
            with torch.enable_grad():
                leaf = outputs.detach().requires_grad_()
                return torch.autograd.grad(self.scores(leaf).sum(), leaf)[0]
        count, against = rows_of(outputs).shape[1], self.against(outputs)
        # In closed form: autograd would give the same, and this runs once for every batch and class.
        slope = F.one_hot(self.classes(outputs), count).to(outputs.dtype)
        if against is not None:
            slope = slope - F.one_hot(against, count)
        return slope.reshape(outputs.shape)


@dataclass(frozen=True, eq=False)
class Question(Readout):
    """The explained targets of a batch, together with the way to read the model's outputs."""

    targets: tuple[Target, ...] = ()
    """One target, or one per class for `target="all"`."""

    @property
    def places(self) -> list[tuple["Target", str]]:
        """The explained targets and layers, in the order of the outcomes; the name of the input is empty."""
        return [(target, layer) for target in self.targets for layer in self.layers or ("",)]

    def part(self, which: slice) -> "Question":
        """Return the question for some of the images."""
        channels = None if self.channels is None else self.channels.part(which)
        return replace(self, targets=tuple(target.part(which) for target in self.targets), channels=channels)


def weighted(values: Tensor, slope: Tensor) -> Tensor:
    """Multiply by the slope of a score; 0 wherever the slope is 0, even for classes masked with −∞.

    >>> weighted(torch.tensor([2.0, -torch.inf]), torch.tensor([1.0, 0.0]))
    tensor([2., 0.])
    """
    # -inf · 0 is NaN.
    product = values * slope
    return product if bool(product.sum().isfinite()) else product.masked_fill(slope == 0, 0)


def rows_of(outputs: Tensor) -> Tensor:
    """Return outputs as (batch, class); one number per image counts as one class."""
    if outputs.ndim > 2:
        raise ShapeError(
            f"the model returns {tuple(outputs.shape)}, not one number per image and class; pass a target function "
            "outputs -> (batch,), such as lambda outputs: outputs[:, 3].flatten(1).sum(1), or select one row per image "
            "with output=function."
        )
    return outputs if outputs.ndim == 2 else outputs[:, None]


def _as_tensor(asked: Classes) -> Tensor:
    if isinstance(asked, Tensor):
        check_tensor(asked, "target")
        return asked.clone() if asked.is_inference() else asked  # autograd cannot save an inference tensor
    try:
        classes = torch.as_tensor(asked, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"target is {asked!r}, which is not a class index; pass {KINDS}.") from error
    if classes.is_complex():
        raise ConfigError(f"target is {asked!r}, which is not a class index; pass {KINDS}.")
    return classes


def _some(asked: Classes | None, which: slice | Tensor) -> Classes | None:
    if asked is None:
        return None
    classes = _as_tensor(asked)
    if not classes.ndim:
        return asked  # still an index, by which all classes are recognized
    return classes[which.to(classes.device) if isinstance(which, Tensor) else which]


def _classes(asked: Classes | None, rows: Tensor) -> Tensor:
    """Return the classes as (batch,) int64, validated against the outputs."""
    # The first of equal logits, like argmax of the caller.
    if asked is None:
        return rows.argmax(1)
    classes = _as_tensor(asked).to(rows.device)
    classes = classes.expand(len(rows)) if classes.ndim == 0 else classes
    if classes.dtype.is_floating_point or classes.dtype == torch.bool or classes.shape != rows.shape[:1]:
        raise ShapeError(f"target is {tuple(classes.shape)} {classes.dtype} for {len(rows)} images; pass {KINDS}.")
    if len(classes) and not (int(classes.min()) >= 0 and int(classes.max()) < rows.shape[1]):
        raise ShapeError(
            f"target has classes {int(classes.min())}…{int(classes.max())}, but the model has {rows.shape[1]} classes; "
            f"pass indices from 0 to {rows.shape[1] - 1}."
        )
    return classes.to(torch.int64)
