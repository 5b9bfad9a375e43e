"""Files at a storage location: a local path or an s3:// URI, always given as a string.

`Path("s3://a/b")` loses a slash, so locations are never `Path` objects. S3 credentials and endpoint come from the
environment (AWS_*, AWS_ENDPOINT_URL), never from a config file.
"""

import errno
import json
import os
import posixpath
import re
import tempfile
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import fsspec
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

T = TypeVar("T")
ATTEMPTS = 6
"""Attempts per request, for transient errors."""
_NOWHERE = re.compile(r"[%#?\\\[\]*{}<>|\"^`\x00-\x1f\x7f]")
"""Characters that libraries read differently in locations."""
_S3 = re.compile(r"[A-Za-z0-9_.\-/=@,:~!'()&;$]+")
"""S3 locations that all libraries read alike."""
_NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError")
"""Errors of botocore, by name: code that reads local files needs no botocore."""
_EXPIRED = re.compile(r"ExpiredToken|RequestExpired|TokenRefreshRequired")
_REFUSED = re.compile(
    r"ACCESS_DENIED|AccessDenied|ExpiredToken|InvalidAccessKeyId|SignatureDoesNotMatch|Forbidden|\b403\b"
)
_OUTAGE = re.compile(
    r"NETWORK_CONNECTION|INTERNAL_FAILURE|SERVICE_UNAVAILABLE|SLOW_DOWN|InternalError|ServiceUnavailable|SlowDown"
    r"|\b50[0234] (Internal|Bad|Service|Gateway)|[Cc]ould(n't| not) connect|error sending request"
    r"|[Cc]onnection (was )?(closed|refused|reset|aborted)|[Tt]imed out|([Cc]onnect|[Cc]onnection|[Rr]ead) timeout"
)
_OF_CLIENTS = ("botocore", "aiobotocore", "aiohttp", "urllib3", "deltalake")
"""Packages that talk to object stores; their errors are no OSErrors."""


class LocationError(ValueError):
    """A location that is neither a local path nor an s3:// URI; the message is one sentence. Jobs exit with code 2."""


def retried(work: Callable[[], T]) -> T:
    """Call `work`, repeat it after transient errors of the network or the object store, and return its result.

    The clients retry most requests themselves, but not an answer that breaks off, and not for long. Errors with an
    errno (no such file, no rights, no space) and refused credentials are raised at once.
    """
    import tenacity  # code that only computes needs neither retries nor this package

    attempts = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        wait=tenacity.wait_random_exponential(multiplier=0.2, max=10),
        retry=tenacity.retry_if_exception(_is_transient),
        reraise=True,
    )
    return attempts(work)


def refused(error: BaseException) -> bool:
    """Whether an error means that the object store denied the request, or that credentials are missing or wrong."""
    if type(error).__name__ in _NO_CREDENTIALS:
        return True
    if not isinstance(error, OSError) or error.errno is not None:
        return False
    return isinstance(error, PermissionError) or _REFUSED.search(str(error)) is not None


def passing(error: BaseException) -> str | None:
    """Why an error may not come again: the storage cannot be reached, it is full, or a token has expired; None: it is
    another error."""
    if isinstance(error, OSError) and error.errno is not None:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"the storage is full ({error})"
        unreachable = isinstance(error, ConnectionError | TimeoutError)
        return f"the storage cannot be reached ({error})" if unreachable else None
    if not isinstance(error, OSError) and not type(error).__module__.startswith(_OF_CLIENTS):
        return None
    whole = " ".join(str(error).split())
    if _EXPIRED.search(whole):
        return f"the token for the storage has expired ({whole[:300]}); renew it (AWS_SESSION_TOKEN)"
    if refused(error) or not _OUTAGE.search(whole):
        return None
    return f"the storage cannot be reached ({whole[:300]})"


def _is_transient(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno is None and not refused(error)


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
        ValueError: it has characters that they read differently.
    """
    bad = sorted(set(_NOWHERE.findall(location)))
    if "://" in location:
        bad = sorted({character for character in location if not _S3.fullmatch(character)})
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
    """A location as it may be shown: without a user or password before its host."""
    return re.sub(r"(?<=://)[^/]*@", "", location)


def filesystem(location: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The fsspec file system of a location and the location's path inside it.

    Raises:
        LocationError: there is no file system for the location's scheme.
    """
    try:
        return url_to_fs(location)
    except (ImportError, ValueError) as error:
        if location.startswith("s3://"):
            raise
        raise LocationError(f"{location}: expected a local path or an s3:// location") from error


def arrow_filesystem(location: str) -> tuple[pafs.FileSystem, str]:
    """The pyarrow file system of a location and the location's path inside it, for Parquet readers and writers."""
    if "://" in location:
        # Arrow takes a URI, in which a name's special characters are escaped
        return pafs.FileSystem.from_uri(urllib.parse.quote(location, safe=":/"))
    return pafs.LocalFileSystem(), os.path.abspath(location)


def exists(location: str) -> bool:
    """Whether there is a file or directory at a location."""
    fs, path = filesystem(location)
    fs.invalidate_cache()
    return fs.exists(path)


def is_directory(location: str) -> bool:
    """Whether there is a directory at a location."""
    fs, path = filesystem(location)
    return fs.isdir(path)


def list_files(location: str, suffix: str = "") -> list[str]:
    """All files below a directory whose names end in `suffix`, sorted; an empty list if there is no directory."""
    fs, path = filesystem(location)
    fs.invalidate_cache()
    found = fs.find(path) if fs.exists(path) else []
    return sorted(fs.unstrip_protocol(f) if "://" in location else f for f in found if f.endswith(suffix))


def glob(pattern: str) -> list[str]:
    """Locations that match a pattern (`*` within a name), sorted."""
    fs, path = filesystem(pattern)
    fs.invalidate_cache()
    return sorted(fs.unstrip_protocol(f) if "://" in pattern else f for f in fs.glob(path))


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
    """Write a file whole or not at all: S3 puts are atomic, local files are renamed into place."""
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

    Of several writers at once exactly one wins: a conditional put on S3, a hard link on local file systems.
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
