"""Object stores beside S3: Google Cloud Storage (gs://) and Azure Blob Storage (abfs://, abfss://, az://).

fsspec's clients talk to them (gcsfs, adlfs: extras `gcs` and `azure`), also for Arrow; delta-rs has clients of its own.
Both find credentials in the environment, in the variables of Google's and Azure's own clients. An emulator is named
there, too: STORAGE_EMULATOR_HOST, or the endpoint in AZURE_STORAGE_CONNECTION_STRING.
"""

import importlib
import json
import os
from collections.abc import Mapping

import fsspec
import pyarrow.fs as pafs
from fsspec.core import url_to_fs

AZURE = ("abfs", "abfss", "az")
EXTRAS = {"gs": ("gcsfs", "gcs"), **dict.fromkeys(AZURE, ("adlfs", "azure"))}
"""Scheme -> the package that it needs, and the extra of ray-ggsm that installs it."""
EMULATOR = "STORAGE_EMULATOR_HOST"
"""Variable with the address of an emulator of Google Cloud Storage, which checks no credentials."""
OTHER_NAMES = {"gcs": "gs", "adl": "abfss", "wasb": "abfs", "wasbs": "abfss"}
"""Scheme that not all libraries know -> the one to write instead."""


class LocationError(ValueError):
    """A location that nothing here can reach; the message is one sentence. Jobs exit with code 2."""


def scheme_of(location: str) -> str:
    """What stands before `://`; empty for a local path."""
    scheme, separator, _ = location.partition("://")
    return scheme if separator else ""


def check_scheme(location: str) -> None:
    """Refuse a scheme that only some of the libraries know.

    Raises:
        LocationError: naming the one to write.
    """
    if other := OTHER_NAMES.get(scheme_of(location)):
        raise LocationError(f"{location}: not all libraries know this scheme; write {other}:// instead")


def open_filesystem(location: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The fsspec file system of a location whose scheme is in EXTRAS, and the path inside it.

    Its lists of files are always those of now: other processes write, too.

    Raises:
        LocationError: the package for the scheme is not installed.
    """
    package, extra = EXTRAS[scheme_of(location)]
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise LocationError(
            f"{location}: this scheme needs the package {package}; pip install 'ray-ggsm[{extra}]'"
        ) from error
    nobody = {"token": "anon"} if package == "gcsfs" and os.environ.get(EMULATOR) else {}
    return url_to_fs(location, use_listings_cache=False, **nobody)


class ArrowHandler(pafs.FSSpecHandler):
    """An fsspec file system for Arrow, which also tells when a file was changed."""

    @staticmethod
    def _create_file_info(path: str, info: Mapping[str, object]) -> pafs.FileInfo:
        changed = info.get("mtime") or info.get("last_modified")
        return pafs.FSSpecHandler._create_file_info(path, {**info, "mtime": changed})


def delta_options(location: str) -> dict[str, str]:
    """Options for delta-rs, beside those that it takes from the environment itself (GOOGLE_*, AZURE_*)."""
    return _google_options() if scheme_of(location) == "gs" else _azure_options()


def _google_options() -> dict[str, str]:
    """Those of an emulator, which checks no credentials."""
    if not (host := os.environ.get(EMULATOR)):
        return {}
    nobody = {"gcs_base_url": host, "disable_oauth": True, "client_email": "", "private_key": "", "private_key_id": ""}
    return {"google_service_account_key": json.dumps(nobody), "allow_http": "true"}


def _azure_options() -> dict[str, str]:
    """What a connection string says, which delta-rs does not read."""
    pairs = os.environ.get("AZURE_STORAGE_CONNECTION_STRING", "").split(";")
    said = {name: value for name, separator, value in (pair.partition("=") for pair in pairs) if separator}
    names = {
        "AccountName": "azure_storage_account_name",
        "AccountKey": "azure_storage_account_key",
        "SharedAccessSignature": "azure_storage_sas_token",
        "BlobEndpoint": "azure_storage_endpoint",
    }
    plain = said.get("BlobEndpoint", "").startswith("http://")
    options = {names[name]: value for name, value in said.items() if name in names}
    return {**options, "allow_http": "true"} if plain else options
