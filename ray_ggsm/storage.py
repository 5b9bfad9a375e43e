"""Files at a storage location: a local path or the URI of an object store, always given as a string.

Object stores are S3 (s3://) and those of `ray_ggsm.object_stores` (gs://, abfs://, abfss://, az://). `Path("s3://a/b")`
loses a slash, so locations are never `Path` objects. Credentials and endpoints come from the environment (AWS_*,
AWS_ENDPOINT_URL; GOOGLE_*; AZURE_*), never from a config file.
"""

import json
import os
import posixpath
import re
import tempfile
import threading
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from ray_ggsm.object_stores import AZURE, EXTRAS, ArrowHandler, LocationError, check_scheme, open_filesystem, scheme_of
from ray_ggsm.storage_errors import passing, refused, retried

__all__ = ["LocationError", "passing", "refused", "retried"]
_NOWHERE = re.compile(r"[%#?\\\[\]*{}<>|\"^`\x00-\x1f\x7f]")
"""Characters that libraries read differently in locations."""
_URI = re.compile(r"[A-Za-z0-9_.\-/=@,:~!'()&;$]+")
"""Locations in object stores that all libraries read alike."""


def join(location: str, *parts: str) -> str:
    """`location` extended by path parts, with single slashes."""
    return "/".join([location.rstrip("/"), *(part.strip("/") for part in parts)])


def beside(location: str, relative: str) -> str:
    """The location that `relative` means in a file at `location`; absolute paths and URIs stay as they are."""
    if "://" in relative or os.path.isabs(relative):
        return relative
    scheme, separator, path = location.rpartition("://")
    return scheme + separator + posixpath.normpath(posixpath.join(posixpath.dirname(path), relative))


def check_location(location: str) -> str:
    """The location, if everything that writes there takes it for the same place.

    File systems, Arrow, Delta Lake and Ray take locations apart, each in its own way: to some, `#` begins a fragment,
    `%20` is a space and `[1]` a pattern.

    Raises:
        ValueError: it has characters or a scheme that they read differently.
    """
    check_scheme(location)
    bad = sorted(set(_NOWHERE.findall(location)))
    if "://" in location:
        bad = sorted({character for character in location if not _URI.fullmatch(character)})
    if bad:
        shown = ", ".join(repr(character) for character in bad)
        raise ValueError(
            f"'{location}' contains {shown}, which libraries read differently in a location; choose another"
        )
    return location


def absolute(location: str) -> str:
    """A location that means the same in every process: local paths are made absolute."""
    return location if "://" in location else os.path.abspath(location)


def without_credentials(location: str) -> str:
    """A location as it may be shown: without a user or password before its host. Azure has a container there."""
    return location if scheme_of(location) in AZURE else re.sub(r"(?<=://)[^/]*@", "", location)


def filesystem(location: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The fsspec file system of a location and the location's path inside it.

    Raises:
        LocationError: there is no file system for the location's scheme, or its package is not installed.
    """
    check_scheme(location)
    if scheme_of(location) in EXTRAS:
        return open_filesystem(location)
    try:
        return url_to_fs(location)
    except (ImportError, ValueError) as error:
        if location.startswith("s3://"):
            raise
        raise LocationError(f"{location}: expected a local path or an s3://, gs:// or abfs:// location") from error


def arrow_filesystem(location: str) -> tuple[pafs.FileSystem, str]:
    """The pyarrow file system of a location and the location's path inside it, for Parquet readers and writers."""
    if scheme_of(location) in EXTRAS:
        fs, path = filesystem(location)
        return pafs.PyFileSystem(ArrowHandler(fs)), path
    if "://" in location:
        # Arrow takes a URI, in which a name's special characters are escaped
        return pafs.FileSystem.from_uri(urllib.parse.quote(location, safe=":/"))
    return pafs.LocalFileSystem(), os.path.abspath(location)


def exists(location: str) -> bool:
    """Whether there is a file or directory at a location."""
    fs, path = filesystem(location)
    fs.invalidate_cache()
    return fs.exists(path)


def write_mark(info: Mapping[str, Any]) -> str:
    """What of fsspec's `info` changes when a file is written again: its entity tag, or else its time."""
    return str(next((info[name] for name in ("ETag", "etag", "mtime", "last_modified") if info.get(name)), None))


def is_directory(location: str) -> bool:
    """Whether there is a directory at a location."""
    fs, path = filesystem(location)
    return fs.isdir(path)


def list_files(location: str, suffix: str = "") -> list[str]:
    """All files below a directory whose names end in `suffix`, sorted; an empty list if there is no directory."""
    fs, path = filesystem(location)
    fs.invalidate_cache()
    found = fs.find(path) if fs.exists(path) else []
    return sorted(_named(location, f) for f in found if f.endswith(suffix))


def glob(pattern: str) -> list[str]:
    """Locations that match a pattern (`*` within a name), sorted."""
    fs, path = filesystem(pattern)
    fs.invalidate_cache()
    return sorted(_named(pattern, f) for f in fs.glob(path))


def _named(location: str, path: str) -> str:
    """The location of a path in the file system of `location`, with the same scheme and place as there."""
    scheme, separator, rest = location.partition("://")
    if not separator:
        return path
    return f"{scheme}://{rest.partition('/')[0]}/{path.lstrip('/').partition('/')[2]}"


def read_bytes(location: str) -> bytes:
    """The content of a file."""
    fs, path = filesystem(location)
    fs.invalidate_cache()
    with fs.open(path, "rb") as file:
        content: bytes = file.read()
        return content


def read_text(location: str) -> str:
    """The UTF-8 text of a file."""
    return read_bytes(location).decode()


def write_text(location: str, text: str) -> None:
    """Write a UTF-8 file, whole or not at all."""
    write_bytes(location, text.encode())


def write_bytes(location: str, data: bytes) -> None:
    """Write a file whole or not at all: puts into object stores are atomic, local files are renamed into place."""
    fs, path = filesystem(location)
    if not isinstance(fs, LocalFileSystem):
        fs.pipe_file(path, data)
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = f"{path}.{os.getpid()}-{threading.get_ident()}.tmp"
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_new(location: str, data: bytes) -> bool:
    """Write a file whole, unless there is one; returns whether the file at the location has this content.

    Of several writers at once exactly one wins: a conditional put into an object store, a hard link on local disks.
    """
    fs, path = filesystem(location)
    try:
        if isinstance(fs, LocalFileSystem):
            _link_new(path, data)
        else:
            fs.pipe_file(path, data, mode="create")
    except FileExistsError:
        try:
            return read_bytes(location) == data  # ours, if only the answer to an earlier attempt was lost
        except FileNotFoundError:
            return False  # the other one has gone
    return True


def _link_new(path: str, data: bytes) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=os.path.dirname(path), suffix=".tmp") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        os.chmod(file.name, 0o644)
        os.link(file.name, path)


def write_parquet(location: str, table: pa.Table, compression: str = "snappy") -> None:
    """Write a table as a Parquet file, whole or not at all; the file is in memory until it is complete."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression=compression)
    write_bytes(location, sink.getvalue().to_pybytes())


def read_parquet(location: str) -> pa.Table:
    """The table in one Parquet file."""
    fs, path = arrow_filesystem(location)
    return retried(lambda: pq.read_table(path, filesystem=fs, partitioning=None))


def read_json(location: str) -> Any:
    """The value in a JSON file."""
    return json.loads(read_text(location))


def write_json(location: str, value: Any) -> None:
    """Write a JSON file, indented, whole or not at all."""
    write_text(location, json.dumps(value, indent=2) + "\n")


def remove(location: str) -> None:
    """Remove a file, or a directory with everything in it; a location without either is left alone."""
    fs, path = filesystem(location)
    if fs.exists(path):
        fs.rm(path, recursive=True)


def upload(directory: str, location: str) -> None:
    """Copy a local directory, with everything in it, to a location."""
    fs, path = filesystem(location)
    fs.makedirs(path, exist_ok=True)
    fs.put(join(directory, ""), join(path, ""), recursive=True)


@contextmanager
def local_copy(location: str) -> Iterator[str]:
    """A local directory with the files of a location: the location itself if it is local, else a temporary download."""
    fs, path = filesystem(location)
    if isinstance(fs, LocalFileSystem):
        yield path
        return
    with tempfile.TemporaryDirectory() as directory:
        fs.get(join(path, ""), join(directory, ""), recursive=True)
        yield directory
