"""The index of nearest users: who is found, against exact search; versions, forgotten users, damage."""

import json
import shutil
from contextlib import ExitStack, nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from ray_ggsm import storage
from ray_ggsm.config import InputError
from ray_ggsm.tables import neighbours, open_table
from ray_ggsm.tables.maintenance import forget, vacuum
from ray_ggsm.tables.neighbours.build import build_index
from ray_ggsm.tables.neighbours.exact import exact_nearest
from ray_ggsm.tables.neighbours.layout import DIRECTORY, IndexSettings, needed_files, read_manifest, read_manifests
from ray_ggsm.tables.schema import rows_to_table
from ray_ggsm.tables.tagging import tag
from tests.helpers.tables import AS_OF, job, put, rows

pytest.importorskip("faiss", reason="faiss is not installed (the extra `neighbours`)")
KEY = b"k" * 32
WIDTH, GROUP = 16, 20
SETTINGS = IndexSettings(rows_per_shard=300)


def planted(groups: int, *, seed: int = 0, run: str = "r0", instruction: str = "default") -> pa.Table:
    """Groups of GROUP users each around a direction: u<group>-<number>."""
    rng = np.random.default_rng(seed)
    centre_GD = rng.normal(size=(groups, WIDTH))
    vector_ND = np.repeat(centre_GD, GROUP, axis=0) + 0.1 * rng.normal(size=(groups * GROUP, WIDTH))
    names = pa.array([f"u{g}-{i}" for g in range(groups) for i in range(GROUP)])
    N, as_of = np.arange(len(names)), pa.array([AS_OF] * len(names), pa.timestamp("us", "UTC"))
    vector_ND = (vector_ND / np.linalg.norm(vector_ND, axis=1, keepdims=True)).astype(np.float32)
    return rows_to_table(names, as_of, instruction, N, N, vector_ND, "enc1", run)


def by_loop(location: str, query_D: np.ndarray, k: int, without: str | None = None) -> list[str]:
    """The k best users: cosines one by one."""
    names, vector_ND = open_table(location).matrix(instruction="default")
    best: dict[str, float] = {}
    for name, vector_D in zip(names, vector_ND, strict=True):
        score = float(vector_D.astype(float) @ query_D / np.linalg.norm(vector_D) / np.linalg.norm(query_D))
        best[name] = max(score, best.get(name, -2))
    return sorted(best.keys() - {without}, key=lambda name: (-best[name], name))[:k]


def test_planted_groups_are_found(location, tmp_path):
    """In several shards; the manifest's numbers are those of a search of our own."""
    put(location, planted(60), "r0")
    made = build_index(open_table(location), settings=SETTINGS)
    assert (made.version, made.rows, len(made.shards)) == (0, 1200, 3)
    index = open_table(location).index()
    names, vector_ND = open_table(location).matrix()
    found = index.nearest(vector_ND[::97], GROUP)
    for query, name in enumerate(names[::97]):
        of_query = found.filter(pa.compute.equal(found["query"], query))
        group = name.split("-")[0]
        assert sorted(of_query["user_id"].to_pylist()) == sorted(f"{group}-{i}" for i in range(GROUP))
        assert of_query["user_id"][0].as_py() == name
        scores = of_query["score"].to_numpy()
        assert (np.diff(scores) <= 0).all()
        assert scores[0] == pytest.approx(1, abs=2e-3), "float16"
    assert made.quality is not None
    assert (made.quality.k, made.quality.queries) == (10, 200)
    assert made.quality.recall >= 0.99
    assert min(made.quality.queries_per_second, made.quality.exact_queries_per_second) > 0
    index.close()
    copies = tmp_path / "copies"
    for _ in range(2):  # the second time the copy is there
        kept = open_table(location).index(directory=str(copies))
        assert kept.nearest(vector_ND[0], 1)["user_id"].to_pylist() == [names[0]]
    assert copies.exists() == location.startswith("s3://")


def test_two_processes_copy_an_index_at_once(tmp_path, monkeypatch):
    """The second one finds the copy of the first in its place, uses it, and leaves nothing behind."""
    fetched, copies = tmp_path / "fetched", tmp_path / "copies"
    fetched.mkdir()
    (fetched / "names.arrow").write_text("same")

    def upload(source: str, target: str) -> None:
        shutil.copytree(source, target, dirs_exist_ok=True)
        shutil.copytree(source, copies / "shard")  # the other process was faster

    monkeypatch.setattr(storage, "local_copy", lambda place: nullcontext(str(fetched)))
    monkeypatch.setattr(storage, "upload", upload)
    found = neighbours.reader._local("s3://bucket/t", SimpleNamespace(name="shard"), str(copies), ExitStack())
    assert found == str(copies / "shard")
    assert [*copies.iterdir()] == [copies / "shard"]


def test_measured_recall_counts_what_a_loop_counts(tmp_path, monkeypatch):
    """An index that is hardly searched is measured as it is: its recall is below 1, and equal to that of a loop."""
    location = str(tmp_path / "t")
    put(location, rows(3000, width=64, instruction="default"), "r0")
    weak = IndexSettings(probes=1)
    asked = {}
    queries = neighbours.build._queries
    monkeypatch.setattr(
        neighbours.build, "_queries", lambda *of: asked.setdefault("queries", tuple(part[:20] for part in queries(*of)))
    )
    made = build_index(open_table(location), settings=weak)
    index = open_table(location).index()
    shares = []
    for name, query_D in zip(*asked["queries"], strict=True):
        found = index.nearest(query_D, 10, without=[name])["user_id"].to_pylist()
        shares.append(len({*found} & {*by_loop(location, query_D, 10, without=name)}) / 10)
    assert made.quality.recall == pytest.approx(np.mean(shares))
    assert made.quality.recall < 0.9


def test_exact_search_is_that_of_a_loop(tmp_path):
    location = str(tmp_path / "t")
    both = pa.concat_tables([rows(300, instruction="default"), rows(50, seed=3, instruction="other")])
    put(location, both, "r0")
    names, vector_ND = open_table(location).matrix(instruction="default")
    found = exact_nearest(open_table(location).files(), vector_ND[:9], 7, "default", without=names[:9].tolist())
    assert found == [by_loop(location, vector_ND[i], 7, without=names[i]) for i in range(9)]


@pytest.mark.parametrize("rows_per_shard", [1, 1000])
def test_a_users_best_row_counts(tmp_path, rows_per_shard):
    """Many rows of few users, in one shard or several: the search goes on until there are k users, or no more."""
    location = str(tmp_path / "t")
    rng, names = np.random.default_rng(0), pa.array([f"u{i % 6}" for i in range(240)])
    N = np.arange(240)
    as_of = pa.array(AS_OF.timestamp() * 1e6 + N * 1e6, pa.float64()).cast(pa.int64()).cast(pa.timestamp("us", "UTC"))
    vector_ND = rng.normal(size=(240, 5)).astype(np.float32)
    vector_ND[N % 6 == 0] = np.abs(vector_ND[N % 6 == 0]) + 2  # all rows of one user are nearest
    put(location, rows_to_table(names, as_of, "default", N, N, vector_ND, "enc1", "r0"), "r0")
    build_index(open_table(location), settings=IndexSettings(rows_per_shard=rows_per_shard))
    index = open_table(location).index()
    query_D = np.ones(5)
    assert index.nearest(query_D, 2)["user_id"].to_pylist() == by_loop(location, query_D, 2)
    assert index.nearest(query_D, 4)["user_id"].to_pylist() == by_loop(location, query_D, 4)
    assert index.nearest(query_D, 50)["user_id"].to_pylist() == by_loop(location, query_D, 6), "there are six"
    without = index.nearest(query_D, 4, without=["u0"])
    assert without["user_id"].to_pylist() == by_loop(location, query_D, 4, without="u0")


def test_equal_scores_are_in_the_order_of_ids(tmp_path):
    location = str(tmp_path / "t")
    alike = rows(40, instruction="default")
    alike = alike.set_column(3, alike.schema.field(3), pa.array([[1.0, 0, 0]] * 40, pa.list_(pa.float32())))
    put(location, alike, "r0")
    build_index(open_table(location))
    found = open_table(location).index().nearest([1.0, 0, 0], 40)
    assert found["user_id"].to_pylist() == sorted(f"u{i}" for i in range(40))
    assert len({*open_table(location).index().nearest([1.0, 0, 0], 7)["user_id"].to_pylist()}) == 7


def test_an_index_belongs_to_what_a_version_holds(tmp_path):
    """That of another version is refused; buckets that did not change keep their shards; going back finds the old."""
    location = str(tmp_path / "t")
    put(location, planted(60), "r0")
    settings = IndexSettings(rows_per_shard=1)
    first = build_index(open_table(location), settings=settings)
    tag(location, "first")
    forget(location, ["u3-7"], KEY)
    with pytest.raises(InputError, match=r"no index of version 1 .*indices of the versions 0.*tables.py index"):
        open_table(location).index()
    second = build_index(open_table(location), settings=settings)
    assert len({shard.name for shard in first.shards} - {shard.name for shard in second.shards}) == 1
    assert second.rows == first.rows - 1
    with pytest.raises(InputError, match="for the instruction 'other'"):
        open_table(location).index(instruction="other")
    with pytest.raises(InputError, match="no index of tag 'first' for"):
        open_table(location).index(version="first")  # `forget` has written the tag's files again


def test_forgotten_users_are_never_returned(tmp_path):
    location = str(tmp_path / "t")
    put(location, planted(20), "r0")
    build_index(open_table(location))
    _, (query_D,) = open_table(location).matrix(user_ids=["u3-7"])
    forget(location, ["u3-7", "u3-8"], KEY)
    with pytest.raises(InputError, match="forgotten with a key, found no key"):
        open_table(location).index(version=0)
    with pytest.raises(InputError, match="users were forgotten since version 0"):
        build_index(open_table(location), 0)
    old = open_table(location, KEY).index(version=0).nearest(query_D, GROUP)
    build_index(open_table(location))
    new = open_table(location).index().nearest(query_D, GROUP)
    for found in (old["user_id"].to_pylist(), new["user_id"].to_pylist()):
        assert len(found) == GROUP
        assert {*found} > {f"u3-{i}" for i in range(GROUP)} - {"u3-7", "u3-8"}
        assert not {*found} & {"u3-7", "u3-8"}


def test_vacuum_keeps_the_index_of_the_newest_version_and_of_tags(tmp_path):
    location = str(tmp_path / "t")
    for number in range(3):
        put(location, planted(20, seed=number), f"r{number}")
        build_index(open_table(location))
        if number == 1:
            tag(location, "kept")
    assert vacuum(location, 1, dry_run=True) == [], "nothing is older than an hour"
    manifests = sorted(Path(location, DIRECTORY).glob("*.json"), key=lambda file: file.stat().st_mtime)
    assert needed_files(location, [], [f"{DIRECTORY}/{file.name}" for file in manifests[1:]]) == {
        f"{DIRECTORY}/{manifests[0].name}",
        *(f"{DIRECTORY}/shards/{shard.name}/{name}" for shard in read_manifest(str(manifests[0])).shards for name in
          ("vectors.faiss", "users.arrow", "shard.json")),
    }, "a manifest that is not old keeps its shards"  # fmt: skip
    removed = vacuum(location, 0, dry_run=False)
    assert any(path.startswith(DIRECTORY) for path in removed)
    assert [each.version for each in read_manifests(location)] == [1, 2]
    assert len(storage.list_files(storage.join(location, DIRECTORY), ".faiss")) == 2
    assert open_table(location).index().nearest(np.ones(WIDTH), 3).num_rows == 3
    assert open_table(location).index(version="kept").nearest(np.ones(WIDTH), 3).num_rows == 3


@pytest.mark.parametrize("name", ["vectors.faiss", "users.arrow"])
@pytest.mark.parametrize("damage", ["gone", "short", "changed"])
def test_a_damaged_index_is_refused(tmp_path, name, damage):
    location = str(tmp_path / "t")
    put(location, planted(20), "r0")
    made = build_index(open_table(location))
    file = Path(location, DIRECTORY, "shards", made.shards[0].name, name)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.unlink()
    if damage != "gone":
        file.write_bytes(content[:-1] if damage == "short" else content)
    with pytest.raises(InputError, match=f"{name}: this file of the index is missing or damaged"):
        open_table(location).index()
    if damage != "gone":
        shutil.rmtree(file.parent)  # as the sentence says
    build_index(open_table(location))
    assert open_table(location).index().nearest(np.ones(WIDTH), 3).num_rows == 3


def test_a_damaged_manifest_is_refused(tmp_path):
    location = str(tmp_path / "t")
    put(location, planted(5), "r0")
    made = build_index(open_table(location))
    file = Path(location, DIRECTORY, f"{made.files}.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), "files": "0" * 16}))
    with pytest.raises(InputError, match="the manifest of another index"):
        open_table(location).index()
    file.write_text("{")
    with pytest.raises(InputError, match="this index cannot be read"):
        open_table(location).index()


def test_an_interrupted_build_goes_on(tmp_path, monkeypatch):
    location = str(tmp_path / "t")
    put(location, planted(60), "r0")
    real, built = neighbours.build.build_shard, []

    def dies(*arguments):
        if len(built) == 2:
            raise KeyboardInterrupt
        built.append(real(*arguments))
        return built[-1]

    monkeypatch.setattr(neighbours.build, "build_shard", dies)
    with pytest.raises(KeyboardInterrupt):
        build_index(open_table(location), settings=SETTINGS)
    monkeypatch.undo()
    with pytest.raises(InputError, match="there is none"):
        open_table(location).index()
    graphs = {file: Path(file).stat().st_mtime_ns for file in storage.list_files(location, ".faiss")}
    made = build_index(open_table(location), settings=SETTINGS)
    assert {file: Path(file).stat().st_mtime_ns for file in graphs} == graphs
    assert made.shards[:2] == tuple(built)


def test_queries_of_another_width_and_empty_tables(tmp_path):
    location = str(tmp_path / "t")
    put(location, planted(5), "r0")
    build_index(open_table(location))
    with pytest.raises(InputError, match="queries of width 3, but the vectors of this index have 16"):
        open_table(location).index().nearest(np.ones(3))
    assert build_index(open_table(location), instruction="other").quality is None
    assert open_table(location).index(instruction="other").nearest(np.ones(3)).num_rows == 0


def test_the_command(tmp_path, capsys):
    location = str(tmp_path / "t")
    put(location, planted(20), "r0")
    assert job("index", location, "--precision", "f32", "--rows-per-shard", "100") == 0
    out = capsys.readouterr().out
    assert "version 0: 400 rows of 'default' in " in out
    assert "recall of the 10 nearest of 200 of its users: " in out
    assert read_manifests(location)[0].settings == IndexSettings(precision="f32", rows_per_shard=100)
