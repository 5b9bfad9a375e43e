"""Refreshing a long-lived table: only changed users are encoded, every version is whole, and faults change nothing."""

import datetime as dt
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from ray_ggsm import storage
from ray_ggsm.building.candidate import Candidate
from ray_ggsm.cli.exit_codes import passing_error, user_error
from ray_ggsm.config import InputError, NotNow, build
from ray_ggsm.experiment import Experiment
from ray_ggsm.hashing import bucket_of
from ray_ggsm.on_ray.building import version as steps
from ray_ggsm.on_ray.building.given_rows import GivenRows
from ray_ggsm.on_ray.refresh import RefreshConfig, preview, refresh
from ray_ggsm.stages import Pipeline
from ray_ggsm.tables import open_table
from ray_ggsm.tables.config import CompatibleConfig
from ray_ggsm.tables.gates import GateError
from ray_ggsm.tables.maintenance import forget, rollback
from ray_ggsm.tables.metadata import VersionCounts
from tests.helpers.s3_server import BUCKET, faults

KEY = b"0123456789abcdef"
HOLDER = {"host": "elsewhere", "pid": 17, "since": "2024-03-01 02:00:00 UTC", "token": "0", "renewed": 3}


@pytest.fixture
def rows(finished: Experiment) -> pa.Table:
    """One row per user."""
    (*_, file) = storage.list_files(Pipeline.of(finished).prepare.rows("pretrain"), ".parquet")
    table = pq.read_table(file)
    first = [table["user_id"].to_pylist().index(user) for user in dict.fromkeys(table["user_id"].to_pylist())]
    return table.take(first)


@pytest.fixture
def config(finished: Experiment, beside: Callable, tmp_path: Path) -> RefreshConfig:
    beside("event_vectors")  # to `tmp_path`, beside the table
    values = {
        "rows": f"{tmp_path}/rows/*.parquet",
        "encoder": Pipeline.of(finished).train.encoder,
        "table": f"{tmp_path}/users",
        "embedding": {"rows_per_chunk": 7, "rows_per_batch": 32, "tokens_per_batch": 512},  # two row groups a chunk
        "publishing": {"rows_per_bucket": 4, "gates": {"min_previous_share": 0.5, "max_departed_share": 0.5}},
    }
    return build(RefreshConfig, values, "test")


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


def crash(monkeypatch: pytest.MonkeyPatch, step: str, config: RefreshConfig) -> None:
    """Run a refresh that ends where `step` would begin."""
    with monkeypatch.context() as patch:
        patch.setattr(steps, step, lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            refresh(config)


def written(location: str) -> dict[str, int]:
    """When each file was written."""
    return {file: Path(file).stat().st_mtime_ns for file in storage.list_files(location, ".parquet")}


def test_the_life_of_a_table(
    config: RefreshConfig, rows: pa.Table, give: Callable, monkeypatch: pytest.MonkeyPatch, capsys, finished: Experiment
) -> None:
    """One test, since every refresh takes a while."""
    table = config.table
    users = rows["user_id"].to_pylist()
    give(rows.slice(0, len(rows) - 1))

    # a run that ends in the middle, twice: what is there is not written again
    crash(monkeypatch, "build_buckets", config)
    rows_by_bucket = written(f"{table}/staging")
    assert rows_by_bucket
    crash(monkeypatch, "_metadata", config)
    assert written(f"{table}/staging") == rows_by_bucket
    assert not Path(table, "_delta_log").exists()
    staged = written(f"{table}/data")
    assert len(staged) > 1
    lost = sorted(staged)[::2]
    for file in lost:
        os.remove(file)
    assert refresh(config) == 0
    after = written(f"{table}/data")
    assert after.keys() == staged.keys()
    assert {file for file in after if after[file] != staged[file]} == set(lost)
    first = vectors(table, 0)
    assert sorted(first) == sorted(users[:-1])
    assert not storage.list_files(f"{table}/staging"), "staged files are removed once they are published"
    (report,) = [json.loads(Path(file).read_text()) for file in storage.list_files(f"{table}/runs", "report.json")]
    assert report["version"] == 0
    assert report["counts"]["written"] == len(users) - 1
    assert list(report["seconds"]) == ["rows", "events", "encode", "publish", "all"]
    assert report["gates"].keys() >= {"coverage", "finite"}
    (page,) = storage.list_files(f"{table}/runs", "report.html")
    assert "Version 0 was published" in Path(page).read_text()

    # nothing changed; the lock of a process that was killed does not count
    left = Path(table, "refresh.lock")
    left.write_text(json.dumps({**HOLDER, "host": socket.gethostname(), "pid": 2**22 - 1}))
    assert refresh(config) == 0
    assert "nothing changed" in capsys.readouterr().out
    assert not left.exists()

    # one user changed, one new, one departed; two of them share a bucket, so that a bucket is left without a change
    bucket_U = bucket_of(pa.array(users), open_table(table).buckets)
    same = next(user for user, bucket in zip(users[1:-1], bucket_U[1:-1], strict=True) if bucket in bucket_U[[0, -1]])
    give(with_another_text(rows.slice(1), same))
    assert refresh(config) == 1
    second, metadata = vectors(table, 1), open_table(table).metadata()
    assert sorted(second) == sorted(users[1:])
    kept = len(users) - 1
    assert metadata.counts == VersionCounts(expected=kept, written=kept, encoded=2, departed=1, new=1)
    assert list(metadata.seconds) == ["rows", "events", "encode"]
    assert metadata.rates["users_per_second"] > 0
    (page,) = (Path(file).read_text() for file in storage.list_files(f"{table}/runs/{metadata.run}", "report.html"))
    assert "Not fresh: the newest vectors are of 2024-" in page
    assert "Compared with what version 0 records" in page
    assert metadata.input is not None
    assert metadata.input.rows == config.rows
    changed = [user for user in second if user in first and not np.array_equal(first[user], second[user])]
    assert changed == [same]
    kept = set(open_table(table).files(0)) & set(open_table(table).files(1))
    assert kept, "buckets without a change keep their file"
    assert open_table(table).verify() == []
    assert vectors(table, 0).keys() == first.keys(), "the version before is still there"

    # a user twice
    give(pa.concat_tables([rows, rows.slice(2, 1)]))
    with pytest.raises(Exception, match="1 users stand in the input several times"):
        refresh(config)
    assert open_table(table).version == 1

    # rolled back, and started again: the same input is published anew
    rollback(table, 0)
    give(with_another_text(rows.slice(1), same))
    assert refresh(config) == 3
    assert vectors(table, 3).keys() == second.keys()

    # another encoder, whose space is not that of the models: too few users for a map, so the gate asks for a reason
    publishing = config.publishing.model_copy(update={"compatible": CompatibleConfig(per_dimension=1000)})
    other = config.model_copy(update={"encoder": Pipeline.of(finished).train.untrained, "publishing": publishing})
    with pytest.raises(
        GateError, match=rf"compatible: no map from \w+ to \w+ \('default'\): {len(second)} anchor rows"
    ):
        refresh(other)
    assert refresh(other, "the models are new, too") == 4
    assert open_table(table).metadata().failed_gates == ("compatible",)
    with pytest.raises(InputError, match="there are no maps"):
        open_table(table).read(compatible_with=3)


def test_a_commit_in_between_costs_only_its_buckets(
    config: RefreshConfig, rows: pa.Table, give: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """Somebody is forgotten while a night is encoded: nothing is encoded twice, and the night is published."""
    give(rows.slice(0, len(rows) - 1))
    refresh(config)
    user, new = (rows["user_id"][n].as_py() for n in (4, len(rows) - 1))
    (tmp_path / "key").write_bytes(KEY)
    config = config.model_copy(update={"forgotten_key_file": str(tmp_path / "key")})
    moved = pc.add(rows["as_of"], pa.scalar(dt.timedelta(days=1)))
    give(rows.set_column(rows.column_names.index("as_of"), rows.schema.field("as_of"), moved))
    judge, forgotten = Candidate.judge, []

    def forget_first(candidate, limits):
        if not forgotten:
            forgotten.append(forget(config.table, [user, new], KEY))
        return judge(candidate, limits)

    monkeypatch.setattr(Candidate, "judge", forget_first)
    assert refresh(config) == 2
    output = capsys.readouterr().out
    buckets = len(open_table(config.table).data_files(0))
    assert "only what that commit touched is done again" in output
    assert f"{buckets} of {buckets} buckets are to do" in output
    touched = len(set(bucket_of(pa.array([user, new]), open_table(config.table).buckets).tolist()))
    assert f"{touched} of {buckets} buckets are to do" in output
    users, metadata = open_table(config.table).read()["user_id"].to_pylist(), open_table(config.table).metadata()
    assert sorted(users) == sorted(set(rows["user_id"].to_pylist()) - {user, new})
    assert metadata.counts is not None
    assert metadata.counts.encoded == len(rows) - 2, "the vectors that were encoded before the forget are used"
    assert metadata.suppressed == 1
    assert metadata.without_vector == {"forgotten": 2}

    # they stay forgotten: in the next night, without a key, and for a new user whom nobody knew
    with pytest.raises(InputError, match="forgotten_key_file"):
        refresh(config.model_copy(update={"forgotten_key_file": None}))
    give(rows)
    refresh(config)
    assert sorted(open_table(config.table).read()["user_id"].to_pylist()) == sorted(users)
    assert open_table(config.table).metadata().without_vector == {"forgotten": 2}


def test_input_that_changes_after_it_was_planned(config: RefreshConfig, rows: pa.Table, give: Callable, monkeypatch):
    """Rows that arrive between planning and publishing would be missed: nothing is published."""
    give(rows.slice(0, 9))
    encode = steps.build_buckets

    def change_first(*arguments):
        give(rows.slice(0, 10))
        return encode(*arguments)

    monkeypatch.setattr(steps, "build_buckets", change_first)
    with pytest.raises(NotNow, match="changed while it was read; nothing was published; start again"):
        refresh(config)
    assert not Path(config.table, "_delta_log").exists()


def test_a_user_twice_in_the_first_input(config: RefreshConfig, rows: pa.Table, give: Callable) -> None:
    at = rows.column_names.index("as_of")
    earlier = pc.subtract(rows["as_of"], pa.scalar(dt.timedelta(days=0, hours=1)))
    give(pa.concat_tables([rows, rows.set_column(at, rows.schema.field("as_of"), earlier).slice(2, 1)]))
    with pytest.raises(Exception, match="1 users stand in the input several times"):
        refresh(config)
    assert not Path(config.table, "_delta_log").exists()


def test_an_input_without_a_row(config: RefreshConfig, rows: pa.Table, give: Callable) -> None:
    give(rows.slice(0, 0))
    with pytest.raises(InputError, match="there is no row in 2 files"):
        refresh(config)


def test_a_truncated_input_file(config: RefreshConfig, rows: pa.Table, give: Callable, tmp_path: Path) -> None:
    give(rows)
    file = tmp_path / "rows" / "b.parquet"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"b\.parquet: expected a readable Parquet file"):
        refresh(config)
    assert not Path(config.table, "_delta_log").exists()


def test_a_file_that_is_removed_while_it_is_read(
    config: RefreshConfig, rows: pa.Table, give: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(rows)
    lay_out = GivenRows.lay_out

    def remove_first(*arguments):
        (tmp_path / "rows" / "b.parquet").unlink()
        return lay_out(*arguments)

    monkeypatch.setattr(GivenRows, "lay_out", remove_first)
    with pytest.raises(Exception) as failure:  # noqa: PT011
        refresh(config)
    assert "b.parquet was removed while it was read; nothing was published" in str(user_error(failure.value))
    assert not Path(config.table, "_delta_log").exists()


def test_preview(config: RefreshConfig, rows: pa.Table, give: Callable) -> None:
    give(rows)
    sentence = preview(config)
    assert sentence.startswith(f"refresh: {len(rows)} rows in 2 files; ")
    assert sentence.endswith(f"{config.table} is not there yet")
    assert not Path(config.table).exists()


def test_a_damaged_page(config: RefreshConfig, rows: pa.Table, give: Callable, tmp_path: Path) -> None:
    """The footer is fine: the damage shows when the rows are read."""
    give(rows)
    file = tmp_path / "rows" / "a.parquet"
    data = bytearray(file.read_bytes())
    data[4:400] = bytes(396)
    file.write_bytes(data)
    with pytest.raises(Exception) as failure:  # noqa: PT011
        refresh(config)
    assert "a.parquet: row groups 0 to" in str(user_error(failure.value))
    assert not Path(config.table, "_delta_log").exists()


def test_an_encoder_of_another_event_encoder(
    config: RefreshConfig, rows: pa.Table, give: Callable, tmp_path: Path
) -> None:
    give(rows)
    encoder = tmp_path / "other"
    storage.upload(config.encoder, str(encoder))
    described = json.loads((encoder / "encoder.json").read_text())
    (encoder / "encoder.json").write_text(json.dumps({**described, "event_encoder_digest": "0123"}))
    with pytest.raises(InputError, match="the encoder was trained with the event encoder 0123: name that one"):
        refresh(config.model_copy(update={"encoder": str(encoder)}))


def test_everything_on_an_s3_that_fails_now_and_then(finished: Experiment, rows: pa.Table, s3_server: str) -> None:
    place = f"{BUCKET}/refresh"
    storage.upload(Pipeline.of(finished).train.encoder, f"{place}/encoder")
    values = {
        "rows": f"{place}/rows/*.parquet",
        "encoder": f"{place}/enc*",
        "table": f"{place}/users",
        "publishing": {"gates": {"min_previous_share": 0.5, "max_departed_share": 0.5}},
    }
    config = build(RefreshConfig, values, "test")
    for version, given in enumerate([rows.slice(0, 9), rows.slice(2, 9)]):
        sink = pa.BufferOutputStream()
        pq.write_table(given, sink)
        storage.write_bytes(f"{place}/rows/part.parquet", sink.getvalue().to_pybytes())
        with faults(s3_server, error=0.04, slow=0.04, drop=0.02) as counts:
            assert refresh(config) == version
        assert counts.keys() == {"error", "slow", "drop"}
    table = open_table(f"{place}/users")
    assert sorted(table.read()["user_id"].to_pylist()) == sorted(rows["user_id"].to_pylist()[2:11])
    assert table.metadata().counts.encoded == 2
    assert table.verify() == []
    assert not storage.exists(f"{place}/users/refresh.lock")

    for refusal in ("expired", "readonly"):
        with faults(s3_server, **{refusal: 1.0}), pytest.raises(Exception) as failure:  # noqa: PT011
            refresh(config)
        told = passing_error(failure.value) if refusal == "expired" else user_error(failure.value)
        assert ("the token for the storage has expired" if refusal == "expired" else "refuses access") in str(told)
    assert open_table(f"{place}/users").version == 1
