"""The Delta log of an embedding table, opened and read in one place.

What a publisher says about a version stands in the commit under keys that start with `ray_ggsm.`, as JSON text. The
number of buckets is metadata of the column `bucket`: it is fixed when the table is created and survives checkpoints.
S3 needs no lock service: commits are conditional puts.
"""

import datetime as dt
import json
import os
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Field, Schema
from deltalake.exceptions import DeltaError, TableNotFoundError
from deltalake.schema import PrimitiveType

from ray_ggsm import storage
from ray_ggsm.config import InputError
from ray_ggsm.tables.files import DataFile
from ray_ggsm.tables.schema import SCHEMA

T = TypeVar("T")
PREFIX = "ray_ggsm."
BUCKETS = "ray_ggsm.buckets"


def storage_options(location: str) -> dict[str, str]:
    """Options beside what delta-rs itself takes from the environment (AWS_*, AWS_ENDPOINT_URL)."""
    if not location.startswith("s3://"):
        return {}
    plain = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
    return {"aws_conditional_put": "etag", "aws_allow_http": str(plain).lower()}


def retried(work: Callable[[], T]) -> T:
    """`storage.retried` for work of delta-rs, which tells some errors of the object store as errors of its own."""

    def work_once() -> T:
        try:
            return work()
        except DeltaError as error:
            if "interacting with object store" not in str(error):
                raise
            raise OSError(line(error)) from error

    return storage.retried(work_once)


def find(location: str) -> DeltaTable | None:
    """The table at its newest version; None when there is none.

    Raises:
        InputError: the place cannot be reached, or holds a table of another kind.
    """
    location = storage.absolute(location)
    try:
        table = retried(lambda: DeltaTable(location, storage_options=storage_options(location)))
    except TableNotFoundError:
        return None
    except (DeltaError, OSError) as error:
        raise InputError(f"{location}: the table cannot be opened ({line(error)})") from error
    if not any(BUCKETS in field.metadata for field in table.schema().fields):
        raise InputError(f"{location}: this Delta table is no embedding table; give another location")
    return table


def exists(location: str) -> bool:
    """Whether an embedding table is there; raises like `find`."""
    return find(location) is not None


def load(location: str, version: int | None = None) -> DeltaTable:
    """The table at its newest or at a given version.

    Raises:
        InputError: no embedding table is there, it cannot be reached, or it has no such version.
    """
    table = find(location)
    if table is None:
        raise InputError(f"{location}: no embedding table here; publish one first")
    if version is None or version == table.version():
        return table
    if not 0 <= version <= table.version():
        raise InputError(f"{location}: no version {version}; there are versions 0 to {table.version()}")
    try:
        retried(lambda: table.load_as_version(version))
    except (DeltaError, OSError) as error:
        raise InputError(f"{location}: version {version} cannot be opened ({line(error)})") from error
    return table


def schema(buckets: int) -> Schema:
    """The table's columns in Delta's terms."""
    fields = Schema.from_arrow(SCHEMA).fields
    return Schema([*fields, Field("bucket", PrimitiveType("integer"), metadata={BUCKETS: buckets})])


def buckets(table: DeltaTable) -> int:
    """The number of buckets that was fixed at creation."""
    return int(table.schema().fields[-1].metadata[BUCKETS])


def files(table: DeltaTable) -> list[DataFile]:
    """The data files of the loaded version, by bucket."""
    actions = pa.table(table.get_add_actions(flatten=True))
    columns = [actions[name].to_pylist() for name in ("path", "partition.bucket", "size_bytes", "num_records")]
    return sorted((DataFile(*values) for values in zip(*columns, strict=True)), key=lambda f: (f.bucket, f.path))


def commit(metadata: Mapping[str, Any], **options: Any) -> CommitProperties:
    """Properties of a commit that fails when another one came first, instead of being repeated on top of it."""
    texts = {PREFIX + key: json.dumps(value, allow_nan=False) for key, value in metadata.items()}
    return CommitProperties(custom_metadata=texts, max_commit_retries=0, **options)


def history(location: str, first: int, last: int) -> list[dict[str, Any]]:
    """Commits first to last, newest first: version, timestamp, operation, run, encoder, rows, metadata.

    A vacuum changes no rows: its two commits show run, encoder and rows of the version before them, and no metadata.
    Read from the commit files themselves: delta-rs 1.6 numbers the newest commits as if they ended at the version that
    a handle has loaded, which is wrong as soon as there are newer ones.
    """
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda version: _commit_info(location, version), range(first, last + 1)))
    entries: list[dict[str, Any]] = []
    for version, info in enumerate(found, first):
        texts = {key.removeprefix(PREFIX): value for key, value in info.items() if key.startswith(PREFIX)}
        metadata = {key: json.loads(value) for key, value in texts.items()}
        before = entries[-1] if entries else {}
        entries.append(
            {
                "version": version,
                "timestamp": dt.datetime.fromtimestamp(info["timestamp"] / 1000, dt.UTC),
                "operation": metadata.get("operation", info["operation"].lower()),
                **{key: metadata.get(key, before.get(key)) for key in ("run", "encoder", "rows")},
                "metadata": metadata,
            }
        )
    return entries[::-1]


def metadata(location: str, version: int) -> dict[str, Any]:
    """What the publisher of a version said about it; after a vacuum, of the version before it."""
    for earlier in range(version, -1, -1):
        if said := history(location, earlier, earlier)[0]["metadata"]:
            return said
    return {}


def _commit_info(location: str, version: int) -> dict[str, Any]:
    file = storage.join(location, "_delta_log", f"{version:020}.json")
    try:
        actions = (json.loads(line) for line in storage.read_text(file).splitlines())
        return next(action["commitInfo"] for action in actions if "commitInfo" in action)
    except (FileNotFoundError, StopIteration, ValueError) as error:
        raise InputError(
            f"{file}: the record of version {version} is gone or damaged; the log is incomplete"
        ) from error


def line(error: BaseException) -> str:
    """An error of the library in one line without colours."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m|↳", "", str(error)).split())[:300]
