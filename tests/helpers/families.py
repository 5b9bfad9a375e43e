"""Small decoders of four families."""

from transformers import (
    Gemma3TextConfig,
    Gemma3TextModel,
    LlamaConfig,
    LlamaModel,
    Qwen2Config,
    Qwen2Model,
    Qwen3Config,
    Qwen3Model,
)

SMALL = {
    "vocab_size": 19, "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 6, "initializer_range": 0.3, "pad_token_id": 0,
}  # fmt: skip
FAMILIES = {
    "llama": (LlamaModel, LlamaConfig(**SMALL)),
    "qwen2": (Qwen2Model, Qwen2Config(**{k: v for k, v in SMALL.items() if k != "head_dim"})),
    "qwen3": (Qwen3Model, Qwen3Config(**SMALL)),
    "gemma3": (
        Gemma3TextModel,
        Gemma3TextConfig(
            **SMALL, sliding_window=4, layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            query_pre_attn_scalar=6,
        ),
    ),
}  # fmt: skip
