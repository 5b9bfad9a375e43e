"""Data configs: values that no config may have are refused, each mistake in one sentence."""

from typing import Any

import pytest

from ray_ggsm.config import InputError
from tests.helpers.clicks import changed
from tests.helpers.data import data_config

SHAPES = "expected a mapping of keys to values or a list"
DATE = "input should be a valid date in the format YYYY-MM-DD, input is too short, found 'x'"
NAME = "a name is lower-case letters, digits and underscores, not starting with a digit"
ROLLING = {"first": "2024-03-01", "every_days": 10, "count": 3}
VIEW = {"table": "clicks", "text": "{item}", "keep": 3}
FEATURE = {"name": "clicks", "table": "clicks", "sql": "count(*)"}


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("snapshots.cutoffs", "2024-03-02", f"data.snapshots.cutoffs: {SHAPES}, found '2024-03-02'"),
        ("snapshots.cutoffs", None, f"data.snapshots.cutoffs: {SHAPES}, found None"),
        ("snapshots.cutoffs", [], "data.snapshots.cutoffs: expected at least 1 entry, found []"),
        ("snapshots.cutoffs", ["x"], f"data.snapshots.cutoffs.0: {DATE}"),
        ("snapshots.cutoffs", {**ROLLING, "first": "x"}, f"data.snapshots.cutoffs.first: {DATE}"),
        ("snapshots.cutoffs", {**ROLLING, "frst": 3},
         "data.snapshots.cutoffs.frst: unknown key; did you mean 'first'?"),
        ("modalities", {"App": VIEW}, f"data.modalities.App: {NAME}, found 'App'"),
        ("modalities", {}, "data.modalities: expected at least 1 entry, found {}"),
        ("modalities", ["app"], "data.modalities: expected a mapping of keys to values, found ['app']"),
        ("splits.probe.cutoffs", [-1], "data.splits.probe.cutoffs.0: input should be greater than or equal to 0, "
         "found -1"),
        ("splits.probe.cutoffs", 3, "data.splits.probe.cutoffs: expected a list, found 3"),
        ("features", [{**FEATURE, "empty": float("nan")}], "data.features.0.empty: input should be a finite number, "
         "found nan"),
        ("features", [{**FEATURE, "empty": float("inf")}], "data.features.0.empty: input should be a finite number, "
         "found inf"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence(key: str, value: Any, sentence: str, clicks: dict) -> None:
    with pytest.raises(InputError) as error:
        data_config(changed(clicks, **{key.replace(".", "__"): value}))
    assert str(error.value) == f"test.yaml: {sentence}"


def test_cutoffs_end_with_the_calendar(clicks: dict) -> None:
    rolling = {"first": "9999-12-01", "every_days": 10, "count": 4}
    assert str(data_config(changed(clicks, snapshots__cutoffs=rolling)).snapshots.dates[-1]) == "9999-12-31"
    with pytest.raises(
        InputError, match=r"^test.yaml: data.snapshots.cutoffs: the last of 5 cutoffs is after 9999-12-31"
    ):
        data_config(changed(clicks, snapshots__cutoffs={**rolling, "count": 5}))
