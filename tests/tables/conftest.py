import pytest


@pytest.fixture
def s3(s3_bucket) -> str:
    """A table's location in a new bucket."""
    return f"{s3_bucket}/users"


@pytest.fixture(params=["local", "s3"])
def location(request, tmp_path) -> str:
    """A table's location, on disk and in an object store."""
    return request.getfixturevalue("s3") if request.param == "s3" else str(tmp_path / "users")
