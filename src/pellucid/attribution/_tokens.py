"""Token models, explained at the output of the token embedding: one row of features per token.

Integer ids have neither a gradient nor relevance, so the explained function starts at the embedding. Sequences are
explained one at a time, so that other parts of the model that read the ids, such as a padding mask, see the right ones.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid.attribution._adapter import Adapter
from pellucid.attribution._ids import Lookups
from pellucid.attribution._method import Attribution
from pellucid.core.errors import ConfigError, PellucidError, ShapeError, UnsupportedOperation
from pellucid.engine.input_errors import INPUT_ERRORS
from pellucid.engine.inputs import Several

__all__ = ["FromEmbedding", "WithMasks", "among_masks", "check_suits", "is_tokens"]


def is_tokens(x: object) -> bool:
    """True if `x` is a batch of token ids, (batch, token).

    >>> is_tokens(torch.tensor([[3, 1, 2]])), is_tokens(torch.rand(1, 3))
    (True, False)
    """
    return isinstance(x, Tensor) and x.dtype in (torch.int64, torch.int32) and x.ndim == 2 and x.numel() > 0


USUAL_NAMES = ("input_ids", "ids", "tokens", "0")
"""Names of the token ids among several integer inputs, if more than one of them is embedded."""


class WithMasks(Adapter):
    """A model of token ids and other inputs, such as a padding mask, as a function of the ids alone."""

    def __init__(self, model: nn.Module, several: Several, place: int) -> None:
        super().__init__(model)
        self.several = several
        self.place = place
        """Position of the token ids among the inputs."""
        self.number = 0
        """Index of the example whose other inputs are used."""

    @property
    def ids(self) -> Tensor:
        """The token ids, (batch, token)."""
        return self.several.tensors[self.place]

    def forward(self, ids: Tensor) -> Any:
        """Run the model on these ids, (row, token), next to the other inputs of one example."""
        tensors = [tensor[self.number : self.number + 1] for tensor in self.several.tensors]
        own = [tensor.expand(len(ids), *tensor.shape[1:]).contiguous() for tensor in tensors]
        own[self.place] = ids
        return self.several.call(self.model, own)

    def rerun(self, model: nn.Module) -> Any:
        """Run the model itself on all examples."""
        return self.several.call(model, [tensor.clone() for tensor in self.several.tensors])

    def unpacked(self, maps: Tensor) -> Any:
        """Return the maps of the tokens in the structure of the inputs; None for the others."""
        return self.several.arranged({self.place: maps})


def among_masks(several: Several, model: nn.Module, embedding: str | None) -> "FromEmbedding":
    """Find the token ids among several integer inputs by the embedding that the model applies to them.

    Raises `ShapeError` if no input is embedded, and `ConfigError` if several could be meant.
    """
    found: dict[str, FromEmbedding] = {}
    reasons: list[str] = []
    for place, (name, tensor) in enumerate(zip(several.names, several.tensors, strict=True)):
        if is_tokens(tensor):
            candidate = FromEmbedding(WithMasks(model, several, place), embedding)
            try:
                candidate.locate(tensor)
                found[name] = candidate
            except (ConfigError, ShapeError) as error:
                reasons.append(f"{name}: {error}")
    usual = [name for name in USUAL_NAMES if name in found]
    if len(found) > 1 and not usual:
        raise ConfigError(
            f"the inputs {', '.join(found)} are all embedded, so it is unclear which holds the tokens; name its "
            f"embedding with embedding={next(iter(found.values()))._name!r}."
        )
    if not found:
        raise ShapeError(
            f"none of the inputs {', '.join(several.names)} holds floats or embedded token ids, so none has relevance; "
            f"pass at least one as floats. {' '.join(reasons)}".strip()
        )
    return found[usual[0] if usual else next(iter(found))]


class FromEmbedding(Adapter):
    """A token model as a function of its token embeddings: (batch, token, feature) to logits.

    Every row is a variation of the single sequence passed to `hold`.
    """

    def __init__(self, model: nn.Module, embedding: str | None) -> None:
        super().__init__(model)
        self.wanted = embedding
        """Name of the embedding to start at; None: the only one."""
        self._name = ""
        self._weight: Tensor | None = None
        self._ids: Tensor | None = None
        self._is_tokens_first = False
        """True if the model looks ids up as (token, batch)."""

    def refuse_floats(self) -> None:
        """Raise `ConfigError` if an embedding is named although the inputs are not token ids."""
        if self.wanted is not None:
            raise ConfigError(
                f"embedding={self.wanted!r} is for token ids, integers (batch, token), but these inputs are floats; "
                "omit it, or pass token ids."
            )

    def locate(self, ids: Tensor) -> None:
        """Find the embedding that is applied to the token ids, (batch, token).

        Raises `ConfigError` if there is none, or if there are several and none is named, and `ShapeError` if the model
        fails on the ids.
        """
        # Found by running the model: an embedding may be a module, a parameter or a table that is tied to the output
        # layer.
        first, others = ids[:1], set[str]()
        candidates: dict[str, tuple[Tensor, bool]] = {}

        def note(looked_up: Tensor, weight: Tensor, positions: Tensor | None) -> None:
            name = self._name_of(weight)
            if positions is not None and _stem_from(positions, looked_up, first, of_all=True):
                candidates.setdefault(name, (weight, False))
            elif looked_up.numel() == first.numel() and torch.equal(looked_up.reshape(-1), first[0].to(looked_up)):
                candidates[name] = weight, looked_up.shape[:2] == (first.shape[1], 1)  # True: tokens come first
            else:
                others.add(name)

        try:
            with torch.no_grad(), Lookups(first, note):
                self.model(first)
        except PellucidError:
            raise
        except INPUT_ERRORS as error:
            received = f"{tuple(ids.shape)} {ids.dtype}, from {int(ids.min())} to {int(ids.max())}"
            raise ShapeError(
                f"the model fails on the token ids ({received}): {error}; expected ids within its vocabulary, "
                "or, for a model without a token embedding, a batch of floats in [0, 1]."
            ) from error
        self._name = self._choose(sorted(candidates), sorted(others))
        self._weight, self._is_tokens_first = candidates[self._name]

    def embed(self, ids: Tensor) -> Tensor:
        """Embed token ids: (batch, token, feature)."""
        assert self._weight is not None
        return F.embedding(ids, self._weight.detach())

    def hold(self, ids: Tensor | None) -> None:
        """Treat every row as a variation of this sequence, (1, token), from now on."""
        self._ids = ids

    def forward(self, embedded: Tensor) -> Any:
        """Run the model with these embeddings in place of the looked-up ones."""
        if self._ids is None:
            raise UnsupportedOperation(
                "a method that runs the model during fit cannot be fitted on token ids; choose another method."
            )
        # Methods pass several variations of the sequence at once; a mask computed from the ids has to match each of
        # them.
        ids = self._ids.expand(len(embedded), -1).contiguous()

        def answer(looked_up: Tensor, weight: Tensor, positions: Tensor | None) -> Tensor | None:
            if not self._is_own(weight):
                return None
            if positions is not None and _stem_from(positions, looked_up, ids):
                return _rearranged(embedded, positions, looked_up, weight)
            self._check(looked_up, ids)
            arranged = embedded.transpose(0, 1) if self._is_tokens_first else embedded
            # The model may have reshaped the ids before it looks them up.
            return arranged.reshape(*looked_up.shape, embedded.shape[-1])

        with Lookups(ids, answer):
            return self.model(ids)

    def _check(self, looked_up: Tensor, ids: Tensor) -> None:
        wanted = (ids.T if self._is_tokens_first else ids).reshape(-1)
        if looked_up.numel() != wanted.numel() or not torch.equal(looked_up.reshape(-1), wanted.to(looked_up)):
            raise UnsupportedOperation(
                f"the embedding {self._name!r} is applied to ids other than the input ids (a subset, or ids computed "
                "from them), so relevance per token is undefined; pass a model that looks the ids up unchanged."
            )

    def _is_own(self, weight: Tensor) -> bool:
        assert self._weight is not None
        # Tied or detached copies of the weight are other tensors in the same memory.
        return weight is self._weight or weight.data_ptr() == self._weight.data_ptr()

    def _choose(self, names: list[str], others: list[str]) -> str:
        if self.wanted in names or (self.wanted is None and len(names) == 1):
            return self.wanted or names[0]
        listed = ", ".join(names) or "(none)"
        if self.wanted is not None:
            raise ConfigError(f"the embedding {self.wanted!r} is not applied to the token ids; these are: {listed}.")
        if names:
            raise ConfigError(
                f"several embeddings are applied to the token ids: {listed}; choose one with embedding={names[0]!r}."
            )
        raise ConfigError(
            "no embedding is applied to the unchanged token ids (applied to other ids: "
            f"{', '.join(others) or '(none)'}); pass floats, or the part of the model after its embedding."
        )

    def _name_of(self, weight: Tensor) -> str:
        """Name of an embedding: the requested name if it fits, else that of its module or parameter."""
        modules = dict(self.model.named_modules())
        shared = self.model.named_parameters(remove_duplicate=False)
        names = [name.removesuffix(".weight") for name, parameter in shared if parameter is weight]
        # Tied weights have several names: prefer that of an embedding to that of an output layer.
        names.sort(key=lambda name: not isinstance(modules.get(name), nn.Embedding))
        return next((name for name in names if name == self.wanted), (*names, f"a table of {len(weight)} rows")[0])


def _stem_from(positions: Tensor, looked_up: Tensor, ids: Tensor, *, of_all: bool = False) -> bool:
    """True if the looked-up ids are those of the input at these positions (`of_all`: at every position)."""
    is_known = positions >= 0
    flat = ids.reshape(-1)
    if of_all and len(torch.unique(positions[is_known])) < len(flat):
        return False
    return bool((flat[positions.clamp(min=0)] == looked_up)[is_known].all())


def _rearranged(embedded: Tensor, positions: Tensor, looked_up: Tensor, weight: Tensor) -> Tensor:
    """Return the embeddings (batch, token, feature) at these positions; others get a constant row of the table."""
    flat = positions.flatten()
    if positions.shape == embedded.shape[:2] and torch.equal(flat, torch.arange(len(flat), device=flat.device)):
        return embedded
    rows = embedded.reshape(-1, embedded.shape[-1])[positions.clamp(min=0)]
    if bool((positions >= 0).all()):
        return rows
    return torch.where((positions >= 0)[..., None], rows, F.embedding(looked_up, weight.detach()).to(rows.dtype))


def check_suits(name: str, method: Attribution) -> None:
    """Raise `UnsupportedOperation` for methods that explain regions of an image."""
    if method.family == "class_activation" or not method.takes_tokens:
        raise UnsupportedOperation(
            f"{name} explains regions of an image, which tokens do not have; choose a method that gives each input its "
            "own relevance, such as 'lrp.epsilon', 'deeplift' or 'integrated_gradients'."
        )
