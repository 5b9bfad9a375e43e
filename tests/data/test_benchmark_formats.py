"""Shipped configs for file formats of benchmarks, on small files in these formats, against counts by NumPy."""

import datetime as dt
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_ggsm.config import InputError
from ray_ggsm.data import prepare
from tests.helpers.data import data_config, dead_letters, shipped

Rows = dict[tuple[str, str], dict]
"""(split, user) -> row."""


@pytest.fixture
def rng(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.random.Generator:
    monkeypatch.chdir(tmp_path)
    return np.random.default_rng(0)


def write(file: str, **columns: object) -> None:
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), file)


def prepared(name: str, **changes: object) -> tuple[Rows, Rows]:
    """Rows and labels that a shipped config makes of the files in the working directory."""
    config = data_config({**shipped(f"formats/{name}.yaml"), **changes})
    fitted = prepare.fit(config, 2)
    prepare.write_summary(config, fitted, [prepare.write_shard(config, fitted, k, 2, "out") for k in range(2)], "out")
    found: list[Rows] = []
    for kind in ("rows", "labels"):
        tables = {split: pq.read_table(f"out/{kind}/{split}").to_pylist() for split in config.splits}
        found.append({(split, row["user_id"]): row for split, rows in tables.items() for row in rows})
    return found[0], found[1]


def sequences(rng: np.random.Generator, users: int, days: float) -> list[np.ndarray]:
    return [np.sort(rng.uniform(0, days, rng.integers(1, 40))).astype(np.float32) for _ in range(users)]


def test_hotpp(rng: np.random.Generator) -> None:
    times = sequences(rng, 60, 120)
    types = [rng.integers(0, 5, len(t)) for t in times]
    for part, (first, end) in {"train": (0, 40), "test": (40, 60)}.items():
        write(
            f"data/hotpp/{part}.parquet", id=list(range(first, end)), timestamps=times[first:end],
            labels=pa.array(types[first:end]),
        )  # fmt: skip
    rows, labels = prepared("hotpp")
    assert not dead_letters()
    for split, users, cutoff in (("pretrain", range(40), 30), ("probe", range(40), 60), ("test", range(40, 60), 90)):
        for user in users:
            history = (times[user] >= cutoff - 60) & (times[user] < cutoff)
            assert ((split, str(user)) in rows) == (history.sum() >= 3)
            if history.sum() >= 3:
                row = rows[split, str(user)]
                assert [event["text"] for event in row["event"]] == [f"type {x}" for x in types[user][history]]
                assert row["tabular"][1] == (history & (times[user] >= cutoff - 30)).sum()
                future = (times[user] >= cutoff) & (times[user] < cutoff + 30)
                assert labels[split, str(user)]["active"] == future.any()
    assert {user for split, user in rows if split == "test"} <= {str(user) for user in range(40, 60)}


def test_ebes(rng: np.random.Generator) -> None:
    times = sequences(rng, 50, 1090)
    target, amounts = rng.integers(0, 3, 50), [rng.normal(size=len(t)) for t in times]
    for part, (first, end) in {"train": (0, 35), "test": (35, 50)}.items():
        write(
            f"data/ebes/{part}.parquet", client_id=list(range(first, end)), target=target[first:end],
            _seq_len=[len(t) for t in times[first:end]], event_time=times[first:end], amount=amounts[first:end],
            group=[rng.integers(0, 9, len(t)) for t in times[first:end]],
        )  # fmt: skip
    rows, labels = prepared("ebes")
    for user in range(35, 50):
        if len(times[user]) >= 3:
            expected = [len(times[user]), amounts[user].sum()]
            assert rows["test", str(user)]["tabular"] == pytest.approx(expected, abs=1e-4)
            assert labels["test", str(user)]["class_1"] == (target[user] == 1)
    assert sum(split == "test" for split, _ in rows) == sum(len(t) >= 3 for t in times[35:])


def test_relbench(rng: np.random.Generator) -> None:
    day = dt.datetime(2014, 1, 1)
    customers, days = rng.integers(0, 40, 1500), rng.uniform(0, 820, 1500)
    write(
        "data/relbench/db/review.parquet", customer_id=customers, rating=rng.integers(1, 6, 1500).astype(float),
        review_time=[day + dt.timedelta(days=float(d)) for d in days], summary=[f"good {x % 7}" for x in range(1500)],
    )  # fmt: skip
    answers: dict[tuple[str, int], int] = {}
    parts = {"train": ["2015-01-01", "2015-04-02"], "val": ["2015-10-01"], "test": ["2016-01-01"]}
    for part, cutoffs in parts.items():
        asked = [(cutoff, user) for cutoff in cutoffs for user in range(40) if rng.random() < 0.8]
        here = {key: int(rng.integers(0, 2)) for key in asked}
        answers |= here
        write(
            f"data/relbench/tasks/user-churn/{part}.parquet", customer_id=[user for _, user in here],
            timestamp=[dt.datetime.fromisoformat(cutoff) for cutoff, _ in here], churn=list(here.values()),
        )  # fmt: skip
    _, labels = prepared("relbench")
    seen = 0
    for (split, user), row in labels.items():
        if split != "pretrain":
            cutoff = {"probe": "2015-10-01", "test": "2016-01-01"}[split]
            answer = answers.get((cutoff, int(user)))
            assert row["churn"] == (None if answer is None else bool(answer))
            seen += 1
    assert seen > 30


def test_ptls(rng: np.random.Generator) -> None:
    times = [np.sort(rng.integers(0, 730, rng.integers(10, 80))) for _ in range(30)]
    lines = [f"{user},{day},{rng.integers(200)},{rng.uniform(1, 99):.2f}" for user in range(30) for day in times[user]]
    Path("data/ptls").mkdir(parents=True)
    header = "client_id,trans_date,small_group,amount_rur"
    Path("data/ptls/transactions_train.csv").write_text("\n".join([header, *lines]))
    bins = rng.integers(0, 4, 30)
    targets = [f"{user},{group}" for user, group in enumerate(bins)]
    Path("data/ptls/train_target.csv").write_text("\n".join(["client_id,bins", *targets]))
    rows, labels = prepared("ptls")
    users = {user for split, user in rows if split != "pretrain"}
    assert users == {str(user) for user in range(30) if len(times[user]) >= 25}
    for (split, user), row in labels.items():
        assert [row[f"age_{k}"] for k in range(4)] == [bins[int(user)] == k for k in range(4)], split


def test_lists_of_different_lengths_cost_their_record(rng: np.random.Generator) -> None:
    times = sequences(rng, 30, 120)
    types = [rng.integers(0, 5, len(t)) for t in times]
    types[7] = types[7][:-1]
    write("data/hotpp/train.parquet", id=list(range(25)), timestamps=times[:25], labels=pa.array(types[:25]))
    write("data/hotpp/test.parquet", id=list(range(25, 30)), timestamps=times[25:], labels=pa.array(types[25:]))
    rows, _ = prepared("hotpp", max_bad_share=0.1)
    assert "7" not in {user for _, user in rows}
    assert len({user for _, user in rows}) > 10
    (letter,) = pq.read_table("out/dead_letters").to_pylist()
    n = len(times[7])
    assert (letter["reason"], letter["detail"]) == (
        "bad_line", f"lists of different lengths: timestamps {n}, labels {n - 1}"
    )  # fmt: skip
    assert letter["source"].endswith("train.parquet, row 8")


def test_columns_that_hold_no_lists(rng: np.random.Generator) -> None:
    write("data/hotpp/train.parquet", id=[1, 2], timestamps=[1.0, 2.0], labels=[[1], [2]])
    write("data/hotpp/test.parquet", id=[1, 2], timestamps=[1.0, 2.0], labels=[[1], [2]])
    with pytest.raises(InputError, match=r"`nested` names the column 'timestamps', which is double; expected lists"):
        prepared("hotpp")
    for part in ("train", "test"):
        Path(f"data/hotpp/{part}.parquet").write_text("id,timestamps,labels\n1,2,3\n")
    with pytest.raises(InputError, match=r"\.parquet: `nested` is for Parquet files"):
        prepared("hotpp")


def test_test_users_of_a_table_that_is_not_there(rng: np.random.Generator) -> None:
    write("data/hotpp/test.parquet", id=[1], timestamps=[[1.0]], labels=[[1]])
    with pytest.raises(InputError, match=r"data\.users\.test_table: there is no table 'others'; the source has events"):
        prepared("hotpp", users={"test_table": "others"})
    with pytest.raises(InputError, match="test_table: it takes the place of salt and test_percent"):
        prepared("hotpp", users={"test_table": "test_users", "test_percent": 20})
