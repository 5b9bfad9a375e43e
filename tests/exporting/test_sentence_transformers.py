"""Directories of sentence-transformers give the embed job's vectors, when everything else is gone."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from ray_ggsm.cli.export import ExportConfig, export
from ray_ggsm.config import InputError
from ray_ggsm.encoders import kinds
from ray_ggsm.encoders.kinds import Inputs, Run, new_learner
from ray_ggsm.encoders.rendered import row_texts
from ray_ggsm.masks.fixed import BidirectionalConfig
from ray_ggsm.masks.ggsm import GGSMConfig
from ray_ggsm.model.description import SavedEncoder
from ray_ggsm.model.kinds import CpcConfig, TextConfig
from ray_ggsm.training.config import TrainingConfig
from ray_ggsm.training.workers import ALONE
from tests.exporting.conftest import BAG, CPU, DETAILED, FEATURES, PLAIN, Place
from tests.helpers.rows import user_rows

pytest.importorskip("sentence_transformers")
GGSM = GGSMConfig(recipe="ggsm", total_steps=10)


def exported(encoder: str, output: Path, **more) -> str:
    export(ExportConfig(target="sentence_transformers", encoder=encoder, output=str(output), **more))
    return str(output)


def encode(directory: str, rows: list, **more) -> np.ndarray:
    from ray_ggsm.exporting.user_rows import open_model

    found: np.ndarray = open_model(directory).encode(rows, **more)
    return found


@pytest.mark.parametrize("mask", ["trained", "inference"])
def test_fields_parts_features_fusion_and_a_half_open_mask(
    place: Place, tmp_path: Path, detailed_rows: Callable[..., pa.Table], mask: str
) -> None:
    from sentence_transformers import SentenceTransformer

    rows = detailed_rows(24)
    encoder = place.language_model(GGSM, 6, DETAILED, pooling="mean", fusion={"width": 5, "hidden": 6, "bag": BAG})
    wanted, other = (place.embedded(encoder, rows, finished) for finished in (mask == "inference", mask == "trained"))
    digest = SavedEncoder.read(encoder).digest
    output = exported(encoder, tmp_path / "out", mask=mask)
    place.remove_models()
    found = encode(output, rows.to_pylist(), batch_size=5)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert np.abs(found - other).max() > 1e-3, "the masks are told apart"
    trusted = SentenceTransformer(output, trust_remote_code=True, device="cpu")
    np.testing.assert_allclose(trusted.encode(rows.to_pylist()[:3]), wanted[:3], atol=1e-5)
    assert trusted.get_embedding_dimension() == wanted.shape[1]
    with pytest.raises(ValueError, match="trust_remote_code"):
        SentenceTransformer(output)

    manifest = json.loads((tmp_path / "out" / "export.json").read_text())
    assert (manifest["encoder"], manifest["format"], manifest["alpha"]) == (digest, 1, 0.5 if mask == "trained" else 1)
    assert not [file for file in (tmp_path / "out").rglob("*") if file.suffix in (".bin", ".pkl", ".pt", ".py")]


def test_masks_have_digests_of_their_own(place: Place, tmp_path: Path) -> None:
    encoder = place.language_model(GGSM, 6)
    places = [exported(encoder, tmp_path / mask, mask=mask) for mask in ("trained", "inference")]
    first, second = (json.loads(Path(p, "export.json").read_text()) for p in places)
    assert first["mask"] != second["mask"]
    assert {k: v for k, v in first.items() if k not in ("mask", "alpha", "finished_mask")} == {
        k: v for k, v in second.items() if k not in ("mask", "alpha", "finished_mask")
    }


def test_an_instruction_is_the_query_of_every_row(place: Place, tmp_path: Path) -> None:
    rows = user_rows(9)
    encoder = place.language_model(BidirectionalConfig(recipe="bidirectional"))
    asked = rows.append_column("query", pa.array(["buys baby food"] * 9))
    wanted, plain = place.embedded(encoder, asked), place.embedded(encoder, rows)
    fixed = exported(encoder, tmp_path / "fixed", instruction="buys baby food")
    free = exported(encoder, tmp_path / "free")
    np.testing.assert_allclose(encode(fixed, rows.to_pylist()), wanted, atol=1e-5)
    np.testing.assert_allclose(encode(free, asked.to_pylist()), wanted, atol=1e-5)
    np.testing.assert_allclose(encode(free, rows.to_pylist()), plain, atol=1e-5)
    assert np.abs(wanted - plain).max() > 1e-3
    with pytest.raises(InputError, match="leave out `query`"):
        encode(fixed, asked.to_pylist())
    long = rows.append_column("query", pa.array([*["buys baby food"] * 7, "buys tea" * 20, None]))
    with pytest.raises(InputError, match=r"rows: the `query` that begins 'buys teabuys .*' is \d+ tokens longer"):
        encode(free, long.to_pylist())
    with pytest.raises(InputError, match=r"^instruction: .* tokens with the word before it, and the encoder reads 64"):
        exported(encoder, tmp_path / "long", instruction="buys tea" * 20)
    with pytest.raises(InputError, match="take no prompt"):
        encode(free, rows.to_pylist(), prompt="who: ")


def test_a_small_kind(place: Place, tmp_path: Path, detailed_rows: Callable[..., pa.Table]) -> None:
    rows = detailed_rows(16)
    config = CpcConfig(kind="cpc", event_encoder=place.events_config, state=10, width=8)
    inputs = Inputs(DETAILED, FEATURES, (), 12, place.events.digest, place.lookup)
    learner = new_learner(config, None, inputs, Run(TrainingConfig(steps=1, batch_size=8), ALONE, 0, rows, 80, CPU))
    learner.prepare()
    learner.save_encoder(str(tmp_path / "encoder"))
    wanted = place.embedded(str(tmp_path / "encoder"), rows)
    output = exported(str(tmp_path / "encoder"), tmp_path / "out")
    place.remove_models()
    np.testing.assert_allclose(encode(output, rows.to_pylist()), wanted, atol=1e-5)
    with pytest.raises(InputError, match="reads no `query`"):
        encode(output, [{**row, "query": "who?"} for row in rows.to_pylist()])


def text_encoder(directory: Path, tiny_decoder: str, dtype: str = "float32") -> str:
    """An encoder of the kind `text` on a decoder whose configuration opens its attention."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    decoder = directory / "opened"
    decoder.mkdir()
    for file in Path(tiny_decoder).iterdir():
        (decoder / file.name).write_bytes(file.read_bytes())
    config = json.loads((decoder / "config.json").read_text())
    (decoder / "config.json").write_text(json.dumps({**config, "is_causal": False}))
    transformer = Transformer(str(decoder), max_seq_length=100)
    model = SentenceTransformer(modules=[transformer, Pooling(24, "mean")], device="cpu")
    states = [model(dict(model.preprocess([text])))["token_embeddings"][0, 0] for text in ("first a", "first b")]
    assert not torch.equal(*states), "the first token sees the last"
    model.save(str(directory / "model"), create_model_card=False)
    values = TextConfig(kind="text", name=str(directory / "model"), prompt="user: ", dtype=dtype, max_tokens=60)
    rows = user_rows(24)
    inputs = Inputs(PLAIN, FEATURES, (), 0, "", lambda texts: np.zeros((len(texts), 0), np.float32))
    learner = new_learner(values, None, inputs, Run(TrainingConfig(steps=1, batch_size=8), ALONE, 0, rows, 80, CPU))
    learner.prepare()
    learner.save_encoder(str(directory / "encoder"))
    return str(directory / "encoder")


def test_texts_need_modules_of_the_library_alone(tmp_path: Path, tiny_decoder: str) -> None:
    """And a decoder that its configuration opens stays open: no code of this package is in the directory."""
    from sentence_transformers import SentenceTransformer

    from ray_ggsm.embedding.embedder import Embedder

    encoder, rows = text_encoder(tmp_path, tiny_decoder), user_rows(24)
    wanted = Embedder(kinds.load(encoder, lambda texts: np.zeros((len(texts), 0)), CPU), 512)(rows).vectors
    output = exported(encoder, tmp_path / "out")
    assert "ray_ggsm" not in (tmp_path / "out" / "modules.json").read_text()
    texts = row_texts(rows, PLAIN, FEATURES, 64)
    assert max(map(len, texts)) > 60, "some are cut"
    found = SentenceTransformer(output, device="cpu").encode(texts, batch_size=7)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert json.loads((tmp_path / "out" / "export.json").read_text())["mask"] is None


def test_texts_in_bfloat16_are_refused(tmp_path: Path, tiny_decoder: str) -> None:
    encoder = text_encoder(tmp_path, tiny_decoder, "bfloat16")
    with pytest.raises(InputError, match="computes in bfloat16"):
        exported(encoder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
