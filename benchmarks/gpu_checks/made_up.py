"""Random decoders on disk and made-up user rows: the real code paths without anything to fetch.

Legend: E events of all rows together, N event texts, H width of the event vectors.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from transformers import Qwen2Config, Qwen2Model

from ray_ggsm.hashing import hash64
from ray_ggsm.model.event_vectors import EventVectors, Segment
from tests.helpers.models import write_tokenizer

MODALITIES = ("bill", "app")
FEATURES = 7
EVENT_WIDTH = 48
TEXTS = pa.array([f"item {i}" for i in range(500)])
_DAY = 86_400_000_000  # microseconds
_AS_OF = 19_783 * _DAY  # 2024-03-01
_TIME = pa.timestamp("us", "UTC")


@dataclass(frozen=True)
class Decoder:
    """The shape of a random decoder like Qwen2's, with one token per byte of text."""

    width: int
    inner: int
    layers: int
    heads: int
    key_heads: int
    window: int | None = None
    """Tokens to either side that every other layer sees, from the first on; None: all layers see all."""
    spread: float = 0.02
    """Standard deviation of the weights."""


def write_decoder(shape: Decoder, directory: Path) -> None:
    """Write the decoder and its tokenizer. The weights are bfloat16 numbers, so that no dtype changes them."""
    torch.manual_seed(0)
    kinds = ["sliding_attention" if shape.window and i % 2 == 0 else "full_attention" for i in range(shape.layers)]
    config = Qwen2Config(
        vocab_size=258, hidden_size=shape.width, intermediate_size=shape.inner, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.key_heads, max_position_embeddings=2048,
        initializer_range=shape.spread, pad_token_id=0, eos_token_id=1, bos_token_id=1,
        use_sliding_window=shape.window is not None, sliding_window=shape.window, layer_types=kinds,
    )  # fmt: skip
    Qwen2Model(config).to(torch.bfloat16).save_pretrained(directory)
    write_tokenizer(directory)


def user_rows(users: int, fewest: int, most: int, future: int, seed: int = 0) -> pa.Table:
    """Rows with `fewest` to `most` past events in each of two modalities, and `future` future events."""
    rng = np.random.default_rng(seed)
    histories = [rng.integers(fewest, most + 1, users) for _ in MODALITIES]
    future_names = np.array(MODALITIES)[rng.integers(0, len(MODALITIES), users * future)]
    columns = {name: _events(count_B, -1, rng) for name, count_B in zip(MODALITIES, histories, strict=True)}
    tabular = rng.normal(size=(users, FEATURES)).astype(np.float32)
    return pa.table(
        {
            "user_id": [f"user {seed} {i}" for i in range(users)],
            "as_of": pa.array(np.full(users, _AS_OF), pa.int64()).cast(_TIME),
            **columns,
            "tabular": pa.array(tabular.tolist(), pa.list_(pa.float32())),
            "future": _events(np.full(users, future), 1, rng, future_names),
        }
    )


def _events(
    count_B: np.ndarray, sign: int, rng: np.random.Generator, modality_E: np.ndarray | None = None
) -> pa.ListArray:
    """Lists of events within 80 days after (sign 1) or before (-1) as_of, oldest first."""
    E = int(count_B.sum())
    row_E = np.repeat(np.arange(len(count_B)), count_B)
    time_E = _AS_OF + sign * (rng.uniform(0.01, 80, E) * _DAY).astype(np.int64)
    time_E = time_E[np.lexsort((time_E, row_E))]
    fields = {
        "time": pa.array(time_E).cast(_TIME),
        "text": TEXTS.take(pa.array(rng.integers(0, len(TEXTS), E))),
        "amount": pa.array(rng.uniform(1, 50, E).astype(np.float32), mask=rng.random(E) < 0.2),
    }
    if modality_E is not None:
        fields = {"modality": pa.array(modality_E.tolist(), pa.string()), **fields}
    offsets = pa.array(np.append(0, np.cumsum(count_B)).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(list(fields.values()), list(fields)))


def lookup() -> EventVectors:
    """A random vector for every event text, found as in production."""
    vector_NH = np.random.default_rng(1).normal(size=(len(TEXTS), EVENT_WIDTH)).astype(np.float16)
    order = np.argsort(hash64(TEXTS))
    return EventVectors([Segment(hash64(TEXTS)[order], vector_NH[order])])
