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

FORMAT, PSEUDONYMOUS = 1, 2
"""Formats of a store. Versions that know no pseudonyms refuse the second one; they would add users by their ids."""
LOCKED_FOR = "a change of this store"
"""What the lock is held for, in sentences."""


class Layout(Record):
    """The content of store.json."""

    format: int = FORMAT
    buckets: int = Field(ge=1)
    """Users of a bucket lie together; a user's bucket never changes."""
    key_id: str | None = None
    """Which key the pseudonyms have that users are named by; None: users are named as in the source."""


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
    if found.format not in (FORMAT, PSEUDONYMOUS):
        raise InputError(f"{file}: expected a store of format {FORMAT} or {PSEUDONYMOUS}, found {found.format}")
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


def create(location: str, buckets: int, key_id: str | None = None) -> Layout:
    """The layout of the store, which is made where there is none.

    Args:
        location: the store.
        buckets: number of its buckets.
        key_id: which key its pseudonyms have; None: users are named as in the source.

    Raises:
        InputError: it has another number of buckets, or other names of users.
    """
    wanted = Layout(format=FORMAT if key_id is None else PSEUDONYMOUS, buckets=buckets, key_id=key_id)
    storage.write_new(storage.join(location, "store.json"), (wanted.model_dump_json(indent=1) + "\n").encode())
    found = require_layout(location)
    if found.buckets != buckets:
        raise InputError(
            f"buckets: the store at {location} has {found.buckets} buckets, which never changes, found {buckets}; use "
            "that number, or another location"
        )
    if found.key_id != key_id:
        raise InputError(f"pseudonyms: the store at {location} {_named(found.key_id)}, found {_asked(key_id)}")
    return found


def _named(key_id: str | None) -> str:
    return "names users as the source does" if key_id is None else f"names users by pseudonyms of the key {key_id}"


def _asked(key_id: str | None) -> str:
    if key_id is None:
        return "false; set pseudonyms to true, with the key in key_file"
    return f"true with the key {key_id}; a store keeps its names, so use its key or another location"
