"""What `ray_ggsm.storage` promises of files, in emulators of other object stores than S3."""

from concurrent.futures import ThreadPoolExecutor

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from ray_ggsm import storage
from ray_ggsm.building.lock import held
from ray_ggsm.config import NotNow
from ray_ggsm.data.source_config import TableConfig
from ray_ggsm.data.sources.table import FileTable


@pytest.fixture(params=["", "az", "abfss", "abfss@"])
def named(request, bucket) -> str:
    """The bucket by each name that it has."""
    scheme, _, name = bucket.partition("://")
    if not request.param:
        return bucket
    if scheme == "gs":
        pytest.skip("Google has one scheme")
    where = "@devstoreaccount1.dfs.core.windows.net" if request.param.endswith("@") else ""
    return f"{request.param.rstrip('@')}://{name}{where}"


def test_files_come_and_go(named, tmp_path):
    place = f"{named}/a/b"
    assert not storage.exists(place)
    assert storage.list_files(place) == []
    storage.write_text(f"{place}/x.json", "1")
    storage.write_text(f"{place}/c/y.txt", "2")
    assert storage.list_files(place) == [f"{place}/c/y.txt", f"{place}/x.json"]
    assert storage.list_files(place, ".json") == storage.glob(f"{named}/a/*/*.json") == [f"{place}/x.json"]
    assert [storage.is_directory(each) for each in (place, f"{place}/x.json")] == [True, False]
    storage.write_text(f"{place}/x.json", "3")
    assert storage.read_text(f"{place}/x.json") == "3"
    with storage.local_copy(place) as directory:
        assert sorted(file.removeprefix(directory) for file in storage.list_files(directory)) == ["/c/y.txt", "/x.json"]
        storage.upload(directory, f"{named}/copy")
    assert storage.read_text(f"{named}/copy/c/y.txt") == "2"
    storage.remove(place)
    storage.remove(place)
    assert storage.list_files(named) == [f"{named}/copy/c/y.txt", f"{named}/copy/x.json"]
    with pytest.raises(FileNotFoundError):
        storage.read_text(f"{place}/x.json")


def test_of_many_writers_one_wins(bucket):
    for number in range(5):
        location = f"{bucket}/lock-{number}"
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(lambda n: storage.write_new(location, b"%d" % n), range(8)))  # noqa: B023
        assert sum(won) == 1
        assert storage.read_bytes(location) == b"%d" % won.index(True)
        assert storage.write_new(location, storage.read_bytes(location)), "an answer that was lost"
    with held(f"{bucket}/refresh.lock"), pytest.raises(NotNow), held(f"{bucket}/refresh.lock"):
        pass


def test_a_file_that_is_written_again_has_another_mark(bucket):
    fs, path = storage.filesystem(f"{bucket}/x")
    marks = []
    for content in (b"1", b"2"):
        storage.write_bytes(f"{bucket}/x", content)
        marks.append(storage.write_mark(fs.info(path)))
    assert marks[0] != marks[1]
    assert "None" not in marks


def test_arrow_and_duckdb_read(named):
    """Files of events are read as the package reads them: DuckDB and Arrow through fsspec."""
    for name in ("a", "b"):
        storage.write_text(f"{named}/csv/{name}.csv", f"uid,ts\n{name},2024-03-01 00:00:00\n")
        storage.write_parquet(f"{named}/parquet/{name}.parquet", pa.table({"uid": [name], "ts": ["2024-03-01"]}))
    for kind in ("csv", "parquet"):
        with duckdb.connect() as connection:
            for name in ("one", "two"):  # a connection learns of a store once
                config = TableConfig(files=f"{named}/{kind}/*.{kind}", user="uid", time="ts")
                parts = FileTable(connection, name, config).parts
                assert [part.file for part, _ in parts] == [f"{named}/{kind}/{each}.{kind}" for each in ("a", "b")]
                assert all({*columns} >= {"uid", "ts"} for _, columns in parts)
            if kind == "csv":
                found = connection.sql(f"SELECT uid FROM read_csv('{named}/csv/a.csv')").fetchall()
                assert found == [("a",)]
    fs, path = storage.arrow_filesystem(f"{named}/parquet")
    assert sorted(ds.dataset(path, filesystem=fs, format="parquet").to_table()["uid"].to_pylist()) == ["a", "b"]
