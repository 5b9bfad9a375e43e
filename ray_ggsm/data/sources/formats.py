"""Which format a file has. The content decides, not the name."""

from ray_ggsm import storage
from ray_ggsm.config import InputError
from ray_ggsm.data.source_config import TableConfig
from ray_ggsm.data.sources.csv_part import Csv
from ray_ggsm.data.sources.json_part import JsonLines
from ray_ggsm.data.sources.parquet_part import Parquet
from ray_ggsm.data.sources.part import Part, opened

_MAGIC = {b"PAR1": "parquet", b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}


def part(file: str, table: TableConfig) -> Part | None:
    """The file in its format; None if it is empty."""
    fs, path = storage.filesystem(file)
    with fs.open(path, "rb") as stream:
        head = stream.read(4)
    kind = next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), "none")
    if kind == "parquet":
        return Parquet(file, table)
    if table.nested:
        raise InputError(f"{file}: `nested` is for Parquet files, and this is none; leave it out")
    with opened(file, kind) as stream:
        start = stream.read(1024).removeprefix(b"\xef\xbb\xbf").lstrip()
    if not start:
        return None
    return JsonLines(file, table, kind) if start.startswith(b"{") else Csv(file, table, kind)
