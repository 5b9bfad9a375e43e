"""Pseudonyms of users: keyed hashes, which nobody can compute or invert without the key.

The key is a file outside of everything that is published, for example a mounted secret. The same user has the same
pseudonym in rows, labels, dead letters and tables as long as the key stays the same.
"""

from collections.abc import Collection

import pyarrow as pa
import pyarrow.compute as pc

from ray_ggsm import storage
from ray_ggsm.config import InputError
from ray_ggsm.hashing import key_id, pseudonym, pseudonyms

__all__ = ["is_suppressed", "key_id", "pseudonym", "pseudonyms", "read_key"]


def read_key(file: str) -> bytes:
    """The key in a file, local or s3://; a line feed at its end does not belong to it.

    Raises:
        InputError: no such file, or a key of other than 16 to 64 bytes.
    """
    try:
        key = storage.read_bytes(file).removesuffix(b"\n")
    except OSError as error:
        if storage.passing(error):
            raise
        raise InputError(f"{file}: expected a file with a secret key ({type(error).__name__})") from None
    if not 16 <= len(key) <= 64:
        raise InputError(f"{file}: expected a key of 16 to 64 bytes, found {len(key)}; openssl rand -hex 32 makes one")
    return key


def is_suppressed(users: pa.ChunkedArray, suppressed: Collection[str], key: bytes | None) -> pa.Array:
    """Which users (N,) are on a list of pseudonyms; null is not. Without a key, users are pseudonyms already."""
    names = users if key is None else pseudonyms(users, key)
    return pc.fill_null(pc.is_in(names, value_set=pa.array(sorted(suppressed), pa.string())), False)
