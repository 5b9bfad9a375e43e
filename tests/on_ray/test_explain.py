"""The explain job on the finished run: evaluate keeps its probes, and they explain test users."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ray_ggsm.config import InputError, build
from ray_ggsm.evaluation.labels import read_labels
from ray_ggsm.evaluation.metrics import auc
from ray_ggsm.evaluation.saved_probes import load_probe
from ray_ggsm.experiment import Experiment
from ray_ggsm.on_ray.explain import ExplainConfig, explain, preview
from ray_ggsm.stages import Pipeline
from ray_ggsm.tables import open_table


def test_the_events_of_test_users_are_explained_with_the_evaluations_own_probe(
    finished: Experiment, tmp_path: Path
) -> None:
    pipeline = Pipeline.of(finished)
    values = {
        "encoder": pipeline.train.encoder, "probes": pipeline.evaluate.probes, "label": "buys", "sample": 9,
        "rows": f"{pipeline.prepare.rows('test')}/*.parquet", "output": str(tmp_path / "out"),
        "deletion": {"events": 2, "draws": 2}, "gradients": {"steps": 4},
    }  # fmt: skip
    config = build(ExplainConfig, values, "test")
    assert "9 users" in preview(config)
    report = explain(config)
    events = pq.read_table(tmp_path / "out" / "events.parquet")
    assert json.loads((tmp_path / "out" / "explain.json").read_text())["events"] == len(events) == report.events
    assert "text" not in events.column_names
    assert (tmp_path / "out" / "explain.html").exists()

    # the same scores as the probe gives the table's vectors, with the AUC of results.json
    probe = load_probe(pipeline.evaluate.probes, "buys", "linear")
    labels = read_labels(pipeline.prepare.labels("test"))
    table = open_table(pipeline.embed.require().table).read(columns=["user_id", "as_of", "embedding"])
    keyed = {(u, t): v for u, t, v in zip(*(table[c].to_pylist() for c in table.column_names), strict=True)}
    keys = list(zip(labels["user_id"].to_pylist(), labels["as_of"].to_pylist(), strict=True))
    scores = probe.probe.scores(np.array([keyed[key] for key in keys], dtype=np.float32))
    truth = labels["buys"].cast("float32").to_numpy()
    results = json.loads(Path(pipeline.evaluate.results_file).read_text())
    assert auc(truth, scores) == results["encoder"]["linear"]["buys"]["auc"] == probe.description.auc
    by_key = dict(zip(keys, scores, strict=True))
    for row in events.to_pylist():
        assert row["score"] == pytest.approx(by_key[row["user_id"], row["as_of"]], abs=0.02)

    with pytest.raises(InputError, match="none of the 1 users has a row"):
        explain(build(ExplainConfig, values | {"users": ["nobody"]}, "test"))
    with pytest.raises(InputError, match="this probe was fitted on vectors of the encoder"):
        preview(build(ExplainConfig, values | {"encoder": pipeline.train.untrained}, "test"))
    with pytest.raises(InputError, match="integrated gradients need a language model and a linear probe"):
        preview(build(ExplainConfig, values | {"probe": "lightgbm"}, "test"))
