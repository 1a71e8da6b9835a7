"""Softmax, and attention decomposed into operations that have rules."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid.engine.call import Call
from pellucid.engine.table import operation
from pellucid.engine.tape import Activation, Softmax

__all__ = ["attend", "attention_weights", "multi_head_attention", "softmax"]


@operation("softmax", family="softmax", is_smooth=True, is_gate=True)
@operation("log_softmax", family="softmax", is_smooth=True)
def softmax(call: Call, input: Tensor, dim: int | None = None, *_args: Any, **_kwargs: Any) -> Tensor:
    """Record a softmax along one axis."""
    if dim is None:
        call.refuse("does not specify dim")
    if call.recorder.batch > 1 and dim % input.ndim == call.recorder.batch_axis(input):
        call.refuse("runs along the batch axis")
    value: Tensor = call.run()
    if call.name == "log_softmax":
        return call.record(
            # NaN at 0: a log-softmax is not elementwise, so it has no f(0)
            Activation, "log_softmax", value, [input],
            x=input, y=value, replay=call.replay_on(input), at_zero=math.nan, is_rectifier=False,
        )  # fmt: skip
    return call.record(Softmax, "softmax", value, [input], x=input, y=value, dim=dim)


@operation("scaled_dot_product_attention")
def attend(
    call: Call,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float | int = 0.0,
    is_causal: bool = False,
    scale: float | int | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Record softmax(query · keyᵀ · scale + mask) · value; with `enable_gqa`, groups of query heads share keys."""
    if dropout_p > 0:
        call.refuse("draws random numbers in eval mode")
    with call.recorder:
        if enable_gqa:
            value = value.repeat_interleave(query.shape[-3] // value.shape[-3], -3)
        return attention_weights(query, key, attn_mask, is_causal, scale, enable_gqa) @ value


def attention_weights(
    query: Tensor,
    key: Tensor,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | int | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Return the weights of a scaled dot-product attention, (…, query, key), from the function's own arguments.

    >>> attention_weights(torch.zeros(2, 1), torch.zeros(2, 1), is_causal=True)
    tensor([[1.0000, 0.0000],
            [0.5000, 0.5000]])
    """
    if is_causal:
        # aligned at the top left, as in torch, even if there are more keys than queries
        attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
    if enable_gqa:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
    return _weights(query, key, attn_mask, scale)


def _weights(query: Tensor, key: Tensor, mask: Tensor | None, scale: float | int | None = None) -> Tensor:
    """Return the attention weights, (…, query, key)."""
    scores = (query * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)) @ key.mT
    return F.softmax(scores if mask is None else _masked(scores, mask), -1)


def _masked(scores: Tensor, mask: Tensor) -> Tensor:
    """Apply a mask: a boolean mask sets scores to −∞ where it is False, a float mask is added."""
    # −∞ is filled in rather than added, so that no addend of a sum is infinite
    is_closed = ~mask if mask.dtype == torch.bool else mask == -math.inf
    if mask.dtype != torch.bool and bool((mask != 0).any()):
        scores = scores + mask.masked_fill(is_closed, 0)
    return scores.masked_fill(is_closed, -math.inf) if bool(is_closed.any()) else scores


@operation("multi_head_attention_forward")
def multi_head_attention(
    call: Call,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float | int,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Record multi-head attention over (token, batch, feature); also return the weights if `need_weights`."""
    if static_k is not None or static_v is not None or query.ndim != 3:
        call.refuse("receives static keys or values" if query.ndim == 3 else "does not receive a batch")
    if training and dropout_p > 0:
        call.refuse("draws random numbers in eval mode")
    packed: tuple[Any, ...] = (q_proj_weight, k_proj_weight, v_proj_weight)
    if not use_separate_proj_weight:
        assert in_proj_weight is not None
        packed = in_proj_weight.chunk(3)
    biases: tuple[Any, ...] = (None,) * 3 if in_proj_bias is None else in_proj_bias.chunk(3)
    with call.recorder:
        projected = [F.linear(*given) for given in zip((query, key, value), packed, biases, strict=True)]
        for place, extra in ((1, bias_k), (2, bias_v)):
            if extra is not None:
                projected[place] = torch.cat([projected[place], extra.expand(-1, query.shape[1], -1)])
        heads = [_heads(x, num_heads) for x in projected]
        if add_zero_attn:
            heads[1:] = [F.pad(x, (0, 0, 0, 1)) for x in heads[1:]]
        mask = _merged(attn_mask, key_padding_mask, heads[0], heads[1])
        weights = _weights(heads[0], heads[1], mask)
        joined = (weights @ heads[2]).permute(2, 0, 1, 3).reshape(query.shape)
        output = F.linear(joined, out_proj_weight, out_proj_bias)
        if not need_weights:
            return output, None
        return output, weights.mean(1) if average_attn_weights else weights


def _heads(x: Tensor, heads: int) -> Tensor:
    """Reshape (token, batch, feature) to (batch, head, token, feature of the head)."""
    tokens, batch, features = x.shape
    return x.reshape(tokens, batch, heads, features // heads).permute(1, 2, 0, 3)


def _merged(attention: Tensor | None, padding: Tensor | None, query: Tensor, key: Tensor) -> Tensor | None:
    """Merge attention mask and padding mask, in which True means −∞, into one to add to (batch, head, query, key).

    Keys that the module itself appends stay unmasked.
    """
    masks = []
    if attention is not None:
        # torch's 3-D mask merges the axes of batch and head
        wide = attention if attention.ndim == 2 else attention.view(*query.shape[:2], *attention.shape[1:])
        masks.append(_added(wide, query))
    if padding is not None:
        masks.append(_added(padding[:, None, None], query))
    if not masks:
        return None
    return sum(F.pad(mask, (0, key.shape[2] - mask.shape[-1])) for mask in masks)  # type: ignore[return-value]


def _added(mask: Tensor, like: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros(mask.shape, dtype=like.dtype, device=like.device).masked_fill(mask, -math.inf)


@operation(torch._nested_tensor_from_mask_left_aligned)
def offer_of_nesting(call: Call, *_args: object, **_kwargs: object) -> bool:
    """Return False, so that an encoder that could skip padded tokens runs over all of them."""
    return False


@operation("glu")
def gated_linear_unit(call: Call, input: Tensor, dim: int = -1) -> Tensor:
    """Record the first half of the features times the sigmoid of the second half."""
    with call.recorder:
        signal, gate = input.chunk(2, dim)
        return signal * torch.sigmoid(gate)
