"""Made-up labels and vectors that follow them, and small probes."""

import numpy as np

from ray_ggsm.evaluation.config import LightGBMConfig, ProbeConfig
from ray_ggsm.evaluation.probes import fit_and_score

CONFIG = ProbeConfig(folds=3, lightgbm=LightGBMConfig(max_rounds=60, patience=5, feature_fraction=1.0))


def planted(rows=400, width=5, seed=0, signal=1.5):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(rows, width)).astype(np.float32)
    labels = (signal * vectors[:, 0] + rng.logistic(size=rows) > 0).astype(np.float32)
    return vectors, labels, np.array([f"u{n // 2}" for n in range(rows)])


def run(kind, train, test, seed=0, config=CONFIG):
    return fit_and_score(kind, *train, *test[:2], config, seed, label="buys")


N = 301


def made_up_labels() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    values = {name: (draw.random(N) < rate).astype(np.float32) for name, rate in {"a": 0.3, "b": 0.6}.items()}
    values["b"][:7] = np.nan
    return values
