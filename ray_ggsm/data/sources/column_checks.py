"""Whether the files of a table have the columns that config and row definition need, in types that fit."""

import difflib
from collections.abc import Collection, Mapping, Sequence

from ray_ggsm.config import InputError
from ray_ggsm.data.source_config import TableConfig
from ray_ggsm.data.sources.column_types import FLOATING, WHOLE, stands_for
from ray_ggsm.data.sources.csv_part import Csv
from ray_ggsm.data.sources.parquet_part import Parquet
from ray_ggsm.data.sources.part import Part
from ray_ggsm.data.sources.times import instant

Parts = Sequence[tuple[Part, Mapping[str, str]]]
"""The files of a table, each with its columns and their types."""


def check_columns(
    where: str,
    config: TableConfig,
    parts: Parts,
    all_columns: Collection[str],
    used: Collection[str],
    templates: Collection[str],
) -> None:
    """Refuse a table or file without a column that the config names, or with types that do not fit.

    Args:
        where: config key of the table, for errors.
        config: the table.
        parts: its files.
        all_columns: the columns of all files.
        used: columns of expressions and templates.
        templates: columns that templates show.

    Raises:
        InputError: naming the key and the file.
    """
    for typed in config.types.keys() & {config.user, config.time}:
        use = "users become text" if typed == config.user else "use time_format"
        raise InputError(f"{where}.types: '{typed}' needs no type ({use}); remove it")
    wanted: dict[str, str | None] = {f"{where}.user": config.user, f"{where}.time": config.time}
    wanted.update({f"{where}.types": column for column in config.types})
    for key, column in wanted.items():
        if column is not None and column not in all_columns:
            raise InputError(f"{key}: {config.files} {no_column(column, all_columns)}")
    needed = {config.user, config.time or config.user, *used}.intersection(all_columns)
    for each, columns in parts:
        if isinstance(each, (Csv, Parquet)) and (missing := needed - columns.keys()):
            raise InputError(
                f"{where}.files: {each.file} has no column '{min(missing)}', which other files have; its "
                f"columns are: {', '.join(columns)}"
            )
        if config.time is not None and config.time in columns:
            instant(where, each.file, config, columns[config.time])
    for column in sorted(set(templates) - config.types.keys()):
        _check_texts(where, column, parts)


def _check_texts(where: str, column: str, parts: Parts) -> None:
    """Refuse a column that would be shown as 7 from one file and as 7.0 from another."""
    shown = {columns.get(column): each.file for each, columns in parts if isinstance(each, Parquet)}
    whole = [file for kind, file in shown.items() if kind in WHOLE]
    floating = [file for kind, file in shown.items() if kind in FLOATING]
    if whole and floating:
        raise InputError(
            f"{where}.types: column '{column}' holds whole numbers in {whole[0]} and floating ones in {floating[0]}, "
            f"so texts would show 7 and 7.0; say what it is, for example types: {{{column}: bigint}}"
        )


def check_definition(where: str, config: TableConfig, parts: Parts, types: Mapping[str, str], definition: str) -> None:
    """Refuse files without a column of a row definition, or with another type in their schema.

    Args:
        where: config key of the table, for errors.
        config: the table.
        parts: its files.
        types: column -> type, of the definition.
        definition: its file, for errors.

    Raises:
        InputError: naming the column and the file.
    """
    for each, columns in parts:
        for column, wanted in types.items():
            if column not in columns:
                raise InputError(
                    f"{where}: the rows of {definition} need column '{column}' ({wanted}), but {each.file} "
                    f"{no_column(column, columns)}"
                )
            is_typed = isinstance(each, Parquet) and column not in config.partitions
            if is_typed and not stands_for(columns[column], wanted):
                raise InputError(
                    f"{where}: column '{column}' was {wanted} when {definition} was made, and is {columns[column]} in "
                    f"{each.file}; write it as {wanted} again, or train an encoder on it"
                )


def no_column(column: str, columns: Collection[str]) -> str:
    """What to say of a column that is not there, with the nearest one that is."""
    near = difflib.get_close_matches(column, list(columns), n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'? " if near else "" if len(columns) > 1 else "is the delimiter right? "
    return f"has no column '{column}'; {hint}Its columns are: {', '.join(columns)}"
