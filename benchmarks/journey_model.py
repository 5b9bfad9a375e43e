"""What the benchmarks share: the encoder of configs/journey/language_model.yaml, on made-up rows or on Journey's."""

import datetime as dt
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from ray_ggsm.config import load
from ray_ggsm.data.texts import event_texts
from ray_ggsm.experiment import Experiment
from ray_ggsm.hashing import hash64
from ray_ggsm.masks import RecipeConfig, with_total_steps
from ray_ggsm.model.batch import Collator
from ray_ggsm.model.config import PretrainedConfig
from ray_ggsm.model.event_encoder import EventEncoder
from ray_ggsm.model.event_vectors import EventVectors, Segment
from ray_ggsm.model.modality import Modality
from ray_ggsm.model.saved import EncoderBundle, new_encoder
from ray_ggsm.model.source import load_model, load_tokenizer
from ray_ggsm.training.contrastive import Contrastive
from ray_ggsm.training.workers import ALONE

CONFIG = "configs/journey/language_model.yaml"
EVENT_WIDTH = 384
FEATURES = tuple(f"feature{i}" for i in range(281))
_AS_OF = dt.datetime(2024, 3, 1, tzinfo=dt.UTC)
_EVENTS = pa.list_(pa.struct([("time", pa.timestamp("us", "UTC")), ("text", pa.string()), ("amount", pa.float32())]))
_FUTURE = pa.list_(pa.struct([("modality", pa.string()), *_EVENTS.value_type]))


def encoder(
    mask: RecipeConfig, *, attention: str, keep: int, layers: int, steps: int, max_text_tokens: int = 64
) -> EncoderBundle:
    """The same encoder with one modality of `keep` events."""
    model = load(Experiment, CONFIG).model
    backbone = model.backbone.model_copy(update={"layers": layers})
    changed = {"attention": attention, "backbone": backbone, "max_text_tokens": max_text_tokens}
    model = model.model_copy(update=changed)
    mask = with_total_steps(mask, steps)
    return new_encoder(model, mask, (Modality("bill", keep),), FEATURES, EVENT_WIDTH, "none", 0)


def rows(n: int, events: int, future: int) -> pa.Table:
    """`n` users with `events` events each in the past and `future` in the future."""
    rng = np.random.default_rng(0)

    def made_up(count: int, sign: int) -> list[dict]:
        days = np.linspace(80, 1, count)
        return [
            {"time": _AS_OF - sign * dt.timedelta(days=d), "text": f"item {rng.integers(500)}", "amount": 1.0}
            for d in days
        ]

    return pa.table(
        {
            "user_id": [f"user {i}" for i in range(n)],
            "as_of": pa.array([_AS_OF] * n, pa.timestamp("us", "UTC")),
            "bill": pa.array([made_up(events, 1) for _ in range(n)], _EVENTS),
            "tabular": pa.array(rng.normal(size=(n, len(FEATURES))).tolist(), pa.list_(pa.float32())),
            "future": pa.array([[{"modality": "bill", **e} for e in made_up(future, -1)] for _ in range(n)], _FUTURE),
        }
    )


def lookup(texts: pa.Array) -> np.ndarray:
    """Random event vectors, the same for the same text."""
    table = np.random.default_rng(1).normal(size=(500, EVENT_WIDTH)).astype(np.float32)
    return table[[int(text.removeprefix("item ")) for text in texts.to_pylist()]]


def write_plain(config: PretrainedConfig, directory: str) -> Any:
    """Write the decoder and its tokenizer where sentence-transformers can load them; returns the decoder's config."""
    model = load_model(config, torch.bfloat16)
    for attribute in ("hf_quantizer", "quantization_method", "is_quantized"):
        if hasattr(model, attribute):
            delattr(model, attribute)
    model.config.__dict__.pop("quantization_config", None)
    model.save_pretrained(directory)
    tokenizer = load_tokenizer(config)
    tokenizer.chat_template = None  # else sentence-transformers puts every text into a chat of its own
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(directory)
    return model.config


def vectors_of(experiment: Experiment, rows: pa.Table) -> EventVectors:
    """Event vectors of all texts of events and parts in the rows."""
    columns = [rows[name].combine_chunks() for name in (*experiment.data.modalities, "future")]
    found = [texts for column in columns for texts in event_texts(pc.list_flatten(column))]
    texts = pc.unique(pa.chunked_array(found, pa.string()).drop_null())
    order = np.argsort(hash64(texts))
    encoded = EventEncoder(experiment.model.event_encoder, torch.device("cpu")).encode(texts.to_pylist())
    return EventVectors([Segment(hash64(texts)[order], encoded[order])])


def journey_learner(experiment: Experiment, rows: pa.Table, mask: RecipeConfig, graph_tokens: int) -> Contrastive:
    """The same encoder's learner on real rows, whose event texts are encoded here."""
    modalities = experiment.modalities
    features = tuple(f"f{i}" for i in range(len(rows["tabular"][0])))
    lookup = vectors_of(experiment, rows)
    bundle = new_encoder(experiment.model, mask, modalities, features, lookup.width, "none", 0)
    collator = Collator(bundle.encoder.template, bundle.tokenizer, lookup)
    changes = {"batch_size": len(rows), "graph_tokens": graph_tokens, "centre_rows": 64}
    config = experiment.training.model_copy(update=changes)
    learner = Contrastive(bundle, collator, config, ALONE, 0, head=rows)
    learner.prepare()
    return learner
