"""Tiny encoders with their event encoder, whose models lie where only this machine finds them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from ray_ggsm.embedding.embedder import Embedder
from ray_ggsm.encoders import kinds
from ray_ggsm.masks import MaskConfig
from ray_ggsm.model import saved
from ray_ggsm.model.batch import Collator
from ray_ggsm.model.config import BackboneConfig, EventEncoderConfig, LoraConfig, ModelConfig
from ray_ggsm.model.event_encoder import EventEncoder
from ray_ggsm.model.modality import PARTS, Modality
from tests.helpers.rows import EVENTS, user_rows

CPU = torch.device("cpu")
BAG = {"width": 4, "contents": 40, "least_rows": 2}
FEATURES = tuple(f"f{i}" for i in range(7))
PLAIN = (Modality("bill", 7), Modality("app", 5))
DETAILED = (Modality("bill", 7, ("shop",), ("items",), True), Modality("app", 5))


def details(users: int, seed: int = 0) -> pa.Table:
    """Rows like `user_rows`, whose bills have fields and parts."""
    rows, rng = user_rows(users, seed), np.random.default_rng(seed)
    fields = pa.struct([("shop", pa.string()), ("items", pa.float64())])
    kind = pa.list_(pa.struct([*EVENTS.value_type, ("fields", fields), ("parts", PARTS)]))
    bills = [
        [
            {
                **event,
                "text": None if rng.random() < 0.3 else event["text"],
                "fields": {"shop": f"shop {rng.integers(3)}", "items": None if rng.random() < 0.2 else 3.0},
                "parts": [{"text": f"item {rng.integers(9)}", "weight": 2.5}, {"text": "milk", "weight": 1.0}],
            }
            for event in bill
        ]
        for bill in rows["bill"].to_pylist()
    ]
    return rows.set_column(rows.column_names.index("bill"), "bill", pa.array(bills, kind))


class Place:
    """A directory with copies of the tiny models, and with encoders."""

    def __init__(self, directory: Path, decoder: str, event_encoder: str) -> None:
        self.directory = directory
        shutil.copytree(decoder, directory / "decoder")
        shutil.copytree(event_encoder, directory / "event_encoder")
        self.events_config = EventEncoderConfig(name=str(directory / "event_encoder"), dtype="float32", max_tokens=16)
        self.events = EventEncoder(self.events_config, CPU)

    def lookup(self, texts: pa.Array) -> np.ndarray:
        """Vectors of event texts, as the store has them."""
        return self.events.encode(texts.to_pylist()) if len(texts) else np.zeros((0, 12), np.float16)

    def language_model(self, mask: MaskConfig, step: int = 0, modalities: tuple[Modality, ...] = PLAIN, **model) -> str:
        """Directory of an encoder whose LoRA, centre and importances are not those of step 0."""
        backbone = BackboneConfig(name=str(self.directory / "decoder"), layers=2)
        config = ModelConfig(
            backbone=backbone, event_encoder=self.events_config, lora=LoraConfig(r=3, alpha=3), tabular_tokens=2,
            **{"dtype": "float32", **model},
        )  # fmt: skip
        bundle = saved.new_encoder(config, mask, modalities, FEATURES, 12, self.events.digest, 0)
        fusion, generator = bundle.encoder.fusion, torch.Generator().manual_seed(3)
        if fusion is not None and fusion.bag is not None:
            collator = Collator(bundle.encoder.template, bundle.tokenizer, self.lookup)
            fusion.bag.fit(*collator.bag(details(24)))
        with torch.no_grad():
            for name, parameter in bundle.encoder.trainable().items():
                if "lora_B" in name:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
            bundle.encoder.centre_user_D.copy_(torch.randn(bundle.encoder.vector_width, generator=generator) * 0.3)
        state = bundle.recipe.state_dict()
        if "importance_S" in state:
            S = bundle.encoder.template.every_slot().n_slots
            bundle.recipe.load_state_dict(
                {"importance_S": torch.rand(S, generator=generator), "seen_S": torch.ones(S, dtype=torch.bool)}
            )
        bundle = saved.EncoderBundle(**{**bundle.__dict__, "step": step})
        saved.save(bundle, str(self.directory / "encoder"))
        return str(self.directory / "encoder")

    def embedded(self, encoder: str, rows: pa.Table, finished_mask: bool = False) -> np.ndarray:
        """What the embed job's actors make of rows, with the models where the encoder's config says."""
        return Embedder(kinds.load(encoder, self.lookup, CPU, finished_mask), 512)(rows).vectors

    def remove_models(self) -> None:
        """Take away all that an export must not need."""
        for name in ("decoder", "event_encoder", "encoder"):
            shutil.rmtree(self.directory / name)


@pytest.fixture
def place(tmp_path: Path, tiny_decoder: str, tiny_event_encoder: str) -> Place:
    return Place(tmp_path, tiny_decoder, tiny_event_encoder)


@pytest.fixture
def detailed_rows() -> Callable[..., pa.Table]:
    """`details`."""
    return details
