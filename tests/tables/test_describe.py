"""Descriptions of a table for other registers, read by the real libraries where they are installed."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ray_ggsm.config import InputError
from ray_ggsm.tables import open_table
from ray_ggsm.tables.describe import feast_view, register_iceberg
from ray_ggsm.tables.maintenance import forget
from ray_ggsm.tables.metadata import RecordedConfig, VersionMetadata
from tests.helpers.tables import job, put, rows

FEAST_READS = """
import sys
import pandas as pd
from feast import FeatureStore

store = FeatureStore(repo_path=sys.argv[1])
view = store.get_feature_view("users")
source = view.batch_source
print("described:", source.path, source.timestamp_field, sorted(field.name for field in view.features), flush=True)
times = pd.to_datetime(["2024-03-02", "2024-02-01", "2024-03-02"], utc=True)
asked = pd.DataFrame({"user_id": ["u3", "u3", "nobody"], "event_timestamp": times})
found = store.get_historical_features(asked, features=["users:embedding", "users:encoder"]).to_df()
found = found.sort_values(["user_id", "event_timestamp"])
for vector in found["embedding"]:
    print([round(float(x), 5) for x in vector] if hasattr(vector, "__len__") else None)
"""


def test_the_feast_file_is_python_and_names_the_table(tmp_path):
    location = str(tmp_path / "users")
    put(location, rows(20), "r0", metadata=VersionMetadata(encoder="enc1", width=7))
    assert job("describe", location, "--feast", tmp_path / "view.py", "--name", "shoppers") == 0
    text = (tmp_path / "view.py").read_text()
    ast.parse(text)
    assert f"path='{location}'" in text
    assert "'encoder': 'enc1', 'width': '7', 'rows': '20', 'version': '0'" in text
    with pytest.raises(InputError, match="expected lower-case letters"):
        feast_view(open_table(location), "x'; drop")
    assert job("describe", location) == 2


def test_feast_would_mix_instructions(tmp_path):
    location = str(tmp_path / "users")
    config = RecordedConfig(instructions={"default": "", "gifts": "What would they give?"})
    put(location, rows(20), "r0", metadata=VersionMetadata(encoder="enc1", config=config))
    with pytest.raises(InputError, match="instructions default, gifts, and Feast would mix"):
        feast_view(open_table(location), "users")


def test_feast_reads_the_table(tmp_path):
    """The real library, in an environment of its own (RAY_GGSM_FEAST names its Python): the vector known at a time."""
    python = os.environ.get("RAY_GGSM_FEAST")
    if python is None:
        pytest.skip("RAY_GGSM_FEAST does not name a Python with feast[duckdb] and deltalake")
    location, repository = str(tmp_path / "users"), tmp_path / "repo"
    put(location, rows(20), "r0")
    put(location, rows(20, seed=1, run="r1"), "r1")  # files of the version before are still there
    repository.mkdir()
    (repository / "view.py").write_text(feast_view(open_table(location), "users"))
    (repository / "feature_store.yaml").write_text(
        "project: lifters\nregistry: registry.db\nprovider: local\noffline_store: {type: duckdb}\n"
        "entity_key_serialization_version: 3\n"
    )
    script = tmp_path / "reads.py"
    script.write_text(FEAST_READS)
    feast = str(Path(python).with_name("feast"))
    subprocess.run([feast, "apply"], cwd=repository, check=True, timeout=600)
    command = [python, str(script), str(repository)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert f"described: {location} as_of ['embedding', 'encoder', 'events']" in found.stdout
    if 'Failed to download extension "delta"' in found.stderr:
        pytest.skip("Feast has the view; to read it, DuckDB needs its extension `delta` from the internet")
    assert found.returncode == 0, found.stderr
    nobody, before, after = ast.literal_eval(found.stdout.splitlines()[-1])
    _, (vector_D,) = open_table(location).matrix(user_ids=["u3"])
    assert after == pytest.approx(vector_D.tolist(), abs=1e-4)
    assert (nobody, before) == (None, None)


@pytest.mark.filterwarnings("default")
def test_an_iceberg_catalog_follows_the_versions(tmp_path, capsys):
    """The same rows as the newest version, without a copy; no user id in Iceberg's metadata."""
    pytest.importorskip("pyiceberg", reason="pyiceberg is not installed (the extra `iceberg`)")
    from pyiceberg.catalog.sql import SqlCatalog

    location, catalog = str(tmp_path / "users"), f"sqlite:///{tmp_path}/catalog.db"
    put(location, rows([f"person{i}" for i in range(50)]), "r0")
    assert job("describe", location, "--iceberg", catalog, "--name", "shoppers") == 0
    assert "ray_ggsm.shoppers: version 0, 5 files" in capsys.readouterr().out

    def read():
        return SqlCatalog("ray_ggsm", uri=catalog).load_table("ray_ggsm.shoppers")

    def same() -> bool:
        theirs, ours = (
            sorted(table.select(["user_id", "events", "embedding", "as_of"]).to_pylist(), key=str)
            for table in (read().scan().to_arrow(), open_table(location).read())
        )
        return theirs == ours

    assert same()
    forget(location, ["person7"], b"k" * 32)
    assert not same(), "as it was described"
    register_iceberg(open_table(location), catalog, "shoppers")
    assert same()
    assert read().current_snapshot().summary["ray_ggsm.version"] == "1"
    assert len(read().scan(row_filter="user_id = 'person8'").to_arrow()) == 1
    metadata = [path for path in Path(location, "_iceberg").rglob("*") if path.is_file()]
    assert metadata
    assert not any(b"person" in path.read_bytes() for path in metadata)
    other = str(tmp_path / "others")
    put(other, rows(5), "r0")
    with pytest.raises(InputError, match="another table"):
        register_iceberg(open_table(other), catalog, "shoppers")


@pytest.mark.parametrize("uri", ["nothing", "sqlite:////nowhere/at/all/catalog.db"])
def test_a_catalog_that_cannot_be_opened_is_a_sentence(tmp_path, uri):
    pytest.importorskip("pyiceberg.catalog.sql")
    put(str(tmp_path / "t"), rows(3), "r0")
    with pytest.raises(InputError, match="--iceberg: expected a SQL catalog that can be opened"):
        register_iceberg(open_table(str(tmp_path / "t")), uri, "users")


def test_without_pyiceberg_the_extra_is_named(tmp_path, monkeypatch):
    location = str(tmp_path / "users")
    put(location, rows(5), "r0")
    monkeypatch.setitem(sys.modules, "pyiceberg.catalog.sql", None)
    with pytest.raises(InputError, match=r"pip install 'ray-ggsm\[iceberg\]'"):
        register_iceberg(open_table(location), "sqlite://", "users")
