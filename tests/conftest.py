"""Fixtures of several folders.

What takes seconds to import is imported by the fixture that needs it: a test of a config starts at once.
"""

import sys
import uuid
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest
from hypothesis import settings

from tests.helpers import s3_server as s3
from tests.helpers import slow_list
from tests.helpers.rows import user_rows
from tests.helpers.warm_workers import warm_workers

if TYPE_CHECKING:
    from xdist.scheduler import LoadFileScheduling

    from ray_ggsm.masks import RecipeConfig
    from ray_ggsm.model.saved import EncoderBundle

settings.register_profile("untimed", deadline=None)  # a busy machine decides no test
settings.load_profile("untimed")


STARTS_PROCESSES = {"cluster", "start", "head"}
"""Fixtures."""
LONGEST = ("tests/on_ray/", "tests/jobs/")
"""Folders whose tests come first."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what starts a Ray cluster or processes of jobs, and what is slow; what takes longest comes first, or one
    process ends late."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))
    slow = set(slow_list.FILE.read_text().split())
    for item in items:
        if slow & {item.nodeid.split("::")[0], item.nodeid.split("[")[0]}:
            item.add_marker("slow")
        if isinstance(item, pytest.Function) and STARTS_PROCESSES & {*item.fixturenames}:
            item.add_marker("cluster")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> "LoadFileScheduling":
    """File by file, but one process takes all of tests/on_ray: they share a Ray cluster and a finished run."""
    from xdist.scheduler import LoadFileScheduling

    class OneCluster(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "tests/on_ray" if nodeid.startswith("tests/on_ray/") else super()._split_scope(nodeid)

    config.option.loadscopereorder = False  # in the order above, not by the number of tests
    return OneCluster(config, log)


def pytest_collection_finish() -> None:
    """Tiny models need one thread; the other cores are left to Ray workers."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_decoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Directory of a random 3-layer llama with grouped-query attention."""
    from tests.helpers.models import write_decoder

    directory = tmp_path_factory.mktemp("decoder")
    write_decoder(directory)
    return str(directory)


@pytest.fixture(scope="session")
def tiny_event_encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Directory of a random 1-layer BERT."""
    from tests.helpers.models import write_event_encoder

    directory = tmp_path_factory.mktemp("event_encoder")
    write_event_encoder(directory)
    return str(directory)


@pytest.fixture
def make_encoder(tiny_decoder: str) -> "Callable[..., EncoderBundle]":
    """Builds encoders on the tiny decoder."""
    from ray_ggsm.masks.fixed import BidirectionalConfig
    from tests.helpers.encoders import encoder_on

    def make(mask: "RecipeConfig | None" = None, **model) -> "EncoderBundle":
        return encoder_on(tiny_decoder, mask or BidirectionalConfig(recipe="bidirectional"), **model)

    return make


@pytest.fixture
def make_rows() -> Callable[..., pa.Table]:
    """`user_rows`."""
    return user_rows


@pytest.fixture(scope="session")
def warm_python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A program for `sys.executable` where Ray is started (`tests.helpers.warm_workers`)."""
    if sys.platform != "linux":  # elsewhere libraries do not survive a fork
        yield sys.executable
        return
    with warm_workers(tmp_path_factory.mktemp("warm")) as program:
        yield program


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Address of an S3 server for all tests; `tests.helpers.s3_server.faults` makes it fail."""
    with s3.s3_server() as address:
        yield address


@pytest.fixture
def s3_bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A new bucket, s3://NAME, whose server this process finds in its environment."""
    import s3fs

    for name, value in s3.environment(s3_server).items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    bucket = f"bucket-{uuid.uuid4().hex}"
    s3fs.S3FileSystem().mkdir(bucket)
    yield f"s3://{bucket}"
    s3fs.S3FileSystem.clear_instance_cache()
