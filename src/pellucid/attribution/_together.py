"""Several methods on the same images, with the forward passes that they can share made once."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pellucid.attribution._analyzer import Analyzer
from pellucid.attribution._explanation import Explanation, without_warnings
from pellucid.attribution._subject import Subject
from pellucid.attribution._target import Request
from pellucid.core.errors import ConfigError
from pellucid.core.isolation import isolated
from pellucid.engine.axes import BatchMixed
from pellucid.engine.model import Network, frozen, unwrap

__all__ = ["explain_together", "images_per_pass", "plain_logits"]


def explain_together(
    analyzers: Sequence[Analyzer], x: Tensor, target: Request = None
) -> tuple[Tensor, list[Explanation]]:
    """Explain the same images (batch, …) by several methods; return the logits (batch, class) and one result each.

    The maps are those of each analyzer alone. Methods share the plain forward pass, the recorded one (all LRP rules and
    the other modified backward passes) and the differentiated one (gradient, input × gradient), so that three methods
    cost less than three calls. With `target=None`, all explain the class that the shared logits predict.

    Warnings about residuals are left to the caller, who has the residuals. Raises `ConfigError` for analyzers of
    different models or outputs, and the errors of `Analyzer.explain`.

    >>> from torch import nn
    >>> from pellucid.attribution import create_analyzer
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    >>> both = [create_analyzer(name, model) for name in ("gradient", "lrp.epsilon")]
    >>> logits, explained = explain_together(both, torch.rand(2, 1, 2, 2))
    >>> logits.shape, [one.method for one in explained]
    (torch.Size([2, 3]), ['gradient', 'lrp.epsilon'])
    """
    subject = _common_subject(analyzers)
    with isolated(), without_warnings(), subject.keeping_passes():
        with frozen(subject.model):
            logits = _logits(subject, x)
        wanted = logits.argmax(1) if target is None and logits.ndim == 2 else target
        return logits, [analyzer.explain(x, wanted) for analyzer in analyzers]


def plain_logits(model: Network, x: Tensor) -> Tensor:
    """Return the logits (batch, …) of images; one by one if the model mixes the images of a batch."""
    subject = Subject(unwrap(model))
    with isolated(), frozen(subject.model):
        return _logits(subject, x)


def _logits(subject: Subject, x: Tensor) -> Tensor:
    subject.begin()
    logits, _ = subject.predict(x, [])
    try:
        subject.check_alone(x, logits)
    except BatchMixed:
        logits = torch.cat([subject.predict(x[number : number + 1], [])[0] for number in range(len(x))])
    return logits


def images_per_pass(analyzers: Sequence[Analyzer], images: Tensor) -> int:
    """Return the number of images that every one of the methods explains in one pass."""
    subject = _common_subject(analyzers)
    with isolated(), frozen(subject.model):
        subject.begin()
        # asked for more images than any pass takes
        many = images[:1].expand(1024, *images.shape[1:])
        return min(subject.images_per_pass(many, one.method.images_per_pass(many)) for one in analyzers)


def _common_subject(analyzers: Sequence[Analyzer]) -> Subject:
    """Let all analyzers use the first one's view of the model."""
    if not analyzers:
        raise ConfigError("got no methods; pass at least one analyzer.")
    first = analyzers[0]._subject
    for analyzer in analyzers:
        if unwrap(analyzer.model) is not first.model or analyzer._subject.readout != first.readout:
            raise ConfigError(
                f"{analyzer!r} explains another model or another output than {analyzers[0]!r}; create all of them "
                "for the same model, with the same output."
            )
        analyzer._subject = first
    return first
