"""Who was forgotten when, and by whom: a line per `forget`, which is added to and never changed.

`<place>/_audit/00000001.json` and so on hold keyed hashes (`ray_ggsm.hashing.pseudonym`), never ids: with the key one
can ask for a user's lines, without it nobody learns who they are about. A line is written when all else is done; a
command that ends before says so by its exit code, and when it is called again it writes the line.
"""

import datetime as dt
import getpass
import socket
from collections.abc import Collection
from typing import Literal

from ray_ggsm import storage
from ray_ggsm.config import InputError, Record
from ray_ggsm.hashing import key_id, pseudonym
from ray_ggsm.tables.numbered import add_record, numbered_files, read_records

DIRECTORY = "_audit"
"""Name of the lines' directory in a table's, or an event store's."""


class AuditLine(Record):
    """One `forget` that has ended well."""

    format: Literal[1] = 1
    time: str
    """When it ended (ISO, UTC)."""
    by: str
    """Account and machine that it ran on, or pod."""
    request: str | None
    """What the caller named it (--request), such as the number of the person's letter."""
    key_id: str
    """Which key the hashes have."""
    users: tuple[str, ...]
    """Keyed hashes of all users who were asked for, sorted."""
    rows: int
    """Rows, or records of a store, that were taken out."""
    version: int
    """Version of the table, or number of the manifest, without them."""


def add_line(location: str, users: Collection[str], key: bytes, request: str | None, rows: int, version: int) -> None:
    """Add a line about a `forget` that has ended, as the next one of its place.

    Args:
        location: the table or the store.
        users: ids of all users who were asked for.
        key: the key that they were forgotten with.
        request: what the caller names it.
        rows: rows or records that were taken out.
        version: version or manifest without them.
    """
    line = AuditLine(
        time=dt.datetime.now(dt.UTC).isoformat(timespec="microseconds"),
        by=f"{getpass.getuser()}@{socket.gethostname()}",
        request=request,
        key_id=key_id(key),
        users=tuple(sorted({pseudonym(user, key) for user in users})),
        rows=rows,
        version=version,
    )
    directory = storage.join(storage.absolute(location), DIRECTORY)
    number = max(numbered_files(directory), default=0)
    while not add_record(directory, number := number + 1, line):
        pass  # another command has added that one


def show_lines(location: str, user: str | None = None, key: bytes | None = None) -> None:
    """Print the lines of a place, the oldest first; of a user only those about this one.

    Raises:
        InputError: a user without the key, or a line is missing or damaged.
    """
    if user is not None and key is None:
        raise InputError("--user: give --key-file, too; the lines have keyed hashes of users")
    name = None if user is None or key is None else pseudonym(user.strip(" "), key)
    files = numbered_files(storage.join(storage.absolute(location), DIRECTORY))
    found = [line for line in read_records(list(files.values()), AuditLine) if name is None or name in line.users]
    for line in found:
        told = f"{len(line.users):>7,} users  {line.rows:>9,} rows  now {line.version:>6}  {line.request or ''}"
        print(f"{line.time[:19]}  {line.by:32}  {told}".rstrip())
    print(f"{len(found)} lines{'' if name is None else ' about this user'}")
