"""Encoders that an older version saved are loaded as they are: the same digest, and the same vectors.

The directories below `data` were written by version 0.1 (format 2) after four steps of a run of five. A change that
this test refuses breaks the encoders that users have.
"""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from ray_ggsm.embedding.embedder import Embedder
from ray_ggsm.encoders.language_model import LanguageModel
from ray_ggsm.model import saved
from ray_ggsm.model.description import SavedEncoder
from tests.helpers.encoders import lookup

DATA = Path(__file__).parent / "data"
EXPECTED = json.loads((DATA / "expected.json").read_text())


@pytest.fixture(autouse=True)
def _in_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(DATA)  # the encoders' backbone is the directory `decoder`


@pytest.mark.parametrize("name", EXPECTED["encoders"])
def test_vectors_are_the_same(name: str) -> None:
    expected = EXPECTED["encoders"][name]
    bundle = saved.load(name, torch.device("cpu"))
    assert bundle.step == 4
    assert bundle.is_half_way == (bundle.mask.recipe == "ggsm")
    embedder = Embedder(LanguageModel(bundle, lookup), tokens_per_batch=1000)
    # equal to the last bit where the expected numbers come from; other CPUs may round sums differently
    for found, key in (
        (embedder(pq.read_table("rows.parquet")), "users"),
        (embedder.texts(EXPECTED["texts"]), "texts"),
    ):
        np.testing.assert_allclose(found.vectors, np.array(expected[key], dtype=np.float32), atol=2e-6)


@pytest.mark.parametrize("name", EXPECTED["encoders"])
def test_tables_name_the_encoder_by_the_same_digest(name: str) -> None:
    assert SavedEncoder.read(name).digest == EXPECTED["encoders"][name]["digest"]
