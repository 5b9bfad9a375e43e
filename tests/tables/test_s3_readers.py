"""Other people's readers against an object store, with nothing but the environment for credentials."""

import pytest

from ray_ggsm import delta
from tests.helpers.tables import put, rows


def test_polars_and_arrow_read_s3(s3):
    polars = pytest.importorskip("polars")
    put(s3, rows(20), "r0")
    put(s3, rows(31), "r1")
    options = delta.storage_options(s3)
    assert options["aws_allow_http"] == "true"
    assert polars.read_delta(s3, storage_options=options).height == 31
    lazy = polars.scan_delta(s3, version=0, storage_options=options)
    assert lazy.filter(polars.col("user_id") == "u7").collect()["events"].to_list() == [7]
