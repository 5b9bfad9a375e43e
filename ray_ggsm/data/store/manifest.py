"""Manifests: what the store holds, change by change. A change is there when its manifest is, and not before.

`manifests/00000007.json` is written if absent, after all files and all commits of the change. It names the version of
each table. So a reader who takes the newest manifest sees whole changes only, and of two changes at once, one wins.
"""

import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

from pydantic import Field

from ray_ggsm import storage
from ray_ggsm.config import InputError, Record
from ray_ggsm.data.pseudonyms import key_id
from ray_ggsm.data.store.columns import REJECTED_COLUMNS
from ray_ggsm.lineage import Dataset, writes

FORMAT = 1


class TextGuess(Record):
    """What the texts of a column stand for in a file, as in `ray_ggsm.data.sources.guesses`, without any value."""

    kinds: tuple[str, ...]
    values: int


class FileEntry(Record):
    """A file whose events are in the store."""

    table: str
    path: str
    digest: str
    """SHA-256 of its content; the same content is taken once."""
    stamp: str
    """Size and time (or entity tag): as long as they stay, the content is not read again."""
    day: str | None
    rows: int
    rejected: dict[str, int] = Field({})
    """Reason -> records that cannot be used."""
    guesses: dict[str, TextGuess] = Field({})
    """By column whose texts no schema gives a type."""


class TableState(Record):
    """One Delta table, as of a manifest."""

    version: int
    """-1: it is new, and there is no version yet."""
    user: str
    time: str | None
    columns: dict[str, str]
    """Column of the source -> DuckDB type in the store, user and time included."""
    texts: tuple[str, ...]
    """Columns that came as texts without a type: what they stand for is found out when rows are made."""
    rows: int


NO_REJECTED = TableState(version=-1, user="user_id", time=None, columns=REJECTED_COLUMNS, texts=(), rows=0)
"""The table of records that cannot be used, before there is one."""


class Manifest(Record):
    """One change of the store."""

    format: int = FORMAT
    sequence: int
    """Position in the order of changes, from 1."""
    run: str = Field(default_factory=lambda: uuid.uuid4().hex)
    """Random: tells two attempts at the same change apart."""
    operation: Literal["ingest", "compact", "expire", "forget"]
    day: str | None = None
    """Day that was ingested."""
    tables: dict[str, TableState]
    """All tables, also those that did not change."""
    added: tuple[FileEntry, ...] = ()
    removed: tuple[str, ...] = ()
    """Files of an earlier change whose events are gone: the same name came with other content."""
    capped: dict[str, int] = Field({})
    """Table -> events beyond the most that one user may have in one change."""
    not_taken: int = 0
    """Records of forgotten users."""
    suppressed: tuple[str, ...] = ()
    """Pseudonyms of users who are forgotten by this change."""
    key_id: str | None = None
    """Which key these pseudonyms have."""


class State(Record):
    """What the store holds at a manifest."""

    sequence: int
    run: str
    """Of that manifest."""
    tables: dict[str, TableState]
    files: dict[str, FileEntry]
    """By table and path (`file_key`)."""
    sequences: dict[str, int]
    """By the same key: number of the manifest that brought the file."""
    days: tuple[str, ...]
    """Days that are sealed."""
    suppressed: tuple[str, ...]
    """Pseudonyms of forgotten users."""
    key_id: str | None
    """Which key they have."""


def file_key(table: str, path: str) -> str:
    """The key of a file; two tables may read the same one."""
    return f"{table} {path}"


def read_manifests(location: str, sequence: int | None = None) -> list[Manifest]:
    """The manifests up to one, in their order; None: all.

    Raises:
        InputError: there is no such manifest, or one is missing or damaged.
    """
    names = storage.list_files(storage.join(location, "manifests"), ".json")
    files = {int(name.rsplit("/", 1)[-1].removesuffix(".json")): name for name in names}
    last = max(files, default=0) if sequence is None else sequence
    if sequence is not None and sequence not in files:
        raise InputError(f"{location}: no manifest {sequence}; the newest one is {max(files, default=0)}")
    if missing := [k for k in range(1, last + 1) if k not in files]:
        raise InputError(f"{location}/manifests: manifest {missing[0]} is missing; restore it from a backup")
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(_read, [files[k] for k in range(1, last + 1)]))


def read_state(location: str, sequence: int | None = None) -> State:
    """What the store holds at a manifest; None: the newest one. Without any manifest: nothing.

    Raises:
        InputError: there is no such manifest, or one is missing or damaged.
    """
    manifests = read_manifests(location, sequence)
    entries: dict[str, FileEntry] = {}
    sequences: dict[str, int] = {}
    for each in manifests:
        for key in each.removed:
            del entries[key], sequences[key]
        for entry in each.added:
            key = file_key(entry.table, entry.path)
            entries[key], sequences[key] = entry, each.sequence
    return State(
        sequence=len(manifests),
        run=manifests[-1].run if manifests else "",
        tables=manifests[-1].tables if manifests else {},
        files=entries,
        sequences=sequences,
        days=tuple(sorted({each.day for each in manifests if each.day is not None})),
        suppressed=tuple(sorted({user for each in manifests for user in each.suppressed})),
        key_id=next((each.key_id for each in manifests if each.key_id is not None), None),
    )


def _read(file: str) -> Manifest:
    try:
        found = Manifest.model_validate_json(storage.read_bytes(file))
    except ValueError as error:
        raise InputError(f"{file}: this manifest cannot be read ({' '.join(str(error).split())[:200]})") from None
    if found.format != FORMAT:
        raise InputError(f"{file}: expected a manifest of format {FORMAT}, found {found.format}")
    return found


def seal(location: str, manifest: Manifest) -> bool:
    """Write a manifest; false: another change has this number."""
    file = storage.join(location, "manifests", f"{manifest.sequence:08d}.json")
    sealed = storage.write_new(file, manifest.model_dump_json(indent=1).encode())
    if sealed:
        writes(Dataset(location, str(manifest.sequence)))
    return sealed


def check_key(state: State, key: bytes | None, where: str) -> None:
    """Refuse a key, or the lack of one, that does not belong to the list of forgotten users.

    Args:
        state: what the store holds.
        key: the key; None: there is none.
        where: config key or option of its file, for errors.

    Raises:
        InputError: the list has another key.
    """
    if state.key_id is not None and (key is None or key_id(key) != state.key_id):
        found = "no key" if key is None else "another one"
        raise InputError(
            f"{where}: users of this store were forgotten with a key, found {found}; give the file with it"
        )
