"""Whether a day is complete: the producer's marker, or its list of files with their numbers of rows."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ray_ggsm import storage
from ray_ggsm.config import InputError, NotNow
from ray_ggsm.data.store.manifest import FileEntry


@dataclass(frozen=True)
class Promised:
    """What the producer says of a day."""

    marker: str
    rows: Mapping[str, int]
    """Place of a file, as the producer names it -> its rows; empty: the producer says nothing."""

    def check(self, entries: Sequence[FileEntry]) -> None:
        """Refuse files that have come in with another number of records than promised.

        Raises:
            NotNow: naming the first such file.
        """
        for entry in entries:
            promised = next((n for file, n in self.rows.items() if _is_same(entry.path, file)), None)
            found = entry.rows + sum(entry.rejected.values())
            if promised is not None and promised != found:
                told = f"{entry.path} should have {promised:,} rows, and has {found:,} so far"
                raise NotNow(f"{self.marker}: {told}")


def check_ready(marker: str, paths: Mapping[str, Sequence[str]]) -> Promised:
    """What a day's marker promises.

    Args:
        marker: location of the marker.
        paths: table -> the files that are there.

    Raises:
        NotNow: there is no marker, or a file that it lists is missing.
        InputError: its `rows` are no numbers of rows.
    """
    if not storage.exists(marker):
        raise NotNow(f"{marker}: not there yet, so the day is not complete")
    try:
        found = json.loads(storage.read_text(marker) or "null")
    except ValueError:
        found = None
    rows = found.get("rows") if isinstance(found, dict) else None
    if rows is not None and not (isinstance(rows, dict) and all(type(n) is int for n in rows.values())):
        raise InputError(f"{marker}: `rows` must say of each file how many rows it has, as a whole number")
    promised = Promised(marker, rows or {})
    here = [path for some in paths.values() for path in some]
    tables = tuple(paths)
    for file in promised.rows:
        if file.split("/", 1)[0] in tables and not any(_is_same(path, file) for path in here):
            raise NotNow(f"{marker}: it lists {file}, which is not there yet")
    return promised


def _is_same(path: str, file: str) -> bool:
    """Whether a path is the file that the producer names, perhaps without the folders above."""
    return path == file or path.endswith("/" + file)
