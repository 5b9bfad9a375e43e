"""Lists of users: in text files (users to forget, seed users of a look-alike search), and as callers give them."""

from collections.abc import Sequence

import pyarrow as pa

from ray_ggsm import storage
from ray_ggsm.config import InputError
from ray_ggsm.hashing import bucket_of


def read_users(file: str) -> list[str]:
    """The user ids of a UTF-8 text file, one per line, in their order; raises like `read_lines`."""
    return list(read_lines(file).values())


def read_lines(file: str) -> dict[int, str]:
    """Number of a line, from 1 on -> user id, of a UTF-8 text file; empty lines are left out.

    Only a line feed, or a carriage return before it, ends a line: an id may hold any other character. As in event
    files, spaces around an id do not belong to it. A byte-order mark is no part of the first id.

    Raises:
        InputError: no such text file, or no user in it.
    """
    try:
        text = storage.read_bytes(file).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: expected a text file with one user_id per line ({error})") from error
    lines = enumerate(text.split("\n"), 1)
    users = {number: user for number, line in lines if (user := line.removesuffix("\r").strip(" "))}
    if not users:
        raise InputError(f"{file}: there is no user_id in this file")
    return users


def strings(user_ids: Sequence[str] | pa.Array) -> pa.Array:
    """User ids as an Arrow array.

    Raises:
        InputError: they are no strings, or some are null.
    """
    try:
        users = user_ids.cast(pa.string()) if isinstance(user_ids, pa.Array | pa.ChunkedArray) else None
        users = pa.array(user_ids, pa.string()) if users is None else users
    except (pa.ArrowTypeError, pa.ArrowInvalid) as error:
        raise InputError(f"user_ids: expected strings ({error})") from error
    if users.null_count:
        raise InputError(f"user_ids: expected strings, {users.null_count} of them are null")
    return users


def by_bucket(users: pa.Array, buckets: int) -> dict[int, list[str]]:
    """Distinct users of each bucket, sorted."""
    distinct = users.unique()
    found: dict[int, list[str]] = {}
    for user, bucket in sorted(zip(distinct.to_pylist(), bucket_of(distinct, buckets).tolist(), strict=True)):
        found.setdefault(bucket, []).append(user)
    return found
