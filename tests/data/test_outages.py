"""An outage of the storage while DuckDB reads is told as one, so that a scheduler tries again."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from fsspec import AbstractFileSystem

from ray_ggsm import storage
from ray_ggsm.cli.exit_codes import user_error
from ray_ggsm.config import InputError, NotNow
from ray_ggsm.data.chunks import Chunk, read_chunk, read_footer
from ray_ggsm.data.pseudonyms import read_key
from ray_ggsm.data.source_config import TableConfig
from ray_ggsm.data.sources import json_part
from ray_ggsm.data.sources.part import outage, streamed
from ray_ggsm.data.sources.source import CREATE_REJECTED
from ray_ggsm.data.sources.table import FileTable
from ray_ggsm.data.store.columns import FILE, RECORD, TIME_TEXT
from ray_ggsm.data.store.manifest import TableState
from ray_ggsm.data.store.stored_part import StoredPart

DOWN = OSError("When reading information for key 'a': AWS Error NETWORK_CONNECTION during HeadObject operation")
REFUSED = OSError("AWS Error ACCESS_DENIED during GetObject operation")
COLUMNS = {"uid": "VARCHAR", "ts": "TIMESTAMP WITH TIME ZONE"}


def filled(file: str) -> list[tuple]:
    """The rows of a file."""
    with duckdb.connect() as connection:
        connection.execute(CREATE_REJECTED)
        table = FileTable(connection, "t", TableConfig(files=file, user="uid", time="ts"))
        table.create({}, True)
        table.fill({}, 0, 1)
        return connection.execute("SELECT uid FROM t ORDER BY uid").fetchall()


def breaks_off(error: Exception) -> Iterator[pa.RecordBatch]:
    yield pa.record_batch({"x": ["one"]})
    raise error


def summed(batches: Iterator[pa.RecordBatch]) -> None:
    schema = pa.schema([("x", pa.string())])
    with duckdb.connect() as connection, streamed(connection, schema, batches) as name:
        connection.execute(f"CREATE TABLE t AS FROM {name}")


def test_what_a_stream_raises_is_judged_as_it_was() -> None:
    with pytest.raises(NotNow, match=r"the storage cannot be reached .*NETWORK_CONNECTION"):
        summed(breaks_off(DOWN))
    with pytest.raises(NotNow, match="the storage is full"):
        summed(breaks_off(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="ACCESS_DENIED") as refused:
        summed(breaks_off(REFUSED))
    assert "the storage refuses access" in str(user_error(refused.value))
    with pytest.raises(duckdb.Error, match="no list"):
        summed(breaks_off(pa.ArrowInvalid("no list")))
    with pytest.raises(duckdb.Error, match="timed out"):
        summed(breaks_off(ValueError("somebody wrote 'timed out'")))


def test_a_file_of_the_user_that_breaks_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream of a JSON file, and of a Parquet file whose second part does not come."""
    file, answers = tmp_path / "a.jsonl", [False, True]
    file.write_text('{"uid": "u1", "ts": "2025-03-01"}\n')
    opened = json_part.opened

    def lines(stream: BinaryIO) -> Iterator[bytes]:
        yield from stream
        if answers.pop(0):
            raise DOWN

    def broken(*arguments: str) -> object:
        with opened(*arguments) as stream:
            content = [*stream]
        return storage_like(lines(iter(content)))  # type: ignore[arg-type]

    monkeypatch.setattr(json_part, "opened", broken)
    with pytest.raises(NotNow, match="NETWORK_CONNECTION"):
        filled(str(file))
    monkeypatch.undo()
    assert filled(str(file)) == [("u1",)]

    parquet = tmp_path / "a.parquet"
    pq.write_table(pa.table({"uid": ["u1"], "ts": ["2025-03-01"]}), parquet)
    with monkeypatch.context() as patch:
        patch.setattr(ds, "dataset", failing(DOWN))
        with pytest.raises(OSError, match="NETWORK_CONNECTION"):
            filled(str(parquet))
    assert filled(str(parquet)) == [("u1",)]
    parquet.write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match="expected a Parquet file"):
        filled(str(parquet))


class storage_like:  # noqa: N801 (a context manager)
    """An open stream."""

    def __init__(self, content: Iterator[bytes]) -> None:
        self.content = content

    def __enter__(self) -> Iterator[bytes]:
        return self.content

    def __exit__(self, *_: object) -> None:
        pass


def failing(error: Exception) -> object:
    """A function that raises."""

    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def test_a_store_that_breaks_off(monkeypatch: pytest.MonkeyPatch) -> None:
    state = TableState(version=0, user="uid", time="ts", columns=COLUMNS, texts=(), rows=1)
    part = StoredPart("s3://b/t", ["s3://b/t/a.parquet"], TableConfig(files="", user="uid", time="ts"), state, {})
    monkeypatch.setattr(storage, "arrow_filesystem", lambda file: (None, file))
    monkeypatch.setattr(ds, "dataset", lambda *_, **__: SimpleNamespace(scanner=scanner))

    def scanner(columns: dict[str, object]) -> object:
        assert len(columns) == len({"uid", FILE, RECORD, TIME_TEXT})
        return SimpleNamespace(to_batches=failing(DOWN))

    with (
        duckdb.connect() as connection,
        pytest.raises(NotNow, match="the storage cannot be reached"),
        part.rows(connection, ["uid"]) as rows,
    ):
        connection.execute(f"FROM {rows}")


class Broken(AbstractFileSystem):
    """A file system with a file that cannot be read."""

    protocol = "broken"
    error: Exception = DOWN

    def glob(self, path: str, **_: object) -> list[str]:
        return [path]

    def open(self, *_: object, **__: object) -> None:
        raise self.error


@pytest.mark.parametrize(("error", "passes"), [(DOWN, True), (REFUSED, False), (FileNotFoundError(2, "a.csv"), False)])
def test_a_file_system_that_duckdb_reads_itself(error: Exception, passes: bool) -> None:
    fs = Broken(skip_instance_cache=True)
    fs.error = error
    with duckdb.connect() as connection:
        connection.register_filesystem(fs)
        with pytest.raises(duckdb.Error) as failure:
            connection.execute("FROM read_csv('broken://a.csv', columns = {x: 'VARCHAR'}, auto_detect = false)")
    assert outage(failure.value) == (f"the storage cannot be reached (OSError: {DOWN})" if passes else None)
    assert outage(duckdb.ConversionException("Could not convert string 'timed out' to INT64")) is None


def test_no_sentence_about_the_input_is_made_of_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a task of Ray only the error itself arrives, not what is behind it."""
    monkeypatch.setattr(storage, "retried", lambda work: work())
    for name in ("arrow_filesystem", "read_bytes"):
        monkeypatch.setattr(storage, name, failing(DOWN))
    monkeypatch.setattr(pq, "read_metadata", failing(DOWN))
    chunk = Chunk(0, "s3://b/a.parquet", 0, 1, 0, 1)
    for work in (lambda: read_chunk(chunk, ["x"]), lambda: read_key("s3://b/key")):
        with pytest.raises(OSError, match="NETWORK_CONNECTION"):
            work()
    monkeypatch.setattr(storage, "arrow_filesystem", lambda file: (None, file))
    with pytest.raises(OSError, match="NETWORK_CONNECTION"):
        read_footer("s3://b/a.parquet")
