"""Refreshing a long-lived table: only changed users are encoded, every version is whole, and faults change nothing."""

import datetime as dt
import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from ray_ggsm.building import lock
from ray_ggsm.cli.exit_codes import user_error
from ray_ggsm.stages import Pipeline

from ray_ggsm import storage
from ray_ggsm.config import InputError
from ray_ggsm.experiment import Experiment
from ray_ggsm.on_ray import refresh as job
from ray_ggsm.on_ray.refresh import preview, refresh
from ray_ggsm.tables import open_table
from ray_ggsm.tables.config import PublishingConfig
from ray_ggsm.tables.gates import GatesConfig
from tests.helpers.s3_server import BUCKET, faults
from tests.helpers.waiting import wait_until

HOLDER = {"host": "elsewhere", "pid": 17, "since": "2024-03-01 02:00:00 UTC", "token": "0", "renewed": 3}

LENIENT = PublishingConfig(gates=GatesConfig(min_previous_share=0.5))


@pytest.fixture
def rows(finished: Experiment) -> pa.Table:
    """One row per user."""
    (*_, file) = storage.list_files(Pipeline.of(finished).prepare.rows("pretrain"), ".parquet")
    table = pq.read_table(file)
    first = [table["user_id"].to_pylist().index(user) for user in dict.fromkeys(table["user_id"].to_pylist())]
    return table.take(first)


@pytest.fixture
def mine(experiment: Callable, finished: Experiment, beside: Callable, tmp_path: Path) -> Experiment:
    return experiment(
        output=beside("event_vectors"),
        refresh={
            "rows": f"{tmp_path}/rows/*.parquet",
            "encoder": Pipeline.of(finished).train.path("encoder"),
            "table": f"{tmp_path}/users",
        },
        embedding__rows_per_chunk=7,  # two row groups, the last one alone
        publishing={"rows_per_bucket": 4, "gates": {"min_previous_share": 0.5}},
    )


@pytest.fixture
def give(tmp_path: Path) -> Callable[[pa.Table], None]:
    """Makes a table the input, in two files of several row groups."""

    def write(table: pa.Table) -> None:
        (tmp_path / "rows").mkdir(exist_ok=True)
        half = len(table) // 2
        for name, part in (("a", table.slice(0, half)), ("b", table.slice(half))):
            pq.write_table(part, tmp_path / "rows" / f"{name}.parquet", row_group_size=3)

    return write


def with_another_text(table: pa.Table, user: str) -> pa.Table:
    values = table.to_pylist()
    for row in values:
        if row["user_id"] == user:
            row["view"] = [{**event, "text": "page 1 item 1"} for event in row["view"]] + row["view"][-1:]
    return pa.Table.from_pylist(values, table.schema)


def vectors(table: str, version: int) -> dict[str, np.ndarray]:
    users, vector_ND = open_table(table).matrix(version=version)
    return dict(zip(users.tolist(), vector_ND, strict=True))


def crash(monkeypatch: pytest.MonkeyPatch, step: str, experiment: Experiment) -> None:
    """Run a refresh that ends where `step` would begin."""
    with monkeypatch.context() as patch:
        patch.setattr(job, step, lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            refresh(experiment)


def written(location: str) -> dict[str, int]:
    """When each file was written."""
    return {file: Path(file).stat().st_mtime_ns for file in storage.list_files(location, ".parquet")}


def test_the_life_of_a_table(
    mine: Experiment, rows: pa.Table, give: Callable, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """One test, since every refresh takes a while."""
    table = mine.refresh.table
    users = rows["user_id"].to_pylist()
    give(rows.slice(0, len(rows) - 1))

    # a run that ends in the middle, twice: what is there is not written again
    crash(monkeypatch, "fill_buckets", mine)
    blocks = storage.list_files(f"{table}/staging", ".parquet")
    for file in blocks[::2]:
        os.remove(file)
    before = written(f"{table}/staging")
    crash(monkeypatch, "judge_and_publish", mine)
    after = written(f"{table}/staging")
    assert sorted(after) == blocks
    assert {file: after[file] for file in before} == before
    assert not Path(table, "_delta_log").exists()
    staged = written(f"{table}/data")
    assert refresh(mine) == 0
    assert written(f"{table}/data") == staged
    first = vectors(table, 0)
    assert sorted(first) == sorted(users[:-1])
    (report,) = [json.loads(Path(file).read_text()) for file in storage.list_files(f"{table}/runs", "report.json")]
    assert report["version"] == 0
    assert report["counts"]["written"] == len(users) - 1
    assert list(report["seconds"]) == ["events", "compare", "encode", "fill", "publish", "all"]
    assert report["gates"].keys() >= {"coverage", "finite"}
    (page,) = storage.list_files(f"{table}/runs", "report.html")
    assert "Version 0 was published" in Path(page).read_text()

    # nothing changed; the lock of a process that was killed does not count
    left = Path(table, "refresh.lock")
    left.write_text(json.dumps({**HOLDER, "host": socket.gethostname(), "pid": 2**22 - 1}))
    assert refresh(mine) == 0
    assert "nothing changed" in capsys.readouterr().out
    assert not left.exists()

    # one user changed, one new, one departed
    give(with_another_text(rows.slice(1), users[3]))
    assert refresh(mine) == 1
    second, metadata = vectors(table, 1), open_table(table).metadata()
    assert sorted(second) == sorted(users[1:])
    assert metadata["counts"] == {
        "expected": len(users) - 1, "written": len(users) - 1, "dead_letters": 0, "encoded": 2, "departed": 1,
    }  # fmt: skip
    changed = [user for user in second if user in first and not np.array_equal(first[user], second[user])]
    assert changed == [users[3]]
    kept = set(open_table(table).files(0)) & set(open_table(table).files(1))
    assert kept, "buckets without a change keep their file"
    assert open_table(table).verify() == []
    assert vectors(table, 0).keys() == first.keys(), "the version before is still there"

    # a user twice
    give(pa.concat_tables([rows, rows.slice(2, 1)]))
    with pytest.raises(Exception, match=f"user '{users[2]}' stands in the input 2 times"):
        refresh(mine)
    assert open_table(table).version == 1


def test_another_refresh_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "refresh.lock"
    renewed = SimpleNamespace(sleep=lambda _: wait_for_another(file), strftime=time.strftime, gmtime=time.gmtime)
    monkeypatch.setattr(lock, "RENEW_SECONDS", 0.05)
    with monkeypatch.context() as patch, lock.held(str(file)):
        patch.setattr(lock, "time", renewed)  # whoever looks twice waits for the holder's next sign, not for seconds
        sentence = f"process {os.getpid()} on {socket.gethostname()} since"
        with pytest.raises(InputError, match=sentence), lock.held(str(file)):
            pass
        assert file.exists()
    assert not file.exists()
    monkeypatch.setattr(lock, "WAIT_SECONDS", 0)
    monkeypatch.setattr(lock, "RENEW_SECONDS", 3600)
    file.write_text(json.dumps(HOLDER))  # it is not renewed: its process was killed, somewhere
    with lock.held(str(file)):
        assert json.loads(file.read_text())["pid"] == os.getpid()
        file.write_text(json.dumps(HOLDER))  # somebody took it all the same
    assert file.exists(), "and keeps it"


def wait_for_another(file: Path) -> None:
    before = file.read_text()
    wait_until(lambda: file.read_text() != before)


def test_a_user_twice_in_the_first_input(mine: Experiment, rows: pa.Table, give: Callable) -> None:
    at = rows.column_names.index("as_of")
    earlier = pc.subtract(rows["as_of"], pa.scalar(dt.timedelta(days=0, hours=1)))
    give(pa.concat_tables([rows, rows.set_column(at, rows.schema.field("as_of"), earlier).slice(2, 1)]))
    user = rows["user_id"][2].as_py()
    with pytest.raises(Exception, match=f"user '{user}' stands in the input 2 times"):
        refresh(mine)
    assert not Path(mine.refresh.table, "_delta_log").exists()


def test_a_truncated_input_file(mine: Experiment, rows: pa.Table, give: Callable, tmp_path: Path) -> None:
    give(rows)
    file = tmp_path / "rows" / "b.parquet"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"b\.parquet: expected a readable Parquet file"):
        refresh(mine)
    assert not Path(mine.refresh.table, "_delta_log").exists()


def test_a_file_that_is_removed_while_it_is_read(
    mine: Experiment, rows: pa.Table, give: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(rows)
    embed = job.embed_blocks

    def remove_first(*arguments) -> int:
        (tmp_path / "rows" / "b.parquet").unlink()
        return embed(*arguments)

    monkeypatch.setattr(job, "embed_blocks", remove_first)
    with pytest.raises(Exception) as failure:  # noqa: PT011
        refresh(mine)
    assert "b.parquet was removed while it was read; nothing was published" in str(user_error(failure.value))
    assert not Path(mine.refresh.table, "_delta_log").exists()


def test_preview(mine: Experiment, rows: pa.Table, give: Callable) -> None:
    give(rows)
    said = preview(mine)
    assert said.startswith(f"refresh: {len(rows)} rows in 2 files and ")
    assert said.endswith(f"{mine.refresh.table} is not there yet")
    assert not Path(mine.refresh.table).exists()


def test_a_damaged_page(mine: Experiment, rows: pa.Table, give: Callable, tmp_path: Path) -> None:
    """The footer is fine: the damage shows when the rows are read."""
    give(rows)
    file = tmp_path / "rows" / "a.parquet"
    data = bytearray(file.read_bytes())
    data[4:400] = bytes(396)
    file.write_bytes(data)
    with pytest.raises(Exception) as failure:  # noqa: PT011
        refresh(mine)
    assert "a.parquet: row groups 0 to" in str(user_error(failure.value))
    assert not Path(mine.refresh.table, "_delta_log").exists()


def test_an_encoder_of_another_event_encoder(mine: Experiment, rows: pa.Table, give: Callable, tmp_path: Path) -> None:
    give(rows)
    encoder = tmp_path / "other"
    storage.upload(mine.refresh.encoder, str(encoder))
    described = json.loads((encoder / "encoder.json").read_text())
    (encoder / "encoder.json").write_text(json.dumps({**described, "event_encoder_digest": "0123"}))
    changed = mine.model_copy(update={"refresh": mine.refresh.model_copy(update={"encoder": str(encoder)})})
    with pytest.raises(InputError, match="the encoder was trained with the event encoder 0123: name that one"):
        refresh(changed)


def test_everything_on_an_s3_that_fails_now_and_then(
    experiment: Callable, finished: Experiment, rows: pa.Table, s3_server: str
) -> None:
    encoder, place = Pipeline.of(finished).train.path("encoder"), f"{BUCKET}/refresh"
    storage.upload(encoder, f"{place}/encoder")
    mine = experiment(
        output=f"{place}/out",
        refresh={"rows": f"{place}/rows/*.parquet", "encoder": f"{place}/encoder", "table": f"{place}/users"},
    )
    for version, given in enumerate([rows.slice(0, 9), rows.slice(2, 9)]):
        sink = pa.BufferOutputStream()
        pq.write_table(given, sink)
        storage.write_bytes(f"{place}/rows/part.parquet", sink.getvalue().to_pybytes())
        with faults(s3_server, error=0.04, slow=0.04, drop=0.02) as counts:
            assert refresh(mine.model_copy(update={"publishing": LENIENT})) == version
        assert counts.keys() == {"error", "slow", "drop"}
    table = open_table(f"{place}/users")
    assert sorted(table.read()["user_id"].to_pylist()) == sorted(rows["user_id"].to_pylist()[2:11])
    assert table.metadata()["counts"]["encoded"] == 2
    assert table.verify() == []
    assert not storage.exists(f"{place}/users/refresh.lock")

    for refusal in ("expired", "readonly"):
        with faults(s3_server, **{refusal: 1.0}), pytest.raises(Exception) as failure:  # noqa: PT011
            refresh(mine)
        assert "the storage refuses access" in str(user_error(failure.value))
    assert open_table(f"{place}/users").version == 1
