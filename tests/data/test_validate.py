"""Every reason is found, only the guilty rows go, and wrong tables are refused."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_ggsm.config import InputError
from ray_ggsm.data import validate as v
from ray_ggsm.data.schema import event_type, future_type, user_row_schema

AS_OF = datetime(2024, 3, 1, tzinfo=UTC)
EVENT = event_type("UTC")
SCHEMA = user_row_schema({"a": EVENT, "b": EVENT}, ["x", "y"], future=future_type(EVENT))


def event(days=-1.0, text="shoes", amount=None):
    return {"time": AS_OF + timedelta(days=days), "text": text, "amount": amount}


def row(user="u", **changes):
    plain = {"user_id": user, "as_of": AS_OF, "a": [event(-2), event(-1)], "b": [], "tabular": [1.0, 2.0], "future": []}
    return plain | changes


def table(*rows):
    return pa.Table.from_pylist(list(rows), schema=SCHEMA)


def reasons(*rows, **options):
    _, bad = v.validate(table(*rows), ["a", "b"], 2, **options)
    return [(letter["user_id"], letter["reason"]) for letter in bad.to_pylist()]


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        (v.MISSING_KEY, {"user_id": None}),
        (v.MISSING_KEY, {"user_id": ""}),
        (v.MISSING_KEY, {"as_of": None}),
        (v.NULL_EVENT, {"a": [None]}),
        (v.NULL_TIME, {"a": [{"time": None, "text": "x"}]}),
        (v.NULL_TEXT, {"a": [event(text=None)]}),
        (v.NULL_TEXT, {"b": [event(text="")]}),
        (v.TEXT_TOO_LONG, {"a": [event(text="x" * 1_000_000)]}),
        (v.TEXT_TOO_LONG, {"a": [event(text="ü" * 2001)]}),
        (v.NOT_BEFORE, {"a": [event(0)]}),
        (v.NOT_BEFORE, {"a": [event(-1), event(3)]}),
        (v.BEFORE, {"future": [{"modality": "a", **event(-1)}]}),
        (v.UNKNOWN_MODALITY, {"future": [{"modality": "c", **event(1)}]}),
        (v.UNKNOWN_MODALITY, {"future": [{"modality": None, **event(1)}]}),
        (v.UNORDERED, {"a": [event(-1), event(-2)]}),
        (v.NON_FINITE, {"a": [event(amount=float("nan"))]}),
        (v.NON_FINITE, {"tabular": [1.0, float("inf")]}),
        (v.NON_FINITE, {"tabular": [1.0, None]}),
        (v.TABULAR_LENGTH, {"tabular": [1.0]}),
        (v.TABULAR_LENGTH, {"tabular": None}),
        (v.EMPTY_HISTORY, {"a": [], "b": None}),
    ],
)
def test_one_bad_row_between_good_ones(reason, changes):
    bad = row("bad", **changes)
    assert reasons(row("first"), bad, row("last")) == [(bad["user_id"], reason)]


def test_texts_at_the_limit_pass():
    assert reasons(row(a=[event(text="ü" * 2000)])) == []


def test_only_the_first_of_equal_keys_stays():
    good, bad = v.validate(table(row("u"), row("v"), row("u"), row("u")), ["a", "b"], 2, source="f", split="probe")
    assert good["user_id"].to_pylist() == ["u", "v"]
    assert (
        bad.select(["split", "source", "reason"]).to_pylist()
        == [{"split": "probe", "source": "f", "reason": v.DUPLICATE_KEY}] * 2
    )


def test_invalid_utf8_is_found_without_losing_the_batch():
    rows = table(row("u"), row("v"), row("w"))
    broken = pa.array([b"ok", b"\xff\xfe", b"ok"]).view(pa.string())
    rows = rows.set_column(0, "user_id", broken)
    good, bad = v.validate(rows, ["a", "b"], 2)
    assert good.num_rows == 1  # 'ok' stands there twice
    assert sorted(bad["reason"].to_pylist()) == [v.DUPLICATE_KEY, v.INVALID_UTF8]
    text = pa.array([b"x", b"\xc3", b"z"]).view(pa.string())
    times = pa.array([AS_OF - timedelta(days=1)] * 3, pa.timestamp("us", tz="UTC"))
    events = pa.StructArray.from_arrays(
        [times, text, pa.nulls(3, pa.float32())], fields=list(SCHEMA.field("a").type.value_type)
    )
    column = pa.ListArray.from_arrays(pa.array([0, 1, 2, 3], pa.int32()), events)
    rows = table(row("u"), row("v"), row("w")).set_column(2, SCHEMA.field("a"), column)
    _, bad = v.validate(rows, ["a", "b"], 2)
    assert bad.select(["user_id", "reason", "detail"]).to_pylist() == [
        {"user_id": "v", "reason": v.INVALID_UTF8, "detail": "a.text"}
    ]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: t.drop_columns("b"), r"file\.parquet: column 'b' .* is missing; the columns are: user_id"),
        (lambda t: t.set_column(0, "user_id", pa.array([1])), r"column 'user_id' must be string, found int64"),
        (
            lambda t: t.set_column(1, "as_of", pa.array([datetime(2024, 1, 1)])),
            r"'as_of' must be timestamp\[us, tz=UTC\]",
        ),
        (lambda t: t.set_column(2, "a", pa.array([["x"]])), r"column 'a' must be list<.*found list<.*string>"),
        (lambda t: t.set_column(4, "tabular", pa.array([["x"]])), r"column 'tabular' must be list<.*float>"),
    ],
)
def test_wrong_tables_are_refused(change, sentence):
    with pytest.raises(InputError, match=sentence):
        v.validate(change(table(row())), ["a", "b"], 2, source="file.parquet")


def test_other_spellings_of_the_types_are_cast():
    event_type = pa.struct(
        [("time", pa.timestamp("ns", tz="Europe/Berlin")), ("text", pa.large_string()), ("amount", pa.float64())]
    )
    given_schema = pa.schema(
        [
            ("user_id", pa.large_string()),
            ("as_of", pa.timestamp("s", tz="UTC")),
            ("a", pa.large_list(event_type)),
            ("extra", pa.int64()),
        ]
    )
    rows = pa.Table.from_pylist(
        [{"user_id": "u", "as_of": AS_OF, "a": [event(-1, amount=1.5)], "extra": 7}], schema=given_schema
    )
    good, bad = v.validate(rows, ["a"], 0)
    assert (len(good), len(bad)) == (1, 0)
    assert good["a"].type == SCHEMA.field("a").type
    assert good["a"].to_pylist() == [[event(-1, amount=1.5)]]
    assert good["extra"].to_pylist() == [7]


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 4), st.integers(1, 3)), max_size=40))
def test_good_and_bad_are_a_partition(recipe):
    rows = [row(str(u), a=[event(days)] * n, tabular=[1.0] * size) for days, u, size in recipe for n in (size - 1,)]
    good, bad = v.validate(table(*rows), ["a", "b"], 2)
    assert len(good) + len(bad) == len(rows)
    seen, expected = set(), []
    for r in rows:
        fine = r["a"] and r["a"][0]["time"] < AS_OF and len(r["tabular"]) == 2 and r["user_id"] not in seen
        expected += [r["user_id"]] if fine else []
        seen.add(r["user_id"])
    assert good["user_id"].to_pylist() == expected
    again, nothing = v.validate(good, ["a", "b"], 2)
    assert again.equals(good)
    assert not len(nothing)


def test_enforce_share():
    v.enforce_share(1, 100, 0.01, "x")
    v.enforce_share(0, 0, 0.0, "x")
    with pytest.raises(InputError, match=r"rows: 2 of 100 rows were rejected \(2\.0%, allowed are 1\.0%\)"):
        v.enforce_share(2, 100, 0.01, "rows")
