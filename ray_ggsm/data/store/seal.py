"""The end of every change: a commit for each table that changed, then the manifest."""

from collections.abc import Collection, Mapping

import pyarrow as pa

from ray_ggsm.config import NotNow
from ray_ggsm.data.store import arrivals, rejected
from ray_ggsm.data.store.columns import REJECTED
from ray_ggsm.data.store.layout import table_place
from ray_ggsm.data.store.log import StoreFile, commit
from ray_ggsm.data.store.manifest import Manifest, TableState, seal

Files = Mapping[str, Collection[StoreFile]]
"""Table -> files."""


def schema_of(name: str, table: TableState) -> pa.Schema:
    """The columns of a table's files."""
    return rejected.rejected_schema() if name == REJECTED else arrivals.row_schema(table)


def apply(location: str, manifest: Manifest, added: Files, removed: Files) -> Manifest:
    """Make a change visible: its files are written, `manifest` names the tables before it. Returns the manifest after.

    Raises:
        NotNow: another change was faster; nothing of this one is visible.
    """
    tables = dict(manifest.tables)
    for name, table in tables.items():
        more, gone = added.get(name, ()), removed.get(name, ())
        if not more and not gone and table.version >= 0:
            continue
        version = commit(
            table_place(location, name),
            table.version if table.version >= 0 else None,
            schema_of(name, table),
            table.time,
            gone,
            more,
            manifest.run,
        )
        rows = table.rows + sum(f.rows for f in more) - sum(f.rows for f in gone)
        tables[name] = table.model_copy(update={"version": version, "rows": rows})
    manifest = manifest.model_copy(update={"tables": tables})
    if not seal(location, manifest):
        raise NotNow(f"{location}: another run has changed the store just now; start this one again")
    return manifest
