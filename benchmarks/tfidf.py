"""Hand-crafted features joined with a TF-IDF of what events say: a rival that costs nothing to build.

    python benchmarks/tfidf.py --config FILE [--set KEY=VALUE] [--labels new_federation ...]

Every text field and part of a history's events is a word (`federation=uspa`); words of at least 20 fit rows count.
Features (signed logarithms, standardised) and TF-IDF rows of length 1 go into one logistic regression per label, whose
strength is chosen by cross-validation over users, as in the product's probe. Prints AUCs on the score rows, for the
features alone, the words alone and both.
"""

import argparse
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.preprocessing import StandardScaler

from ray_ggsm import storage
from ray_ggsm.config import load
from ray_ggsm.evaluation.alignment import Aligned, align
from ray_ggsm.evaluation.labels import read_labels
from ray_ggsm.experiment import Experiment
from ray_ggsm.model.events import history_events
from ray_ggsm.numerics import signed_log
from ray_ggsm.stages import Pipeline

STRENGTHS = (0.01, 0.1, 1.0, 3.0, 10.0)
LEAST_ROWS = 20


def main() -> None:
    """Fit and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", required=True)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--labels", nargs="*", help="default: all")
    options = parser.parse_args()
    pipeline = Pipeline.of(load(Experiment, options.config, options.set))
    (fit, fit_words), (score, score_words) = (rows_of(pipeline, split) for split in pipeline.experiment.probe_splits)
    tfidf = TfidfVectorizer(analyzer=list, min_df=LEAST_ROWS, sublinear_tf=True)
    fit_W, score_W = tfidf.fit_transform(fit_words), tfidf.transform(score_words)
    scaler = StandardScaler().fit(signed_log(fit.vectors))
    fit_F, score_F = (sparse.csr_matrix(scaler.transform(signed_log(each.vectors))) for each in (fit, score))
    inputs = {
        "features": (fit_F, score_F),
        f"{fit_W.shape[1]:,} words": (fit_W, score_W),
        "both": (sparse.hstack([fit_F, fit_W]).tocsr(), sparse.hstack([score_F, score_W]).tocsr()),
    }
    for label in options.labels or fit.labels:
        found = {name: auc(fit, score, label, *pair) for name, pair in inputs.items()}
        print(f"{label:16} " + "  ".join(f"{name} {value:.4f}" for name, value in found.items()), flush=True)


def rows_of(pipeline: Pipeline, split: str) -> tuple[Aligned, list[list[str]]]:
    """Features and labels of a split, and each row's words."""
    tables, words = [], []
    for file in storage.list_files(pipeline.prepare.rows(split), ".parquet"):
        rows = pq.read_table(file)
        words += words_of(rows, pipeline)
        tables.append(rows.select(["user_id", "as_of", "tabular"]))
    table = pa.concat_tables(tables)
    aligned = align(read_labels(pipeline.prepare.labels(split)), table, "tabular", split)
    numbered = table.select(["user_id", "as_of"]).append_column(
        "place", pa.array([[float(n)] for n in range(len(table))])
    )
    place = align(read_labels(pipeline.prepare.labels(split)), numbered, "place", split).vectors[:, 0].astype(int)
    return aligned, [words[n] for n in place.tolist()]


def words_of(rows: pa.Table, pipeline: Pipeline) -> list[list[str]]:
    """What each row's events say, a word per text field and part."""
    modalities = pipeline.experiment.modalities
    events = history_events(rows, modalities)
    columns = [
        [None if value is None else f"{name}={value}" for value in values.to_pylist()]
        for name, values in events.fields.items()
        if pa.types.is_string(values.type)
    ]
    texts = events.text_E.to_pylist()
    parts = events.parts_E.to_pylist() if events.parts_E is not None else [None] * len(texts)
    bounds = np.concatenate([[0], np.cumsum(events.count_MB.reshape(-1))]).tolist()
    found: list[list[str]] = [[] for _ in range(len(rows))]
    for cell, (start, end) in enumerate(pairwise(bounds)):
        row = found[cell % len(rows)]
        for e in range(start, end):
            row += [column[e] for column in columns if column[e] is not None]
            row += [part["text"] for part in parts[e] or ()]
            row += [texts[e]] if texts[e] is not None else []
    return found


def auc(fit: Aligned, score: Aligned, label: str, fit_X: sparse.csr_matrix, score_X: sparse.csr_matrix) -> float:
    """On the score rows, with the strength that is best on held-out folds of the fit rows."""
    known = np.flatnonzero(~np.isnan(fit.labels[label]))
    truth, rows, users = fit.labels[label][known] == 1, fit_X[known], fit.users[known]
    folds = list(StratifiedGroupKFold(5, shuffle=True, random_state=0).split(rows, truth, users))

    def fold_auc(strength: float) -> float:
        models = ((model(strength).fit(rows[a], truth[a]), b) for a, b in folds)
        return float(np.mean([roc_auc_score(truth[b], fitted.decision_function(rows[b])) for fitted, b in models]))

    best = max(STRENGTHS, key=fold_auc)
    there = np.flatnonzero(~np.isnan(score.labels[label]))
    fitted = model(best).fit(rows, truth)
    return float(roc_auc_score(score.labels[label][there] == 1, fitted.decision_function(score_X[there])))


def model(strength: float) -> LogisticRegression:
    """A logistic regression."""
    return LogisticRegression(C=strength, max_iter=300)


if __name__ == "__main__":
    main()
