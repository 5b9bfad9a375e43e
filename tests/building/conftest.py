from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from tests.helpers.building import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def users(make_rows: Callable[..., pa.Table]) -> pa.Table:
    """Eleven user rows."""
    return make_rows(11).drop_columns(["future"])
