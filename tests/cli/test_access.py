"""Each role can do its work, and nothing else: commands and readers against a server that keeps to the policies."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import s3fs

from ray_ggsm import storage
from ray_ggsm.cli.access import ROLES, AccessConfig, access, policy, preview
from ray_ggsm.config import InputError, build
from ray_ggsm.storage import write_new
from ray_ggsm.tables import open_table
from tests.helpers.s3_server import give_policies
from tests.helpers.tables import job, put, rows

KEY = "k" * 32
As = Callable[[str], None]


@pytest.fixture
def config(s3_bucket: str, tmp_path: Path) -> AccessConfig:
    values = {
        "policies": str(tmp_path / "policies"), "events": ["s3://raw/events"], "store": f"{s3_bucket}/store",
        "output": f"{s3_bucket}/out", "tables": [f"{s3_bucket}/users"],
    }  # fmt: skip
    return build(AccessConfig, values, "test")


@pytest.fixture
def act_as(s3_server: str, config: AccessConfig, monkeypatch: pytest.MonkeyPatch) -> Iterator[As]:
    """This process becomes a role, or `test`, who may do everything."""
    give_policies(s3_server, {role: policy(config, role) for role in ROLES})

    def become(role: str) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", role)
        s3fs.S3FileSystem.clear_instance_cache()

    yield become
    give_policies(s3_server, {})


def refused(work: Callable[[], object]) -> bool:
    """Whether the server refuses; fails where the work succeeds."""
    with pytest.raises(Exception) as error:  # noqa: PT011 (each client has classes of its own)
        work()
    return storage.refused(error.value)


@pytest.fixture
def table(config: AccessConfig, act_as: As) -> str:
    """Two versions and a dead letter, made by the role that makes them."""
    act_as("refresh")
    location = config.tables[0]
    put(location, rows(20), "r0")
    put(location, rows(31), "r1")
    storage.write_text(f"{location}/staging/r1/dead_letters/part.txt", "u1")
    storage.write_text(f"{location}/runs/r1/report.json", "{}")
    return location


def test_readers_read_and_nothing_else(table: str, act_as: As, tmp_path: Path) -> None:
    act_as("reader")
    assert len(open_table(table).read(version=0)) == 20
    assert open_table(table).matrix(user_ids=["u3"])[1].shape[0] == 1
    assert job("metrics", table, "--output", tmp_path / "metrics") == 0
    assert job("tags", table) == 0
    assert refused(lambda: storage.read_text(f"{table}/staging/r1/dead_letters/part.txt")), "it names a user"
    for name in ("data/x", "_delta_log/x", "_audit/00000001.json", "_suppressed/00000001.json"):
        assert refused(lambda name=name: storage.write_text(f"{table}/{name}", "x")), name
    assert refused(lambda: storage.remove(open_table(table).files()[0]))
    assert job("rollback", table, 0) == 2


def test_analysts_read_as_readers_do_and_write_results(table: str, config: AccessConfig, act_as: As) -> None:
    act_as("test")
    storage.write_text(f"{config.store}/manifests/00000001.json", "{}")
    act_as("analyst")
    assert storage.read_text(f"{config.store}/manifests/00000001.json") == "{}"
    place = f"{config.output}/drift.parquet"
    storage.write_parquet(place, open_table(table).read(version=0))
    assert len(storage.read_parquet(place)) == 20
    assert refused(lambda: storage.read_text(f"{table}/staging/r1/dead_letters/part.txt")), "it names a user"
    for file in (f"{table}/data/x", f"{table}/_tags/live/00000001.json", f"{config.store}/store.json"):
        assert refused(lambda file=file: storage.write_text(file, "x")), file
    assert refused(lambda: storage.remove(place))


def test_forget_and_its_audit(table: str, act_as: As, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "key").write_text(KEY)
    (tmp_path / "gone.txt").write_text("u1\nu2\n")
    act_as("forget")
    assert job("tag", table, "before", "--version", 0) == 0
    assert job("rollback", table, 0) == 0
    command = ["forget", table, "--users-file", tmp_path / "gone.txt", "--key-file", tmp_path / "key"]
    assert job(*command, "--request", "letter 7") == 0
    assert job("vacuum", table, "--retention-hours", 0) == 2
    act_as("vacuum")
    assert job("vacuum", table, "--retention-hours", 0) == 0
    assert not storage.list_files(f"{table}/staging")
    capsys.readouterr()
    for user, found in (("u1", 1), ("u3", 0)):
        assert job("audit", table, "--user", user, "--key-file", tmp_path / "key") == 0
        assert f"{found} lines about this user" in capsys.readouterr().out
    for name in ("_audit", "_suppressed", "_tags/before"):
        act_as("forget")
        file = f"{table}/{name}/00000001.json"
        kept = storage.read_text(file)
        assert refused(lambda file=file: storage.remove(file)), "what is written stays"
        assert refused(lambda file=file: storage.write_text(file, "{}")), "as it is"
        assert storage.read_text(file) == kept
    assert refused(lambda: storage.remove(f"{table}/_delta_log/00000000000000000000.json"))


@pytest.mark.parametrize("role", ["refresh", "trainer", "ingest", "reader", "analyst"])
def test_nobody_else_touches_the_list_of_the_forgotten(table: str, act_as: As, role: str) -> None:
    act_as(role)
    assert refused(lambda: write_new(f"{table}/_suppressed/00000001.json", b"{}"))
    assert refused(lambda: write_new(f"{table}/_audit/00000001.json", b"{}"))


def test_maps_and_indices_are_written_by_refresh_and_removed_by_vacuum(table: str, act_as: As) -> None:
    place = f"{table}/_index/part.json"
    act_as("reader")
    assert refused(lambda: storage.write_bytes(place, b"{}"))
    act_as("refresh")
    storage.write_bytes(place, b"{}")
    storage.write_bytes(f"{table}/_maps/0.safetensors", b"")
    assert refused(lambda: storage.remove(place))
    act_as("reader")
    assert (storage.read_bytes(place), storage.read_bytes(f"{table}/_maps/0.safetensors")) == (b"{}", b"")
    act_as("vacuum")
    storage.remove(place)
    assert not storage.exists(place)


def test_who_sees_ids_of_the_source(config: AccessConfig) -> None:
    """Event files are read by `ingest` alone: with pseudonyms in the store, nobody else meets an id."""
    readers = {role for role in ROLES if "arn:aws:s3:::raw/events/*" in json.dumps(policy(config, role))}
    assert readers == {"ingest"}


def test_files_and_words(config: AccessConfig) -> None:
    access(config)
    for role in ROLES:
        written = json.loads(Path(config.policies, f"{role}.json").read_text())
        assert written == policy(config, role)
        assert len(json.dumps(written, separators=(",", ":"))) < 6144, "the most that IAM takes"
    assert "reader   " in preview(config)
    local = config.model_copy(update={"tables": ("users",)})
    with pytest.raises(InputError, match="users: expected an s3:// location"):
        preview(local)
