"""Content hashes: equal rows agree wherever they stand, and every change of a value shows."""

import copy
import datetime as dt

import numpy as np
import pyarrow as pa
import pytest

from ray_ggsm.data.content import content_hashes

COLUMNS = ["bill", "app", "tabular"]


def test_the_place_of_a_row_and_other_columns_do_not_matter(make_rows) -> None:
    rows = make_rows(17)
    hashes = content_hashes(rows, COLUMNS)
    assert len(set(hashes.tolist())) == 17
    order = np.random.default_rng(0).permutation(17)
    mixed = pa.concat_tables([rows.take(pa.array(order[:5])), rows.take(pa.array(order[5:]))])
    mixed = mixed.set_column(1, "as_of", pa.array([dt.datetime(2030, 1, 1, tzinfo=dt.UTC)] * 17, rows["as_of"].type))
    np.testing.assert_array_equal(content_hashes(mixed, COLUMNS), hashes[order])
    np.testing.assert_array_equal(content_hashes(rows.slice(7, 4), COLUMNS), hashes[7:11])


def _text(row: dict) -> None:
    row["bill"][0]["text"] += "!"


def _time(row: dict) -> None:
    row["bill"][0]["time"] -= dt.timedelta(microseconds=1)


def _amount(row: dict) -> None:
    row["bill"][0]["amount"] = None if row["bill"][0]["amount"] is not None else 0.0


def _modality(row: dict) -> None:
    row["app"].insert(0, row["bill"].pop(0))


def _tabular(row: dict) -> None:
    row["tabular"][6] += 1e-3


def _boundary(row: dict) -> None:
    """The same letters, cut elsewhere."""
    row["bill"][0]["text"], row["bill"][1]["text"] = "item", " 1item 2"


@pytest.mark.parametrize("change", [_text, _time, _amount, _modality, _tabular, _boundary])
def test_every_change_shows_in_its_row_only(make_rows, change) -> None:
    rows = make_rows(5)
    values = rows.to_pylist()
    values[3]["bill"] = [{"time": e["time"], "text": "item 1", "amount": 1.0} for e in values[0]["bill"][:1]] * 2
    values[3]["bill"][1] = {**values[3]["bill"][0], "text": "item 2"}
    before = content_hashes(pa.Table.from_pylist(values, rows.schema), COLUMNS)
    values = copy.deepcopy(values)
    change(values[3])
    after = content_hashes(pa.Table.from_pylist(values, rows.schema), COLUMNS)
    assert (before != after).tolist() == [False, False, False, True, False]
