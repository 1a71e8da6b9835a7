"""Token models: what is explained is the output of the token embedding, one row of features per token.

Integers have no gradient and no share of a logit, so a model of token ids is run from its embedding on. Each sequence
is explained by itself: whatever else of the model looks at the ids, such as a padding mask, sees that sequence's.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pellucid.attribution._method import Attribution
from pellucid.core.errors import ConfigError, ShapeError, UnsupportedOperation

__all__ = ["EmbeddedBatches", "FromEmbedding", "check_suits", "is_tokens"]


def is_tokens(x: object) -> bool:
    """Whether `x` is a batch of token ids, (batch, token).

    >>> is_tokens(torch.tensor([[3, 1, 2]])), is_tokens(torch.rand(1, 3))
    (True, False)
    """
    return isinstance(x, Tensor) and x.dtype in (torch.int64, torch.int32) and x.ndim == 2 and x.numel() > 0


class _Lookups(TorchFunctionMode):
    """Sees every embedding that a model looks up, as (ids, weight), and may answer in its place."""

    def __init__(self, answer: Callable[[Tensor, Tensor], Tensor | None]) -> None:
        super().__init__()
        self._answer = answer

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.embedding:
            value = self._answer(*_ids_and_weight(*args, **kwargs))
            if value is not None:
                return value
        return func(*args, **kwargs)


def _ids_and_weight(input: Tensor, weight: Tensor, *_args: object, **_kwargs: object) -> tuple[Tensor, Tensor]:  # noqa: A002
    return input, weight


class FromEmbedding(nn.Module):
    """A model of token ids, as a function of what its embedding makes of them: (batch, token, feature) to logits.

    Every row is a variation of the one sequence given to `hold`.
    """

    def __init__(self, model: nn.Module, embedding: str | None) -> None:
        super().__init__()
        self.model = model
        self._wanted = embedding
        self._name = ""
        self._weight: Tensor | None = None
        self._ids: Tensor | None = None
        self._is_turned = False

    def named_modules(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Module]]:
        """Those of the model, under their own names."""
        return self.model.named_modules(*args, **kwargs)

    def refuse_floats(self) -> None:
        """Raise `ConfigError` where an embedding is named, for inputs that are no token ids."""
        if self._wanted is not None:
            raise ConfigError(
                f"embedding={self._wanted!r} is for token ids, integers (batch, token), and these inputs are floats; "
                "leave it out, or hand over the ids."
            )

    def locate(self, ids: Tensor) -> None:
        """Find the embedding that is applied to the token ids, (batch, token).

        Raises `ConfigError` where there is none, or more than one and none is named, and `ShapeError` where the model
        cannot run on them.
        """
        first, found, others = ids[:1], {}, set()

        def note(looked_up: Tensor, weight: Tensor) -> None:
            name = self._name_of(weight)
            if looked_up.numel() == first.numel() and torch.equal(looked_up.reshape(-1), first[0].to(looked_up)):
                found[name] = weight, looked_up.shape[:2] == (first.shape[1], 1)
            else:
                others.add(name)

        try:
            with torch.no_grad(), _Lookups(note):
                self.model(first)
        except (RuntimeError, TypeError, IndexError) as error:
            came = f"{tuple(ids.shape)} {ids.dtype}, from {int(ids.min())} to {int(ids.max())}"
            raise ShapeError(
                f"the model fails on the token ids ({came}): {error}; expected ids that its embedding has, or "
                "a batch of floats in [0, 1] where it has none."
            ) from error
        self._name = self._choose(sorted(found), sorted(others))
        self._weight, self._is_turned = found[self._name]

    def embed(self, ids: Tensor) -> Tensor:
        """(batch, token, feature): the embedding of token ids."""
        assert self._weight is not None
        return F.embedding(ids, self._weight.detach())

    @contextmanager
    def hold(self, ids: Tensor) -> Iterator[None]:
        """Inside, every row stands for this one sequence, (1, token)."""
        self._ids = ids
        try:
            yield
        finally:
            self._ids = None

    def forward(self, embedded: Tensor) -> Any:
        """The model's output."""
        if self._ids is None:
            raise UnsupportedOperation(
                "a method that learns by running the model cannot learn from token ids; choose another method."
            )
        ids = self._ids.expand(len(embedded), -1).contiguous()

        def answer(looked_up: Tensor, weight: Tensor) -> Tensor | None:
            if not self._is_own(weight):
                return None
            self._check(looked_up, ids)
            turned = embedded.transpose(0, 1) if self._is_turned else embedded
            return turned.reshape(*looked_up.shape, embedded.shape[-1])

        with _Lookups(answer):
            return self.model(ids)

    def _check(self, looked_up: Tensor, ids: Tensor) -> None:
        wanted = (ids.T if self._is_turned else ids).reshape(-1)
        if looked_up.numel() != wanted.numel() or not torch.equal(looked_up.reshape(-1), wanted.to(looked_up)):
            raise UnsupportedOperation(
                f"the embedding {self._name!r} is applied to other ids than those given (a part of them, or some "
                "computed from them), so no relevance can be told for each token; hand over a model that looks "
                "the ids up as they are."
            )

    def _is_own(self, weight: Tensor) -> bool:
        assert self._weight is not None
        return weight is self._weight or weight.data_ptr() == self._weight.data_ptr()

    def _choose(self, names: list[str], others: list[str]) -> str:
        if self._wanted in names or (self._wanted is None and len(names) == 1):
            return self._wanted or names[0]
        told = ", ".join(names) or "(none)"
        if self._wanted is not None:
            raise ConfigError(f"the embedding {self._wanted!r} is not applied to the token ids; those are: {told}.")
        if names:
            raise ConfigError(
                f"several embeddings are applied to the token ids: {told}; choose one with embedding={names[0]!r}."
            )
        raise ConfigError(
            "no embedding is applied to the token ids as they are (looked up for other ids: "
            f"{', '.join(others) or '(none)'}); hand over floats, or the model from its embedding on."
        )

    def _name_of(self, weight: Tensor) -> str:
        """The wanted name where the weight has it; that of its embedding module, or its own, elsewhere."""
        modules = dict(self.model.named_modules())
        shared = self.model.named_parameters(remove_duplicate=False)
        names = [name.removesuffix(".weight") for name, parameter in shared if parameter is weight]
        names.sort(key=lambda name: not isinstance(modules.get(name), nn.Embedding))
        return next((name for name in names if name == self._wanted), (*names, f"a table of {len(weight)} rows")[0])


class EmbeddedBatches:
    """Batches of token ids as batches of embeddings, for methods that learn from data."""

    def __init__(self, loader: Iterable[Any], embed: Callable[[Tensor], Tensor]) -> None:
        first = next(source := iter(loader), None)
        self._loader = chain([first], source) if source is loader and first is not None else loader
        self._embed = embed
        self.ids: Any = first[0] if isinstance(first, (tuple, list)) and first else first
        """The first batch's."""

    @property
    def is_needed(self) -> bool:
        """Whether the loader has token ids."""
        return is_tokens(self.ids)

    def __iter__(self) -> Iterator[Any]:
        for batch in self._loader:
            if not self.is_needed:
                yield batch
            elif isinstance(batch, Tensor):
                yield self._embed(batch)
            else:
                yield (self._embed(batch[0]), *batch[1:])


def check_suits(name: str, method: Attribution) -> None:
    """`UnsupportedOperation` for methods of regions of an image."""
    if method.family in ("class_activation", "perturbation"):
        raise UnsupportedOperation(
            f"{name} explains by regions of an image, which tokens do not have; choose a method that gives each input "
            "its own relevance, such as lrp.epsilon, deeplift or integrated_gradients."
        )
