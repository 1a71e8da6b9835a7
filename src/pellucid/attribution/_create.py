"""Create an analyzer from the name of a method and its options."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from torch import Tensor

from pellucid.attribution import METHODS
from pellucid.attribution._aliases import ALIASES
from pellucid.attribution._analyzer import Analyzer
from pellucid.core.errors import ConfigError, UnknownName
from pellucid.core.options import check_values
from pellucid.engine.model import Network

__all__ = ["create_analyzer"]


def create_analyzer(
    name: str,
    model: Network,
    *,
    output: int | str | tuple[int | str, ...] | Callable[[Any], Tensor] | None = None,
    unwrap_softmax: bool = False,
    embedding: str | None = None,
    **options: Any,
) -> Analyzer:
    """Create an analyzer that explains `model` with the method `name`.

    `options` are the fields of the method. `output` selects the logits of a model with several outputs: an index, a key
    or field, a path into nested outputs (`"aux.scores"` or `("aux", 1)`), or a function of the outputs. If the model
    returns a list with one dict per image, a key selects that entry of every image. `unwrap_softmax` explains
    the logits before the model's final softmax. `embedding` names the token embedding if a model applies several to its
    token ids. Method names from captum and iNNvestigate also work.

    `model` is a module, a program from `torch.export`, or a `pellucid.function` of NumPy arrays, for methods that only
    need its outputs. Models inside `torch.compile`, DataParallel and DistributedDataParallel are unwrapped, so layers
    have the names that they have in the original model.

    Raises `UnknownName` for an unknown method, and `ConfigError` for an unknown option or an invalid value.

    >>> import torch
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    >>> analyzer = create_analyzer("lrp.epsilon", model, epsilon=1e-6)
    >>> analyzer.analyze(torch.rand(2, 1, 2, 2)).shape
    torch.Size([2, 1, 2, 2])
    """
    if not isinstance(name, str):
        raise UnknownName("method", name, METHODS.names())
    name, preset = ALIASES.get(name, (name, {}))
    entry = METHODS[name]
    known = [option.name for option in fields(entry)]
    unknown = [option for option in options if option not in known]
    if unknown:
        raise ConfigError(
            f"the method {name!r} has no option {unknown[0]!r}; its options are: {', '.join(known) or '(none)'}."
        )
    options = {**preset, **options}
    # Before construction, so that errors about options do not come from a method's own __post_init__.
    check_values(entry, options)
    method = entry(**options)
    return Analyzer(method, model, name=name, output=output, unwrap_softmax=unwrap_softmax, embedding=embedding)
