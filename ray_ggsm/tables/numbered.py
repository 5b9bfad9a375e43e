"""Small JSON files 00000001.json, 00000002.json, ... in a directory: a history to which only one of several writers at
once can add the next entry.

They lie in directories whose names begin with `_`, which Delta Lake calls hidden: no program's vacuum removes them.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from ray_ggsm import storage
from ray_ggsm.config import InputError, Record

AnyRecord = TypeVar("AnyRecord", bound=Record)


def numbered_files(directory: str) -> dict[int, str]:
    """Number -> file, in their order from 1 on.

    Raises:
        InputError: one is missing.
    """
    names = storage.list_files(directory, ".json")
    files = {int(name.rsplit("/", 1)[-1].removesuffix(".json")): name for name in names}
    if missing := [number for number in range(1, max(files, default=0)) if number not in files]:
        raise InputError(f"{_file(directory, missing[0])}: this file is missing; restore it from a backup")
    return dict(sorted(files.items()))


def read_records(files: list[str], kind: type[AnyRecord]) -> list[AnyRecord]:
    """The records in some files, in their order.

    Raises:
        InputError: a file is damaged, or of another kind.
    """
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda file: _read(file, kind), files))


def add_record(directory: str, number: int, record: Record) -> bool:
    """Write the file with a number; false: another writer has written it."""
    return storage.write_new(_file(directory, number), record.model_dump_json(indent=1).encode())


def _file(directory: str, number: int) -> str:
    return storage.join(directory, f"{number:08d}.json")


def _read(file: str, kind: type[AnyRecord]) -> AnyRecord:
    try:
        return kind.model_validate_json(storage.read_bytes(file))
    except ValueError as error:
        raise InputError(f"{file}: this file cannot be read ({' '.join(str(error).split())[:200]})") from None
