"""Tiny random pretrained models and made-up user rows: real code paths without real weights."""

import datetime as dt
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import BertConfig, BertModel, LlamaConfig, LlamaModel, PreTrainedTokenizerFast

EVENTS = pa.list_(pa.struct([("time", pa.timestamp("us", "UTC")), ("text", pa.string()), ("amount", pa.float32())]))
FUTURE = pa.list_(
    pa.struct(
        [
            ("modality", pa.string()),
            ("time", pa.timestamp("us", "UTC")),
            ("text", pa.string()),
            ("amount", pa.float32()),
        ]
    )
)
AS_OF = dt.datetime(2024, 3, 1, tzinfo=dt.UTC)


def _tokenizer(directory: Path) -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<eos>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")
    fast.save_pretrained(directory)


def write_decoder(directory: Path) -> None:
    """A random 3-layer llama with grouped-query attention, and its tokenizer."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=258, hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=6, max_position_embeddings=512, initializer_range=0.2,
        pad_token_id=0, eos_token_id=1, bos_token_id=1,
    )  # fmt: skip
    LlamaModel(config).save_pretrained(directory)
    _tokenizer(directory)


def write_event_encoder(directory: Path) -> None:
    """A random 1-layer BERT, and its tokenizer."""
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=258, hidden_size=12, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, pad_token_id=0
    )
    BertModel(config).save_pretrained(directory)
    _tokenizer(directory)


def user_rows(users: int = 13, seed: int = 0, most: int = 11) -> pa.Table:
    """Made-up rows with modalities `bill` and `app`, seven features, and a future."""
    rng = np.random.default_rng(seed)

    def events(n: int, sign: int) -> list[dict]:
        days = np.sort(rng.uniform(0.01, 80, n))[::-1] * sign
        return [
            {"time": AS_OF - dt.timedelta(days=float(d)), "text": f"item {rng.integers(17)}", "amount": amount}
            for d, amount in zip(days if sign > 0 else days[::-1], rng.choice([1.5, 7.0, None], n), strict=True)
        ]

    def future(n: int) -> list[dict]:
        return [{"modality": "bill" if rng.random() < 0.7 else "app", **event} for event in events(n, -1)]

    return pa.table(
        {
            "user_id": pa.array([f"u{seed}-{i}" for i in range(users)]),
            "as_of": pa.array([AS_OF] * users, pa.timestamp("us", "UTC")),
            "bill": pa.array([events(int(rng.integers(1, most)), 1) for _ in range(users)], EVENTS),
            "app": pa.array([events(int(rng.integers(0, most)), 1) for _ in range(users)], EVENTS),
            "tabular": pa.array(rng.normal(size=(users, 7)).astype(np.float32).tolist(), pa.list_(pa.float32())),
            "future": pa.array([future(int(rng.integers(0, most))) for _ in range(users)], FUTURE),
        }
    )
