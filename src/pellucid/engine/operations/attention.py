"""Softmax, and attention written out in the operations that the table has."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid.engine.recorder import Call
from pellucid.engine.table import operation
from pellucid.engine.tape import Activation, Softmax

__all__ = ["attend", "multi_head_attention", "softmax"]


@operation("softmax", "log_softmax")
def softmax(call: Call, input: Tensor, dim: int | None = None, *_args: Any, **_kwargs: Any) -> Tensor:
    """Shares that sum to 1 along one axis."""
    if dim is None:
        call.refuse("is not told its axis")
    if call.recorder.batch > 1 and dim % input.ndim == call.recorder.batch_axis(input):
        call.refuse("runs along the axis of the batch")
    value: Tensor = call.run()
    if call.name == "log_softmax":
        return call.record(
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
    """softmax(query · keyᵀ · scale + mask) · value."""
    if dropout_p > 0 or enable_gqa:
        call.refuse("draws random numbers outside training" if dropout_p > 0 else "groups its queries")
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    with call.recorder:
        scores = torch.matmul(query * factor, key.transpose(-2, -1))
        if is_causal:
            attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, -math.inf)
        elif attn_mask is not None:
            scores = scores + attn_mask
        return torch.matmul(F.softmax(scores, -1), value)


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
) -> tuple[Tensor, None]:
    """Multi-head attention over (token, batch, feature), without the weights as a second output."""
    unusual = (bias_k, bias_v, key_padding_mask, static_k, static_v)
    if any(option is not None for option in unusual) or add_zero_attn or (training and dropout_p > 0):
        call.refuse("has an option (added keys, padding masks, dropout) that is not written out")
    if need_weights:
        call.refuse("is asked for its weights", "call the attention module with need_weights=False.")
    weights: tuple[Any, ...] = (q_proj_weight, k_proj_weight, v_proj_weight)
    if not use_separate_proj_weight:
        assert in_proj_weight is not None
        weights = in_proj_weight.chunk(3)
    biases: tuple[Any, ...] = (None,) * 3 if in_proj_bias is None else in_proj_bias.chunk(3)
    with call.recorder:
        parts = [
            _heads(F.linear(x, weight, bias), num_heads)
            for x, weight, bias in zip((query, key, value), weights, biases, strict=True)
        ]
        attended = F.scaled_dot_product_attention(
            parts[0], parts[1], parts[2], attn_mask=attn_mask, is_causal=is_causal
        )
        tokens, batch = query.shape[:2]
        joined = attended.permute(2, 0, 1, 3).reshape(tokens, batch, embed_dim_to_check)
        return F.linear(joined, out_proj_weight, out_proj_bias), None


def _heads(x: Tensor, heads: int) -> Tensor:
    """(token, batch, feature) to (batch, head, token, feature of the head)."""
    tokens, batch, features = x.shape
    return x.reshape(tokens, batch, heads, features // heads).permute(1, 2, 0, 3)
