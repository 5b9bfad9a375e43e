"""The drift job on tables whose difference is known: turned, partly forgotten, or the same."""

import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from ray_ggsm.cli.jobs import JOBS
from ray_ggsm.cli.main import run
from ray_ggsm.config import InputError
from ray_ggsm.evaluation.metrics import Estimate
from ray_ggsm.on_ray.drift import DriftConfig, DriftResult, drift, preview
from ray_ggsm.tables.compare import UserCounts
from ray_ggsm.tables.compatible import write_map
from ray_ggsm.tables.config import MapConfig
from ray_ggsm.tables.fit_map import fit_map
from ray_ggsm.tables.gates import GateError
from ray_ggsm.tables.metadata import RecordedMap, VersionMetadata
from ray_ggsm.tables.schema import lists, rows_to_table
from ray_ggsm.tables.tagging import tag
from tests.helpers.tables import put, rows

N, D = 400, 6
AS_OF = dt.datetime(2024, 3, 1, tzinfo=dt.UTC)
RNG = np.random.default_rng(0)
VECTORS = RNG.normal(size=(N, D)).astype(np.float32)
USERS = [f"u{i}" for i in range(N)]
TURN = np.linalg.qr(RNG.normal(size=(D, D)))[0].astype(np.float32)


def publish(location: Path, vector_ND: np.ndarray, users: list[str] = USERS, encoder: str = "enc1") -> str:
    as_of = pa.array([AS_OF] * len(users), pa.timestamp("us", "UTC"))
    count_N = np.arange(len(users))
    put(
        str(location),
        rows_to_table(pa.array(users), as_of, "default", count_N, count_N, vector_ND, encoder, "r0"),
        "r0",
        metadata=VersionMetadata(encoder=encoder),
    )
    return str(location)


@pytest.fixture
def labels(tmp_path: Path) -> dict[str, str]:
    """One table for both roles: `loves` follows the first number of the vector, `odd` is undefined for some."""
    loves_N = VECTORS[:, 0] + 0.4 * RNG.normal(size=N) > 0
    odd_N = [None if i % 5 == 0 else bool(value > 0) for i, value in enumerate(RNG.normal(size=N))]
    columns = {
        "user_id": USERS,
        "as_of": pa.array([AS_OF] * N, pa.timestamp("us", "UTC")),
        "role": ["fit" if i < N // 2 else "score" for i in range(N)],
        "loves": loves_N,
        "odd": odd_N,
    }
    pq.write_table(pa.table(columns), tmp_path / "labels.parquet")
    return {"fit": str(tmp_path / "labels.parquet"), "score": str(tmp_path / "labels.parquet")}


@pytest.fixture
def config(tmp_path: Path, labels: dict[str, str]) -> Callable[..., DriftConfig]:
    publish(tmp_path / "old", VECTORS)

    def build(new: str | dict[str, str], **changes) -> DriftConfig:
        values = {
            "old": {"table": str(tmp_path / "old")},
            "new": {"table": new} if isinstance(new, str) else new,
            "output": str(tmp_path / "drift.json"),
            "labels": labels,
            "evaluation": {"kinds": ("linear",), "folds": 3},
            **changes,
        }
        return DriftConfig.model_validate(values)

    return build


def test_turned_vectors_say_the_same(config: Callable, tmp_path: Path, capsys) -> None:
    turned = config(publish(tmp_path / "new", VECTORS @ TURN, encoder="enc2"))
    assert f"{N} of {N} common users" in preview(turned)
    result = drift(turned)
    assert DriftResult.model_validate_json((tmp_path / "drift.json").read_text()) == result
    assert result.moved.cosine["mean"] < 0.9
    assert (result.moved.procrustes, result.moved.overlap) == (pytest.approx(0, abs=1e-3), pytest.approx(1, abs=1e-3))
    for label in ("loves", "odd", "mean"):
        auc = result.auc["linear"][label]
        assert auc.difference.value == pytest.approx(auc.new - auc.old)
        assert abs(auc.difference.value) < 0.02
        assert auc.difference.low <= auc.difference.value <= auc.difference.high
    assert result.auc["linear"]["loves"].old > 0.9
    assert (result.old.encoders, result.new.encoders) == (("enc1",), ("enc2",))
    printed = capsys.readouterr().out
    assert "the encoders differ" in printed
    assert "score: 200 rows; left out: 40 without label 'odd'" in printed


def test_the_same_vectors(config: Callable, tmp_path: Path) -> None:
    result = drift(config(str(tmp_path / "old")))
    assert result.moved.cosine["smallest"] == pytest.approx(1)
    assert (result.moved.procrustes, result.moved.overlap) == (pytest.approx(0, abs=1e-6), 1)
    assert all(auc.difference == Estimate(0, 0, 0) for auc in result.auc["linear"].values())
    assert result.notes == ()


def test_a_tag_is_a_side(config: Callable, tmp_path: Path) -> None:
    new = publish(tmp_path / "new", VECTORS @ TURN)
    tag(new, "turned")
    put(new, rows(N, run="r1"), "r1")
    sides = {"new": {"table": new, "version": "turned"}, "labels": None}
    assert f"version 0 (tag 'turned'); {N}" in preview(config(**sides))
    result = drift(config(**sides))
    assert result.new.version == 0
    assert result.moved.procrustes == pytest.approx(0, abs=1e-3)
    with pytest.raises(InputError, match="no tag 'other'; there are turned"):
        preview(config({"table": new, "version": "other"}))


def test_a_lost_dimension_is_missed_by_the_probe_that_needs_it(config: Callable, tmp_path: Path) -> None:
    """Without the first number the widths differ, and the AUC of `loves` falls to chance."""
    result = drift(config(publish(tmp_path / "new", VECTORS[:, 1:])))
    assert result.moved.cosine is None
    assert "the widths differ" in result.notes[0]
    lost = result.auc["linear"]["loves"]
    assert lost.new < 0.65
    assert lost.difference.high < -0.2


def test_what_a_map_costs(config: Callable, tmp_path: Path, capsys) -> None:
    """A turn costs nothing once it is turned back, whether its map is fitted here or was stored with the version."""
    noisy = VECTORS @ TURN + 0.05 * np.random.default_rng(1).normal(size=(N, D)).astype(np.float32)
    new = publish(tmp_path / "new", noisy, encoder="enc2")
    result = drift(config(new, mapped={"anchors": 150, "kinds": ("rotation",)}))
    cost = result.compatible.auc["linear"]["loves"]
    assert abs(cost.difference.value) < 0.05
    assert cost.difference.value == pytest.approx(cost.mapped - cost.retrained)
    assert cost.raw_difference.high < -0.1, "the turned vectors as they are mean something else to the old probe"
    assert (cost.old, cost.retrained) == tuple(getattr(result.auc["linear"]["loves"], side) for side in ("old", "new"))
    assert "rotation, fitted here on 135 users who are not scored" in result.compatible.made
    printed = capsys.readouterr().out
    assert "mapped - retrained" in printed
    with pytest.raises(InputError, match=r"no map leads from enc2 into the space of enc1 .*there are no maps"):
        drift(config(new, mapped="stored"))

    fitted = fit_map(VECTORS, noisy, MapConfig(kinds=("rotation",)))
    ends = {"instruction": "default", "source": "enc2", "target": "enc1", "file": write_map(new, fitted.map)}
    more = {"kind": "rotation", "anchors": 360, "held_out": 40, "same_moment": True, "agreement": fitted.agreement}
    turned = (
        rows(USERS, run="r1").set_column(3, "embedding", lists(noisy)).set_column(2, "instruction", [["default"] * N])
    )
    put(new, turned, "r1", metadata=VersionMetadata(encoder="enc2", maps=(RecordedMap(**ends, **more),)))
    stored = config(new, mapped="stored", max_loss=0.1)
    result = drift(stored)
    assert result.compatible.made == "stored: rotation enc2 -> enc1"
    assert abs(result.compatible.auc["linear"]["loves"].difference.value) < 0.05
    with pytest.raises(GateError, match=r"may lose 0.0.* mean AUC against retrained ones .* at most 0 allowed"):
        drift(stored.model_copy(update={"max_loss": 0.0}))


def test_people_who_are_in_one_table_only(config: Callable, tmp_path: Path) -> None:
    new = publish(tmp_path / "new", VECTORS[10:], USERS[10:])
    result = drift(config(new, users=100, labels=None))
    assert result.users == UserCounts(old_only=10, new_only=0, both=N - 10, compared=100)
    written = json.loads((tmp_path / "drift.json").read_text())
    assert written.keys() == {"users", "old", "new", "moved", "notes"}
    result = drift(config(new, evaluation={"kinds": ("linear",), "folds": 3, "allow_missing": True}))
    assert result.counts["fit"].without_vector == 10


def test_wrong_input_ends_with_a_sentence(config: Callable, tmp_path: Path, capsys, labels: dict) -> None:
    new = publish(tmp_path / "new", VECTORS[10:], USERS[10:])
    file = tmp_path / "drift.yaml"
    file.write_text(yaml.safe_dump(config(new).model_dump(mode="json")))
    more = pq.read_table(labels["fit"])
    pq.write_table(more.append_column("more", pa.array([True] * len(more))), tmp_path / "other.parquet")
    for settings, sentence in (
        ([], "fit labels: 10 of 200 rows have no row in fit vectors ('embedding' of new)"),
        (["new.instruction=spend"], "has no row of 'spend'; there is 'default'"),
        ([f"labels.fit={tmp_path}/none.parquet"], "no label table here"),
        ([f"labels.score={tmp_path}/other.parquet"], "'more' is a label of only one of"),
        (["neighbors=3"], "unknown key; did you mean 'neighbours'?"),
        (["max_loss=0.01"], "max_loss: only mapped vectors lose something; give mapped"),
    ):
        arguments = ["--config", str(file), *(part for s in settings for part in ("--set", s))]
        assert run(JOBS["drift"], arguments) == 2
        assert sentence in capsys.readouterr().err
    pq.write_table(pq.read_table(labels["fit"]).drop_columns("role"), labels["fit"])
    file.write_text(yaml.safe_dump(config(str(tmp_path / "old")).model_dump(mode="json")))
    assert run(JOBS["drift"], ["--config", str(file)]) == 2
    assert "400 users are in both the fit and the score split" in capsys.readouterr().err
