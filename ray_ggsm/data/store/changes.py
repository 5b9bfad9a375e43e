"""What a run would change in a store: which files are new, which replace others, and what columns their tables have."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import duckdb

from ray_ggsm.config import InputError
from ray_ggsm.data.source_config import TableConfig
from ray_ggsm.data.sources.column_checks import no_column
from ray_ggsm.data.sources.table import FileTable
from ray_ggsm.data.store.arrivals import Look
from ray_ggsm.data.store.columns import PREFIX, stored_type
from ray_ggsm.data.store.manifest import State, TableState


@dataclass(frozen=True)
class TableChange:
    """What changes in one table."""

    name: str
    config: TableConfig
    state: TableState
    """Its columns; the rows and the version of before."""
    arriving: tuple[Look, ...]
    """Files whose rows come in."""
    replaced: tuple[str, ...]
    """Files whose rows of before go, because the same name came with other content."""
    twice: tuple[tuple[str, str], ...]
    """Files that are not taken, each with the one that has the same content."""
    not_stored: tuple[str, ...]
    """Columns of the files that the table does not have."""


def plan(
    state: State,
    name: str,
    config: TableConfig,
    looks: Sequence[Look],
    wanted: Collection[str] | None,
    day: str | None = None,
) -> TableChange:
    """What the files of a table change.

    Args:
        state: what the store holds.
        name: the table.
        config: its config.
        looks: files that are new, or that may have changed.
        wanted: columns that a new table has beside user and time; None: all that its files have.
        day: day that comes in; None: all of time.

    Raises:
        InputError: the files do not fit the table.
    """
    known = {entry.path: entry for entry in state.files.values() if entry.table == name}
    looks = [each for each in looks if each.path not in known or known[each.path].digest != each.digest]
    replaced = {each.path: None for each in looks if each.path in known}
    staying = [entry for path, entry in known.items() if path not in replaced]
    if config.time is None and day is not None:  # facts that come back on a later day are the newest ones again
        staying = [entry for entry in staying if entry.day == day]
    taken, arriving, twice = {entry.digest: entry.path for entry in staying}, [], []
    for each in looks:
        other = taken.setdefault(each.digest, each.path)
        if other == each.path:
            arriving.append(each)
        else:
            twice.append((each.path, other))
    filled = [each for each in arriving if each.columns is not None]
    found = state.tables.get(name)
    where = f"tables.{name}"
    if found is None:
        found = _new_table(where, config, filled, wanted)
    else:
        _check_keys(where, config, found)
    _check_columns(where, config, found, filled)
    more = {c for each in filled for c in each.columns or ()} - found.columns.keys()
    return TableChange(name, config, found, tuple(arriving), tuple(replaced), tuple(twice), tuple(sorted(more)))


def _new_table(where: str, config: TableConfig, looks: Sequence[Look], wanted: Collection[str] | None) -> TableState:
    columns = list(dict.fromkeys(c for each in looks for c in each.columns or ()))
    if not columns:
        raise InputError(f"{where}.files: all files of '{config.files}' are empty; a new table needs columns")
    keys = [config.user, *([config.time] if config.time is not None else [])]
    for column in (*keys, *(wanted or ())):
        if column not in columns:
            raise InputError(f"{where}: {config.files} {no_column(column, columns)}")
    if own := [c for c in columns if c.startswith(PREFIX)]:
        raise InputError(f"{where}: column '{own[0]}' has a reserved name; rename it in the files")
    kinds: dict[str, str] = {}
    for column in columns:
        if column in keys or wanted is None or column in wanted:
            kinds[column] = _kind(where, config, column, looks)
    texts = {c for each in looks if each.is_text for c in each.columns or () if kinds.get(c) == "VARCHAR"}
    untyped = tuple(sorted(texts - {*keys, *config.types, *config.partitions}))
    return TableState(version=-1, user=config.user, time=config.time, columns=kinds, texts=untyped, rows=0)


def _kind(where: str, config: TableConfig, column: str, looks: Sequence[Look]) -> str:
    if column == config.user:
        return "VARCHAR"
    if column == config.time:
        return "TIMESTAMP WITH TIME ZONE"
    given = {each.columns[column]: each.path for each in looks if each.columns is not None and column in each.columns}
    try:
        return stored_type(where, column, given)
    except InputError:
        if column not in config.types:
            raise
        with duckdb.connect() as connection:
            declared = FileTable(connection, where.removeprefix("tables."), config).canonical(config.types[column])
        return stored_type(where, column, {declared: config.files})


def _check_keys(where: str, config: TableConfig, found: TableState) -> None:
    for key, wanted, now in (("user", found.user, config.user), ("time", found.time, config.time)):
        if wanted != now:
            raise InputError(f"{where}.{key}: the store's table has '{wanted}', found '{now}'; make it the same")


def _check_columns(where: str, config: TableConfig, found: TableState, looks: Sequence[Look]) -> None:
    for each in looks:
        columns: Mapping[str, str] = each.columns or {}
        needed = {found.user, found.time or found.user} if each.is_json else found.columns.keys()
        for column in found.columns:
            if column in needed and column not in columns:
                raise InputError(
                    f"{where}: the store's table has column '{column}', but {each.path} {no_column(column, columns)}"
                )
        for column, kind in found.columns.items():
            given = columns.get(column, "NULL")
            is_converted = each.is_text or column in config.types  # value by value, as it is read
            if column in (found.user, found.time) or given in (kind, "NULL") or is_converted:
                continue
            if stored_type(where, column, {kind: "the store", given: each.path}) != kind:
                raise InputError(
                    f"{where}: column '{column}' is {kind} in the store and {given} in {each.path}; write it as {kind} "
                    "again, or begin a new store with a type that holds both (`types`)"
                )
