"""An analyzer: one method on one model."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.attribution import METHODS
from pellucid.attribution._aliases import ALIASES
from pellucid.attribution._explanation import AmplificationWarning, Explanation, Outcome
from pellucid.attribution._method import Attribution
from pellucid.attribution._subject import Subject
from pellucid.attribution._target import Score, Target
from pellucid.core.errors import ConfigError, ShapeError
from pellucid.engine.freezing import dtype_of, frozen
from pellucid.engine.guards import check_model, unwrap
from pellucid.engine.outputs import Chooser
from pellucid.engine.recorder import BatchMixed

__all__ = ["Analyzer", "create_analyzer"]

Request = int | Tensor | Score | None
WARN_ABOVE = 100.0
"""The Σ|R| / |logit| above which an explanation warns."""


def create_analyzer(
    name: str,
    model: nn.Module,
    *,
    output: int | str | Callable[[Any], Tensor] | None = None,
    unwrap_softmax: bool = False,
    **options: Any,
) -> "Analyzer":
    """The method `name`, ready to explain what `model` makes of images.

    `options` are the fields of the method. `output` tells which of several outputs holds the logits: a place, a key or
    field, or a function of the outputs. `unwrap_softmax` explains the logits before a softmax at the model's end.
    Names of captum and iNNvestigate are understood too.

    Raises `UnknownName` for a name there is not, and `ConfigError` for an option that the method does not have.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    >>> analyzer = create_analyzer("lrp.epsilon", model, epsilon=1e-6)
    >>> analyzer.analyze(torch.rand(2, 1, 2, 2)).shape
    torch.Size([2, 1, 2, 2])
    """
    name, preset = ALIASES.get(name, (name, {}))
    entry = METHODS[name]
    known = [option.name for option in fields(entry)]
    unknown = [option for option in options if option not in known]
    if unknown:
        raise ConfigError(
            f"the method {name!r} has no option {unknown[0]!r}; its options are: {', '.join(known) or '(none)'}."
        )
    return Analyzer(entry(**{**preset, **options}), model, name=name, output=output, unwrap_softmax=unwrap_softmax)


class Analyzer:
    """One method on one model. It changes neither the model, nor its mode, nor the images, nor any random state."""

    def __init__(
        self, method: Attribution, model: nn.Module, *, name: str, output: Chooser = None, unwrap_softmax: bool = False
    ) -> None:
        self.method = method
        self.model = model
        self.name = name
        self._subject = Subject(unwrap(model), output, unwrap_softmax)

    def __repr__(self) -> str:
        return f"Analyzer({self.name!r}, {self.method!r})"

    def analyze(self, x: Tensor, target: Request = None) -> Tensor:
        """The relevance of each input for one output, like `x`.

        `x` is (batch, …) of float32 or float64. `target` is None (the class predicted for each image), one class, a
        tensor of one class per image, or a function logits -> (batch,) of a score that is differentiable in the logits.

        Raises `UnsupportedOperation` where the model does something for which the method has no rule, and `ShapeError`
        for images or targets that do not fit.
        """
        return self._run(x, target, is_certified=False).relevance

    def explain(self, x: Tensor, target: Request = None, *, strict: bool = False) -> Explanation:
        """The relevance with its certificate; arguments as for `analyze`.

        With `strict`, a residual over the method's tolerance raises `ResidualError`. Warns (`AmplificationWarning`)
        where Σ|R| is more than 100 times the explained logit.

        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> explanation = create_analyzer("lrp.epsilon", model).explain(torch.rand(2, 1, 2, 2), target=1, strict=True)
        >>> bool(explanation.residual.abs().max() < 1e-5)
        True
        """
        outcome = self._run(x, target, is_certified=True)
        explanation = self._certify(outcome, Target(target))
        worst = float(explanation.amplification.max()) if len(x) else 0.0
        if worst > WARN_ABOVE:
            warnings.warn(
                f"{self.name}: relevances of both signs cancel; Σ|R| is up to {worst:.3g} times the explained logit, "
                "so little of the map is signal. A composite with γ or z⁺ rules is calmer.",
                AmplificationWarning,
                stacklevel=2,
            )
        if strict:
            explanation.check()
        return explanation

    def fit(self, loader: Iterable[Any]) -> "Analyzer":
        """Let the method learn from batches of images (or of tuples that begin with them)."""
        with _explaining(self.model) as model:
            check_model(model)
            self.method = self.method.fitted(self._subject, loader)
        return self

    def _run(self, x: Tensor, target: Request, *, is_certified: bool) -> Outcome:
        if not x.is_floating_point() or x.ndim < 2 or len(x) == 0:
            came = f"{tuple(x.shape)} {x.dtype}"
            raise ShapeError(f"the images are {came}; expected a batch of floats in [0, 1], (batch, …).")
        if x.dtype not in (torch.float32, torch.float64):
            raise ShapeError(
                f"the images are {x.dtype}, in which maps are off by several percent and no sum can be held; "
                "explain in 32 bits: images.float(), and a float copy of the model."
            )
        if not self.method.is_ready:
            raise ConfigError(f"the method {self.name!r} learns from data first; call fit(loader) before explaining.")
        request = Target(target)
        self._check_count(request, x)
        size = len(x) if request.score is not None else self.method.images_per_pass(x)
        self._subject.begin()
        with _explaining(self.model) as model, _told_apart(x, model):
            check_model(model)
            parts = [
                self._attribute(x.detach()[start : start + size], request.part(start, start + size), is_certified)
                for start in range(0, len(x), size)
            ]
        return Outcome.join(parts)

    def _check_count(self, target: Target, x: Tensor) -> None:
        if isinstance(target.request, Tensor) and target.request.ndim and len(target.request) != len(x):
            raise ShapeError(
                f"target has {len(target.request)} entries for {len(x)} images; "
                "pass one class index per image, e.g. logits.argmax(1)."
            )

    def _attribute(self, images: Tensor, target: Target, is_certified: bool) -> Outcome:
        """One batch; its images one by one where the model mixes them."""
        try:
            return self.method.attribute(self._subject, images, target, is_certified=is_certified)
        except BatchMixed:
            singles = range(len(images))
            return Outcome.join(
                [
                    self.method.attribute(
                        self._subject, images[n : n + 1], target.part(n, n + 1), is_certified=is_certified
                    )
                    for n in singles
                ]
            )

    def _certify(self, outcome: Outcome, target: Target) -> Explanation:
        size = outcome.relevance.flatten(1).abs().sum(1)
        classes = outcome.classes.clamp(min=0)[:, None]
        own = (
            outcome.logits.gather(1, classes)[:, 0] if target.score is None else target.scores(outcome.logits).detach()
        )
        expected = residual = allowed = None
        if outcome.promised is not None:
            expected = outcome.promised - sum(outcome.absorbed.values(), torch.zeros_like(outcome.promised))
            residual = outcome.relevance.flatten(1).sum(1) - expected
            allowed = self.method.allowed_residual(outcome)
        ones = torch.ones(len(size), dtype=torch.int64, device=size.device)
        is_sharing = outcome.promised is not None
        return Explanation(
            relevance=outcome.relevance,
            target=outcome.classes,
            logits=outcome.logits,
            expected=expected,
            residual=residual,
            absorbed=outcome.absorbed,
            absorbed_by=outcome.absorbed_by,
            amplification=size / own.abs().clamp(min=1e-12) if is_sharing else torch.zeros_like(size),
            allowed=allowed,
            evaluations=ones if outcome.evaluations is None else outcome.evaluations,
            seed=getattr(self.method, "seed", None),
            method=self.name,
            details=outcome.details,
            notes=outcome.notes,
        )


@contextmanager
def _told_apart(x: Tensor, model: nn.Module) -> Iterator[None]:
    """Where torch complains of types and images and model have different ones, say which."""
    try:
        yield
    except RuntimeError as error:
        if x.dtype != dtype_of(model) and "type" in str(error):
            raise ShapeError(
                f"the images are {x.dtype} and the model is {dtype_of(model)}; pass images of the same type ({error})."
            ) from error
        raise


@contextmanager
def _explaining(model: nn.Module) -> Iterator[nn.Module]:
    """The frozen model, outside any autograd or inference mode of the caller."""
    with frozen(unwrap(model)) as inner, torch.inference_mode(False), torch.enable_grad():
        yield inner
