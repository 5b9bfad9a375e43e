"""Where a store's parts lie below its location, and the one number that never changes: its buckets.

store.json                          format, number of buckets
manifests/00000007.json             one change each (`manifest`)
tables/<table>/_store_bucket=3/...  a Delta table per source table (`log`, `columns`)
tables/rejected/...                 records that cannot be used
ingest.lock                         one change at a time, to save work; `manifest` keeps it right
"""

from pydantic import Field

from ray_ggsm import storage
from ray_ggsm.config import InputError, Record

FORMAT = 1
LOCKED_FOR = "a change of this store"
"""What the lock is held for, in sentences."""


class Layout(Record):
    """The content of store.json."""

    format: int = FORMAT
    buckets: int = Field(ge=1)
    """Users of a bucket lie together; a user's bucket never changes."""


def table_place(location: str, table: str) -> str:
    """Where the Delta table of a source table lies."""
    return storage.join(location, "tables", table)


def lock_file(location: str) -> str:
    """The lock that a change holds."""
    return storage.join(location, "ingest.lock")


def read_layout(location: str) -> Layout | None:
    """The layout of a store; None: there is no store.

    Raises:
        InputError: store.json is damaged or of another format.
    """
    file = storage.join(location, "store.json")
    if not storage.exists(file):
        return None
    try:
        found = Layout.model_validate_json(storage.read_bytes(file))
    except ValueError as error:
        raise InputError(f"{file}: this is no event store ({' '.join(str(error).split())[:200]})") from None
    if found.format != FORMAT:
        raise InputError(f"{file}: expected a store of format {FORMAT}, found {found.format}")
    return found


def require_layout(location: str) -> Layout:
    """The layout of a store.

    Raises:
        InputError: there is no store.
    """
    found = read_layout(location)
    if found is None:
        raise InputError(f"{location}: no event store here; jobs/ingest.py makes one")
    return found


def create(location: str, buckets: int) -> Layout:
    """The layout of the store, which is made where there is none.

    Raises:
        InputError: it has another number of buckets.
    """
    wanted = Layout(buckets=buckets)
    storage.write_new(storage.join(location, "store.json"), (wanted.model_dump_json(indent=1) + "\n").encode())
    found = require_layout(location)
    if found.buckets != buckets:
        raise InputError(
            f"buckets: the store at {location} has {found.buckets} buckets, which never changes, found {buckets}; use "
            "that number, or another location"
        )
    return found
