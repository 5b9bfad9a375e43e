"""Vectors and labels brought together; what would make an AUC dishonest is refused."""

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest

from ray_ggsm.config import InputError
from ray_ggsm.evaluation import alignment, counts
from tests.helpers.label_tables import DAY, label_table, vector_table

VECTORS = vector_table(["a", "b"], [[1.0, 2.0], [3.0, 4.0]])


def test_align_follows_the_labels_order_whatever_the_vectors_order():
    users = [f"u{n}" for n in range(7)]
    vectors = {user: [float(n), 1.0, -n / 2] for n, user in enumerate(users)}
    shuffled = ["u4", "u0", "extra", "u6", "u2", "u1", "u5", "u3"]
    features = vector_table(shuffled, [vectors.get(user, [9.0, 9.0, 9.0]) for user in shuffled])
    features = pa.concat_tables([features.slice(0, 3), features.slice(3)])  # several chunks
    table = label_table(users, buys=[True, False, None, True, False, None, True], late=[None, *[True, False] * 3])
    aligned = alignment.align(table, features, "embedding", "probe")
    np.testing.assert_array_equal(aligned.vectors, np.array([vectors[user] for user in users], np.float32))
    np.testing.assert_array_equal(aligned.labels["buys"], np.array([1, 0, np.nan, 1, 0, np.nan, 1], np.float32))
    assert list(aligned.users) == users
    assert aligned.without_vector == 0


def test_keys_match_by_instant_across_list_types_and_time_units():
    later = DAY + timedelta(days=30)
    features = vector_table(["a", "a"], [[1.0], [2.0]], [later, DAY], pa.list_(pa.float64()))
    features = features.set_column(1, "as_of", features["as_of"].cast(pa.timestamp("ns", tz="America/New_York")))
    aligned = alignment.align(label_table(["a", "a"], [DAY, later]), features, "embedding", "test")
    np.testing.assert_array_equal(aligned.vectors, [[2.0], [1.0]])
    assert aligned.vectors.dtype == np.float32


def test_vectors_of_another_moment_are_refused():
    """The planted leak: the vector of 'c' was made a day later, and knows the first day of its own label."""
    table = label_table(["a", "b", "c"])
    features = vector_table(["a", "b", "c"], [[1.0], [2.0], [3.0]], [DAY, DAY, DAY + timedelta(days=1)])
    with pytest.raises(InputError, match=r"1 of 3 rows .*row 2 .*1 of them have a vector at another as_of"):
        alignment.align(table, features, "embedding", "probe")


def test_missing_vectors_are_refused_or_left_out_of_all_tables_and_counted():
    table = label_table([*"abcde"], buys=[True, False, True, None, False])
    tables = {
        "first": (vector_table([*"edcba"], [[float(n)] for n in range(5)]), "embedding"),
        "second": (vector_table([*"abd"], [[7.0, 0.0], [8.0, 0.0], [9.0, 0.0]]), "embedding"),
    }
    with pytest.raises(InputError, match=r"2 of 5 rows .*of second.*row 2 .*set evaluation.allow_missing"):
        alignment.align_all(table, tables, "probe")
    aligned = alignment.align_all(table, tables, "probe", allow_missing=True)
    assert [list(a.users) for a in aligned.values()] == [["a", "b", "d"]] * 2
    np.testing.assert_array_equal(aligned["first"].vectors, [[4.0], [3.0], [1.0]])
    np.testing.assert_array_equal(aligned["second"].vectors[:, 0], [7.0, 8.0, 9.0])
    assert [a.without_vector for a in aligned.values()] == [2, 2]
    counted = counts.count_rows({"probe": aligned["first"]})
    buys = counts.LabelCounts(positive=1, negative=1, undefined=1)
    assert counted == {"probe": counts.SplitCounts(rows=3, without_vector=2, labels={"buys": buys})}
    assert counts.left_out(counted) == ["probe: 3 rows; left out: 2 rows without a vector, 1 without label 'buys'"]
    with pytest.raises(InputError, match="5 of 5 rows"):
        alignment.align_all(table, {"x": (vector_table(["z"], [[1.0]]), "embedding")}, "probe", allow_missing=True)


def test_no_sentence_where_nothing_is_left_out():
    full = alignment.align_all(label_table(["a", "b"]), {"x": (VECTORS, "embedding")}, "test")
    assert counts.left_out(counts.count_rows({"test": full["x"]})) == []


@pytest.mark.parametrize(
    ("table", "features", "message"),
    [
        (label_table(["a", "a", "b"]), VECTORS, r"probe labels: row 0 \(as_of 2017-08-29.* is repeated"),
        (label_table(["a", "b"]), vector_table(["a", "b", "b"], [[1.0]] * 3), r"probe vectors.*row 1 .*is repeated"),
        (label_table(["a", "b"]), vector_table(["a", "b"], [[1.0], [float("nan")]]), r"1 vectors hold NaN.*row 1"),
        (label_table(["a", "b"]), vector_table(["a", "b"], [[1.0], [float("inf")]]), r"infinite"),
        (
            label_table(["a", "b"]),
            vector_table(["a", "b"], [[1.0], [1.0, 2.0]], kind=pa.list_(pa.float32())),
            r"found 1 and then 2 at row 1 \(as_of",
        ),
        (label_table(["a", "b"]), vector_table(["a", "b"], [[1.0], None]), r"1 vectors are null, first row 1"),
        (label_table(["a", "b"]), vector_table(["a", "b"], [[1.0], [None]]), r"hold NaN"),
        (label_table(["a", "b"]), VECTORS.rename_columns(["user_id", "as_of", "x"]), r"'embedding' is missing"),
        (
            label_table(["a", "b"]),
            vector_table(["a", "b"], [["x"], ["y"]], kind=pa.list_(pa.string())),
            r"list of float",
        ),
        (label_table(["a", "b"], buys=[True, True]), VECTORS, r"label 'buys', split 'probe'.*found 2 and 0"),
        (label_table(["a", "b"], buys=[None, None]), VECTORS, r"found 0 and 0 in 2 rows"),
        (label_table(["a", None]), VECTORS, r"'user_id' is null in 1 rows"),
        (VECTORS.drop_columns("embedding"), VECTORS, r"no label column"),
        (VECTORS, VECTORS, r"'embedding' must be bool"),
        (label_table([], buys=[]), VECTORS, r"no rows"),
    ],
)
def test_dishonest_input_is_refused(table, features, message):
    with pytest.raises(InputError, match=message):
        alignment.align(table, features, "embedding", "probe")


def test_users_in_two_splits_are_refused():
    probe = alignment.align(label_table(["a", "b"]), VECTORS, "embedding", "probe")
    test = alignment.align(label_table(["c", "b"]), vector_table(["b", "c"], [[1.0], [1.0]]), "embedding", "test")
    with pytest.raises(InputError, match=r"1 users are in both the probe and the test split; give"):
        alignment.check_disjoint(probe, test, "probe", "test")
    other = alignment.align(label_table(["c", "d"]), vector_table(["d", "c"], [[1.0], [1.0]]), "embedding", "test")
    alignment.check_disjoint(probe, other, "probe", "test")
