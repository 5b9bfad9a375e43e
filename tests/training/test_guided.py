"""GG-SM opens first what the answer is about: one informative modality is planted among noise."""

import datetime as dt

import numpy as np
import pyarrow as pa
import torch

from ray_ggsm.masks.ggsm import GGSMConfig
from ray_ggsm.model.batch import Collator
from ray_ggsm.model.config import BackboneConfig, EventEncoderConfig, ModelConfig
from ray_ggsm.model.modality import Modality
from ray_ggsm.model.saved import new_encoder
from ray_ggsm.training.config import TrainingConfig
from ray_ggsm.training.contrastive import Contrastive
from ray_ggsm.training.loop import Trainer
from ray_ggsm.training.mask_log import slot_weights
from ray_ggsm.training.optimizer import OptimizerConfig
from ray_ggsm.training.workers import ALONE
from tests.helpers.encoders import WIDTH, lookup
from tests.helpers.rows import AS_OF, EVENTS, FUTURE

STEPS, WARMUP, ROWS, TOPICS = 60, 45, 48, 6
MODALITIES = (Modality("noise", 40), Modality("topic", 2))


def planted(seed: int) -> pa.Table:
    """Rows whose future repeats the topic of their two `topic` events. Short rows (half of them) have no topic, and
    something else in their future: their few events of `noise` are all that their gradients can go to."""
    rng = np.random.default_rng(seed)

    def events(texts: list[str]) -> list[dict]:
        return [
            {"time": AS_OF - dt.timedelta(days=len(texts) - i), "text": text, "amount": None}
            for i, text in enumerate(texts)
        ]

    topics = [f"topic {t}" if i % 2 else None for i, t in enumerate(rng.integers(0, TOPICS, ROWS))]
    noise = [[f"noise {n}" for n in rng.integers(0, 30, 30 if topic else 3)] for topic in topics]
    tomorrow = AS_OF + dt.timedelta(days=1)
    texts = [topic or f"noise {rng.integers(30)}" for topic in topics]
    future = [[{"modality": "topic", "time": tomorrow, "text": text, "amount": None}] for text in texts]
    return pa.table(
        {
            "user_id": pa.array([f"{seed}-{i}" for i in range(ROWS)]),
            "as_of": pa.array([AS_OF] * ROWS, pa.timestamp("us", "UTC")),
            "noise": pa.array([events(texts) for texts in noise], EVENTS),
            "topic": pa.array([events([topic] * 2) if topic else [] for topic in topics], EVENTS),
            "future": pa.array(future, FUTURE),
        }
    )


def opened(decoder: str, **mask) -> dict[str, torch.Tensor]:
    """Modality -> weights at the end of the warm-up of its slots that a gradient has reached."""
    config = ModelConfig(
        backbone=BackboneConfig(name=decoder, layers=2, weights="random", trained="all"),
        event_encoder=EventEncoderConfig(name="unused"),
        dtype="float32",
        pooling="mean",
    )
    recipe = GGSMConfig(recipe="ggsm", total_steps=STEPS, warmup_share=WARMUP / STEPS, **mask)
    bundle = new_encoder(config, recipe, MODALITIES, (), WIDTH, "events", 0)
    optimizer = OptimizerConfig(learning_rate=1e-2)
    training = TrainingConfig(
        steps=STEPS, batch_size=ROWS, centre_rows=ROWS, temperature=0.1, optimizer=optimizer, checkpoint_every=STEPS
    )
    collator = Collator(bundle.encoder.template, bundle.tokenizer, lookup)
    learner = Contrastive(bundle, collator, training, ALONE, 0, head=planted(0))
    trainer = Trainer(learner, training, ALONE)
    learner.prepare()
    log = [trainer.step(planted(step)) for step in range(WARMUP)]
    assert log[-1]["accuracy"] > 0.4, "the topics were not learned"
    seen_S, names = learner.recipe.seen_S.tolist(), bundle.encoder.template.slot_names
    _, weight_S = slot_weights(bundle.encoder.template, learner.recipe, WARMUP)
    slots = {
        m.name: [i for i, name in enumerate(names) if name.startswith(f"{m.name}[") and seen_S[i]] for m in MODALITIES
    }
    return {name: weight_S[members] for name, members in slots.items()}


def test_guided_opens_the_planted_modality_first(tiny_decoder) -> None:
    weights = opened(tiny_decoder)
    assert weights["topic"].min() > 0.85
    assert weights["noise"].max() < 0.6


def test_what_opening_is_worth_opens_one_of_the_planted_events(tiny_decoder) -> None:
    """The other one says the same, and is worth nothing any more."""
    weights = opened(tiny_decoder, grad_site="mask")
    assert weights["topic"].max() > 0.85
    assert weights["noise"].max() < 0.6


def test_the_published_form_opens_nothing_first(tiny_decoder) -> None:
    weights = opened(tiny_decoder, calibration="none", row_scale="kept", smoothing=0.0)
    assert torch.cat(list(weights.values())).sub(0.5).abs().max() < 0.01
