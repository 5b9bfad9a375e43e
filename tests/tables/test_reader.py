"""Reading: versions, look-ups by user, damaged files, and other people's readers as docs/tables.md shows them."""

import datetime as dt
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_ggsm import storage
from ray_ggsm.config import InputError
from ray_ggsm.hashing import bucket_of
from ray_ggsm.tables import open_table, scan
from ray_ggsm.tables.files import DataFileConfig, describe, spacing_of, write_bucket
from ray_ggsm.tables.neighbours.build import build_index
from ray_ggsm.tables.schema import KEY, SCHEMA, matrix, rows_to_table, shortened
from tests.helpers.tables import AS_OF, BUCKETS, WIDTH, publish_files, put, rows, stage

DOCS = Path(__file__).parents[2] / "docs" / "tables.md"


@pytest.fixture
def table(tmp_path):
    location = str(tmp_path / "users")
    put(location, rows(40), "r0")
    put(location, rows(50, seed=1, run="r1"), "r1")
    return open_table(location)


def test_time_travel(table):
    assert table.read(version=0).num_rows == 40
    assert table.read(version=1).num_rows == table.read().num_rows == 50
    assert table.metadata(0).run == "r0"
    assert len(table.files(0)) == len(table.files()) == BUCKETS
    assert set(table.read(version=0)["run"].to_pylist()) == {"r0"}
    with pytest.raises(InputError, match="no version 2; there are versions 0 to 1"):
        table.read(version=2)
    with pytest.raises(InputError, match="no version -1"):
        table.read(version=-1)


def test_an_opened_table_does_not_move(table):
    put(table.location, rows(10), "r2")
    assert table.read().num_rows == 50
    assert [commit.run for commit in table.history()] == ["r1", "r0"]
    assert open_table(table.location).read().num_rows == 10


def test_no_table(tmp_path):
    with pytest.raises(InputError, match="no embedding table here"):
        open_table(str(tmp_path / "nothing"))
    from deltalake import write_deltalake

    write_deltalake(str(tmp_path / "other"), pa.table({"a": [1]}))
    with pytest.raises(InputError, match="is no embedding table"):
        open_table(str(tmp_path / "other"))


@settings(max_examples=25, deadline=None)
@given(st.sets(st.text(st.characters(codec="utf-8"), max_size=9), max_size=40), st.data())
def test_look_up_equals_filter(tmp_path_factory, names, data):
    """Any user ids, also empty ones and those that sort oddly."""
    location = str(tmp_path_factory.mktemp("t") / "users")
    table = rows(sorted(names))
    files = stage(location, table, "r0", config=DataFileConfig(rows_per_group=3))
    publish_files(location, files, "r0")
    asked = data.draw(st.lists(st.sampled_from([*sorted(names), "nobody"])))
    found = open_table(location).read(user_ids=asked)
    assert sorted(found["user_id"].to_pylist()) == sorted(set(asked) & names)
    wanted = {row["user_id"]: row for row in table.to_pylist()}
    assert all(wanted[row["user_id"]] == row for row in found.to_pylist())


def test_part_by_part(tmp_path):
    location = str(tmp_path / "users")
    put(location, pa.concat_tables([rows(50), rows(50, seed=1, instruction="churn")]), "r0")
    table = open_table(location)
    parts = [table.read(buckets=[bucket]) for bucket in range(table.buckets)]
    assert pa.concat_tables(parts).equals(table.read())
    of_part = [set(part["user_id"].to_pylist()) for part in parts]
    assert sum(map(len, of_part)) == len(set.union(*of_part)) == 50
    with pytest.raises(InputError, match=rf"no bucket {table.buckets}; there are 0 to"):
        table.read(buckets=[0, table.buckets])


def test_look_up_reads_few_bytes(tmp_path, monkeypatch):
    """One user per 10,000, as 1,000 out of 10 million; every byte counts, footers too."""
    location, N = str(tmp_path / "users"), 60_000
    names = [f"customer-{i * 7919 % 1_000_003:09d}" for i in range(N)]
    files = stage(location, rows(names, width=64), "r0", buckets=2)
    publish_files(location, files, "r0", buckets=2)
    read = []

    class Counting:
        def __init__(self, location: str) -> None:
            self.file = open(location, "rb")  # noqa: SIM115
            self.seek, self.tell, self.close = self.file.seek, self.file.tell, self.file.close
            self.readable, self.seekable, self.writable = lambda: True, lambda: True, lambda: False

        def read(self, size: int = -1) -> bytes:
            found = self.file.read(size)
            read.append(len(found))
            return found

        @property
        def closed(self) -> bool:
            return self.file.closed

    monkeypatch.setattr(scan, "open_file", lambda location: pa.PythonFile(Counting(location), mode="r"))
    asked = names[:: N // 6]
    found = open_table(location).read(user_ids=asked)
    assert sorted(found["user_id"].to_pylist()) == sorted(asked)
    share = sum(read) / sum(file.size for file in files)
    print(f"{share:.2%} of the bytes for {len(asked)} of {N} users")
    assert 0 < share < 0.05


def test_a_date_is_the_midnight_of_the_rows_zone(tmp_path):
    location = str(tmp_path / "users")
    parts = []
    for hour in ("2024-03-30T23:00", "2024-03-31T00:00", "2024-03-31T22:00", "2024-04-01T10:00"):  # UTC
        moment = dt.datetime.fromisoformat(hour).replace(tzinfo=dt.UTC)
        part = rows([f"at {hour}"])
        parts.append(part.set_column(1, "as_of", pa.array([moment], pa.timestamp("us", "UTC"))))
    put(location, pa.concat_tables(parts), "r0", metadata={"timezone": "Europe/Berlin"})
    for moment, expected in [
        ("2024-03-31", ["at 2024-03-30T23:00"]),
        (dt.date(2024, 4, 1), ["at 2024-03-31T22:00"]),
        (dt.datetime(2024, 3, 31), ["at 2024-03-30T23:00"]),
        ("2024-04-01T12:00:00", ["at 2024-04-01T10:00"]),
        ("2024-03-31T00:00:00Z", ["at 2024-03-31T00:00"]),
        ("2024-04-01T00:00+02:00", ["at 2024-03-31T22:00"]),
    ]:
        assert open_table(location).read(as_of=moment)["user_id"].to_pylist() == expected
    assert open_table(location).matrix(as_of="2024-04-01")[0].tolist() == ["at 2024-03-31T22:00"]


def test_columns_as_of_and_matrix(tmp_path):
    location = str(tmp_path / "users")
    one, other = rows(11), rows(11, seed=1, instruction="churn")
    later = one.set_column(1, "as_of", pa.array([AS_OF + dt.timedelta(days=30)] * 11, pa.timestamp("us", "UTC")))
    put(location, pa.concat_tables([one, other, later]), "r0")
    table = open_table(location)
    assert table.read(columns=["embedding", "user_id"]).column_names == ["embedding", "user_id"]
    for moment in (AS_OF, AS_OF.date(), "2024-03-01", "2024-03-01T01:00:00+01:00"):
        assert table.read(as_of=moment, columns=["user_id"]).num_rows == 22
    assert table.read(as_of="1999-01-01").num_rows == 0
    assert table.read(user_ids=[]).schema == SCHEMA
    users_N, vector_ND = table.matrix(as_of=AS_OF, instruction="churn")
    assert vector_ND.shape == (11, WIDTH)
    assert vector_ND.dtype == np.float32
    wanted = dict(zip(other["user_id"].to_pylist(), other["embedding"].to_pylist(), strict=True))
    assert {u: v.tolist() for u, v in zip(users_N, vector_ND, strict=True)} == wanted
    sorted_keys = [tuple(row.values()) for file in table.files() for row in pq.read_table(file).select(KEY).to_pylist()]
    assert [key for key in sorted_keys if key[0] == "u3"] == sorted(key for key in sorted_keys if key[0] == "u3")
    for wrong, sentence in [
        ({"columns": ["vector"]}, "no column 'vector'; there are user_id"),
        ({"as_of": "March"}, "expected an ISO date"),
        ({"user_ids": [3]}, "user_ids: expected strings"),
        ({"user_ids": [None]}, "1 of them are null"),
    ]:
        with pytest.raises(InputError, match=sentence):
            table.read(**wrong)


def test_damage_is_found(location):
    put(location, rows(2000, width=31), "r0")
    table = open_table(location)
    fs, paths = storage.filesystem(location)[0], [file.path for file in table.data_files()]
    full = [storage.filesystem(f"{location}/{path}")[1] for path in paths]
    whole = fs.cat_file(full[0])
    fs.pipe_file(full[0], whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"bucket=0/part-00000\.parquet: damaged, \d+ bytes without a readable"):
        describe(location, paths[0])
    with pytest.raises(InputError, match=r"bucket=0.* cannot be read"):
        table.read()
    fs.rm_file(full[1])
    with pytest.raises(InputError, match=r"bucket=1.* missing"):
        describe(location, paths[1])
    small = rows(3, width=31)
    write_bucket(small, location, "r0", 2, DataFileConfig())
    flipped = bytearray(fs.cat_file(full[3]))
    flipped[len(flipped) // 3] ^= 255
    fs.pipe_file(full[3], bytes(flipped))
    problems = table.verify()
    assert len(problems) == 3
    for problem, expected in zip(problems, ["damaged", "missing", "the file has 3 and"], strict=True):
        assert expected in problem
    assert "bucket=3" in table.verify(deep=True)[3]  # a flipped byte shows in the page's checksum
    with pytest.raises(InputError, match=r"bucket=1.* is gone"):
        table.read(user_ids=_users_of(1))


def _users_of(bucket: int) -> list[str]:
    names = rows(2000)["user_id"]
    return names.filter(pa.array(bucket_of(names, BUCKETS) == bucket)).to_pylist()


def test_a_crash_while_writing_leaves_the_earlier_file(tmp_path, monkeypatch):
    location = str(tmp_path / "users")
    first = write_bucket(rows(9), location, "r0", 0, DataFileConfig())
    monkeypatch.setattr(storage.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("power cut")))
    with pytest.raises(OSError, match="power cut"):
        write_bucket(rows(90), location, "r0", 0, DataFileConfig())
    assert describe(location, first.path) == first


def test_precision(tmp_path):
    table = rows(5000, width=64)
    sizes = {}
    for precision in ("float32", "float16"):
        file = write_bucket(table, str(tmp_path), precision, 0, DataFileConfig(precision=precision))
        found = pq.read_table(tmp_path / file.path).sort_by("user_id")["embedding"].combine_chunks().flatten()
        wanted = table.sort_by("user_id")["embedding"].combine_chunks().flatten().to_numpy()
        kind = np.float16 if precision == "float16" else np.float32
        assert (found.to_numpy() == wanted.astype(kind)).all()
        assert describe(str(tmp_path), file.path) == file
        sizes[precision] = file.size
    assert sizes["float16"] < 0.62 * sizes["float32"]
    huge = rows_to_table(
        table["user_id"], table["as_of"], "", *([np.arange(5000)] * 2), np.full((5000, 1), 1e6), "", ""
    )
    with pytest.raises(InputError, match="beyond 65504"):
        write_bucket(huge, str(tmp_path), "r", 0, DataFileConfig(precision="float16"))
    nulls = table.set_column(5, "content", pa.nulls(5000, pa.int64()))
    with pytest.raises(InputError, match="5000 rows without content"):
        write_bucket(nulls, str(tmp_path), "r", 0, DataFileConfig())


def test_buckets_are_the_same_everywhere():
    ids = pa.array([f"u{i}" for i in range(20)])
    assert bucket_of(ids, 7).tolist() == [bucket_of(ids[i : i + 1], 7)[0] for i in range(20)]
    assert bucket_of(pa.array(["ada", "böll", ""]), 97).tolist() == [16, 11, 80]
    assert bucket_of(ids[:0], 7).dtype == np.int32


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL))
def test_the_lines_in_the_docs_run(code, table, monkeypatch):
    monkeypatch.chdir(Path(table.location).parent)
    if ".index()" in code:
        pytest.importorskip("faiss", reason="faiss is not installed (the extra `neighbours`)")
        put(table.location, rows(20, run="indexed", instruction="default"), "indexed")
        build_index(open_table(table.location))
    names: dict = {}
    exec(code, names)
    assert len(names["result"]), "each block leaves something in `result`"


def test_int8(tmp_path):
    """A quarter of the bytes, directions kept, and vectors that are carried forward are rounded once."""
    table = rows(2000, width=64)
    files = {
        precision: write_bucket(table, str(tmp_path), precision, 0, DataFileConfig(precision=precision))
        for precision in ("float32", "int8")
    }
    assert files["int8"].size < 0.3 * files["float32"].size
    file = f"{tmp_path}/{files['int8'].path}"
    stored = scan.read_files([file], SCHEMA.names)
    given_ND, stored_ND = matrix(table.sort_by("user_id")["embedding"]), matrix(stored["embedding"])
    assert ((given_ND * stored_ND).sum(axis=1) / np.linalg.norm(stored_ND, axis=1)).min() > 0.999
    spacing = spacing_of([file])
    assert len(np.unique(stored_ND)) <= 255
    assert np.abs(np.rint(stored_ND / spacing) - stored_ND / spacing).max() < 1e-3
    assert np.abs(stored_ND - given_ND).max() <= 0.501 * spacing

    wider = pa.concat_tables([stored, rows([f"v{i}" for i in range(50)], width=64, seed=1)])
    again = write_bucket(wider, str(tmp_path), "r2", 0, DataFileConfig(precision="int8"), spacing)
    both = scan.read_files([f"{tmp_path}/{again.path}"], SCHEMA.names)
    assert both.slice(0, 2000)["embedding"].equals(stored["embedding"])
    assert spacing_of([f"{tmp_path}/{again.path}"]) == spacing
    assert spacing_of([file, f"{tmp_path}/{files['float32'].path}"]) is None


def test_a_prefix_is_read_at_length_1(tmp_path):
    put(str(tmp_path / "t"), rows(50), "r0")
    table = open_table(str(tmp_path / "t"))
    whole_ND = matrix(table.read()["embedding"])
    users, prefix_ND = table.matrix(dimensions=3)
    np.testing.assert_allclose(prefix_ND, whole_ND[:, :3] / np.linalg.norm(whole_ND[:, :3], axis=1)[:, None], rtol=1e-6)
    assert prefix_ND.dtype == np.float32
    assert users.tolist() == table.read()["user_id"].to_pylist()
    assert table.read(dimensions=WIDTH).equals(table.read()), "all dimensions, to the bit"
    assert table.read(dimensions=3, columns=["user_id"]).column_names == ["user_id"]
    assert len(table.read(dimensions=3, user_ids=["nobody"])) == 0
    one = table.read(dimensions=3, columns=["embedding"], user_ids=[users[7]])
    assert one["embedding"].to_pylist() == [prefix_ND[7].tolist()]
    for dimensions, sentence in ((0, "at least 1"), (WIDTH + 1, f"have {WIDTH}, and {WIDTH + 1} were asked")):
        with pytest.raises(InputError, match=sentence):
            table.read(dimensions=dimensions)


def test_a_vector_of_zeros_has_a_prefix_of_zeros():
    zeros = shortened(pa.table({"embedding": pa.array([[0.0, 0.0, 1.0]], pa.list_(pa.float32()))}), 2)
    assert zeros["embedding"].to_pylist() == [[0.0, 0.0]]
    assert zeros.schema.field("embedding").type == SCHEMA.field("embedding").type


def test_int8_is_within_half_a_spacing_and_the_inverse_is_exact(tmp_path):
    """The bound that docs/tables.md states, in a loop over values."""
    table = rows(300, width=16)
    file = write_bucket(table, str(tmp_path), "r", 0, DataFileConfig(precision="int8"))
    place = f"{tmp_path}/{file.path}"
    given_ND, stored_ND = (
        matrix(t.sort_by("user_id")["embedding"]) for t in (table, scan.read_files([place], SCHEMA.names))
    )
    spacing, largest = spacing_of([place]), float(np.abs(given_ND).max())
    assert spacing == pytest.approx(1.1 * largest / 127, rel=1e-6)
    for value, found in zip(given_ND.ravel().tolist(), stored_ND.ravel().tolist(), strict=True):
        level = round(found / spacing)
        assert abs(level) <= 127
        assert found == float(np.float32(level) * np.float32(spacing)), "a level says exactly what is read"
        assert abs(found - value) <= 0.5 * spacing + 1e-7 <= 0.00434 * largest + 1e-7
