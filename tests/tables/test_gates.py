"""Each gate against a planted defect, and against tables that are fine."""

import pickle

import numpy as np
import pyarrow as pa
import pytest

from ray_ggsm.hashing import bucket_of
from ray_ggsm.tables import open_table
from ray_ggsm.tables.checks import ANCHORS, carried, check_file, merge, published
from ray_ggsm.tables.gates import GateError, GatesConfig, enforce, judge
from ray_ggsm.tables.schema import matrix, rows_to_table
from tests.helpers.tables import BUCKETS, put, rows

N = 600


def with_vectors(table: pa.Table, vector_ND: np.ndarray, content_N: np.ndarray | None = None) -> pa.Table:
    content_N = table["content"].to_numpy() if content_N is None else content_N
    return rows_to_table(
        table["user_id"], table["as_of"], "", table["events"].to_numpy(), content_N, vector_ND, "enc1", "r1"
    )


def failed(found, previous=None, config=None, **options) -> dict[str, str]:
    options = {"expected_rows": found.rows, "dead_letters": 0, "encoder": "enc1", **options}
    options = {"previous_encoder": "enc1" if previous else None, **options}
    verdicts = judge(config or GatesConfig(), found, previous=previous, **options)
    assert len({verdict.gate for verdict in verdicts}) == len(verdicts)
    return {verdict.gate: verdict.sentence for verdict in verdicts if not verdict.passed}


def planted(change) -> dict[str, str]:
    table = rows(N)
    vector_ND = matrix(table["embedding"]).copy()
    change(vector_ND)
    return failed(check_file(with_vectors(table, vector_ND)))


def test_a_good_table_passes():
    found = check_file(rows(N))
    assert failed(found) == failed(found, found) == {}
    assert (found.rows, found.keys, found.widths, found.measured) == (N, N, (7,), N)
    assert found.norm_min == pytest.approx(1)
    assert len(found.anchors) == ANCHORS
    enforce(
        judge(GatesConfig(), found, expected_rows=N, dead_letters=0, encoder="", previous=None, previous_encoder=None)
    )


@pytest.mark.parametrize(
    ("gate", "row", "value", "sentence"),
    [
        ("finite", 3, np.nan, "1 vectors with NaN"),
        ("finite", 3, np.inf, "1 vectors with NaN"),
        ("zero", slice(5, 8), 0.0, "3 zero vectors"),
        ("constant", 5, 0.3, "1 vectors whose values are all the same"),
        ("norm", 9, [9, 0, 0, 0, 0, 0, 0], "and 9.0000"),
        ("norm", 9, [0.1, 0, 0, 0, 0, 0, 0], "between 0.1000"),
    ],
)
def test_planted_vectors(gate, row, value, sentence):
    found = planted(lambda vector_ND: vector_ND.__setitem__(row, value))
    assert sentence in found.pop(gate)
    assert set(found) <= {"norm"}  # a zero vector has no length either


def test_collapse():
    same = np.random.default_rng(0).normal(size=7)
    found = planted(lambda vector_ND: vector_ND.__setitem__(slice(None), same / np.linalg.norm(same)))
    assert list(found) == ["collapse"]


def test_widths():
    mixed = pa.concat_tables([rows(5), rows(["a", "b"], width=3)])
    assert "width 3, 7" in failed(check_file(mixed))["width"]
    assert "width 3, 7" in failed(merge([check_file(rows(5)), check_file(rows(["a", "b"], width=3))]))["width"]
    assert "width 0" in failed(check_file(rows(5, width=0)))["width"]


def test_counts():
    found = check_file(rows(N))
    for options, gates in [
        ({"expected_rows": N + 1}, {"coverage"}),
        ({"expected_rows": N + 1, "dead_letters": 1}, set()),
        ({"expected_rows": N + 9, "dead_letters": 9}, {"dead_letters"}),
        ({"expected_rows": N - 1}, {"coverage"}),
        ({"expected_rows": 0}, {"coverage"}),
        ({"expected_rows": N + 6, "config": GatesConfig(min_coverage=0.98)}, set()),
    ]:
        assert set(failed(found, **options)) == gates, options
    assert set(failed(found, carried(667))) == {"previous"}
    assert failed(found, carried(666)) == {}
    twice = check_file(pa.concat_tables([rows(N), rows(3)]))
    assert failed(twice) == {"duplicates": "3 rows repeat a (user_id, as_of, instruction); none may"}
    assert set(failed(check_file(rows(0)))) == {"coverage"}


def test_checks_merge_like_one_file():
    table = pa.concat_tables([rows(N), rows(N, instruction="churn", seed=1)])
    bucket_N = bucket_of(table["user_id"], BUCKETS)
    parts = [check_file(table.filter(pa.array(bucket_N == k))) for k in range(BUCKETS)]
    parts = [pickle.loads(pickle.dumps(part)) for part in parts]  # they travel between machines
    one, many = check_file(table), merge(parts)
    assert one.anchors.sort_by([("user_id", "ascending"), ("instruction", "ascending")]).equals(
        many.anchors.sort_by([("user_id", "ascending"), ("instruction", "ascending")]).combine_chunks()
    )
    assert many.norm_sum == pytest.approx(one.norm_sum)
    for name in ("rows", "keys", "widths", "not_finite", "zero", "constant", "measured", "norm_min", "norm_max"):
        assert getattr(one, name) == getattr(many, name)
    assert len(one.anchors) == 2 * ANCHORS
    assert merge([many, carried(5)]).rows == 2 * N + 5


def test_drift_with_the_same_encoder():
    table, rng = rows(N), np.random.default_rng(1)
    old_ND, before = matrix(table["embedding"]), check_file(table)
    rotated = with_vectors(table, old_ND @ np.linalg.qr(rng.normal(size=(7, 7)))[0])
    found = failed(check_file(rotated), before)
    assert set(found) == {"unchanged", "drift"}
    assert "Procrustes distance 0.0000" in found["drift"]
    assert "nearest neighbours 100.0%" in found["drift"]
    noisy_ND = old_ND + rng.normal(size=old_ND.shape).astype(np.float32) * 0.05
    all_new = np.arange(N) + 10**6
    assert set(failed(check_file(with_vectors(table, noisy_ND)), before)) == {"unchanged"}
    assert failed(check_file(with_vectors(table, noisy_ND, all_new)), before) == {}  # other rows may move a little
    one = old_ND.copy()
    anchor = table["user_id"].to_pylist().index(before.anchors["user_id"][0].as_py())
    one[anchor] = np.roll(one[anchor], 1)
    assert set(failed(check_file(with_vectors(table, one)), before)) == {"unchanged"}


def test_a_new_encoder_is_reported_and_never_fails():
    before, after = check_file(rows(N)), check_file(rows(N, seed=1, width=11))
    options = {"expected_rows": N, "dead_letters": 0, "encoder": "enc2", "previous_encoder": "enc1"}
    verdicts = judge(GatesConfig(), after, previous=before, **options)
    assert all(verdict.passed for verdict in verdicts)
    assert "the encoder changed; 256 anchor rows compared: Procrustes" in verdicts[-1].sentence
    assert "width [7] and have [11]" in failed(after, before)["drift"]  # but not under the same digest
    strangers = check_file(rows([f"x{i}" for i in range(N)]))
    assert failed(strangers, before) == {}


def test_the_published_version_gives_the_other_side(tmp_path):
    location = str(tmp_path / "users")
    put(location, rows(N), "r0")
    found = check_file(rows(N))
    before = published(open_table(location), found)
    assert before.rows == N
    assert before.anchors.num_rows == found.anchors.num_rows
    assert failed(found, before) == {}
    assert set(failed(check_file(rows(N, seed=4)), before)) == {"unchanged", "drift"}


def test_enforce_says_what_to_do():
    verdicts = judge(
        GatesConfig(),
        check_file(rows(5)),
        expected_rows=9,
        dead_letters=1,
        encoder="e",
        previous=None,
        previous_encoder=None,
    )
    with pytest.raises(GateError) as error:
        enforce(verdicts)
    text = str(error.value)
    assert text.startswith("nothing was published, 2 of 10 gates failed")
    assert "coverage: 5 rows and 1 dead letters for 9 expected rows" in text
    assert "dead_letters: 1 of 9 rows got no vector (11.11%)" in text
    assert "--publish-anyway REASON" in text
