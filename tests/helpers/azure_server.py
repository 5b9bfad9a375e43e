"""An Azure Blob Storage emulator: Azurite, an npm package, where somebody has installed it (`npm install azurite`)."""

import os
import shutil

from tests.helpers.emulator_front import Front

__all__ = ["Front", "binary", "command", "environment"]
NAME = "azurite-blob"
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Of every Azurite, as its documentation says."""


def binary() -> str | None:
    """Azurite's program: AZURITE_BLOB, or on the path; None: it is not there."""
    return os.environ.get("AZURITE_BLOB") or shutil.which(NAME)


def command(program: str, port: int, place: str) -> list[str]:
    """Starts the emulator on a port; where clients see it makes no difference to it."""
    more = ["--blobPort", str(port), "--skipApiVersionCheck", "--disableTelemetry"]
    return [program, "--silent", "--inMemoryPersistence", *more]


def environment(address: str) -> dict[str, str]:
    """What Azure's clients find in their environment to use the emulator at an address."""
    said = f"AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={address}/{ACCOUNT}"
    return {"AZURE_STORAGE_CONNECTION_STRING": f"DefaultEndpointsProtocol=http;{said}"}
