"""Whether a day is complete: the producer's marker, or its list of files with their numbers of records."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ray_ggsm import storage
from ray_ggsm.config import InputError, NotNow
from ray_ggsm.data.store.manifest import FileEntry, file_key


@dataclass(frozen=True)
class Promised:
    """What the producer says of a day."""

    marker: str
    rows: Mapping[str, int]
    """Place of a file, as the producer names it -> its records; empty: the producer says nothing."""

    def check(self, entries: Sequence[FileEntry], records: Mapping[str, int | None]) -> None:
        """Refuse files that have come in with another number of records than promised.

        Args:
            entries: the files.
            records: `file_key` -> number of records, where each may hold several events.

        Raises:
            NotNow: naming the first such file.
        """
        for entry in entries:
            promised = next((n for file, n in self.rows.items() if _is_same(entry.path, file)), None)
            found = records.get(file_key(entry.table, entry.path))
            found = entry.rows + sum(entry.rejected.values()) if found is None else found
            if promised is not None and promised != found:
                told = f"{entry.path} should have {promised:,} rows, and has {found:,} so far"
                raise NotNow(f"{self.marker}: {told}")


def check_ready(marker: str, patterns: Mapping[str, str], paths: Mapping[str, Sequence[str]]) -> Promised:
    """What a day's marker promises.

    Args:
        marker: location of the marker.
        patterns: table -> pattern of its files of the day.
        paths: table -> the files that are there.

    Raises:
        NotNow: there is no marker, or a file that it lists, and that one of the tables would take, is missing.
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
    for file in promised.rows:
        is_ours = file.split("/", 1)[0] in patterns or any(_could_be(file, each) for each in patterns.values())
        if is_ours and not any(_is_same(path, file) for path in here):
            raise NotNow(f"{marker}: it lists {file}, which is not there yet")
    return promised


def _is_same(path: str, file: str) -> bool:
    """Whether a path is the file that the producer names, perhaps without the folders above."""
    return f"/{storage.absolute(path)}".endswith(f"/{file}")


def _could_be(file: str, pattern: str) -> bool:
    """Whether a file that the producer names, perhaps without the folders above, is one of a pattern's."""
    return _fits(file.split("/")[::-1], storage.absolute(pattern).split("/")[::-1])


def _fits(names: Sequence[str], patterns: Sequence[str]) -> bool:
    """Whether names fit the patterns, folder by folder from the last one up; `**` is any number of folders."""
    if not names or not patterns:
        return not names
    if patterns[0] == "**":
        return _fits(names, patterns[1:]) or _fits(names[1:], patterns)
    is_one = names[0] == patterns[0] or fnmatchcase(names[0], patterns[0])
    return is_one and _fits(names[1:], patterns[1:])
