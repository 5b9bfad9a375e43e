"""What the texts of a column stand for: a guess from its values, for files whose columns have no types."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import duckdb

from ray_ggsm.data.sql import quote

NOTHING = "NULL"
"""Type of a column without any value."""
TESTS = {
    "BIGINT": r"regexp_full_match({v}, '-?(0|[1-9]\d{{0,17}})')",
    "BOOLEAN": "regexp_full_match({v}, '(?i:true|false)')",
    # up to 15 digits a double has every decimal number; a longer one must be the shortest text of its double
    "DOUBLE": (
        r"(regexp_full_match({v}, '[-+]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][-+]?\d{{1,2}})?') AND "
        r"(length(ltrim(regexp_replace(regexp_replace({v}, '[eE].*', ''), '\D', '', 'g'), '0')) <= 15 OR "
        r"try_cast({v} AS DOUBLE)::VARCHAR = {v})) OR regexp_full_match({v}, '(?i:nan)')"
    ),
}
"""Type -> SQL condition on a text that stands for a value of it; '007' is no number."""


@dataclass(frozen=True)
class Guess:
    """What the texts of a column stand for in some files."""

    kinds: frozenset[str]
    """Types that every text fits."""
    values: int
    example: str | None
    """A text that is no number."""


def guesses(connection: duckdb.DuckDBPyConnection, relation: str, columns: Sequence[str]) -> dict[str, Guess]:
    """What text columns of a relation (SQL) stand for; looks at every value."""
    if not columns:
        return {}
    tests = []
    for column in map(quote, columns):
        fits = [f"coalesce(bool_and({test.format(v=column)}), true)" for test in TESTS.values()]
        no_number = f"any_value({column}) FILTER (NOT ({TESTS['DOUBLE'].format(v=column)}))"
        tests += [*fits, f"count({column})", no_number]
    found = connection.execute(f"SELECT {', '.join(tests)} FROM {relation}").fetchall()[0]
    step, result = len(TESTS) + 2, {}
    for i, column in enumerate(columns):
        *fits_, values, example = found[i * step : (i + 1) * step]
        kinds = frozenset(kind for kind, fit in zip(TESTS, fits_, strict=True) if fit)
        result[column] = Guess(kinds, values, example)
    return result


def common(found: Iterable[Guess]) -> str:
    """The first type that all texts fit; VARCHAR if there is none, NOTHING if there are no texts."""
    each = [guess for guess in found if guess.values]
    if not each:
        return NOTHING
    return next((kind for kind in TESTS if all(kind in guess.kinds for guess in each)), "VARCHAR")
