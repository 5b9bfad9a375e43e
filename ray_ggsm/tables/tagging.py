"""Giving names to versions, and taking them away."""

import uuid

from ray_ggsm.config import InputError, NotNow
from ray_ggsm.tables.files import DataFileConfig
from ray_ggsm.tables.publish import LostRace, check_files
from ray_ggsm.tables.reader import open_table
from ray_ggsm.tables.rewrite import without_forgotten
from ray_ggsm.tables.suppression import read_suppressed
from ray_ggsm.tables.tags import Tag, add_entry, read_entry, read_tag


def tag(
    location: str,
    name: str,
    version: int | None = None,
    *,
    move: bool = False,
    key: bytes | None = None,
    config: DataFileConfig | None = None,
) -> Tag:
    """Name a version, so that vacuum keeps its files; users who were forgotten since are left out.

    Args:
        location: the table's location.
        name: the tag, a letter and then letters, digits, '.', '_' and '-'.
        version: number of the version; None: the newest.
        move: whether the tag may have named another version before.
        key: key of the list of forgotten users; needed if somebody was forgotten since the version.
        config: how files that must be written again are stored.

    Raises:
        InputError: no such version, its files are gone, the tag is taken, or the key is missing or another one.
        NotNow: the tag was changed, or users were forgotten, at the same time.
    """
    table, before = open_table(location), read_entry(location, name)
    at = table.version if version is None else version
    if before.version is not None and not move:
        raise InputError(f"{location}: tag '{name}' names version {before.version}; give --move, or another name")
    found = without_forgotten(table, at, key, f"tag-{at}-{uuid.uuid4().hex[:12]}", config)
    try:
        check_files(table.location, found.rewritten.files)
    except InputError as error:
        raise InputError(
            f"{location}: version {at} cannot be tagged; vacuum has removed its files ({error})"
        ) from error
    made = add_entry(location, name, before, at, found.rewritten.files)
    if made is None:
        raise LostRace(f"{location}: tag '{name}' was changed just now; start again")
    if read_suppressed(location).version != found.suppressed:  # that `forget` may not have seen this tag
        add_entry(location, name, made, None, ())
        raise NotNow(f"{location}: users were forgotten just now, so there is no tag '{name}'; start again")
    return made


def untag(location: str, name: str) -> Tag:
    """Take a tag away and return what it was; its files go with the next vacuum, unless a version needs them.

    Raises:
        InputError: there is no such tag.
        LostRace: the tag was changed at the same time.
    """
    open_table(location)
    found = read_tag(location, name)
    if add_entry(location, name, found, None, ()) is None:
        raise LostRace(f"{location}: tag '{name}' was changed just now; start again")
    return found
