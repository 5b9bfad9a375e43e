"""Nights that are played one after the other, and what carried vectors cost, computed again without the job's code."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from ray_ggsm.config import build
from ray_ggsm.evaluation.replay import groups_of
from ray_ggsm.experiment import Experiment
from ray_ggsm.on_ray.replay import ReplayConfig, preview, replay
from ray_ggsm.stages import Pipeline
from ray_ggsm.tables import open_table


@pytest.fixture
def config(finished: Experiment, tmp_path: Path) -> ReplayConfig:
    file = tmp_path / "experiment.json"
    gates = {"max_similarity": 1.0, "max_departed_share": 1.0, "min_previous_share": 0.1, "max_mean_distance": 2.0}
    publishing = finished.publishing.model_copy(update={"gates": finished.publishing.gates.model_copy(update=gates)})
    file.write_text(finished.model_copy(update={"publishing": publishing}).model_dump_json())
    values = {
        "experiment": str(file),
        "nights": 3,
        "carry": {"when": "events", "max_age_days": 4},
        "output": str(tmp_path / "nights"),
    }
    return build(ReplayConfig, values, "test")


def test_three_nights(
    finished: Experiment, config: ReplayConfig, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert "3 nights from" in preview(config)
    found = replay(config)
    assert [night.version for night in found.nights] == [0, 1, 2]
    for night in found.nights:
        assert (night.users, night.repeated) == (night.expected, 0)
        assert night.oldest_days < 4
    assert found.nights[0].encoded == found.nights[0].users
    assert 0 < found.nights[2].encoded < found.nights[2].users
    assert found.largest_error < 1e-5

    loss = next(each for each in found.losses if (each.probe, each.group) == ("linear", "all"))
    assert loss.difference == pytest.approx(independent_loss(finished, str(tmp_path / "nights")), abs=1e-9)
    assert loss.low <= loss.difference <= loss.high

    # a night that was played is not played again
    capsys.readouterr()
    assert replay(config).nights == found.nights
    assert "made" not in capsys.readouterr().out
    (page,) = Path(config.output).glob("*/replay.md")
    assert "Users lost or repeated over all nights: 0" in page.read_text()
    assert not list(Path(config.output).glob("*/table/staging/events-*")), "what is laid out by user names users"


def independent_loss(finished: Experiment, output: str) -> float:
    """Mean AUC of the job's kind of probe on the table's vectors minus that on exact ones, with plain Python joins."""
    from ray_ggsm.evaluation.probes import fit_and_score

    place = Pipeline.of(finished)
    exact = {(r["user_id"], r["as_of"]): r["embedding"] for r in open_table(place.embed.table).read().to_pylist()}
    (table,) = Path(output).glob("*/table")
    carried = {row["user_id"]: row["embedding"] for row in open_table(str(table)).read().to_pylist()}
    labels = {split: read(place.prepare.labels(split)) for split in finished.probe_splits}
    last = max(row["as_of"] for row in labels[finished.probe_splits[1]])
    fit, score = labels[finished.probe_splits[0]], [r for r in labels[finished.probe_splits[1]] if r["as_of"] == last]
    fit_ND = np.array([exact[row["user_id"], row["as_of"]] for row in fit], np.float32)
    users = np.array([row["user_id"] for row in fit])
    differences = []
    for label in finished.data.labels:
        truth = np.array([row[label] for row in score], dtype=float)
        aucs = []
        for vectors in ([carried[r["user_id"]] for r in score], [exact[r["user_id"], r["as_of"]] for r in score]):
            known = np.array([row[label] for row in fit], dtype=float)
            result = fit_and_score("linear", fit_ND, known, users, np.array(vectors, np.float32), truth,
                                   finished.evaluation, finished.seed, label=label)  # fmt: skip
            aucs.append(roc_auc_score(truth, result.scores))
        differences.append(aucs[0] - aucs[1])
    return float(np.mean(differences))


def read(directory: str) -> list[dict]:
    return pa.concat_tables([pq.read_table(file) for file in sorted(Path(directory).glob("*.parquet"))]).to_pylist()


def test_groups_cover_every_row_once() -> None:
    silence_N = np.array([0, 2, 3, 6, 7, 13, 14, 29, 30, 400])
    groups = groups_of(silence_N)
    assert groups.pop("all").all()
    np.testing.assert_array_equal(sum(mask.astype(int) for mask in groups.values()), np.ones(10))
    assert {name: int(mask.sum()) for name, mask in groups.items()} == {
        "0 to 2": 2, "3 to 6": 2, "7 to 13": 2, "14 to 29": 2, "30 or more": 2
    }  # fmt: skip
