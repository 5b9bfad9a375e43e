"""Tiny random pretrained models on disk, and user rows, for tests that need the real code paths but no real weights."""

from collections.abc import Callable, Iterator

import pyarrow as pa
import pytest
import torch
from hypothesis import settings

from tests import s3_server as s3
from tests.tiny import user_rows, write_decoder, write_event_encoder

torch.set_num_threads(1)  # tiny models; leaves the cores to Ray workers
settings.register_profile("untimed", deadline=None)  # a busy machine decides no test
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def tiny_decoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Directory of a random 3-layer llama with grouped-query attention."""
    directory = tmp_path_factory.mktemp("decoder")
    write_decoder(directory)
    return str(directory)


@pytest.fixture(scope="session")
def tiny_event_encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Directory of a random 1-layer BERT."""
    directory = tmp_path_factory.mktemp("event_encoder")
    write_event_encoder(directory)
    return str(directory)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Address of an S3 server for all tests; `tests.s3_server.faults` makes it fail."""
    with s3.s3_server() as address:
        yield address


@pytest.fixture
def make_rows() -> Callable[..., pa.Table]:
    """`user_rows`."""
    return user_rows
