"""A tiny decoder in a GGUF file."""

from pathlib import Path

import gguf
import numpy as np


def write_gguf(file: Path) -> None:
    """A random 2-layer llama with 4-bit weights."""
    hidden, mlp, layers, vocabulary = 64, 96, 2, 258
    rng, quantization = np.random.default_rng(0), gguf.GGMLQuantizationType.Q4_1
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(512)
    writer.add_embedding_length(hidden)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(mlp)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(vocabulary)
    shapes = {"token_embd": (vocabulary, hidden)}
    for layer in range(layers):
        attention = {"attn_q": hidden, "attn_k": hidden // 2, "attn_v": hidden // 2, "attn_output": hidden}
        shapes |= {f"blk.{layer}.{name}": (rows, hidden) for name, rows in attention.items()}
        shapes |= {f"blk.{layer}.{name}": (mlp, hidden) for name in ("ffn_gate", "ffn_up")}
        shapes[f"blk.{layer}.ffn_down"] = (hidden, mlp)
    for name, shape in shapes.items():
        packed = gguf.quants.quantize(rng.normal(size=shape).astype(np.float32) * 0.1, quantization)
        writer.add_tensor(f"{name}.weight", packed, raw_dtype=quantization)
    for name in ("output_norm", *(f"blk.{i}.{part}_norm" for i in range(layers) for part in ("attn", "ffn"))):
        writer.add_tensor(f"{name}.weight", np.ones(hidden, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
