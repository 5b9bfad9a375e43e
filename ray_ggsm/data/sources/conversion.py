"""How the columns of a file become those of its table, as SQL, and which rows cannot be used."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ray_ggsm.data.source_config import TableConfig
from ray_ggsm.data.sources.column_types import as_user, converted, is_unusable
from ray_ggsm.data.sources.source import shown
from ray_ggsm.data.sources.times import instant, is_plausible
from ray_ggsm.data.sql import quote, text


@dataclass(frozen=True)
class Conversion:
    """SQL over the rows of one file."""

    user: str
    """The user as text."""
    values: Mapping[str, str]
    """Column of the table -> its value."""
    problems: tuple[tuple[str, str, str], ...]
    """Condition, reason, column; the first that holds counts."""
    needed: tuple[str, ...]
    """Columns of the file that are read."""

    @property
    def selected(self) -> str:
        """The columns of the table."""
        return ", ".join(f"{sql} AS {quote(column)}" for column, sql in self.values.items())

    @property
    def reason(self) -> str:
        """Why a row cannot be used; NULL if it can."""
        cases = " ".join(f"WHEN {sql} THEN {text(why)}" for sql, why, _ in self.problems)
        return f"CASE {cases} END"

    @property
    def detail(self) -> str:
        """What stood in the column that makes a row unusable."""
        cases = " ".join(
            f"WHEN {sql} THEN {text(column + ' = ')} || coalesce(left({quote(column)}::VARCHAR, 200), 'NULL')"
            for sql, _, column in self.problems
        )
        return f"CASE {cases} END"


def conversion(
    where: str,
    file: str,
    config: TableConfig,
    columns: Mapping[str, str],
    types: Mapping[str, str],
    templates: Collection[str],
    texts: Mapping[str, str],
) -> Conversion:
    """The conversion of one file.

    Args:
        where: config key of the table, for errors.
        file: the file, for errors.
        config: names the columns of user and time.
        columns: column of the file -> its type.
        types: column that expressions use -> its type in the table.
        templates: columns that templates show as text.
        texts: column -> SQL of its text as it stood in the file, where that is not the column itself.

    Raises:
        InputError: the time column has a type without times.
    """
    user = as_user(config.user, columns[config.user])
    values, problems = {config.user: user}, [(f"{user} IS NULL", "missing_user", config.user)]
    for column, wanted in types.items():
        if column in columns:
            given, zone = columns[column], config.timezone
            values[column] = converted(column, given, wanted, zone)
            problems += [(sql, why, column) for sql, why in is_unusable(column, given, wanted, zone)]
    if config.time is not None:
        values[config.time] = instant(where, file, config, columns[config.time])
        problems.append((f"{is_plausible(values[config.time])} IS NOT TRUE", "bad_time", config.time))
    needed = tuple(c for c in columns if c in values or c in templates)
    for column in needed:
        values.setdefault(column, f"{quote(column)}::VARCHAR")
        if has_text(column, config, types, templates):
            # a number of a Parquet file has no text of its own: a declared type says how it is shown
            is_typed = column in config.types and columns[column] != "VARCHAR"
            values[shown(column)] = f"({values[column] if is_typed else texts.get(column, quote(column))})::VARCHAR"
    return Conversion(user, values, tuple(problems), needed)


def has_text(column: str, config: TableConfig, types: Mapping[str, str], templates: Collection[str]) -> bool:
    """Whether the table has the text of a column beside its value."""
    return column in templates and (column in types or column == config.time)
