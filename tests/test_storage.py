"""Locations that mean the same place to every library."""

import pytest

from ray_ggsm import storage


@pytest.mark.parametrize("location", ["out", "/data/my out/é", "s3://bucket/a/b-c_d=1", "../x", "C:/out"])
def test_locations_that_mean_one_place(location: str) -> None:
    assert storage.check_location(location) == location


@pytest.mark.parametrize(
    "location",
    [
        "s3://b/out/a#b",
        "s3://b/sp ace",
        "s3://b/p%20q",
        "s3://b/a+b",
        "s3://b/é",
        "a%20b",
        "a#b",
        "a?b",
        "a\\b",
        "a[1]",
    ],
)
def test_locations_that_libraries_read_differently(location: str) -> None:
    with pytest.raises(ValueError, match="which libraries read differently in a location; choose another"):
        storage.check_location(location)


@pytest.mark.parametrize("scheme", ["abfs", "abfss", "az"])
def test_azure_has_a_container_before_the_host(scheme: str) -> None:
    """Without it two tables had one name."""
    location = f"{scheme}://users@account.dfs.core.windows.net/table"
    assert storage.without_credentials(location) == location


@pytest.mark.parametrize("location", ["/data/a@b/out", "s3://bucket/a@b", "users"])
def test_locations_are_shown_without_credentials(location: str) -> None:
    assert storage.without_credentials(location) == location
    secret = location.replace("://", "://key:secret@")
    assert storage.without_credentials(secret) == location


@pytest.mark.parametrize(
    ("text", "may_pass"),
    [
        ("When reading information for key: AWS Error UNKNOWN (HTTP status 500) during HeadObject operation", True),
        ("AWS Error UNKNOWN (HTTP status 503) during HeadObject operation: No response body.", True),
        ("AWS Error SLOW_DOWN during PutObject operation", True),
        ("AWS Error UNKNOWN (HTTP status 404) during HeadObject operation: No response body.", False),
        ("AWS Error ACCESS_DENIED (HTTP status 403) during HeadObject operation: No response body.", False),
        ("500 rows are damaged", False),
    ],
)  # fmt: skip
def test_which_errors_of_arrows_s3_client_may_not_come_again(text: str, may_pass: bool) -> None:
    assert (storage.passing(OSError(text)) is not None) == may_pass
