"""transformers' networks for images and texts, from small configurations."""

import importlib
from collections.abc import Callable
from typing import Any

from torch import nn

Builder = Callable[[], nn.Module]

TOKENS = 48
"""Tokens of a text."""
LAST_TOKEN = 63
"""The end of every text, at which T5 and BART read their answer."""
_IMAGE = (3, 64, 64)
_ENCODER = {"hidden_size": 192, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 768}
_VISION = {**_ENCODER, "image_size": 64, "patch_size": 8}
_TEXT = {**_ENCODER, "vocab_size": 64, "max_position_embeddings": 64, "pad_token_id": 0}
_DECODER = {**_TEXT, "num_key_value_heads": 2, "head_dim": 48, "bos_token_id": 1, "eos_token_id": 2}
_SWIN = {
    "image_size": 64,
    "patch_size": 4,
    "embed_dim": 64,
    "depths": [2, 2, 2],
    "num_heads": [2, 4, 8],
    "window_size": 4,
}

IMAGES: dict[str, dict[str, Any]] = {
    "ViT": _VISION,
    "DeiT": _VISION,
    "Beit": {**_VISION, "use_relative_position_bias": True},
    "Data2VecVision": _VISION,
    "ViTMSN": _VISION,
    "Dinov2": _VISION,
    "Dinov2WithRegisters": _VISION,
    "Swin": _SWIN,
    "Swinv2": _SWIN,
    "ConvNext": {"hidden_sizes": [32, 64, 96, 128], "depths": [1, 1, 2, 1]},
    "ConvNextV2": {"hidden_sizes": [32, 64, 96, 128], "depths": [1, 1, 2, 1]},
    "ResNet": {"embedding_size": 32, "hidden_sizes": [32, 64, 96, 128], "depths": [1, 1, 2, 1], "layer_type": "basic"},
    "RegNet": {"embedding_size": 32, "hidden_sizes": [32, 64, 96, 128], "depths": [1, 1, 2, 1], "groups_width": 8},
    "MobileNetV1": {"depth_multiplier": 0.25},
    "MobileNetV2": {"depth_multiplier": 0.35},
    "MobileViT": {"image_size": 64, "hidden_sizes": [24, 32, 40], "neck_hidden_sizes": [8, 8, 16, 24, 24, 32, 64]},
    "MobileViTV2": {"image_size": 64, "width_multiplier": 0.25},
    "PoolFormer": {"hidden_sizes": [32, 64, 96, 128], "depths": [1, 1, 2, 1]},
    "Pvt": {
        "image_size": 64,
        "hidden_sizes": [32, 64, 96, 128],
        "depths": [1, 1, 2, 1],
        "num_attention_heads": [1, 2, 2, 4],
    },
    "PvtV2": {
        "image_size": 64,
        "hidden_sizes": [32, 64, 96, 128],
        "depths": [1, 1, 2, 1],
        "num_attention_heads": [1, 2, 2, 4],
    },
    "Segformer": {"hidden_sizes": [32, 64, 96, 128], "depths": [1, 1, 2, 1], "num_attention_heads": [1, 2, 2, 4]},
    "FocalNet": {
        "image_size": 64,
        "embed_dim": 48,
        "depths": [1, 1, 2, 1],
        "focal_levels": [2, 2, 2, 2],
        "focal_windows": [3, 3, 3, 3],
    },
    "Bit": {"embedding_size": 32, "hidden_sizes": [32, 64, 96, 128], "depths": [1, 1, 2, 1], "num_groups": 8},
    "Cvt": {"embed_dim": [48, 96, 192], "depth": [1, 2, 3], "num_heads": [1, 2, 2]},
    "SwiftFormer": {"depths": [1, 1, 2, 1], "embed_dims": [32, 64, 96, 128]},
    "Hiera": {"image_size": [64, 64], "embed_dim": 48, "depths": [1, 1, 2, 1]},
    "Levit": {
        "image_size": 64,
        "hidden_sizes": [128, 256, 384],
        "num_attention_heads": [4, 6, 8],
        "depths": [2, 3, 4],
        "key_dim": [16, 16, 16],
    },
}

TEXTS: dict[str, dict[str, Any]] = {
    "Bert": _TEXT,
    "Roberta": _TEXT,
    "DistilBert": {"dim": 192, "n_layers": 4, "n_heads": 4, "hidden_dim": 768, "vocab_size": 64, "pad_token_id": 0},
    "Albert": {**_TEXT, "embedding_size": 64},
    "Electra": {**_TEXT, "embedding_size": 64},
    "MPNet": _TEXT,
    "Deberta": {**_TEXT, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "DebertaV2": {**_TEXT, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "XLNet": {"vocab_size": 64, "d_model": 192, "n_layer": 4, "n_head": 4, "d_inner": 768},
    "ModernBert": {
        **_TEXT,
        "cls_token_id": 3,
        "sep_token_id": 4,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "local_attention": 8,
    },
    "FNet": {**_TEXT, "tpu_short_seq_length": TOKENS},
    "GPT2": {
        "vocab_size": 64,
        "n_embd": 192,
        "n_layer": 4,
        "n_head": 4,
        "n_positions": 64,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "OPT": {**_TEXT, "ffn_dim": 768, "word_embed_proj_dim": 192, "bos_token_id": 1, "eos_token_id": 2},
    "Bloom": {
        "vocab_size": 64,
        "hidden_size": 192,
        "n_layer": 4,
        "n_head": 4,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "GPTNeoX": {**_TEXT, "bos_token_id": 1, "eos_token_id": 2},
    "Llama": _DECODER,
    "Mistral": {**_DECODER, "sliding_window": 8},
    "Mixtral": {**_DECODER, "num_local_experts": 4, "num_experts_per_tok": 2, "experts_implementation": "eager"},
    "Qwen2": _DECODER,
    "Gemma": _DECODER,
    "Phi": {**_TEXT, "bos_token_id": 1, "eos_token_id": 2},
    "Falcon": {**_TEXT, "bos_token_id": 1, "eos_token_id": 2, "alibi": False},
    "T5": {
        "vocab_size": 64,
        "d_model": 192,
        "d_kv": 48,
        "d_ff": 768,
        "num_layers": 4,
        "num_heads": 4,
        "pad_token_id": 0,
        "eos_token_id": 63,
        "decoder_start_token_id": 0,
    },
    "Bart": {
        "vocab_size": 64,
        "d_model": 192,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 768,
        "decoder_ffn_dim": 768,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 63,
        "decoder_start_token_id": 2,
        "forced_eos_token_id": 63,
    },
}

CAUSAL: dict[str, dict[str, Any]] = {
    "Mamba": {"vocab_size": 64, "hidden_size": 768, "num_hidden_layers": 2, "state_size": 16, "pad_token_id": 0},
}
"""Language models without a head for sequences, explained by the logits of the next token."""


def _build(stem: str, task: str, options: dict[str, Any]) -> Builder:
    def build() -> nn.Module:
        library = importlib.import_module("transformers")
        config = getattr(library, f"{stem}Config")(num_labels=10, **options)
        return getattr(library, f"{stem}For{task}")(config)

    return build


TRANSFORMERS: dict[str, tuple[Builder, tuple[int, ...]]] = {
    **{stem: (_build(stem, "ImageClassification", options), _IMAGE) for stem, options in IMAGES.items()},
    **{stem: (_build(stem, "SequenceClassification", options), (TOKENS,)) for stem, options in TEXTS.items()},
    **{stem: (_build(stem, "CausalLM", options), (TOKENS,)) for stem, options in CAUSAL.items()},
}
