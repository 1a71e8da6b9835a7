"""Attribution methods: how much each pixel contributes to an output of a model.

Every public file is one method or one family of methods, and registers itself in `METHODS`. The others are shared:

- `_create`: `create_analyzer`; `_analyzer`: `Analyzer`, which checks a call; `_call`: splits it into batches, runs the
  method; `_received`: the inputs of a call
- `_together`: several methods on the same images, sharing forward passes
- `_aliases`: the names that other libraries use for the methods
- `_target`: what is explained (`Target`, `Contrast`, `Question`); `_subject`: the explained model (`Subject`)
- `_explanation`: results, of a method (`Outcome`) and of a call (`Explanation`); `_finite`: diagnosis of NaN in them
- `_verdict`: texts on prediction, target and sum of a map; `_display`: drawing, saving and notebook display of
  explanations; `_picture`: their figures and HTML; `_over_image`: hidden layers drawn over the image
- `_channels`: relevance through single channels of a layer (`ChannelExplanation`)
- `_hidden`: relevance at hidden layers and of hidden units; `_by_layer`: explanations at several layers; `_flow`: their
  split among branches
- `_method`: the base classes `Attribution`, `Backward` and `Relevance`; `_variants`: methods as rows of a table
- `_fitting`: what methods learn from data; `_adapter`, `_tokens`, `_ids`, `_several`: models of token ids and of
  several inputs
- `_baselines`: one baseline for all images, or one per image
- `_references`: reference inputs that a method compares with
- `_missing`, `_paths`: gradients, at a point and summed over points; `_trials`: scores of perturbed images
- `_segments`: patches, superpixels and masks, which are shown or hidden together; `_function`: functions of arrays as
  models (`function`)
- `_local`, `_reach`: the local part of a network, run once for all masks, and the segments that its values depend on
- `_class_activation`: the base classes of class activation maps; `_layers`, `_axes`: their layers, and the layers'
  channel axes; `_layer_values`, `_upper`: a layer's output, read or replaced, and the part of the network above it
- `_attention`: the attention weights of a forward pass
- `_places`: the position of each token in the image, to fold tokens to the plane

A method of your own is a frozen dataclass with one method, `attribute_each`:

```python
@METHODS.register("gradient_norm")
@dataclass(frozen=True)
class GradientNorm(Attribution):
    \"\"\"Gradient, scaled to length 1.\"\"\"

    family: ClassVar[str] = "gradient"
    answers: ClassVar[str] = "the direction in which the explained logit grows fastest"

    @for_each_target
    def attribute_each(self, subject: Subject, images: Tensor, target: Target) -> Outcome:
        x = images.detach().requires_grad_()
        logits = subject.logits(x)
        (slope,) = torch.autograd.grad(target.scores(logits).sum(), x)
        unit = torch.nn.functional.normalize(slope.flatten(1)).view_as(images)
        return Outcome(unit, logits.detach(), target.classes(logits))
```

A relevance method can be shorter still: a function from options to rules (see `pellucid.attribution.lrp`).

>>> "lrp.epsilon" in METHODS
True
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pellucid.attribution._aliases import ALIASES
from pellucid.core.lazy import lazy_exports
from pellucid.core.registry import Registry

if TYPE_CHECKING:
    from pellucid.attribution._analyzer import Analyzer
    from pellucid.attribution._by_layer import LayerExplanations
    from pellucid.attribution._channels import ChannelExplanation
    from pellucid.attribution._create import create_analyzer
    from pellucid.attribution._display import Display, Explanations
    from pellucid.attribution._explanation import (
        AmplificationWarning,
        CompletenessWarning,
        Explanation,
        Outcome,
        sharing,
        without_warnings,
    )
    from pellucid.attribution._fitting import FittedState, images_in
    from pellucid.attribution._flow import FlowRow, RelevanceFlow
    from pellucid.attribution._function import function
    from pellucid.attribution._method import Attribution, Backward, Relevance, for_each_target
    from pellucid.attribution._subject import Subject
    from pellucid.attribution._target import Contrast, Question, Target, weighted
    from pellucid.attribution._variants import Bounded, variant

__all__ = [
    "COMPLETE",
    "METHODS",
    "AmplificationWarning",
    "Analyzer",
    "Attribution",
    "Backward",
    "Bounded",
    "ChannelExplanation",
    "CompletenessWarning",
    "Contrast",
    "Display",
    "Explanation",
    "Explanations",
    "FittedState",
    "FlowRow",
    "LayerExplanations",
    "Method",
    "Outcome",
    "Question",
    "Relevance",
    "RelevanceFlow",
    "Subject",
    "Target",
    "check_method",
    "create_analyzer",
    "for_each_target",
    "function",
    "images_in",
    "methods",
    "sharing",
    "variant",
    "weighted",
    "without_warnings",
]

METHODS: Registry[type["Attribution"]] = Registry(
    "method", "pellucid.attribution", "pellucid.methods", "Attribution", ("family", "answers", "needs_fit", "promises")
)
"""Attribution methods by name; listing the names imports none of them."""

COMPLETE = frozenset({"complete", "class_specific", "deterministic"})
"""The guarantees of an exact method: relevance sums to the logit, depends on the class, and needs no seed."""


@dataclass(frozen=True)
class Method:
    """Description of an attribution method, for choosing one."""

    name: str
    family: str
    answers: str
    needs_fit: bool
    promises: frozenset[str]


def methods() -> list[Method]:
    """List all attribution methods, sorted by name, with what they show and guarantee.

    >>> next(method.family for method in methods() if method.name == "lrp.epsilon")
    'relevance'
    """
    return [
        Method(name, entry.family, entry.answers, entry.needs_fit, entry.promises) for name, entry in METHODS.items()
    ]


def check_method(name: str) -> str:
    """Return `name` if it is a method or an alias; raise `UnknownName` with close matches otherwise.

    >>> check_method("lrp.epsilon"), check_method("Saliency")
    ('lrp.epsilon', 'Saliency')
    """
    return name if name in ALIASES else METHODS.check(name)


_EXPORTS = {
    "_analyzer": ("Analyzer",),
    "_by_layer": ("LayerExplanations",),
    "_channels": ("ChannelExplanation",),
    "_create": ("create_analyzer",),
    "_display": ("Display", "Explanations"),
    "_explanation": (
        *("AmplificationWarning", "CompletenessWarning", "Explanation", "Outcome", "sharing", "without_warnings"),
    ),
    "_fitting": ("FittedState", "images_in"),
    "_flow": ("FlowRow", "RelevanceFlow"),
    "_function": ("function",),
    "_method": ("Attribution", "Backward", "Relevance", "for_each_target"),
    "_subject": ("Subject",),
    "_target": ("Contrast", "Question", "Target", "weighted"),
    "_variants": ("Bounded", "variant"),
}
# These files import torch, so they are only loaded when one of their names is used.
__getattr__, __dir__ = lazy_exports(__name__, {name: f".{file}" for file, names in _EXPORTS.items() for name in names})
