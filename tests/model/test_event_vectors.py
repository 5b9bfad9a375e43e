"""Event texts are encoded once, and found again."""

import stat

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ray_ggsm.config import InputError
from ray_ggsm.model import event_vectors as store
from ray_ggsm.model.config import EventEncoderConfig
from ray_ggsm.model.event_encoder import EventEncoder


def test_store_finds_what_was_written_and_names_what_was_not(tmp_path) -> None:
    texts = pa.array(["milk", "süß", "", "milk " * 9])
    vectors = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float16)
    pq.write_table(store.part(texts.slice(0, 2), vectors[:2]), tmp_path / "a.parquet")
    pq.write_table(store.part(texts.slice(1), vectors[1:]), tmp_path / "b.parquet")  # one text twice
    found = store.find(str(tmp_path), str(tmp_path / "cache")).open()
    wanted = pa.array(["", "milk", "milk", "süß"])
    np.testing.assert_array_equal(found(wanted), vectors[[2, 0, 0, 1]])
    assert found.has(pa.array(["milk", "bread"])).tolist() == [True, False]
    with pytest.raises(InputError, match="'bread' has no vector"):
        found(pa.array(["bread", "milk"]))


def test_empty_store(tmp_path) -> None:
    assert store.find(str(tmp_path / "nothing"), str(tmp_path)).open().has(pa.array(["a"])).tolist() == [False]


def test_a_machine_keeps_one_copy_of_the_newest_state(tmp_path) -> None:
    """Memory-mapped, made once, readable by its owner only; older states give way, and open ones go on working."""
    vectors = np.arange(6, dtype=np.float16).reshape(3, 2)
    pq.write_table(store.part(pa.array(["a", "b"]), vectors[:2]), tmp_path / "1.parquet")
    old = store.find(str(tmp_path), str(tmp_path / "cache"))
    opened = old.open()
    assert isinstance(opened.segments[0].vector_NH, np.memmap)
    pq.write_table(store.part(pa.array(["c"]), vectors[2:]), tmp_path / "2.parquet")
    new = store.find(str(tmp_path), str(tmp_path / "cache"))
    np.testing.assert_array_equal(new.open()(pa.array(["c", "a"])), vectors[[2, 0]])
    (directory,) = (tmp_path / "cache").iterdir()
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert len(list(directory.iterdir())) == 1
    np.testing.assert_array_equal(opened(pa.array(["b"])), vectors[[1]])
    store._opened.cache_clear()
    np.testing.assert_array_equal(old.open()(pa.array(["b"])), vectors[[1]])  # made anew from its parts


def test_a_few_new_texts_do_not_merge_the_whole_store_again(tmp_path, monkeypatch) -> None:
    vectors = np.random.default_rng(0).normal(size=(400, 3)).astype(np.float16)
    texts = pa.array([f"text {k}" for k in range(400)])
    merged, merge = [], store._merge

    def counted(files: tuple[str, ...], directory: str) -> None:
        merged.append(len(files))
        merge(files, directory)

    monkeypatch.setattr(store, "_merge", counted)
    directory = tmp_path / "cache"
    for number, start in enumerate(range(0, 400, 10)):
        rows = store.part(texts.slice(start, 10), vectors[start : start + 10])
        pq.write_table(rows, tmp_path / f"{number:02}.parquet")
        found = store.find(str(tmp_path), str(directory)).open()
        assert len(found) == start + 10
        np.testing.assert_array_equal(found(texts.slice(0, start + 10)), vectors[: start + 10])
        assert not found.has(texts.slice(start + 10)).any()
        assert len(found.segments) <= 6
    assert sum(merged) <= 40 * np.log2(40), "each part a logarithmic number of times"
    assert len(list(next(directory.iterdir()).iterdir())) == len(found.segments), "merged segments are gone"


def test_a_cache_that_is_not_ones_own_is_refused(tmp_path) -> None:
    pq.write_table(store.part(pa.array(["a"]), np.ones((1, 2), np.float16)), tmp_path / "1.parquet")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"ray\.cache: .*/file must be a directory"):
        store.find(str(tmp_path), str(tmp_path / "file")).open()


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_vectors_do_not_depend_on_the_batch(pooling, tiny_event_encoder) -> None:
    config = EventEncoderConfig(name=tiny_event_encoder, pooling=pooling, dtype="float32", max_tokens=16)
    encoder = EventEncoder(config, torch.device("cpu"))
    texts = ["a", "some milk", "b" * 40, "bread"]
    together = encoder.encode(texts, tokens_per_batch=20)
    for text, vector in zip(texts, together, strict=True):
        np.testing.assert_allclose(encoder.encode([text])[0], vector, atol=1e-3)
    assert EventEncoder(config.model_copy(update={"max_tokens": 8}), torch.device("cpu")).digest != encoder.digest
    with pytest.raises(InputError, match="reads at most 512 word pieces, and 513 are asked for"):
        EventEncoder(config.model_copy(update={"max_tokens": 513}), torch.device("cpu"))
