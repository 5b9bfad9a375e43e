"""Input files of user rows -> chunks: the parts that are read, encoded, and done again after a failure as one."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from ray_ggsm import storage
from ray_ggsm.config import InputError
from ray_ggsm.data.schema import definition_digest
from ray_ggsm.data.validate import conform

THREADS = 16
"""Footers of Parquet files that are read at a time."""


@dataclass(frozen=True)
class Chunk:
    """Some whole row groups of an input file, or a part of one that is too large."""

    number: int
    file: str
    first: int
    """The first row group."""
    groups: int
    """Number of row groups."""
    start: int
    """The first row in them."""
    rows: int


def chunk_of(described: pa.Table) -> Chunk:
    """The chunk whose fields are the columns of a table with one row: the form in which Ray Data carries it."""
    assert len(described) == 1
    return Chunk(**described.to_pylist()[0])


def plan_chunks(
    files: Sequence[str],
    rows_per_chunk: int,
    modalities: Sequence[str],
    features: int,
    definition: str | None = None,
) -> list[Chunk]:
    """All chunks of the input files, in order, of at most `rows_per_chunk` rows.

    `definition` is the digest of the row definition that files must have if they have one; None: any.

    Small row groups join. A row group that is larger gives several chunks, each of which reads all of it: files with
    row groups of `rows_per_chunk` or less are read once.

    Raises:
        InputError: a file is no readable Parquet file, has not the columns of user rows, or rows of another definition.
    """

    def group_rows(file: str) -> list[int]:
        footer = read_footer(file)
        _check_definition(file, definition_digest(footer.schema.to_arrow_schema()), definition)
        conform(footer.schema.to_arrow_schema().empty_table(), modalities, features, file)
        return [footer.row_group(g).num_rows for g in range(footer.num_row_groups)]

    chunks: list[Chunk] = []
    with ThreadPoolExecutor(THREADS) as pool:
        for file, rows_G in zip(files, pool.map(group_rows, files), strict=True):
            first = 0
            while first < len(rows_G):
                end = first + 1
                while end < len(rows_G) and sum(rows_G[first : end + 1]) <= rows_per_chunk:
                    end += 1
                rows = sum(rows_G[first:end])
                for start in range(0, rows, rows_per_chunk):
                    part = min(rows_per_chunk, rows - start)
                    chunks.append(Chunk(len(chunks), file, first, end - first, start, part))
                first = end
    return chunks


def _check_definition(file: str, found: str | None, wanted: str | None) -> None:
    if found is not None and wanted is not None and found != wanted:
        raise InputError(
            f"{file}: these rows were made by definition {found}, but the encoder was trained on rows of {wanted}; "
            "prepare them with data.definition: <the encoder's directory>/rows.json"
        )


def read_chunk(chunk: Chunk, columns: Sequence[str]) -> pa.Table:
    """A chunk's rows, with those of the columns that its file has.

    Raises:
        InputError: the file was removed meanwhile, or is damaged.
    """

    def read() -> pa.Table:
        fs, path = storage.arrow_filesystem(chunk.file)
        with pq.ParquetFile(path, filesystem=fs) as parquet:
            there = [name for name in columns if name in parquet.schema_arrow.names]
            return parquet.read_row_groups(list(range(chunk.first, chunk.first + chunk.groups)), columns=there)

    try:
        return storage.retried(read).slice(chunk.start, chunk.rows)
    except FileNotFoundError:
        raise InputError(f"{chunk.file} was removed while it was read; nothing was published; start again") from None
    except (pa.ArrowInvalid, OSError) as error:
        if storage.refused(error) or storage.passing(error):
            raise
        groups, why = f"{chunk.first} to {chunk.first + chunk.groups - 1}", " ".join(str(error).split())[:200]
        raise InputError(f"{chunk.file}: row groups {groups} cannot be read ({why}); write the file again") from error


def read_footer(file: str) -> pq.FileMetaData:
    """A Parquet file's footer.

    Raises:
        InputError: the file is no readable Parquet file.
    """
    fs, path = storage.arrow_filesystem(file)
    try:
        return storage.retried(lambda: pq.read_metadata(path, filesystem=fs))
    except (pa.ArrowInvalid, OSError) as error:
        if storage.refused(error) or storage.passing(error):
            raise
        raise InputError(f"{file}: expected a readable Parquet file ({' '.join(str(error).split())[:200]})") from error
