"""Composites: which operations get which rule, as data.

A composite is a tuple of steps, and the first step that fits an operation gives its rule. A step can ask for kinds of
operations, for the first layers (those that see the image), and for modules by a name pattern.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from pellucid.core.errors import ConfigError, UnsupportedOperation
from pellucid.engine.box import Bound, Box
from pellucid.engine.passing import Carry, Deconvnet, Derivative, Guided, Pass, SoftmaxTaylor, Split
from pellucid.engine.rules import AlphaBeta, Epsilon, Flat, Gamma, WSquare, Z, ZBox, ZPlus
from pellucid.engine.tape import Node, Rule

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
"""The kinds of operations that a rule can be chosen for."""
KERNELS = ("convolution", "dense")
STRUCTURAL_EPSILON = 1e-6
"""The stabilizer of operations without a kernel, whatever the ε of dense layers and convolutions."""
NORMALISATIONS = ("add", "batch_norm", "scale")
"""What a normalisation of the image inside a model is made of."""


@dataclass(frozen=True)
class Step:
    """One line of a composite."""

    rule: Rule
    kinds: tuple[str, ...] = KINDS
    first: bool = False
    """Only where the input is still the image."""
    name: str = "*"
    """A pattern for the path of the module that runs the operation."""

    def fits(self, node: Node) -> bool:
        """Whether this step gives the node's rule."""
        return node.kind in self.kinds and (node.is_first or not self.first) and fnmatchcase(node.path, self.name)


Composite = tuple[Step, ...]
"""Steps in order: the first that fits an operation gives its rule."""


def rule_of(composite: Composite, node: Node) -> Rule:
    """The rule of the first step that fits; `UnsupportedOperation` where none does."""
    for step in composite:
        if step.fits(node):
            return step.rule
    raise UnsupportedOperation(
        f"no rule of the method is for {node.place} (kind {node.kind!r}); "
        f"give one with rules={{{node.kind!r}: …}}, or choose a gradient method such as 'integrated_gradients'."
    )


def override(composite: Composite, rules: Mapping[str, Any]) -> Composite:
    """`composite` with rules of the user's own before it.

    A key is a kind of operation (`convolution`), `first` (the kernel layers that see the image), or a pattern for
    module paths (`features.*`), which is for the kernel layers there. Earlier keys win.
    """
    return (*(step for key, rule in rules.items() for step in _user_steps(key, rule)), *composite)


def _user_steps(key: str, rule: Any) -> Composite:
    if not callable(rule):
        raise ConfigError(
            f"the rule for {key!r} is {rule!r}; give one of pellucid.engine.rules, such as Epsilon(1e-6)."
        )
    if key == "first":
        return input_layer(rule) if isinstance(rule, (Flat, WSquare, ZBox)) else (Step(rule, KERNELS, first=True),)
    return (Step(rule, (key,)) if key in KINDS else Step(rule, KERNELS, name=key),)


def structure(epsilon: float | int) -> Composite:
    """Rules for operations without a kernel, the same in every composite of relevance rules.

    `epsilon` only keeps denominators from zero. It is not the ε that damps weak contributions in dense layers and
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
    """One rule for every kernel layer; `epsilon` is that of `structure`."""
    return (Step(rule, KERNELS), *structure(epsilon))


def layered(
    *,
    dense: Rule,
    convolution: Rule,
    first: Rule | None = None,
    first_kinds: Iterable[str] = KERNELS,
    epsilon: float | int,
) -> Composite:
    """One rule for dense layers, one for convolutions, and perhaps one for the layers that see the image."""
    return (
        *(input_layer(first, tuple(first_kinds)) if first else ()),
        Step(dense, ("dense",)),
        Step(convolution, ("convolution",)),
        *structure(epsilon),
    )


def input_layer(rule: Rule, kinds: tuple[str, ...] = KERNELS) -> Composite:
    """A rule that does not multiply by the pixel: it is used first, and a normalisation passes its relevance on."""
    return (Step(rule, kinds, first=True), Step(Pass(), NORMALISATIONS, first=True))


def guided() -> Composite:
    """Guided Backprop."""
    return (Step(Guided(), ("activation",)), Step(Derivative()))


def deconvnet() -> Composite:
    """Deconvnet."""
    return (Step(Deconvnet(), ("activation",)), Step(Derivative()))


def excitation(epsilon: float | int) -> Composite:
    """Excitation Backprop: winner probabilities through positive weights and biases."""
    return everywhere(ZPlus(epsilon=epsilon), min(epsilon, STRUCTURAL_EPSILON))


def bounded(low: Bound, high: Bound, rest: Composite) -> Composite:
    """The z^B rule for the layers that see the image, `rest` for all others."""
    return (*input_layer(ZBox(low, high)), *rest)


def preset(alpha: float | int, beta: float | int, epsilon: float | int, *, is_flat: bool) -> Composite:
    """ε for dense layers, αβ for convolutions, and perhaps flat for the first layer."""
    return layered(
        dense=Epsilon(epsilon),
        convolution=AlphaBeta(alpha, beta),
        first=Flat() if is_flat else None,
        epsilon=STRUCTURAL_EPSILON,
    )


def epsilon_plus_flat(epsilon: float | int) -> Composite:
    """Flat first, z⁺ for convolutions, ε for dense layers."""
    return layered(dense=Epsilon(epsilon), convolution=ZPlus(), first=Flat(), epsilon=STRUCTURAL_EPSILON)


def epsilon_gamma_box(epsilon: float | int, gamma: float | int, low: Bound, high: Bound) -> Composite:
    """The z^B rule first, γ for convolutions, ε for dense layers."""
    return bounded(low, high, layered(dense=Epsilon(epsilon), convolution=Gamma(gamma), epsilon=STRUCTURAL_EPSILON))


def weights_only(rule: WSquare | Flat) -> Composite:
    """A rule that looks at no pixel, in every kernel layer."""
    return (Step(Pass(), NORMALISATIONS, first=True), *everywhere(rule))


def plain_z() -> Composite:
    """The z rule in every kernel layer."""
    return everywhere(Z(), 1e-7)


def box_of(composite: Composite) -> Box | None:
    """The lowest and highest pixel, where a step needs them.

    Raises `ConfigError` for steps with different boxes: all of them bound the same images.
    """
    found: Box | None = None
    for step in composite:
        if isinstance(step.rule, ZBox):
            box = step.rule.box
            if found is not None and box != found:
                raise ConfigError(
                    f"two z^B rules have different bounds, {found} and {box}; give the rules and the method the same "
                    "low= and high=, which hold for the images whatever layer sees them."
                )
            found = box
            if step.first and step.name == "*" and set(KERNELS) <= set(step.kinds):
                break  # no later z^B rule is reached
    return found
