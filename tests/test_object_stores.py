"""Other object stores than S3, without one: schemes, packages, credentials and errors. tests/clouds has emulators."""

import json
import sys

import pytest

from ray_ggsm import storage
from ray_ggsm.cli.exit_codes import passing_error, user_error
from ray_ggsm.delta import storage_options


@pytest.mark.parametrize(
    ("location", "package", "extra"),
    [("gs://bucket/users", "gcsfs", "gcs"), *((f"{s}://box/users", "adlfs", "azure") for s in ("abfs", "abfss", "az"))],
)
def test_a_package_that_is_missing(monkeypatch, location, package, extra):
    for module in [name for name in sys.modules if name.split(".")[0] == package] or [package]:
        monkeypatch.setitem(sys.modules, module, None)
    for open_ in (storage.filesystem, storage.arrow_filesystem):
        with pytest.raises(
            storage.LocationError, match=f"needs the package {package}; pip install 'ray-ggsm.{extra}.'"
        ):
            open_(location)


@pytest.mark.parametrize(("scheme", "other"), [("gcs", "gs"), ("wasbs", "abfss"), ("adl", "abfss")])
def test_schemes_that_only_some_know(scheme, other):
    for check in (storage.check_location, storage.filesystem):
        with pytest.raises(ValueError, match=f"not all libraries know this scheme; write {other}:// instead"):
            check(f"{scheme}://bucket/users")


def test_what_delta_rs_is_told_of_a_connection_string(monkeypatch):
    monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING", raising=False)
    assert storage_options("abfs://box/t") == {}
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", "AccountName=me;AccountKey=a+b==;EndpointSuffix=x")
    expected = {"azure_storage_account_name": "me", "azure_storage_account_key": "a+b=="}
    assert storage_options("az://box/t") == expected
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", "BlobEndpoint=http://here:1/me;SharedAccessSignature=s=1&t=2")
    assert storage_options("abfss://box/t") == {
        "azure_storage_endpoint": "http://here:1/me",
        "azure_storage_sas_token": "s=1&t=2",
        "allow_http": "true",
    }
    assert "azure_storage_endpoint" not in storage_options("s3://bucket/t")


def test_what_delta_rs_is_told_of_an_emulator(monkeypatch):
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    assert storage_options("gs://bucket/t") == {}
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://here:1")
    said = json.loads(storage_options("gs://bucket/t")["google_service_account_key"])
    assert (said["gcs_base_url"], said["disable_oauth"], said["private_key"]) == ("http://here:1", True, "")


def error_of(module: str, name: str, message: str, base: type[Exception] = Exception) -> Exception:
    """An error of a client that need not be installed."""
    return type(name, (base,), {"__module__": module})(message)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (error_of("azure.core.exceptions", "ServiceRequestError", "Cannot connect to host x:443"), "passing"),
        (error_of("azure.core.exceptions", "HttpResponseError", "Server busy.\nErrorCode:ServerBusy"), "passing"),
        (error_of("azure.core.exceptions", "ClientAuthenticationError", "no token"), "refused"),
        (error_of("azure.core.exceptions", "HttpResponseError", "ErrorCode:AuthorizationFailure"), "refused"),
        (error_of("azure.core.exceptions", "HttpResponseError", "ErrorCode:InvalidBlobType"), None),
        (error_of("gcsfs.retry", "HttpError", "Backend Error, 503"), "passing"),
        (error_of("google.auth.exceptions", "DefaultCredentialsError", "were not found"), "refused"),
        (error_of("google.auth.exceptions", "RefreshError", "invalid_grant: Token has been revoked"), "passing"),
        (OSError("Forbidden: https://storage.googleapis.com/b/x"), "refused"),
        (error_of("somebody.else", "HttpError", "Backend Error, 503"), None),
    ],
)
def test_errors_of_clients(error, kind):
    assert (passing_error(error) is not None) == (kind == "passing")
    assert (kind != "passing" and user_error(error) is not None) == (kind == "refused")
