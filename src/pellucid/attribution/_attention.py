"""Attention weights of a forward pass, and the tokens that they connect.

Three forms are read: `F.scaled_dot_product_attention`, `nn.MultiheadAttention`, and a softmax whose result is
multiplied with the values.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.overrides import TorchFunctionMode

from pellucid.attribution._places import SAME, Coordinates, Fold, Places, fold_of
from pellucid.attribution._subject import Subject
from pellucid.attribution._tokens import FromEmbedding
from pellucid.core.errors import ModelError, UnsupportedOperation
from pellucid.engine.operations import OPERATIONS
from pellucid.engine.operations.attention import attention_weights
from pellucid.engine.recorder import Recorder
from pellucid.engine.table import tensors_in
from pellucid.engine.wrapping import check_model

__all__ = ["Plan", "plan_of", "read_attention"]

OTHERS = "'grad_cam' or 'lrp.epsilon'"
"""Methods to choose instead."""
_PRODUCTS = frozenset(("matmul", "__matmul__", "bmm"))


@dataclass(frozen=True, eq=False)
class Plan:
    """The attention layers of a model for one kind of input."""

    names: tuple[str, ...]
    """Module of each attention layer, from the input to the output."""
    tokens: int
    fold: Fold | None
    """Positions of the tokens in the image; None for token ids, whose tokens are the input."""
    read: Tensor
    """(token,): True for the tokens of the last layer that reach the logits."""


def read_attention(subject: Subject, images: Tensor, plan: Plan) -> tuple[list[Tensor], Tensor]:
    """Return the attention weights of each layer, (batch, head, token, token), and the logits."""
    weights: list[Tensor] = []

    def note(call: "_Call") -> None:
        weights.append(_by_head(call, len(images), plan.tokens))

    with torch.no_grad():
        logits = subject.logits(images, within=_Attentions(subject, images, note))
    subject.settle(images)
    if len(weights) != len(plan.names):
        raise ModelError(
            f"the model has run {len(weights)} attention layers, but {len(plan.names)} for one image before: its "
            f"control flow depends on the input, so attention rollout is undefined; choose {OTHERS}."
        )
    return weights, logits


def plan_of(subject: Subject, images: Tensor) -> Plan:
    """Find the attention layers; run once per kind of input, with a single image.

    Raises `UnsupportedOperation` for models without attention, or whose attention layers do not all connect the same
    tokens of the whole image.
    """
    check_model(subject.model, "operations")
    modules = tuple(map(id, subject.model.modules()))
    key = ("attention", modules, images.shape[1:], images.dtype, images.device)
    if key not in subject.layers:
        subject.layers[key] = _search(subject, images[:1])
    plan: Plan = subject.layers[key]
    return plan


def _search(subject: Subject, image: Tensor) -> Plan:
    leaf = image.detach().clone().requires_grad_()
    is_tokens = isinstance(subject.model, FromEmbedding)
    places = None if is_tokens else Places(leaf)
    calls: list[tuple[str, int, Coordinates | None]] = []
    edges: list[tuple[GradientEdge, int]] = []

    def note(call: _Call) -> None:
        _check_square(call)
        own = None
        if places is not None:
            own = _rows(places.of(call.values), call.axis)
            _check_whole(call, own)
        _by_head(call, 1, call.weights.shape[-1])
        calls.append((call.name, call.weights.shape[-1], own))
        if call.output.requires_grad:
            edges.append((get_gradient_edge(call.output), call.axis))

    with torch.enable_grad(), ExitStack() as stack:
        if places is not None:
            stack.enter_context(places)
        stack.enter_context(_Attentions(subject, image, note))
        logits = subject.logits(leaf, within=nullcontext())
        if not calls:
            raise UnsupportedOperation(
                "attention_rollout needs a transformer, but the model has no attention layer (or hides it in "
                f"TorchScript); choose another method, such as {OTHERS}."
            )
        read = _reaching(logits, edges, calls[-1][1])
    subject.settle(image)
    tokens, fold = _shared_tokens(calls, leaf, is_tokens=is_tokens)
    return Plan(tuple(name for name, *_ in calls), tokens, fold, read)


def _shared_tokens(
    calls: Sequence[tuple[str, int, Coordinates | None]], image: Tensor, *, is_tokens: bool
) -> tuple[int, Fold | None]:
    """Return the number of tokens of all layers, and how to fold them to the plane."""
    name, tokens, first = calls[0]
    for later, count, own in calls[1:]:
        is_moved = first is not None and own is not None and not _equal(first, own)
        if count != tokens or is_moved:
            what = f"{count} tokens, after {tokens}" if count != tokens else "the tokens in another order than"
            raise UnsupportedOperation(
                f"attention_rollout needs the same tokens in all layers, but {later} connects {what} in {name}; "
                f"choose another method, such as {OTHERS}."
            )
    if is_tokens:
        if tokens != image.shape[1]:
            raise UnsupportedOperation(
                f"attention_rollout needs one token per id, but {name} connects {tokens} tokens for {image.shape[1]} "
                f"ids; choose another method, such as 'lrp.epsilon'."
            )
        return tokens, None
    fold = None if first is None else fold_of(first[:, None, :, None])
    if fold is None:
        raise UnsupportedOperation(
            f"attention_rollout needs tokens that fill a regular grid over the image, but those of {name} do not; "
            f"choose another method, such as {OTHERS}."
        )
    return tokens, fold


def _reaching(logits: Tensor, edges: Sequence[tuple[GradientEdge, int]], tokens: int) -> Tensor:
    """Return a mask of the tokens of the last attention layer that the logits depend on."""
    none = torch.zeros(tokens, dtype=torch.bool, device=logits.device)
    if not edges:
        return none
    # uneven weights, because the sum of all logits may not depend on the image
    weights = torch.arange(1, logits[0].numel() + 1, dtype=logits.dtype, device=logits.device).cos()
    edge, axis = edges[-1]
    slope = torch.autograd.grad((logits.flatten() * weights).sum(), edge, allow_unused=True)[0]
    is_used: bool = slope is not None
    return slope.abs().movedim(axis, 0).flatten(1).amax(1) > 0 if is_used else none


@dataclass(frozen=True, eq=False)
class _Call:
    """One attention layer of a forward pass."""

    name: str
    weights: Tensor
    """(batch, head, query, key), or (batch, query, key); heads may be merged into the batch."""
    values: Tensor
    """The tokens that are attended to, whose positions are those of the keys."""
    output: Tensor
    axis: int
    """Token axis of `values` and `output`."""


class _Attentions(TorchFunctionMode):
    """Calls `note` for every attention layer of a forward pass."""

    def __init__(self, subject: Subject, images: Tensor, note: Callable[[_Call], None]) -> None:
        super().__init__()
        self._note = note
        self._paths = Recorder(subject.model, images[:1])  # never entered, only used for module names
        self._softmaxes: dict[int, Tensor] = {}
        """Results of softmax that may be attention weights, by id."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, entry = kwargs or {}, OPERATIONS.find(func)
        name = "" if entry is None else entry.name
        if name == "multi_head_attention_forward":
            return self._module(func, args, kwargs)
        value = func(*args, **kwargs)
        if name == "scaled_dot_product_attention":
            self._fused(value, *args, **kwargs)
        elif entry is not None and isinstance(value, Tensor):
            self._follow(name, entry.traits.family, args, kwargs, value)
        return value

    def _fused(
        self,
        output: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float | int = 0.0,
        *options: Any,
        **named: Any,
    ) -> None:
        with torch.no_grad():
            weights = attention_weights(query, key, attn_mask, *options, **named)
        self._note(_Call(self._place(), weights, value, output, -2))

    def _module(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        given = signature(F.multi_head_attention_forward).bind(*args, **kwargs)
        given.apply_defaults()
        wanted = dict(given.arguments)
        output, weights = func(**{**wanted, "need_weights": True, "average_attn_weights": False})
        self._note(_Call(self._place(), weights.detach(), wanted["query"], output, 0))
        if not wanted["need_weights"]:
            return output, None
        return output, weights.mean(-3) if wanted["average_attn_weights"] else weights

    def _follow(self, name: str, family: str, args: Any, kwargs: Any, value: Tensor) -> None:
        """Note the product of a softmax over tokens with the values."""
        if family == "softmax":
            if value.ndim >= 3:
                self._softmaxes[id(value)] = value
            return
        used = [tensor for tensor in tensors_in((args, kwargs)) if id(tensor) in self._softmaxes]
        if not used or family == "query":
            return
        weights = used[0]
        if family in ("dropout", "move"):
            self._softmaxes[id(value)] = value
        elif name in _PRODUCTS and weights is args[0] and args[1].ndim == weights.ndim:
            self._note(_Call(self._place(), weights.detach(), args[1], value, -2))
        elif weights.shape[-1] == weights.shape[-2]:
            raise UnsupportedOperation(
                f"attention_rollout needs the product of attention weights and values, but {name} in {self._place()} "
                f"changes the result of a softmax, {tuple(weights.shape)}; choose another method, such as {OTHERS}."
            )

    def _place(self) -> str:
        path = self._paths.path()
        return repr(path) if path else "the model itself"


def _check_square(call: _Call) -> None:
    queries, keys = call.weights.shape[-2:]
    if queries != keys:
        raise UnsupportedOperation(
            f"attention_rollout needs self-attention, but in {call.name}, {queries} tokens attend to {keys}, as in "
            f"cross-attention or with pooled keys; choose another method, such as {OTHERS}."
        )


def _check_whole(call: _Call, rows: Coordinates | None) -> None:
    """Raise `UnsupportedOperation` for attention within windows of the image."""
    if call.weights.ndim > 4 or (call.weights.ndim == 4 and len(call.weights) != 1) or rows is None:
        raise UnsupportedOperation(
            f"attention_rollout needs attention between all tokens of the image, but the tokens of {call.name}, with "
            f"weights of shape {tuple(call.weights.shape)} for one image, are those of windows, or have no known "
            f"position in the image; choose another method, such as {OTHERS}."
        )


def _rows(places: Coordinates | None, axis: int) -> Coordinates | None:
    """Return the coordinates of the tokens, (spatial axis, token); None if unknown, or not the same in all heads."""
    if places is None or places.ndim < 4:
        return None
    tokens = places.movedim(axis if axis < 0 else axis + 1, 1)[..., 0].flatten(2)
    return tokens[..., 0] if bool(((tokens - tokens[..., :1]).abs() <= SAME).all()) else None


def _equal(first: Coordinates, second: Coordinates) -> bool:
    return first.shape == second.shape and bool(((first - second).abs() <= SAME).all())


def _by_head(call: _Call, batch: int, tokens: int) -> Tensor:
    """Return the weights as (batch, head, token, token)."""
    weights = call.weights
    if weights.ndim == 3 and len(weights) % batch == 0:
        weights = weights.unflatten(0, (batch, -1))
    if weights.ndim != 4 or len(weights) != batch or weights.shape[-1] != tokens:
        raise UnsupportedOperation(
            f"attention_rollout needs one matrix per image and head over the same tokens, but the weights of "
            f"{call.name} are {tuple(call.weights.shape)} for {batch} images; choose another method, such as {OTHERS}."
        )
    return weights
