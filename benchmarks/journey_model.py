"""The quickstart's model and made-up rows of a given length, for the benchmarks that need no data."""

import datetime as dt

import numpy as np
import pyarrow as pa

from ray_ggsm.config import load
from ray_ggsm.experiment import Experiment
from ray_ggsm.masks import RecipeConfig, with_total_steps
from ray_ggsm.model.saved import Trained, new_encoder
from ray_ggsm.model.template import Modality

CONFIG = "configs/journey/quickstart.yaml"
EVENT_WIDTH = 384
FEATURES = tuple(f"feature{i}" for i in range(281))
_AS_OF = dt.datetime(2024, 3, 1, tzinfo=dt.UTC)
_EVENTS = pa.list_(pa.struct([("time", pa.timestamp("us", "UTC")), ("text", pa.string()), ("amount", pa.float32())]))
_FUTURE = pa.list_(pa.struct([("modality", pa.string()), *_EVENTS.value_type]))


def encoder(
    mask: RecipeConfig, *, attention: str, keep: int, layers: int, steps: int, max_text_tokens: int = 64
) -> Trained:
    """The quickstart's encoder with one modality of `keep` events."""
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
