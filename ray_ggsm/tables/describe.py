"""What other registers need to read a table where it is: a file for Feast, a table of an Iceberg catalog.

Nothing is copied. Both describe the version that was open; describe the table again after a publish or a `forget`.
"""

import re
from contextlib import closing

from ray_ggsm import storage
from ray_ggsm.config import InputError
from ray_ggsm.tables.reader import EmbeddingTable
from ray_ggsm.tables.schema import SCHEMA

ICEBERG = "_iceberg"
"""Name of the directory, in a table's, with Iceberg's metadata."""
CATALOG = "ray_ggsm"
"""Name of the catalog, and of the namespace in it."""
NO_STATISTICS = {"write.metadata.metrics.default": "none"}
"""Iceberg's metadata would hold the least and greatest user_id of each file."""
FEAST = '''"""An embedding table for Feast; made by `jobs/tables.py describe` of its version {version}."""

from datetime import timedelta

from feast import Entity, FeatureView, Field, FileSource, ValueType
from feast.data_format import DeltaFormat
from feast.types import Array, Float32, Int32, String

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING)

{name} = FeatureView(
    name="{name}",
    entities=[user],
    ttl=timedelta(0),
    schema=[
        Field(name="embedding", dtype=Array(Float32)),
        Field(name="events", dtype=Int32),
        Field(name="encoder", dtype=String),
    ],
    source=FileSource(
        name="{name}_table",
        path={location!r},
        file_format=DeltaFormat(),
        timestamp_field="as_of",
    ),
    online=False,
    tags={tags!r},
)
'''


def check_name(name: str) -> None:
    """Refuse a name that is none in Python and in SQL.

    Raises:
        InputError: it is none.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,62}", name):
        raise InputError(f"--name: expected lower-case letters, digits and '_', starting with a letter, found '{name}'")


def feast_view(table: EmbeddingTable, name: str) -> str:
    """A Python file for Feast's repository, with a FeatureView that reads the Delta table itself.

    Raises:
        InputError: the name is none, or the table has several vectors of a user at a moment, which Feast cannot tell
            apart.
    """
    check_name(name)
    metadata = table.metadata()
    instructions = (metadata.config.instructions if metadata.config else None) or {}
    if len(instructions) > 1:
        raise InputError(
            f"{table.location}: this table has the instructions {', '.join(instructions)}, and Feast would mix their "
            "vectors; publish a table for each"
        )
    facts = {"encoder": metadata.encoder, "width": metadata.width, "rows": metadata.rows, "version": table.version}
    tags = {key: str(value) for key, value in facts.items() if value is not None}
    return FEAST.format(name=name, location=table.location, version=table.version, tags=tags)


def register_iceberg(table: EmbeddingTable, catalog: str, name: str) -> int:
    """Make the newest version the content of an Iceberg table, in one commit; returns its number of files.

    The table `ray_ggsm.<name>` of the catalog `ray_ggsm` has the version's own Parquet files, and metadata below
    `_iceberg` in the table's directory. The snapshot's property `ray_ggsm.version` is the version. The column `bucket`
    is not in it.

    Args:
        table: the embedding table.
        catalog: URI of a SQL catalog, such as sqlite:////data/catalog.db.
        name: the Iceberg table.

    Raises:
        InputError: pyiceberg is not installed, the name is none, the catalog cannot be opened, or it has another table
            of this name.
    """
    check_name(name)
    try:
        from pyiceberg.catalog.sql import SqlCatalog
        from pyiceberg.expressions import AlwaysTrue
        from sqlalchemy.exc import SQLAlchemyError
    except ImportError as error:
        raise InputError("--iceberg: needs the package pyiceberg; pip install 'ray-ggsm[iceberg]'") from error
    place = f"{table.location.rstrip('/')}/{ICEBERG}/{name}"
    shown = storage.without_credentials(catalog)
    identifier, recorded = f"{CATALOG}.{name}", {"ray_ggsm.version": str(table.version)}
    try:
        opened = SqlCatalog(CATALOG, uri=catalog)
    except SQLAlchemyError as error:
        raise InputError(
            f"--iceberg: expected a SQL catalog that can be opened, such as sqlite:////data/catalog.db "
            f"({str(error).replace(catalog, shown)})"
        ) from error
    with closing(opened) as found:
        found.create_namespace_if_not_exists(CATALOG)
        iceberg = found.create_table_if_not_exists(identifier, SCHEMA, location=place, properties=NO_STATISTICS)
        if iceberg.location() != place:
            raise InputError(f"{shown}: {identifier} is another table, at {iceberg.location()}; give another --name")
        files = table.files()
        with iceberg.transaction() as transaction:
            if iceberg.current_snapshot() is not None:
                transaction.delete(AlwaysTrue(), snapshot_properties=recorded)
            transaction.add_files(files, snapshot_properties=recorded, check_duplicate_files=False)
    return len(files)
