"""Tags: names of versions. A tag has its own list of data files, which vacuum keeps.

So a forgotten user can leave a tagged version, too, although no version of a Delta table ever changes: the files are
written again, and the tag names the new ones. `<table>/_tags/<name>/00000001.json` and so on are what a tag was; the
newest entry counts. Of several writers at once one adds the next entry, and the others look again.
"""

import re
from typing import Literal

from ray_ggsm import storage
from ray_ggsm.config import InputError, Record
from ray_ggsm.tables.files import DataFile
from ray_ggsm.tables.numbered import add_record, numbered_files, read_records

DIRECTORY = "_tags"
"""Name of the tags' directory in a table's."""


class Tag(Record):
    """One entry of a tag."""

    format: Literal[1] = 1
    number: int
    """Position in the order of the tag's entries, from 1."""
    version: int | None
    """Version that it names; None: the tag was removed."""
    files: tuple[DataFile, ...] = ()
    """The version's data files, less the rows of users who were forgotten since."""

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(file.rows for file in self.files)


def check_name(name: str) -> None:
    """Refuse a name that could be a number, or no part of a path in every store."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9._-]{0,63}", name):
        raise InputError(f"tag '{name}': expected at most 64 letters, digits, '.', '_' and '-', starting with a letter")


def read_entry(location: str, name: str) -> Tag:
    """The newest entry of a tag, also if it was removed; number 0: there never was such a tag.

    Raises:
        InputError: the name is no tag's, or an entry is missing or damaged.
    """
    check_name(name)
    files = list(numbered_files(storage.join(location, DIRECTORY, name)).values())
    return read_records(files[-1:], Tag)[0] if files else Tag(number=0, version=None)


def read_tag(location: str, name: str) -> Tag:
    """A tag of the table at a location.

    Raises:
        InputError: there is none of this name, or it is damaged.
    """
    found = read_entry(location, name)
    if found.version is None:
        known = ", ".join(read_tags(location)) or "no tags"
        raise InputError(f"{location}: no tag '{name}'; there are {known}")
    return found


def read_tags(location: str) -> dict[str, Tag]:
    """Name -> tag, by name, of the table at a location.

    Raises:
        InputError: one is damaged.
    """
    names = {file.split("/")[-2] for file in storage.list_files(storage.join(location, DIRECTORY), ".json")}
    found = {name: read_entry(location, name) for name in sorted(names)}
    return {name: tag for name, tag in found.items() if tag.version is not None}


def add_entry(location: str, name: str, after: Tag, version: int | None, files: tuple[DataFile, ...]) -> Tag | None:
    """Add the next entry of a tag after the one that was read; None: another writer was faster."""
    tag = Tag(number=after.number + 1, version=version, files=files)
    return tag if add_record(storage.join(location, DIRECTORY, name), tag.number, tag) else None
