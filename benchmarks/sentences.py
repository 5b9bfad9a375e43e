"""One sentence each for nine labels: how well do they find the users, without a label?

    python benchmarks/sentences.py --config configs/journey/asked.yaml [--set KEY=VALUE]

Takes the finished stages of the config (train, embed), scores the test rows by the cosine of their published vectors
with the sentence's vector from the answer tower, and prints each label's AUC and the lift of the 5 % best rows against
the base rate, with 95 % intervals over users (bootstrap). The sentences were written before any result; they are
answers of the counting rules, put together with the names of Journey's categories.
"""

import argparse

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from ray_ggsm.config import load
from ray_ggsm.embedding.embedder import Embedder
from ray_ggsm.encoders.kinds import load as load_encoder
from ray_ggsm.evaluation.alignment import align
from ray_ggsm.evaluation.labels import read_labels
from ray_ggsm.experiment import Experiment
from ray_ggsm.model.description import SavedEncoder
from ray_ggsm.numerics import unit
from ray_ggsm.stages import Pipeline
from ray_ggsm.tables import open_table

SENTENCES = {
    "concert": "greeting cards wrap party sply: yes, several times",
    "user": "bill: within 3 days",
    "mau": "no bill in 30 days",
    "transit": "coupon misc items: yes, several times",
    "power": "bill worth 500 to 1,000 in 30 days",
    "food": "organics fruit vegetables: yes, several times",
    "movie": "beers ales: yes, several times",
    "achiev": "2 to 4 coupon in 30 days",
    "physical": "20 or more promo in 30 days",
}
SHARE, RESAMPLES = 0.05, 1000


def main() -> None:
    """Score and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", required=True)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--split", choices=("fit", "score"), default="score", help="rows to look at: fit, for choices")
    options = parser.parse_args()
    pipeline = Pipeline.of(load(Experiment, options.config, options.set))
    split = dict(zip(("fit", "score"), pipeline.experiment.probe_splits, strict=True))[options.split]
    table = open_table(pipeline.embed.table).read(columns=["user_id", "as_of", "embedding"])
    rows = align(read_labels(pipeline.prepare.labels(split)), table, "embedding", split)
    vector_ND = unit(rows.vectors)
    sentence_LD = vectors_of(pipeline.train.encoder, list(SENTENCES.values()))
    score_LN = unit(sentence_LD) @ vector_ND.T
    draws = [resample(rows.users, np.random.default_rng(n)) for n in range(RESAMPLES)]
    aucs: list[list[float]] = []
    for label, score_N in zip(SENTENCES, score_LN, strict=True):
        truth_N = rows.labels[label]
        found = [measures(truth_N[index], score_N[index]) for index in [np.arange(len(truth_N)), *draws]]
        aucs.append([auc for auc, _ in found])
        auc, lift = zip(*found, strict=True)
        print(f"{label:9} {SENTENCES[label]:52} AUC {told(auc)}  lift {told(lift)}")
    print(f"mean AUC of {len(rows.users)} rows: {told(np.mean(aucs, axis=0).tolist())}")


def vectors_of(encoder: str, sentences: list[str]) -> np.ndarray:
    """The sentences' vectors, (L, D)."""
    width = SavedEncoder.read(encoder).description.event_width
    loaded = load_encoder(encoder, lambda texts: np.zeros((0, width), np.float32), torch.device("cpu"))
    return Embedder(loaded, 16_384).texts(sentences).vectors


def measures(truth_N: np.ndarray, score_N: np.ndarray) -> tuple[float, float]:
    """AUC, and the positives among the best 5 % against those among all."""
    defined = ~np.isnan(truth_N)
    truth, score = truth_N[defined], score_N[defined]
    best = np.argsort(-score, kind="stable")[: max(1, round(SHARE * len(score)))]
    return float(roc_auc_score(truth, score)), float(truth[best].mean() / truth.mean())


def resample(users_N: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Row positions of users drawn with replacement."""
    names, code_N = np.unique(users_N, return_inverse=True)
    times = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))
    return np.repeat(np.arange(len(users_N)), times[code_N])


def told(values: list[float] | tuple[float, ...]) -> str:
    """The first value, with the interval of the others."""
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return f"{values[0]:.3f} ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    main()
