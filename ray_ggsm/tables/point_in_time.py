"""Which vector of a bucket's past answers each row: the newest of its user at its time, of what was known then.

Of several vectors with one `as_of` that of the newest version counts. Legend: N rows, U users, K rows of a file, V
versions (V1: and the state before them).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ray_ggsm.config import InputError
from ray_ggsm.tables.bucket_past import BucketPast, FileKeys
from ray_ggsm.tables.timeline import NEVER, Span, Timeline

NO_TIME = np.iinfo(np.int64).min
"""In place of an `as_of`: there is none."""


@dataclass(frozen=True)
class Asked:
    """Rows of one bucket that vectors are wanted for."""

    users: list[str]
    """Their users, sorted."""
    user_N: np.ndarray
    """Number of each row's user."""
    time_N: np.ndarray
    """Its time, microseconds."""
    version_N: np.ndarray
    """The newest version that it may know; NEVER: none."""
    max_age: int | None
    """Microseconds that a vector may be older than the row; None: any."""

    @property
    def oldest_N(self) -> np.ndarray:
        """The oldest `as_of` that counts."""
        return np.full(len(self.time_N), NO_TIME + 1) if self.max_age is None else self.time_N - self.max_age


@dataclass(frozen=True)
class Answers:
    """Where the vector of each row stands."""

    files: tuple[str, ...]
    """Paths of the files."""
    file_N: np.ndarray
    """Number of the file; -1: there is no vector."""
    position_N: np.ndarray
    """Position in it."""
    time_N: np.ndarray
    """`as_of`, microseconds."""
    version_N: np.ndarray
    """The newest known version that has the vector."""
    encoder_N: pa.Array
    """The encoder; null: there is no vector."""


def answers(timeline: Timeline, past: BucketPast, asked: Asked) -> Answers:
    """The vector of each row.

    Raises:
        InputError: a row may need a vector of a file that is gone.
    """
    N = len(asked.time_N)
    files = tuple(sorted(past.readable))
    time_N, version_N = np.full(N, NO_TIME), np.full(N, NEVER, dtype=np.int64)
    file_N, row_N = np.full((2, N), -1, dtype=np.int64)
    moments = np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *(past.readable[f].time_K for f in files)]))
    for number, file in enumerate(files):
        keys = past.readable[file]
        row = _newest_rows(keys, moments, asked)
        known = timeline.newest_with(keys.spans)[asked.version_N + 1]
        time = np.append(keys.time_K, NO_TIME)[row]
        usable = (row >= 0) & (time >= asked.oldest_N) & _counts(known, past, asked)
        better = usable & ((time > time_N) | ((time == time_N) & (known > version_N)))
        time_N[better], version_N[better] = time[better], known[better]
        file_N[better], row_N[better] = number, row[better]
    _check_lost(timeline, past, asked, time_N, version_N)
    position_N = np.full(N, -1, dtype=np.int64)
    encoder_N = np.full(N, None, dtype=object)
    for number, file in enumerate(files):
        mine = file_N == number
        position_N[mine] = past.readable[file].position_K[row_N[mine]]
        encoder_N[mine] = past.readable[file].encoder_K.to_numpy(zero_copy_only=False)[row_N[mine]]
    return Answers(files, file_N, position_N, time_N, version_N, pa.array(encoder_N, pa.string()))


def _newest_rows(keys: FileKeys, moments: np.ndarray, asked: Asked) -> np.ndarray:
    """The newest row of a file for each asked one, of the same user and not after its time, (N,); -1: there is none."""
    if not len(keys.user_K):
        return np.full(len(asked.time_N), -1)
    span = len(moments) + 2
    key_K = keys.user_K * span + np.searchsorted(moments, keys.time_K, side="right")
    row = (
        np.searchsorted(key_K, asked.user_N * span + np.searchsorted(moments, asked.time_N, side="right"), "right") - 1
    )
    return np.where((row >= 0) & (keys.user_K[row] == asked.user_N), row, -1)


def _counts(known_N: np.ndarray, past: BucketPast, asked: Asked) -> np.ndarray:
    """Whether a version's rows count for the user of each asked row, (N,)."""
    return (known_N != NEVER) & (known_N >= past.forgotten_U[asked.user_N])


def _check_lost(timeline: Timeline, past: BucketPast, asked: Asked, time_N: np.ndarray, version_N: np.ndarray) -> None:
    """Refuse if the vector of some row may be one that nobody can read any more."""
    doubt_N = past.doubtful_U[asked.user_N]
    in_doubt = (version_N != NEVER) & (version_N < doubt_N)  # forgotten since, or gone before?
    unanswered, needed = in_doubt, set((doubt_N[in_doubt] - 1).tolist())
    trusted = not any(_is_early(timeline, keys) for keys in past.readable.values())
    for file, spans in past.lost:
        known = timeline.newest_with(spans)[asked.version_N + 1]
        moment = _newest_moment(timeline, file.spans, asked.time_N, trusted)
        newer = (moment > time_N) | ((moment == time_N) & (known > version_N))
        may = _counts(known, past, asked) & (moment != NO_TIME) & (moment >= asked.oldest_N) & newer
        unanswered, needed = unanswered | may, needed | set(known[may].tolist())
    if unanswered.any():
        raise InputError(
            f"{timeline.location}: {int(unanswered.sum()):,} of {len(time_N):,} rows of a bucket may need vectors of "
            f"version {ranges(sorted(needed))}, whose files vacuum has removed; ask for later times, or say with "
            "max_age how old a vector may be"
        )


def _is_early(timeline: Timeline, keys: FileKeys) -> bool:
    """Whether a file has vectors of moments after it was published."""
    first = min(first for first, _ in keys.spans)
    return bool(len(keys.time_K)) and bool(keys.time_K.max() > timeline.committed_V[first])


def _newest_moment(timeline: Timeline, spans: Sequence[Span], time_N: np.ndarray, trusted: bool) -> np.ndarray:
    """The newest `as_of` up to each row's time that a file which is gone may have had, (N,); NO_TIME: none.

    Where no version has recorded its moments, vectors are of moments before they were published, unless a file of the
    bucket shows that this table does not keep to it (`trusted`).
    """
    moments = timeline.moments(spans)
    if moments is not None:
        return np.append(moments, NO_TIME)[np.searchsorted(moments, time_N, side="right") - 1]
    return np.minimum(time_N, timeline.committed_V[spans[0][0]]) if trusted else time_N


def ranges(versions: Sequence[int]) -> str:
    """Numbers (sorted) as people write them: 0 to 3, 5."""
    parts: list[list[int]] = []
    for version in versions:
        if parts and version == parts[-1][-1] + 1:
            parts[-1].append(version)
        else:
            parts.append([version])
    return ", ".join(str(p[0]) if len(p) == 1 else f"{p[0]} to {p[-1]}" for p in parts)
