"""The list of forgotten users beside a table: who may not come back, whatever the input says.

`<table>/_suppressed/00000001.json` and so on hold keyed hashes (`ray_ggsm.hashing.pseudonym`), never ids, and are never
removed. All entries have one key, which stays outside of the table: without it nobody can tell who is on the list, nor
whether somebody is.
"""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from ray_ggsm import storage
from ray_ggsm.config import InputError, Record
from ray_ggsm.hashing import key_id, pseudonym, pseudonyms
from ray_ggsm.tables.numbered import add_record, numbered_files, read_records

DIRECTORY = "_suppressed"
"""Name of the list's directory in a table's."""


class Entry(Record):
    """Users who were put on the list together."""

    format: Literal[1] = 1
    key_id: str
    """Which key the hashes have."""
    hashes: tuple[str, ...]
    """Keyed hashes of the users, sorted."""


@dataclass(frozen=True)
class Suppressed:
    """The list of forgotten users as it is at one moment."""

    version: int
    """Number of its entries; 0: nobody was ever forgotten."""
    key_id: str | None
    """Which key its hashes have."""
    hashes: frozenset[str]
    """Keyed hashes of the users."""
    entries: tuple[frozenset[str], ...] = ()
    """The same, entry by entry."""

    def gone(self, users: pa.ChunkedArray, key: bytes | None) -> pa.BooleanArray:
        """Which of the users are on the list, (N,) bool; null is not.

        A user may be named by the id or, in a table with pseudonyms, by the pseudonym of the same key.

        Raises:
            InputError: there is a list, and the key is missing or another one.
        """
        self.check_key(key)
        if not self.version or key is None:
            return pa.repeat(False, len(users))
        users = users.cast(pa.string()).combine_chunks()
        named = [pc.is_in(names, value_set=self._values) for names in (users, pseudonyms(users, key))]
        return pc.or_(*named)

    def check_key(self, key: bytes | None) -> None:
        """Refuse a key, or the lack of one, that does not belong to the list.

        Raises:
            InputError: the list has another key.
        """
        if self.key_id is None or (key is not None and key_id(key) == self.key_id):
            return
        found = "no key" if key is None else "another key"
        raise InputError(
            f"users of this table were forgotten with a key, found {found}; give the file that `forget` was given "
            "(--key-file, or in a config forgotten_key_file)"
        )

    @cached_property
    def _values(self) -> pa.Array:
        return pa.array(sorted(self.hashes), pa.string())


NOBODY = Suppressed(0, None, frozenset())
"""The list before anybody was forgotten."""


@dataclass(frozen=True)
class SuppressionFilter:
    """What a reader does about the list: with its key it leaves out who is on it, without it nobody.

    Raises:
        InputError: there is a list, and the key is another one.
    """

    suppressed: Suppressed
    """The list."""
    key: bytes | None
    """Its key; None: the reader does not have it."""

    def __post_init__(self) -> None:
        if self.key is not None:
            self.suppressed.check_key(self.key)

    @property
    def state(self) -> str | None:
        """`applied`, or `no key`: users were forgotten, and nobody can tell who; None: nobody was."""
        if not self.suppressed.version:
            return None
        return "no key" if self.key is None else "applied"

    def gone(self, users: pa.ChunkedArray) -> pa.BooleanArray:
        """Which of the users are left out, (N,) bool; null is not."""
        return pa.repeat(False, len(users)) if self.key is None else self.suppressed.gone(users, self.key)


def read_suppressed(location: str) -> Suppressed:
    """The list of forgotten users of the table at a location; empty where there is none.

    Raises:
        InputError: an entry is missing or damaged.
    """
    files = numbered_files(storage.join(location, DIRECTORY))
    entries = read_records(list(files.values()), Entry)
    hashes = tuple(frozenset(entry.hashes) for entry in entries)
    return Suppressed(len(entries), entries[0].key_id if entries else None, frozenset().union(*hashes), hashes)


def suppress(location: str, users: Collection[str], key: bytes) -> Suppressed:
    """Put users on the list, unless they are on it, and return the list with them.

    Raises:
        InputError: the list has another key, or an entry is missing or damaged.
    """
    wanted = {pseudonym(user, key) for user in users}
    while True:
        found = read_suppressed(location)
        found.check_key(key)
        if not (new := wanted - found.hashes):
            return found
        entry = Entry(key_id=key_id(key), hashes=tuple(sorted(new)))
        if add_record(storage.join(location, DIRECTORY), found.version + 1, entry):
            return Suppressed(found.version + 1, entry.key_id, found.hashes | new, (*found.entries, frozenset(new)))
