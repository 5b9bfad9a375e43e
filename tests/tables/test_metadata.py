"""What versions record: typed, in the same JSON as ever, and nothing lost that this code does not know."""

import datetime as dt
import json

import pytest
from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake.transaction import create_table_with_add_actions

from ray_ggsm.config import InputError
from ray_ggsm.tables import delta, open_table
from ray_ggsm.tables.maintenance import forget, rollback
from ray_ggsm.tables.metadata import (
    RecordedConfig,
    RecordedEncoder,
    RecordedInput,
    VersionCounts,
    VersionMetadata,
)
from ray_ggsm.tables.publish import _add
from tests.helpers.tables import BUCKETS, put, rows, stage

OLD = {
    "operation": "publish",
    "config": {"instructions": {"default": ""}, "mask": "trained", "rows_per_block": 16384, "stages": ["probe"]},
    "encoder_description": {"mask": {"recipe": "ggsm"}, "step": 120, "alpha": 1.0, "template_digest": "77aa"},
    "input": {"rows": "rows/*.parquet", "digest": "0123"},
    "encoder": "enc1",
    "width": 7,
    "normalised": True,
    "counts": {"expected": 33, "written": 31, "dead_letters": 2, "encoded": 31, "departed": 0},
    "gates": {"coverage": "31 rows and 2 dead letters"},
    "failed_gates": ["dead_letters"],
    "published_anyway": "two are known",
    "run": "refresh-0",
    "rows": 31,
}
"""Metadata of a version as the package wrote them before they had a class."""


def published_by_hand(location: str, values: dict, run: str = "refresh-0") -> None:
    """A table whose first version records these values."""
    texts = {f"ray_ggsm.{key}": json.dumps(value) for key, value in values.items()}
    create_table_with_add_actions(
        location,
        delta.schema(BUCKETS),
        [_add(file) for file in stage(location, rows(31), run)],
        mode="error",
        partition_by=["bucket"],
        commit_properties=CommitProperties(
            custom_metadata=texts, app_transactions=[Transaction(f"ray_ggsm:{run}", 0)], max_commit_retries=0
        ),
    )


def recorded(location: str, version: int) -> dict:
    """The keys and values in the log, read without this package."""
    (info,) = [entry for entry in DeltaTable(location).history() if entry["version"] == version]
    return {key.removeprefix("ray_ggsm."): json.loads(v) for key, v in info.items() if key.startswith("ray_ggsm.")}


def test_a_version_of_older_code_is_read(tmp_path):
    location = str(tmp_path / "users")
    published_by_hand(location, OLD)
    metadata = open_table(location).metadata()
    assert (metadata.run, metadata.rows, metadata.encoder, metadata.width) == ("refresh-0", 31, "enc1", 7)
    assert metadata.counts == VersionCounts(expected=33, written=31, dead_letters=2, encoded=31)
    assert metadata.config is not None
    assert metadata.config.mask == "trained"
    assert metadata.encoder_description is not None
    assert metadata.encoder_description.step == 120
    assert metadata.published_anyway == "two are known"
    assert metadata.values() == OLD


def test_a_version_with_hardly_any_metadata_is_read(tmp_path):
    location = str(tmp_path / "users")
    published_by_hand(location, {})
    table = open_table(location)
    assert table.metadata() == VersionMetadata()
    (commit,) = table.history()
    assert (commit.version, commit.run, commit.encoder, commit.rows) == (0, None, None, None)
    assert commit.timestamp.tzinfo == dt.UTC
    assert abs((dt.datetime.now(dt.UTC) - commit.timestamp).total_seconds()) < 3600


def test_unknown_keys_survive_a_rollback_and_a_forget(tmp_path):
    location = str(tmp_path / "users")
    later = {**OLD, "sealed_day": "2031-01-01", "counts": {**OLD["counts"], "merged": 4}}
    published_by_hand(location, later)
    put(location, rows(20), "r1")
    assert rollback(location, 0) == 2
    rolled = recorded(location, 2)
    assert rolled.pop("run").startswith("rollback-1-")
    kept = {key: value for key, value in later.items() if key != "run"}
    assert rolled == {**kept, "operation": "rollback", "rolled_back_to": 0}
    assert forget(location, ["u3"], b"k" * 32).version == 3
    after = recorded(location, 3)
    assert after.pop("run").startswith("forget-2-")
    changed = {"operation": "forget", "rows": 30, "suppressed": 1, "forgotten": {"users": 1, "rows": 1}}
    assert after == {**kept, **changed, "rolled_back_to": 0}


def test_the_log_has_the_keys_and_values_that_older_readers_know(tmp_path):
    location = str(tmp_path / "users")
    metadata = VersionMetadata(
        config=RecordedConfig.model_validate(OLD["config"]),
        encoder_description=RecordedEncoder.model_validate(OLD["encoder_description"]),
        input=RecordedInput(rows="rows/*.parquet", digest="0123"),
        encoder="enc1",
        width=7,
        normalised=True,
        counts=VersionCounts(expected=33, written=31, dead_letters=2, encoded=31, departed=0),
        gates=OLD["gates"],
        failed_gates=("dead_letters",),
        published_anyway="two are known",
    )
    put(location, rows(31), "refresh-0", metadata=metadata)
    assert recorded(location, 0) == OLD


def test_metadata_that_nobody_can_read_name_the_version(tmp_path):
    location = str(tmp_path / "users")
    published_by_hand(location, {**OLD, "rows": "many"})
    with pytest.raises(InputError, match="the metadata of version 0 cannot be read"):
        open_table(location).metadata()
