"""What an event has beside its text and amount: named fields and a list of weighted parts, as SQL.

A text field is a template and holds what stands in the file; a number field is an expression. Parts are one expression
that gives a list of texts and one that gives their weights.
"""

from collections.abc import Iterator, Mapping

import pyarrow as pa

from ray_ggsm.data.database import Database
from ray_ggsm.data.modality_config import ModalityConfig
from ray_ggsm.data.sources.source import shown
from ray_ggsm.data.sql import as_float, own, quote, text
from ray_ggsm.data.text_template import template_parts

TEXTS, WEIGHTS = quote(own("texts of parts")), quote(own("weights of parts"))
PARTS_TYPE = 'STRUCT("text" VARCHAR, weight FLOAT)[]'


def field_types(modality: ModalityConfig) -> pa.StructType | None:
    """The Arrow type of a modality's fields; None when it has none."""
    kinds = {n: pa.float64() if field.text is None else pa.string() for n, field in modality.fields.items()}
    return pa.struct(list(kinds.items())) if kinds else None


def one_line(sql: str) -> str:
    """SQL: a text without white space around it, and with one space for each inside."""
    return f"trim(regexp_replace({sql}, '\\s+', ' ', 'g'))"


def rendered(database: Database, table: str, template: str) -> str:
    """SQL: the text of a template: columns as they stand in the file; a column without a value leaves nothing."""
    found = []
    for literal, column in template_parts(template):
        if literal:
            found.append(text(literal))
        if column is not None:
            place = shown(column) if database.has(table, shown(column)) else column
            found.append(f"coalesce({quote(place)}::varchar, '')")
    whole = " || ".join(found)
    # to see that there is nothing to replace is four times as fast as to replace it
    untidy = f"SELECT 1 FROM {quote(table)} WHERE regexp_matches({whole}, '[^\\S ]|  |^ | $') LIMIT 1"
    return one_line(whole) if database.connection.execute(untidy).fetchall() else whole


def detail_columns(database: Database, modality: ModalityConfig) -> list[str]:
    """SQL for the columns that hold an event's details while it is checked."""
    columns = []
    if modality.fields:
        values = []
        for name, field in modality.fields.items():
            if field.text is not None:
                value = f"nullif({rendered(database, modality.table, field.text)}, '')"
            else:
                number = f"({field.number})::DOUBLE"
                value = f"(CASE WHEN isnan({number}) THEN NULL ELSE {number} END)"
            values.append(f"{text(name)}: {value}")
        columns.append(f"{{{', '.join(values)}}} AS fields")
    if modality.parts is not None:
        texts, weights = f"({modality.parts.texts})::VARCHAR[]", f"({modality.parts.weights})::DOUBLE[]"
        columns.append(f"coalesce({texts}, []) AS {TEXTS}")
        ones = f"list_resize([]::DOUBLE[], len(coalesce({texts}, [])), 1)"
        columns.append(f"{ones if modality.parts.weights is None else f'coalesce({weights}, [])'} AS {WEIGHTS}")
    return columns


def says_nothing(modality: ModalityConfig) -> tuple[str, str]:
    """The reason for which an event without content cannot be used, with its SQL condition."""
    if modality.text is not None:
        return "null_text", "text IS NULL OR text = ''"
    conditions = [f"fields[{text(name)}] IS NULL" for name in modality.fields]
    conditions += [f"len({TEXTS}) = 0"] if modality.parts is not None else []
    return "empty_event", " AND ".join(conditions)


def detail_problems(modality: ModalityConfig, max_text_length: int) -> Iterator[tuple[str, str]]:
    """Reasons for which events cannot be used, each with its SQL condition over the columns of `detail_columns`."""
    for name, field in modality.fields.items():
        value = f"fields[{text(name)}]"
        if field.text is None:
            yield "non_finite_number", f"NOT isfinite({value})"
        else:
            yield "text_too_long", f"length({value}) > {max_text_length}"
    if modality.parts is not None:
        yield "parts_and_weights_differ", f"len({TEXTS}) <> len({WEIGHTS})"
        yield "null_part", f"len([x FOR x IN {TEXTS} IF x IS NULL OR {one_line('x')} = '']) > 0"
        yield "text_too_long", f"len([x FOR x IN {TEXTS} IF length(x) > {max_text_length}]) > 0"
        weight = as_float("x")
        yield "non_finite_number", f"len([x FOR x IN {WEIGHTS} IF coalesce(NOT isfinite({weight}), true)]) > 0"


def with_parts(modality: ModalityConfig) -> str:
    """SQL for the columns of an event with parts, after its details were checked."""
    texts, weights = f"[{one_line('x')} FOR x IN {TEXTS}]", f"{WEIGHTS}::FLOAT[]"
    return f"* EXCLUDE ({TEXTS}, {WEIGHTS}), list_zip({texts}, {weights})::{PARTS_TYPE} AS parts"


def detail_names(modality: ModalityConfig) -> list[str]:
    """The columns of details that events of a modality have."""
    return [*(["fields"] if modality.fields else []), *(["parts"] if modality.parts is not None else [])]


def common_fields(modalities: Mapping[str, ModalityConfig]) -> dict[str, str]:
    """Field -> DuckDB type, of all these modalities; fields of one name have one type (`DataConfig` checks it)."""
    return {
        name: "VARCHAR" if field.text is not None else "DOUBLE"
        for modality in modalities.values()
        for name, field in modality.fields.items()
    }
