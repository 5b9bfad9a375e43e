"""Mappings become the rows that they are, or an error that names what is wrong."""

import datetime as dt

import pyarrow as pa
import pytest

from ray_ggsm.config import InputError
from ray_ggsm.data.schema import event_type, user_row_schema
from ray_ggsm.exporting.rows import arrow_rows, json_rows

FIELDS = pa.struct([("shop", pa.string()), ("items", pa.float64())])
EVENTS = {"bill": event_type("Europe/Berlin", FIELDS, True), "app": event_type("Europe/Berlin")}
SCHEMA = user_row_schema(EVENTS, ["f"], zone="Europe/Berlin").append(pa.field("query", pa.string()))
BILL = {
    "time": "2024-02-27T08:15:00+01:00", "text": "home", "amount": 3, "fields": {"shop": "a", "items": 2},
    "parts": [{"text": "milk", "weight": 1}],
}  # fmt: skip
ROW = {"as_of": "2024-03-01T00:00:00+01:00", "bill": [BILL], "app": [], "tabular": [1.5]}


def test_texts_of_times_are_the_instants_that_they_are() -> None:
    noon = dt.datetime(2024, 2, 27, 7, 15, tzinfo=dt.UTC)
    first, second = (arrow_rows([{**ROW, "bill": [{**BILL, "time": time}]}], SCHEMA) for time in (BILL["time"], noon))
    assert first.equals(second)
    assert first.schema.field("as_of").type.tz == "Europe/Berlin"
    assert first["bill"][0].as_py()[0]["time"] == noon


def test_rows_survive_json() -> None:
    rows = arrow_rows([ROW, {**ROW, "query": "who?"}], SCHEMA)
    again = arrow_rows([{k: v for k, v in row.items() if v is not None} for row in json_rows(rows, SCHEMA)], SCHEMA)
    assert again.equals(rows)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bills": []}, r"rows\[1\].bills: the encoder reads no such column"),
        ({"bill": [{**BILL, "txt": "home"}]}, r"rows\[1\].bill\[0\].txt: the encoder reads time, text, amount"),
        ({"bill": [{**BILL, "fields": {"store": "a"}}]}, r"rows\[1\].bill\[0\].fields.store"),
        (
            {"bill": [{**BILL, "time": "2024-02-27T08:15:00"}]},
            r"rows\[1\].bill\[0\].time: expected a time with an offset",
        ),
        ({"bill": [{**BILL, "time": "yesterday"}]}, r"expected a time such as"),
        ({"bill": [{**BILL, "time": "2024-03-02T00:00:00+01:00"}]}, r"rows\[1\]: event_not_before_as_of \(bill.time\)"),
        ({"bill": [{**BILL, "time": None}]}, r"rows\[1\]: null_time"),
        ({"bill": [BILL, {**BILL, "time": "2024-02-01T00:00:00+01:00"}]}, r"rows\[1\]: events_not_oldest_first"),
        ({"bill": []}, r"rows\[1\]: empty_history"),
        ({"tabular": [1.0, 2.0]}, r"rows\[1\]: wrong_tabular_length"),
        ({"tabular": [float("nan")]}, r"rows\[1\]: non_finite_number"),
        ({"tabular": None}, r"rows\[1\].tabular: it is missing"),
        ({"as_of": None}, r"rows\[1\].as_of: it is missing"),
        ({"as_of": dt.date(2024, 3, 1)}, r"rows\[1\].as_of: expected a time with an offset"),
        ({"query": "prompt:/place"}, r"soft prompt"),
        ({"bill": [{**BILL, "amount": "much"}]}, r"rows: .*much"),
        ({"bill": float("nan")}, r"rows\[1\].bill: expected a list, found nan; .* \[\]"),
        ({"bill": "home"}, r"rows\[1\].bill: expected a list, found 'home'"),
        ({"bill": [{**BILL, "parts": 3}]}, r"rows\[1\].bill\[0\].parts: expected a list, found 3"),
        ({"tabular": 1.5}, r"rows\[1\].tabular: expected a list, found 1.5"),
        ({"bill": ["home"]}, r"rows\[1\].bill\[0\]: expected struct"),
    ],
)
def test_what_is_wrong_is_named(change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        arrow_rows([ROW, {**ROW, **change}], SCHEMA)


def test_equal_rows_and_columns_that_no_vector_depends_on() -> None:
    more = {**ROW, "user_id": "ann", "future": [{"anything": 1}], "answer": "x"}
    assert (
        arrow_rows([ROW, more], SCHEMA)
        .drop_columns(["user_id"])
        .equals(arrow_rows([ROW, ROW], SCHEMA).drop_columns(["user_id"]))
    )


def test_a_row_that_is_no_mapping() -> None:
    with pytest.raises(InputError, match=r"rows\[0\]: expected a mapping of columns, found str"):
        arrow_rows(["home shoes"], SCHEMA)
