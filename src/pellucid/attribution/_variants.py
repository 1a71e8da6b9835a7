"""Methods as rows of a table: each is a function from its options to a composite of rules."""

from collections.abc import Callable, Mapping
from dataclasses import field, make_dataclass
from inspect import signature
from typing import get_type_hints

from pellucid.attribution import METHODS
from pellucid.attribution._method import Backward, Relevance
from pellucid.engine.box import Bound, Box
from pellucid.engine.composites import Composite

__all__ = ["Bounded", "variant"]


class Bounded(Relevance):
    """A method with the z^B rule, which needs the lower and upper bound of its inputs.

    Inputs outside these bounds raise `ConfigError`. The usual defaults, 0 and 1, suit images in [0, 1].
    """

    low: Bound
    """Lowest pixel value: one number, one per channel, or a tensor that broadcasts to one image. For images normalized
    by the loader, (0 - mean) / std. For tokens, the lowest value of the embedding, or one per feature."""
    high: Bound
    """Highest pixel value, in the same form: (1 - mean) / std for images normalized by the loader."""

    def __post_init__(self) -> None:
        box = Box.of(self.low, self.high)
        for name in ("low", "high"):  # a canonical form that can be compared and hashed
            object.__setattr__(self, name, getattr(box, name))
        super().__post_init__()


def variant(
    name: str,
    *bases: type[Backward],
    answers: str | None = None,
    promises: frozenset[str] | None = None,
    options: Mapping[str, str] = {},
) -> Callable[[Callable[..., Composite]], type[Backward]]:
    """Declare a method by the function that builds its composite, and register it as `name`.

    The function's parameters are the options of the method, with their types and defaults, and its docstring describes
    the method; `options` describes the parameters. Returns the method's class: a frozen dataclass derived from `bases`,
    or from `Relevance` if there are none. It has the function's name, so write that like the name of a class. The bases
    are plain classes that share what several variants have in common: `answers`, `promises`, the initial relevance.
    """
    stated = {"answers": answers, "promises": promises}

    def declare(build: Callable[..., Composite]) -> type[Backward]:
        # The extras are the ranges in `Annotated`, which validate the options.
        hints, parameters = get_type_hints(build, include_extras=True), signature(build).parameters

        # Built from the fields, not from the parameters: `__post_init__` may have brought them into another form.
        def composite(self: Backward) -> Composite:
            return build(**{option: getattr(self, option) for option in parameters})

        kind: type[Backward] = make_dataclass(
            build.__name__,
            [
                (option, hints[option], field(default=entry.default, metadata={"doc": options.get(option)}))
                for option, entry in parameters.items()
            ],
            bases=bases or (Relevance,),
            namespace={
                "__doc__": build.__doc__,
                "composite": composite,
                **{key: value for key, value in stated.items() if value is not None},
            },
            frozen=True,
        )
        # The class takes the place of the function under its name, so that pickle and the documentation find it there.
        kind.__module__, kind.__qualname__ = build.__module__, build.__qualname__
        METHODS.register(name)(kind)
        return kind

    return declare
