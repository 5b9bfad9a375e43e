"""The past of one bucket: keys of the rows of all its files, who was forgotten, and which files are gone.

A file that vacuum has removed needs no look if a `forget` came right after it: the forget's file has the same rows,
less those of the forgotten. Legend: U users, K rows of a file.
"""

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_ggsm import storage
from ray_ggsm.tables import scan
from ray_ggsm.tables.timeline import NEVER, HeldFile, Span, Timeline

COLUMNS = ["user_id", "as_of", "instruction", "encoder"]


@dataclass(frozen=True)
class FileKeys:
    """Keys of the rows that some users have in a file; where they are of use, sorted by user and as_of."""

    spans: tuple[Span, ...]
    """Versions whose rows they are, also those whose own file is gone."""
    present_U: np.ndarray
    """Which users have any row in it."""
    user_K: np.ndarray
    """Number of the row's user."""
    time_K: np.ndarray
    """Its `as_of`, microseconds."""
    position_K: np.ndarray
    """Its position in the file."""
    encoder_K: pa.Array
    """Its encoder."""
    instructions: tuple[str, ...]
    """All instructions of these users' rows."""


@dataclass(frozen=True)
class BucketPast:
    """What the files of a bucket say about some users, and what they no longer say."""

    readable: Mapping[str, FileKeys]
    """By path."""
    lost: tuple[tuple[HeldFile, tuple[Span, ...]], ...]
    """Files that are gone, and the versions whose rows nobody has now."""
    forgotten_U: np.ndarray
    """The last version that forgot each user: rows of versions before it do not count."""
    doubtful_U: np.ndarray
    """The last version that may have forgotten each user, because files before it are gone."""


def read_past(
    timeline: Timeline,
    bucket: int,
    users: list[str],
    versions: Collection[int],
    instruction: str | None,
    encoder: str | None,
) -> BucketPast:
    """Read the keys of some users (sorted) in all files of a bucket that count at some versions, each file once.

    Only rows of the instruction and the encoder are of use; None: all.

    Raises:
        InputError: a file is damaged.
    """
    files = {file.path: file for file in timeline.files.get(bucket, ())}
    forgets = timeline.forgets(bucket)
    places = {path: storage.join(timeline.location, path) for path in files}
    absent = scan.missing(list(places.values()))
    gone = {path for path in files if places[path] in absent}
    spans, lost = _stand_ins(files, gone, forgets)
    at_V1 = np.array(sorted(versions), dtype=np.int64) + 1
    edges = [
        f for f in files.values() if any(f.is_in(version) for forget in forgets for version in (forget - 1, forget))
    ]
    needed = {path for path in spans if (timeline.newest_with(spans[path])[at_V1] != NEVER).any()}
    needed |= {file.path for file in edges} - gone

    def read(path: str) -> FileKeys:
        table, position_N = scan.read_users(places[path], COLUMNS, users)
        return _keys(table, position_N, users, spans[path], instruction, encoder)

    with ThreadPoolExecutor(scan.THREADS) as pool:
        readable = dict(zip(sorted(needed), pool.map(read, sorted(needed)), strict=True))
    present = {path: keys.present_U for path, keys in readable.items()}
    forgotten_U, doubtful_U = _forgotten(list(files.values()), gone, forgets, present, len(users))
    return BucketPast(readable, lost, forgotten_U, doubtful_U)


def _keys(
    table: pa.Table,
    position_N: np.ndarray,
    users: list[str],
    spans: tuple[Span, ...],
    instruction: str | None,
    encoder: str | None,
) -> FileKeys:
    user_N = pc.index_in(table["user_id"], value_set=pa.array(users, pa.string())).to_numpy()
    present_U = np.zeros(len(users), dtype=bool)
    present_U[user_N] = True
    use_N = np.ones(len(table), dtype=bool)
    for column, value in (("instruction", instruction), ("encoder", encoder)):
        if value is not None:
            use_N &= pc.equal(table[column], value).to_numpy()
    time_N = table["as_of"].cast(pa.int64()).to_numpy()
    order_K = np.lexsort((time_N, user_N))
    order_K = order_K[use_N[order_K]]
    return FileKeys(
        spans=spans,
        present_U=present_U,
        user_K=user_N[order_K].astype(np.int64),
        time_K=time_N[order_K],
        position_K=position_N[order_K],
        encoder_K=table["encoder"].take(pa.array(order_K)).combine_chunks(),
        instructions=tuple(table["instruction"].unique().to_pylist()),
    )


def _stand_ins(
    files: Mapping[str, HeldFile], gone: Collection[str], forgets: Sequence[int]
) -> tuple[dict[str, tuple[Span, ...]], tuple[tuple[HeldFile, tuple[Span, ...]], ...]]:
    """Versions whose rows each readable file has, also instead of one that is gone; and those that nobody has."""
    spans = {path: list(file.spans) for path, file in files.items() if path not in gone}
    lost: dict[str, list[Span]] = {}
    for path in gone:
        for span in files[path].spans:
            followers = _followers(files, span[1], gone, forgets)
            if followers is None:
                lost.setdefault(path, []).append(span)
            for follower in followers or ():
                spans[follower].append(span)
    return (
        {path: tuple(some) for path, some in spans.items()},
        tuple((files[path], tuple(some)) for path, some in sorted(lost.items())),
    )


def _followers(
    files: Mapping[str, HeldFile], end: int, gone: Collection[str], forgets: Sequence[int]
) -> list[str] | None:
    """The file with the rows that a gone one had, less those of the forgotten; an empty list: no row is left; None:
    there is no such file. `end` is the version that took the gone one out of the table."""
    while end in forgets:
        before, after = ([f for f in files.values() if f.is_in(version)] for version in (end - 1, end))
        if len(before) != 1 or len(after) > 1:
            return None
        if not after or after[0].path not in gone:
            return [file.path for file in after]
        end = next(last for first, last in after[0].spans if first <= end < last)
    return None


def _forgotten(
    files: Sequence[HeldFile],
    gone: Collection[str],
    forgets: Sequence[int],
    present: Mapping[str, np.ndarray],
    U: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The last version that forgot each user, and the last that may have done so; (U,) each."""
    forgotten_U, doubtful_U = np.full((2, U), NEVER, dtype=np.int64)
    by_path = {file.path: file for file in files}
    for forget in forgets:
        before, after = ([f.path for f in files if f.is_in(version)] for version in (forget - 1, forget))
        if any(path in gone for path in before + after):
            followers = after
            if any(path in gone for path in after):
                end = next(last for first, last in by_path[after[0]].spans if first <= forget < last)
                followers = (_followers(by_path, end, gone, forgets) if len(after) == 1 else None) or []
            doubtful_U[~_any(followers, present, U)] = forget
        else:
            forgotten_U[_any(before, present, U) & ~_any(after, present, U)] = forget
    return forgotten_U, doubtful_U


def _any(paths: Sequence[str], present: Mapping[str, np.ndarray], U: int) -> np.ndarray:
    """Which users have a row in one of some files, (U,)."""
    found_U = np.zeros(U, dtype=bool)
    for path in paths:
        found_U |= present[path]
    return found_U
