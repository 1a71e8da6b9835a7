"""Composites: assign rules to operations, as data.

A composite is a tuple of steps; the first step that matches an operation determines its rule. A step can match kinds of
operations, first layers (those that see the image), and modules by a name pattern.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import import_module
from typing import Any

from pellucid.core.errors import ConfigError, UnsupportedOperation
from pellucid.engine.box import Bound, Box
from pellucid.engine.installed import RULES
from pellucid.engine.rules import Carry, Deconvnet, Derivative, Epsilon, Guided, Pass, SoftmaxTaylor, Split, Z
from pellucid.engine.tape import Node, Rule
from pellucid.engine.weight_rules import Flat, WSquare, ZBox

__all__ = ["KINDS", "Composite", "Step", "override", "rule_of"]

KINDS = (
    "activation",
    "add",
    "average",
    "batch_norm",
    "convolution",
    "dense",
    "factor",
    "layer_norm",
    "max",
    "move",
    "product",
    "scale",
    "softmax",
)
"""The kinds of operations to which rules can be assigned."""
KERNELS = ("convolution", "dense")
STRUCTURAL_EPSILON = 1e-6
"""Stabilizer of operations without a kernel, independent of the ε of dense layers and convolutions."""
NORMALIZATIONS = ("add", "batch_norm", "scale")
"""Kinds of operations that make up a normalization of the image inside a model."""


@dataclass(frozen=True)
class Step:
    """One line of a composite."""

    rule: Rule
    kinds: tuple[str, ...] = KINDS
    first: bool = False
    """True to match only operations whose input is still the image."""
    name: str = "*"
    """Glob pattern for the path of the module that runs the operation."""

    def fits(self, node: Node) -> bool:
        """True if this step matches the node."""
        return node.kind in self.kinds and (node.is_first or not self.first) and fnmatchcase(node.path, self.name)


Composite = tuple[Step, ...]
"""Steps in order; the first that matches an operation determines its rule."""


def rule_of(composite: Composite, node: Node) -> Rule:
    """Return the rule of the first matching step; raises `UnsupportedOperation` if none matches."""
    for step in composite:
        if step.fits(node):
            return step.rule
    raise UnsupportedOperation(
        f"the method has no rule for {node.place} (kind {node.kind!r}); "
        f"add one with rules={{{node.kind!r}: …}}, or choose a gradient method such as 'integrated_gradients'."
    )


def override(composite: Composite, rules: Mapping[str, Any]) -> Composite:
    """Put the user's rules before `composite`.

    A key is a kind of operation (`convolution`), `first` (the kernel layers that see the image), or a pattern for
    module paths (`features.*`), which matches the kernel layers there. Earlier keys win. A rule of an installed package
    may be given by its name.
    """
    return (*(step for key, rule in rules.items() for step in _user_steps(key, rule)), *composite)


def _user_steps(key: str, rule: Any) -> Composite:
    if isinstance(rule, str):
        import_module("pellucid.engine.operations")  # loads the rules of installed packages
        if rule in RULES:
            named = RULES[rule]
            rule = named() if isinstance(named, type) else named
    if not callable(rule):
        installed = f" Installed rules: {', '.join(RULES)}." if isinstance(rule, str) and list(RULES) else ""
        raise ConfigError(
            f"the rule for {key!r} is {rule!r}; expected a rule from pellucid.engine, such as Epsilon(1e-6).{installed}"
        )
    if key == "first":
        # rules that do not multiply by the pixel also need a rule for normalizations of the image
        return input_layer(rule) if isinstance(rule, (Flat, WSquare, ZBox)) else (Step(rule, KERNELS, first=True),)
    return (Step(rule, (key,)) if key in KINDS else Step(rule, KERNELS, name=key),)


def structure(epsilon: float | int) -> Composite:
    """Return the rules for operations without a kernel, which all composites of relevance rules share.

    `epsilon` only keeps denominators away from zero. It is not the ε that damps weak contributions in dense layers and
    convolutions: sums and average pooling have no weights whose noise it could damp.
    """
    return (
        Step(Pass(), ("activation", "factor", "scale")),
        Step(Carry(), ("max", "move")),
        Step(Split(epsilon), ("product",)),
        Step(SoftmaxTaylor(), ("softmax",)),
        Step(Epsilon(epsilon), ("add", "average", "batch_norm", "layer_norm")),
    )


def everywhere(rule: Rule, epsilon: float | int = STRUCTURAL_EPSILON) -> Composite:
    """Use one rule for every kernel layer; `epsilon` is passed to `structure`."""
    return (Step(rule, KERNELS), *structure(epsilon))


def layered(
    *,
    dense: Rule,
    convolution: Rule,
    first: Rule | None = None,
    epsilon: float | int = STRUCTURAL_EPSILON,
) -> Composite:
    """Use one rule for dense layers, one for convolutions, and optionally one for the layers that see the image."""
    return (
        *(input_layer(first) if first else ()),
        Step(dense, ("dense",)),
        Step(convolution, ("convolution",)),
        *structure(epsilon),
    )


def input_layer(rule: Rule) -> Composite:
    """Use a rule that does not multiply by the pixel in the first layers; normalizations of the image pass it on."""
    # if the rule ignores the pixel value, so must the normalization before it: a shift would absorb part of the
    # relevance
    return (Step(rule, KERNELS, first=True), Step(Pass(), NORMALIZATIONS, first=True))


def guided() -> Composite:
    """Return the composite for Guided Backprop."""
    return (Step(Guided(), ("activation",)), Step(Derivative(), (*KINDS, "unknown")))


def deconvnet() -> Composite:
    """Return the composite for Deconvnet."""
    return (Step(Deconvnet(), ("activation",)), Step(Derivative(), (*KINDS, "unknown")))


def takes_unknown(composite: Composite) -> bool:
    """True if a composite has a rule for operations that the engine does not know: the derivative, by autograd."""
    return any("unknown" in step.kinds for step in composite)


def bounded(low: Bound, high: Bound, rest: Composite) -> Composite:
    """Use the z^B rule for the layers that see the image, and `rest` for all others."""
    return (*input_layer(ZBox(low, high)), *rest)


def weights_only(rule: WSquare | Flat) -> Composite:
    """Use a rule that ignores the input values in every kernel layer."""
    return (Step(Pass(), NORMALIZATIONS, first=True), *everywhere(rule))


def plain_z() -> Composite:
    """Use the z rule in every kernel layer."""
    return everywhere(Z(), 1e-7)  # the ε of `Z`


def box_of(composite: Composite) -> Box | None:
    """Return the lowest and highest pixel, if a step needs them.

    Raises `ConfigError` for steps with different boxes, since all of them bound the same images.
    """
    result: Box | None = None
    for step in composite:
        if isinstance(step.rule, ZBox):
            box = step.rule.box
            if result is not None and box != result:
                raise ConfigError(
                    f"two z^B rules have different bounds, {result} and {box}; pass the same low= and high= to the "
                    "rules and the method, since they bound the images whichever layer sees them."
                )
            result = box
            if step.first and step.name == "*" and set(KERNELS) <= set(step.kinds):
                break  # this step matches every first layer, so no later z^B rule applies
    return result
