"""Label tables, and their alignment with a table of vectors.

A label table has one row per snapshot of a user: `user_id` (string), `as_of` (timestamp[us, UTC]) and one nullable
boolean column per label; each stage (probe, test, ...) has its own location. Vectors (embeddings or hand-crafted
features) carry the same two keys. Everything that would make an AUC dishonest is refused here: repeated keys, vectors
that are absent, unequal or not finite, one-class labels, users shared by two stages.

Shapes: N label rows, D vector width, V vector rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ray_ggsm import storage
from ray_ggsm.config import InputError

KEYS = ("user_id", "as_of")
_AS_OF = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class Aligned:
    """Vectors and labels of one stage, row by row in the order of the label table."""

    vectors: np.ndarray
    """(N, D) float32, finite."""
    labels: dict[str, np.ndarray]
    """Label name -> float32 array of N: 1 positive, 0 negative, NaN undefined."""
    users: np.ndarray
    """(N,) user identifiers (strings)."""
    missing: int
    """Labelled rows left out because they have no vector (0 unless `allow_missing`)."""
    unlabelled: int
    """Rows of the vector table that no label row asks for."""


def read_labels(location: str) -> pa.Table:
    """Read a label table: a Parquet file or a directory of them, local or s3://.

    Raises:
        InputError: nothing is there, or a column is missing, mistyped or no label.
    """
    fs, path = storage.arrow_filesystem(location)
    try:
        table = pq.read_table(path, filesystem=fs)
    except FileNotFoundError as error:
        raise InputError(f"{location}: no label table here; run the prepare job first") from error
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InputError(f"{location}: expected a Parquet label table ({' '.join(str(error).split())})") from error
    return check_labels(table, location)


def check_labels(table: pa.Table, origin: str) -> pa.Table:
    """Return the table with `as_of` in UTC microseconds, or raise InputError; `origin` names it in errors."""
    table = _with_keys(table, origin)
    names = [name for name in table.column_names if name not in KEYS]
    if not names:
        raise InputError(f"{origin}: no label column; add at least one boolean column beside {' and '.join(KEYS)}")
    for name in names:
        kind = table.schema.field(name).type
        if not pa.types.is_boolean(kind):
            raise InputError(f"{origin}: label column '{name}' must be bool (true, false or null), found {kind}")
    if not table.num_rows:
        raise InputError(f"{origin}: the label table has no rows; check the cutoffs and the user split of this stage")
    return table


def label_rates(table: pa.Table) -> dict[str, float | None]:
    """Share of positives among the defined rows of each label; None where no row is defined."""
    return {name: pc.mean(table[name]).as_py() for name in table.column_names if name not in KEYS}


def align(
    labels: pa.Table, features: pa.Table, vector_column: str, stage: str, *, allow_missing: bool = False
) -> Aligned:
    """Bring vectors and labels of one stage together on (user_id, as_of).

    Args:
        labels: a label table as `read_labels` gives it.
        features: a table with `user_id`, `as_of` and a list column of numbers; more rows than labels are fine.
        vector_column: name of that list column; all its vectors must have the same length.
        stage: names the stage in errors.
        allow_missing: leave out (and count) labelled rows without a vector instead of refusing them.

    Raises:
        InputError: a key is repeated or null, a label has one class, or a vector is missing, of another length or
                not finite.
    """
    label_origin, vector_origin = f"{stage} labels", f"{stage} vectors ('{vector_column}')"
    labels, features = check_labels(labels, label_origin), _with_keys(features, vector_origin)
    label_keys_N, vector_keys_V = _unique_keys(labels, label_origin), _unique_keys(features, vector_origin)
    found = pc.index_in(label_keys_N, value_set=vector_keys_V)
    missing = found.null_count
    if missing and (missing == labels.num_rows or not allow_missing):
        raise InputError(_missing_sentence(labels, features, found, label_origin, vector_origin))
    kept = labels.filter(pc.is_valid(found))
    matrix_VD = _matrix(features, vector_column, vector_origin)
    matrix_ND = np.ascontiguousarray(matrix_VD[found.drop_null().to_numpy()], dtype=np.float32)
    _check_finite(matrix_ND, kept, vector_origin)
    values = {name: _values(kept[name]) for name in kept.column_names if name not in KEYS}
    check_two_classes(values, stage)
    users_N = kept["user_id"].to_numpy()
    return Aligned(matrix_ND, values, users_N, missing, features.num_rows - kept.num_rows)


def check_two_classes(labels: Mapping[str, np.ndarray], stage: str) -> None:
    """Refuse labels (1, 0, NaN) of which a stage has only positives, only negatives or nothing: no AUC exists then."""
    for name, values_N in labels.items():
        positives, negatives = int((values_N == 1).sum()), int((values_N == 0).sum())
        if not positives or not negatives:
            raise InputError(
                f"label '{name}', stage '{stage}': an AUC needs positives and negatives, found {positives} and "
                f"{negatives} in {len(values_N)} rows; change the label's definition or leave it out"
            )


def check_disjoint(first: Aligned, second: Aligned, first_stage: str, second_stage: str) -> None:
    """Refuse users who stand in both stages: a probe must be scored on people it has never seen."""
    shared = np.intersect1d(first.users.astype(str), second.users.astype(str))
    if shared.size:
        raise InputError(
            f"{shared.size} users are in both the {first_stage} and the {second_stage} stage (first: '{shared[0]}'); "
            f"split the stages by user"
        )


def _with_keys(table: pa.Table, origin: str) -> pa.Table:
    """Check the key columns and cast `as_of` to UTC microseconds."""
    for name in KEYS:
        if name not in table.column_names:
            raise InputError(
                f"{origin}: column '{name}' is missing; found {', '.join(table.column_names) or 'no columns'}"
            )
        if table[name].null_count:
            raise InputError(
                f"{origin}: column '{name}' is null in {table[name].null_count} rows; every row needs a key"
            )
    user_type, as_of_type = table.schema.field("user_id").type, table.schema.field("as_of").type
    if not (pa.types.is_string(user_type) or pa.types.is_large_string(user_type)):
        raise InputError(f"{origin}: column 'user_id' must be a string, found {user_type}")
    if not pa.types.is_timestamp(as_of_type) or as_of_type.tz is None:
        raise InputError(f"{origin}: column 'as_of' must be a timestamp with time zone UTC, found {as_of_type}")
    table = table.set_column(table.column_names.index("as_of"), "as_of", table["as_of"].cast(_AS_OF, safe=False))
    return table.set_column(table.column_names.index("user_id"), "user_id", table["user_id"].cast(pa.large_string()))


def _unique_keys(table: pa.Table, origin: str) -> pa.Array:
    """One string per row that identifies (user_id, as_of); repeated keys are refused."""
    instants = table["as_of"].cast(pa.int64()).cast(pa.large_string())
    keys = pc.binary_join_element_wise(instants, table["user_id"], pa.scalar("|", pa.large_string())).combine_chunks()
    repeated = len(keys) - pc.count_distinct(keys).as_py()
    if repeated:
        counts = pc.value_counts(keys)
        first = counts.field("values").filter(pc.greater(counts.field("counts"), 1))[0]
        raise InputError(
            f"{origin}: {_name(table, pc.index(keys, first).as_py())} is repeated ({repeated} repeated rows in all); "
            "keep one row per (user_id, as_of)"
        )
    return keys


def _name(table: pa.Table, row: int) -> str:
    return f"(user_id '{table['user_id'][row].as_py()}', as_of {table['as_of'][row].as_py().isoformat()})"


def _missing_sentence(
    labels: pa.Table, features: pa.Table, found: pa.Array, label_origin: str, vector_origin: str
) -> str:
    lost = labels.filter(pc.is_null(found))
    other_time = pc.sum(pc.is_in(lost["user_id"], value_set=features["user_id"].combine_chunks())).as_py()
    hint = f"{other_time} of them have a vector at another as_of; " if other_time else ""
    return (
        f"{label_origin}: {lost.num_rows} of {labels.num_rows} rows have no row in {vector_origin}, first "
        f"{_name(lost, 0)}; {hint}embed these rows, or set allow_missing to leave some of them out"
    )


def _matrix(features: pa.Table, column: str, origin: str) -> np.ndarray:
    """The list column as (V, D) numbers, without a copy where Arrow allows it."""
    if column not in features.column_names:
        raise InputError(f"{origin}: column '{column}' is missing; found {', '.join(features.column_names)}")
    lists = features[column].combine_chunks()
    kind = lists.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not is_list or not pa.types.is_floating(kind.value_type):
        raise InputError(f"{origin}: column '{column}' must be a list of float numbers, found {kind}")
    if lists.null_count:
        row = pc.index(pc.is_null(lists), True).as_py()
        raise InputError(
            f"{origin}: {lists.null_count} vectors are null, first {_name(features, row)}; embed them again"
        )
    lengths = pc.list_value_length(lists)
    width = lengths[0].as_py() if len(lengths) else 0
    odd = pc.index(pc.equal(lengths, width), False).as_py()
    if odd >= 0 or not width:
        row = max(odd, 0)
        raise InputError(
            f"{origin}: all vectors must have the same length of at least 1, found {width} and then "
            f"{lengths[row].as_py() if len(lengths) else 0}" + (f" at {_name(features, row)}" if len(lengths) else "")
        )
    return pc.list_flatten(lists).to_numpy(zero_copy_only=False).reshape(-1, width)


def _check_finite(matrix_ND: np.ndarray, table: pa.Table, origin: str) -> None:
    bad_N = ~np.isfinite(matrix_ND).all(axis=1)
    if bad_N.any():
        raise InputError(
            f"{origin}: {int(bad_N.sum())} vectors hold NaN or infinite numbers, first "
            f"{_name(table, int(bad_N.argmax()))}; correct the rows or embed them again"
        )


def _values(column: pa.ChunkedArray) -> np.ndarray:
    return column.cast(pa.float32()).to_numpy()
