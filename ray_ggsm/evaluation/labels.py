"""Label tables: one row per snapshot of a user, with its keys and one nullable boolean column per label.

Every split has a location of its own, or all share one table with the column `role` (string: fit, score). A table that
was made elsewhere can state in the column `observed_from` (timestamp) when the observation of its labels began.
"""

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ray_ggsm import storage
from ray_ggsm.config import InputError
from ray_ggsm.evaluation.keys import AS_OF, KEYS, row_name, with_keys

ROLE, OBSERVED_FROM = "role", "observed_from"
"""Optional columns. A boolean column of such a name is a label."""


def read_labels(location: str, role: str | None = None) -> pa.Table:
    """Read a label table: a Parquet file or a directory of them, local or s3://.

    Args:
        location: the table.
        role: fit or score; picks these rows if the table has the column `role`.

    Raises:
        InputError: there is no table, a column is missing or mistyped, there is no label, or a label was observed
            before its `as_of`.
    """
    fs, path = storage.arrow_filesystem(location)
    try:
        table = pq.read_table(path, filesystem=fs)
    except FileNotFoundError as error:
        raise InputError(f"{location}: no label table here; expected a Parquet file, or a directory of them") from error
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InputError(f"{location}: expected a Parquet label table ({' '.join(str(error).split())})") from error
    if not table.column_names:
        raise InputError(f"{location}: no label table here, only an empty directory or a file without columns")
    return check_labels(_rows_of_role(table, role, location), location)


def check_labels(table: pa.Table, origin: str) -> pa.Table:
    """The keys, with `as_of` in UTC microseconds, and the labels.

    Raises:
        InputError: as `read_labels`. `origin` names the table in the sentence.
    """
    table = _without_observed_from(with_keys(table, origin), origin)
    names = [name for name in table.column_names if name not in KEYS]
    if not names:
        raise InputError(f"{origin}: no label column; add at least one boolean column beside {' and '.join(KEYS)}")
    for name in names:
        if not _is_label(table, name):
            found = table.schema.field(name).type
            raise InputError(f"{origin}: label column '{name}' must be bool (true, false or null), found {found}")
    if not table.num_rows:
        raise InputError(f"{origin}: the label table has no rows; check the cutoffs and users of this split")
    return table


def _is_label(table: pa.Table, name: str) -> bool:
    return pa.types.is_boolean(table.schema.field(name).type)


def _rows_of_role(table: pa.Table, role: str | None, origin: str) -> pa.Table:
    """The rows of this role, without the column `role`; the whole table if it has no such column."""
    if ROLE not in table.column_names or _is_label(table, ROLE):
        return table
    try:
        roles = table[ROLE].cast(pa.large_string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        found = table.schema.field(ROLE).type
        raise InputError(f"{origin}: column '{ROLE}' must be a string (fit or score), found {found}") from error
    rows = table.filter(pc.equal(roles, role)).drop_columns(ROLE)
    if not rows.num_rows:
        found = ", ".join(sorted(str(name) for name in roles.unique().to_pylist()))
        raise InputError(f"{origin}: no row has role '{role}'; the column 'role' holds: {found or 'nothing'}")
    return rows


def _without_observed_from(table: pa.Table, origin: str) -> pa.Table:
    """The table without `observed_from`, after a check that every label was observed from its `as_of` on."""
    if OBSERVED_FROM not in table.column_names or _is_label(table, OBSERVED_FROM):
        return table
    kind = table.schema.field(OBSERVED_FROM).type
    if not pa.types.is_timestamp(kind) or kind.tz is None:
        raise InputError(f"{origin}: column '{OBSERVED_FROM}' must be a timestamp with time zone UTC, found {kind}")
    after = pc.greater_equal(table[OBSERVED_FROM].cast(AS_OF, safe=False), table["as_of"]).fill_null(False)
    early = pc.index(after, False).as_py()
    if early >= 0:
        raise InputError(
            f"{origin}: {len(after) - pc.sum(after).as_py()} labels were observed before their as_of or have no "
            f"{OBSERVED_FROM}; first {row_name(table, early)}, {OBSERVED_FROM} {table[OBSERVED_FROM][early].as_py()}; "
            "labels must come from the time after as_of"
        )
    return table.drop_columns(OBSERVED_FROM)
