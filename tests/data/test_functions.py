"""What a user's SQL may use: everything that the shipped configs use, nothing that depends on more than the data."""

import re
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
import yaml

from ray_ggsm.config import InputError
from ray_ggsm.data.functions import ALLOWED, ARGUMENTS, OPERATORS, ORDERED
from ray_ggsm.data.sql import check_expressions

ROOT = Path(__file__).parents[2]
LIFTERS = ROOT.parent / "shared/benchmarks/lifters/data.yaml"

ZONE = "follows the session's time zone for instants, and prepare sets and locks that as the config says"
REVIEWED = {
    **dict.fromkeys(["+", "-", "range", "generate_series"], ZONE),
    **dict.fromkeys(["century", "day", "dayname", "dayofmonth", "dayofweek", "dayofyear", "decade", "era"], ZONE),
    **dict.fromkeys(["hour", "isodow", "isoyear", "julian", "last_day", "microsecond", "millennium"], ZONE),
    **dict.fromkeys(["millisecond", "minute", "month", "monthname", "quarter", "second", "week", "weekday"], ZONE),
    **dict.fromkeys(["weekofyear", "year", "yearweek", "timezone", "timezone_hour", "timezone_minute"], ZONE),
    **dict.fromkeys(["date_diff", "datediff", "date_part", "datepart", "date_sub", "datesub"], ZONE),
    **dict.fromkeys(["date_trunc", "datetrunc", "time_bucket", "make_timestamptz", "strftime"], ZONE),
    "age": f"with both times {ZONE}; with one, which counts from today, it is refused",
}
"""Functions that DuckDB's catalogue does not call consistent in every form, and why they are allowed."""

PURE = [
    "-x + y * 2 - 1 / z",
    "hour(time) // 4 % 3",
    "x ** 2 > y ^ 2 or not (a and b)",
    "a::int & 3 | ~b << 2",
    "x!",
    "s like 'a%' and s not like '%b' and s ilike 'c' and s not ilike 'd' and s glob 'e*'",
    "s like 'a%' escape '!' and s similar to 'b+' and s !~ 'c'",
    "regexp_matches(lower(s), 'beer|wine')",
    "s.lower().contains('x')",
    "case when x between 1 and 2 then 'a' when y in (1, 2) then 'b' else null end",
    "coalesce(nullif(x, 0), if(y, 1, 2))",
    "x is not distinct from y and z is not null and b is not true",
    "try_cast(s as decimal(10, 2)) + try(s::double)",
    "time::date - as_of::date + interval 3 day",
    "extract(year from time at time zone 'UTC')",
    "strftime(time, '%H') = strptime(s, '%d.%m.%Y')::varchar",
    "age(as_of, time) > interval '3 days'",
    "date_trunc('week', time) = timestamptz '2024-01-01' and datediff('day', time, as_of) < 3",
    "[v + 1 for v in l if v > 2][1:2]",
    "list_transform(l, lambda v: v * 2)[1] + list_sum(list_filter(l, lambda v: v > 1))",
    "{'a': 1, 'b': [1, 2]}.a + map {'k': 1}['k']",
    "struct_pack(current_date := 1).current_time",
    "j ->> '$.x' = json_extract_string(j, 'y') or (j -> 'z') is null",
    "count(*) filter (x > 1) / nullif(count(distinct time::date), 0)",
    "percentile_cont(0.5) within group (order by x) + quantile_cont(x, 0.9) + stddev_pop(x) + corr(x, y)",
    "arg_min(x, days_away) = first(x order by time) or last(y order by time) or any_value(b)",
    "string_agg(s, ', ' order by s) = md5(s) or list(distinct s order by s)[1] = s",
    "approx_count_distinct(x) + approx_quantile(x, 0.5) + md5_number_lower(s) % 7 + hash(s) % 7",
    "s collate nocase = 'X'",
    "SUM(X) + Main.Abs(y)",
]

IMPURE = [
    # chance, clock, session, sequences, settings
    ("random()", "random"),
    ("uuid()::varchar", "uuid"),
    ("uuidv7()::varchar", "uuidv7"),
    ("gen_random_uuid()::varchar", "gen_random_uuid"),
    ("setseed(0.5)", "setseed"),
    ("reservoir_quantile(x, 0.5)", "reservoir_quantile"),
    ("now()", "now"),
    ("today()", "today"),
    ("get_current_timestamp()", "get_current_timestamp"),
    ("transaction_timestamp()", "transaction_timestamp"),
    ("current_localtime()", "current_localtime"),
    ("current_date", "current_date"),
    ('"current_date"', "current_date"),
    ("Current_Timestamp", "current_timestamp"),
    ("localtimestamp", "localtimestamp"),
    ("current_schema", "current_schema"),
    ("current_setting('threads')", "current_setting"),
    ("getenv('HOME')", "getenv"),
    ("getvariable('x')", "getvariable"),
    ("nextval('s')", "nextval"),
    ("txid_current()", "txid_current"),
    ("version()", "version"),
    ("current_query()", "current_query"),
    ("stats(x)", "stats"),
    ("sleep_ms(1)", "sleep_ms"),
    ("error('stop')", "error"),
    # forms of pure functions that are not pure, and what depends on how rows are stored
    ("age(time)", "age"),
    ("time.age()", "age"),
    ("'2024-01-01'::timestamp.age()", "age"),
    ("first(x)", "first"),
    ("list(x)[1]", "list"),
    ("x.last()", "last"),
    ("'10:00'::timetz", "a time with an offset"),
    ("'10:00'::time::time with time zone", "a time with an offset"),
    ("[x]::timetz[]", "a time with an offset"),
    ("rowid", "rowid"),
    ("clicks.rowid", "rowid"),
    # macros
    ("ago(interval 1 day)", "ago"),
    ("pg_sleep(1)", "pg_sleep"),
    ("pg_catalog.pg_conf_load_time()", "pg_conf_load_time"),
    ("get_block_size('memory')", "get_block_size"),
    ("mine(x)", "mine"),
    # names of functions and types as text, rows out of one, tables
    ("list_aggregate(l, 'reservoir_quantile', 0.5)", "list_aggregate"),
    ("json_transform(j, '\"TIMETZ\"')", "json_transform"),
    ("unnest(l)", "unnest"),
    ("generate_subscripts(l, 1)", "generate_subscripts"),
    ("query('select 1')", "query"),
    ("read_csv('/etc/passwd')", "read_csv"),
    # other spellings
    ("main.random()", "random"),
    ("system.main.random()", "random"),
    ('"main"."random"()', "random"),
    ('"RaNdOm"()', "random"),
    ("/* x */ random /* y */ ()", "random"),
    ("now().year()", "now"),
    ("x.now()", "now"),
    # deep inside
    ("case when x then y else random() end", "random"),
    ("case random() when 1 then 2 end", "random"),
    ("[v + random() for v in l]", "random"),
    ("[v for v in l if v > random()]", "random"),
    ("list_transform(l, lambda v: list_filter(l, lambda w: w > random()))", "random"),
    ("count(*) filter (random() > 0.5)", "random"),
    ("list(x order by random())", "random"),
    ("quantile_cont(x, 0.5 order by random())", "random"),
    ("count(distinct now())", "now"),
    ("x between random() and 1", "random"),
    ("x in (1, random())", "random"),
    ("l[random()::int:2]", "random"),
    ("{'a': {'b': random()}}.a", "random"),
    ("map {'a': random()}", "random"),
    ("time + interval (random()) day", "random"),
    ("time at time zone current_setting('TimeZone')", "current_setting"),
    ("try(coalesce(nullif(random(), 1), 2))::int", "random"),
    ("not (x is distinct from random())", "random"),
    ("(x, random()) = (1, 2)", "random"),
    ("(now() - time) collate nocase", "now"),
]

STRUCTURES = [
    ("(select 1)", "a query"),
    ("exists (select 1)", "a query"),
    ("x in (select 1)", "a query"),
    ("array(select 1)", "a query"),
    ("x = any (l)", "a query"),
    ("row_number() over ()", "a window function"),
    ("sum(x) over (order by y)", "a window function"),
    ("*", "a star"),
    ("clicks.*", "a star"),
    ("columns(*)", "a star"),
    ("columns('x.*') + 1", "a star"),
    ("coalesce(*columns(*))", "operator unpack"),
    ("#1", "a reference by position"),
    ("$1", "a parameter"),
    ("grouping(x)", "grouping function"),
    ("default", "value default"),
]


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        connection.execute("CREATE MACRO mine(x) AS x + random()")
        yield connection


def expressions(data: dict) -> dict[str, str]:
    """All SQL expressions of the section `data` of a config, by their key."""
    found: dict[str, str] = {}
    for section in ("modalities", "features", "labels"):
        parts = data.get(section, {})
        for name, part in parts.items() if isinstance(parts, dict) else enumerate(parts):
            keys = ("where", "amount", "sql", "per", "defined_if")
            found |= {f"{section}.{name}.{key}": str(part[key]) for key in keys if part.get(key) is not None}
    return found


@pytest.mark.parametrize(
    "file", sorted((ROOT / "configs").glob("**/*.yaml")), ids=lambda file: str(file.relative_to(ROOT / "configs"))
)
def test_shipped_expressions_are_accepted(connection: duckdb.DuckDBPyConnection, file: Path) -> None:
    check_expressions(connection, expressions(yaml.safe_load(file.read_text()).get("data", {})))


def test_shipped_configs_have_expressions() -> None:
    data = yaml.safe_load((ROOT / "configs/journey/quickstart.yaml").read_text())["data"]
    found = expressions(data)
    assert {key.split(".")[-1] for key in found} == {"amount", "sql", "per", "defined_if"}
    assert len(found) > len(data["features"]) + len(data["labels"])


def test_benchmark_expressions_are_accepted(connection: duckdb.DuckDBPyConnection) -> None:
    if not LIFTERS.exists():
        pytest.skip(f"{LIFTERS} is not there")
    check_expressions(connection, expressions(yaml.safe_load(LIFTERS.read_text())))


@pytest.mark.parametrize("expression", PURE)
def test_pure_expressions_are_accepted(connection: duckdb.DuckDBPyConnection, expression: str) -> None:
    check_expressions(connection, {"key": expression})


@pytest.mark.parametrize(("expression", "name"), IMPURE)
def test_impure_expressions_are_refused(connection: duckdb.DuckDBPyConnection, expression: str, name: str) -> None:
    with pytest.raises(InputError, match=rf"^key: `{re.escape(expression)}` uses {name}\b.* depends on .*the data"):
        check_expressions(connection, {"key": expression})


@pytest.mark.parametrize(("expression", "what"), STRUCTURES)
def test_other_structures_are_refused(connection: duckdb.DuckDBPyConnection, expression: str, what: str) -> None:
    with pytest.raises(InputError, match=rf"contains {what}.*; only an expression over columns is allowed"):
        check_expressions(connection, {"key": expression})


def test_near_names_are_told(connection: duckdb.DuckDBPyConnection) -> None:
    with pytest.raises(InputError, match=r"uses medain, which is not on the list of .*; similar names on it: median"):
        check_expressions(connection, {"key": "medain(x)"})


def catalogue(connection: duckdb.DuckDBPyConnection) -> list[tuple[str, str, str | None, str | None]]:
    """Name, kind, stability and macro definition of every scalar function, aggregate and macro."""
    return connection.execute(
        "SELECT lower(function_name), function_type, stability, macro_definition FROM duckdb_functions() "
        "WHERE function_type IN ('scalar', 'aggregate', 'macro') AND internal"
    ).fetchall()


@pytest.mark.skipif(duckdb.__version__.startswith("1."), reason="the list is that of duckdb 2")
def test_every_allowed_function_exists(connection: duckdb.DuckDBPyConnection) -> None:
    missing = ALLOWED - {row[0] for row in catalogue(connection)}
    assert not missing - OPERATORS, "misspelt, or gone from DuckDB"
    assert ORDERED | set(ARGUMENTS) <= ALLOWED


def test_the_catalogue_agrees_or_the_exception_is_reviewed(connection: duckdb.DuckDBPyConnection) -> None:
    unstable = {
        name: stability
        for name, kind, stability, _ in catalogue(connection)
        if kind != "macro" and name in ALLOWED and stability != "CONSISTENT"
    }
    assert not {name: stability for name, stability in unstable.items() if name not in REVIEWED}
    assert set(unstable.values()) <= {"CONSISTENT_WITHIN_QUERY"}, "volatile is never the time zone"
    assert set(REVIEWED) <= ALLOWED


def test_allowed_macros_are_made_of_allowed_functions(connection: duckdb.DuckDBPyConnection) -> None:
    macros = {(name, definition) for name, _, _, definition in catalogue(connection) if definition and name in ALLOWED}
    assert len(macros) > 30
    for name, definition in macros:
        # in a macro, the aggregate that `list_aggr` gets as text is fixed, and the list is one that is given
        fixed = re.sub(r"list_aggr\((.*), '(\w+)'(, sep)?\)", r"list_value(\1, \2(x ORDER BY x))", definition)
        check_expressions(connection, {name: fixed})
