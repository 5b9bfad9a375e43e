"""Event texts are encoded once, and found again."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ray_ggsm.config import InputError
from ray_ggsm.model import event_vectors as store
from ray_ggsm.model.event_encoder import EventEncoder, EventEncoderConfig
from ray_ggsm.model.event_vectors import EventVectors


def test_store_finds_what_was_written_and_names_what_was_not(tmp_path) -> None:
    texts = pa.array(["milk", "süß", "", "milk " * 9])
    vectors = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float16)
    pq.write_table(store.part(texts.slice(0, 2), vectors[:2]), tmp_path / "a.parquet")
    pq.write_table(store.part(texts.slice(1), vectors[1:]), tmp_path / "b.parquet")  # one text twice
    found = EventVectors.read(str(tmp_path))
    asked = pa.array(["", "milk", "milk", "süß"])
    np.testing.assert_array_equal(found(asked), vectors[[2, 0, 0, 1]])
    assert found.missing(pa.array(["milk", "bread"])).to_pylist() == ["bread"]
    with pytest.raises(InputError, match="'bread' has no vector"):
        found(pa.array(["bread", "milk"]))


def test_empty_store(tmp_path) -> None:
    assert EventVectors.read(str(tmp_path / "nothing")).missing(pa.array(["a"])).to_pylist() == ["a"]


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_vectors_do_not_depend_on_the_batch(pooling, tiny_event_encoder) -> None:
    config = EventEncoderConfig(name=tiny_event_encoder, pooling=pooling, dtype="float32", max_tokens=16)
    encoder = EventEncoder(config, torch.device("cpu"))
    texts = ["a", "some milk", "b" * 40, "bread"]
    together = encoder.encode(texts, tokens_per_batch=20)
    for text, vector in zip(texts, together, strict=True):
        np.testing.assert_allclose(encoder.encode([text])[0], vector, atol=1e-3)
    assert EventEncoder(config.model_copy(update={"max_tokens": 8}), torch.device("cpu")).digest != encoder.digest
