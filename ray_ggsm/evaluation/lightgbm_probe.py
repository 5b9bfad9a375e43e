"""The LightGBM probe: a small deterministic boosting, its number of rounds chosen by early stopping on the folds.

Beside the shared matrix the probe holds the binned form of its rows, one byte per value.

Shapes: N rows to fit on, K of them with a label, M rows to score, D vector width.
"""

from dataclasses import dataclass

import lightgbm as lgb
import numpy as np

from ray_ggsm.evaluation import metrics
from ray_ggsm.evaluation.config import LightGBMConfig
from ray_ggsm.evaluation.probe_task import ProbeFit, ProbeTask

Settings = dict[str, str | int | float | bool]


@dataclass(frozen=True)
class LightGBMProbe:
    """A fitted boosting."""

    text: str
    """In LightGBM's own format."""

    def scores(self, vectors_MD: np.ndarray) -> np.ndarray:
        """Probabilities, (M,)."""
        found_M: np.ndarray = lgb.Booster(model_str=self.text).predict(vectors_MD, num_threads=1)
        return found_M


def fit_lightgbm(task: ProbeTask, config: LightGBMConfig, seed: int) -> ProbeFit:
    """Choose the rounds over the folds, fit them on all rows with a label, and score in probabilities."""
    settings = _settings(config, seed)
    data = _binned(task, settings)
    rounds, aucs = [], []
    for fit, held_out in task.folds:
        stop = lgb.early_stopping(config.patience, verbose=False)
        model = lgb.train(
            settings, data.subset(fit), config.max_rounds, valid_sets=[data.subset(held_out)], callbacks=[stop]
        )
        held_out_KD = task.fit_ND[task.rows_K[held_out]]
        scores_K = model.predict(held_out_KD, num_iteration=model.best_iteration, num_threads=1)
        aucs.append(metrics.auc(task.label_K[held_out], scores_K))
        rounds.append(model.best_iteration)
    final_rounds = max(1, round(float(np.mean(rounds))))
    model = lgb.train(settings, data, final_rounds)
    scores_M = model.predict(task.score_MD, num_threads=1)
    probe = LightGBMProbe(model.model_to_string())
    return ProbeFit(scores_M, float(np.mean(aucs)), {"rounds": final_rounds}, probe)


def _settings(config: LightGBMConfig, seed: int) -> Settings:
    """LightGBM's parameters."""
    return {
        "objective": "binary",
        "metric": "binary_logloss",
        "learning_rate": config.learning_rate,
        "num_leaves": config.leaves,
        "min_data_in_leaf": config.min_rows_per_leaf,
        "feature_fraction": config.feature_fraction,
        "max_bin": config.bins,
        "feature_pre_filter": False,
        "deterministic": True,
        "force_col_wise": True,
        "num_threads": 1,
        "seed": seed,
        "verbosity": -1,
    }


def _binned(task: ProbeTask, settings: Settings) -> lgb.Dataset:
    """The rows with a label in LightGBM's form. They are copied before only if some rows have no label."""
    all_labelled = len(task.rows_K) == len(task.fit_ND)
    vectors_KD = task.fit_ND if all_labelled else task.fit_ND[task.rows_K]
    return lgb.Dataset(vectors_KD, task.positive_K.astype(np.float32), params=settings).construct()
