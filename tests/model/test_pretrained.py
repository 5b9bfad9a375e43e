"""Encoders that have their pretrained models with them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from ray_ggsm.config import InputError
from ray_ggsm.embedding.embedder import Embedder
from ray_ggsm.encoders.kinds import load
from ray_ggsm.masks.fixed import CausalConfig
from ray_ggsm.model import saved
from ray_ggsm.model.config import BackboneConfig, EventEncoderConfig, LoraConfig, ModelConfig
from ray_ggsm.model.description import SavedEncoder
from ray_ggsm.model.event_encoder import EventEncoder
from ray_ggsm.model.event_vectors import find, part
from ray_ggsm.model.modality import Modality
from ray_ggsm.model.pretrained import DIRECTORY, is_packed, pack, packed
from ray_ggsm.storage import write_parquet
from tests.helpers.encoders import WIDTH, lookup
from tests.helpers.models import write_decoder, write_event_encoder
from tests.helpers.rows import user_rows

CPU = torch.device("cpu")
TEXTS = ["milk", "a longer text about bread", "苹果"]
BACKBONES = {
    "lora": {},
    "all": {"trained": "all"},
    "random": {"trained": "all", "weights": "random", "width": 12},
}


@pytest.fixture
def encoder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The directory of an encoder whose weights have moved; the models that it is made of lie beside it."""
    for name, write in (("decoder", write_decoder), ("events", write_event_encoder)):
        (tmp_path / name).mkdir()
        write(tmp_path / name)
    events = EventEncoderConfig(name=str(tmp_path / "events"))
    config = ModelConfig(
        backbone=BackboneConfig(name=str(tmp_path / "decoder"), layers=2, **BACKBONES[request.param]),
        event_encoder=events, lora=LoraConfig(r=3, alpha=3), dtype="float32",
    )  # fmt: skip
    modalities, features = (Modality("bill", 7), Modality("app", 5)), tuple(f"f{i}" for i in range(7))
    digest = EventEncoder(events, CPU).digest
    bundle = saved.new_encoder(config, CausalConfig(recipe="causal"), modalities, features, WIDTH, digest, 0)
    with torch.no_grad():
        for parameter in bundle.encoder.trainable().values():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    saved.save(bundle, str(tmp_path / "encoder"))
    return tmp_path / "encoder"


def vectors(encoder: Path) -> np.ndarray:
    return Embedder(load(str(encoder), lookup, CPU), 4096)(user_rows(5)).vectors


def event_vectors(encoder: Path) -> np.ndarray:
    config = SavedEncoder.read(str(encoder)).description.model.event_encoder
    with packed(str(encoder), "event_encoder") as directory:
        return EventEncoder(config, CPU, directory).encode(TEXTS)


def contents(directory: Path) -> dict[str, bytes]:
    return {str(f.relative_to(directory)): f.read_bytes() for f in directory.rglob("*") if f.is_file()}


@pytest.mark.parametrize("encoder", BACKBONES, indirect=True)
def test_a_packed_encoder_gives_equal_vectors_when_its_sources_and_the_hub_are_gone(
    encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest of its directory, and the digest that tables name it by, stay as they are."""
    before, digest = contents(encoder), SavedEncoder.read(str(encoder)).digest
    expected, expected_events = vectors(encoder), event_vectors(encoder)
    pack(SavedEncoder.read(str(encoder)))
    after = contents(encoder)
    assert {name: data for name, data in after.items() if not name.startswith(DIRECTORY)} == before
    assert {name.split("/")[1] for name in after.keys() - before.keys()} == {"backbone", "event_encoder", "packed.json"}
    assert SavedEncoder.read(str(encoder)).digest == digest

    moved = encoder.parent.parent / f"{encoder.parent.name}-moved"
    shutil.move(encoder, moved)
    for name in ("decoder", "events"):
        shutil.rmtree(encoder.parent / name)
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("nothing may be asked for"))
    np.testing.assert_array_equal(vectors(moved), expected)
    np.testing.assert_array_equal(event_vectors(moved), expected_events)
    (moved / DIRECTORY / "packed.json").unlink()
    with pytest.raises(InputError, match=r"cannot be (loaded|made)"):  # it was not the source that was read
        vectors(moved)


@pytest.mark.parametrize("encoder", ["lora"], indirect=True)
def test_damaged_weights_are_a_sentence(encoder: Path) -> None:
    pack(SavedEncoder.read(str(encoder)))
    file = encoder / DIRECTORY / "backbone" / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(InputError, match=r"expected backbone weights .* found"):
        vectors(encoder)
    file.write_bytes(data[:100])
    with pytest.raises(InputError, match=r"decoder' cannot be loaded from .*pretrained/backbone"):
        vectors(encoder)
    file.unlink()
    with pytest.raises(InputError, match=r"decoder' cannot be loaded from .*pretrained/backbone"):
        vectors(encoder)


@pytest.mark.parametrize("encoder", ["lora"], indirect=True)
def test_other_weights_than_those_of_training_are_not_packed(encoder: Path) -> None:
    source = encoder.parent / "events" / "model.safetensors"
    data = source.read_bytes()
    source.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(InputError, match=r"it was trained with the weights .* 'events'|events' is"):
        pack(SavedEncoder.read(str(encoder)))
    assert not is_packed(str(encoder))
    assert DIRECTORY not in json.dumps(sorted(contents(encoder)))


def test_a_fresh_machine_takes_event_vectors_from_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its copy is made of the store's files, to the bit, whichever machine wrote them; nothing is encoded."""
    monkeypatch.setattr(EventEncoder, "__init__", lambda *_: pytest.fail("no event encoder is needed"))
    texts = [pa.array([f"text {n}" for n in range(start, start + 50)]) for start in (0, 40, 80)]
    made = [np.random.default_rng(n).normal(size=(50, 3)).astype(np.float16) for n in range(3)]
    for n in (1, 2):
        made[n][:10] = made[n - 1][40:]  # equal texts have equal vectors
    for n, (text, vector_NH) in enumerate(zip(texts, made, strict=True)):
        write_parquet(str(tmp_path / "store" / f"{n}.parquet"), part(text, vector_NH))
    for machine in ("first", "second"):
        store = find(str(tmp_path / "store"), str(tmp_path / machine)).open()
        assert len(store) == 130
        for text, vector_NH in zip(texts, made, strict=True):
            np.testing.assert_array_equal(store(text), vector_NH)
