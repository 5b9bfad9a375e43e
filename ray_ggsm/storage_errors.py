"""Errors of object stores and of the network: which may not come again, and which the user has to put right."""

import errno
import re
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
ATTEMPTS = 6
"""Attempts per request, for transient errors."""
_NO_CREDENTIALS = (
    "NoCredentialsError", "PartialCredentialsError",
    "DefaultCredentialsError", "ClientAuthenticationError", "CredentialUnavailableError",
)  # fmt: skip
"""Errors of botocore, Google's and Azure's clients, by name: code that reads local files needs none of them."""
_EXPIRED = re.compile(
    r"ExpiredToken|RequestExpired|TokenRefreshRequired|invalid_grant|Signature not valid in the specified time frame"
)
_REFUSED = re.compile(
    r"ACCESS_DENIED|AccessDenied|ExpiredToken|InvalidAccessKeyId|SignatureDoesNotMatch|Forbidden|\b403\b"
    r"|AuthenticationFailed|AuthorizationFailure|AuthorizationPermissionMismatch|NoAuthenticationInformation|Unauthenti"
    r"cated|\b401\b"
)
_OUTAGE = re.compile(
    r"NETWORK_CONNECTION|INTERNAL_FAILURE|SERVICE_UNAVAILABLE|SLOW_DOWN|InternalError|ServiceUnavailable|SlowDown"
    r"|ServerBusy|OperationTimedOut|TooManyRequests|rateLimitExceeded|backendError|[Cc]annot connect to host"
    r"|, 50[0234]\b|HTTP status 50[0234]"
    r"|\b50[0234] (Internal|Bad|Service|Gateway)|[Cc]ould(n't| not) connect|error sending request"
    r"|[Cc]onnection (was )?(closed|refused|reset|aborted)|[Tt]imed out|([Cc]onnect|[Cc]onnection|[Rr]ead) timeout"
)
_OF_CLIENTS = ("botocore", "aiobotocore", "aiohttp", "urllib3", "deltalake", "azure", "gcsfs", "google", "requests")
"""Packages that talk to object stores; many of their errors are no OSErrors."""


def retried(work: Callable[[], T]) -> T:
    """Call `work`, repeat it after transient errors of the network or the object store, and return its result.

    The clients retry most requests themselves, but not an answer that breaks off, and not for long. Errors with an
    errno (no such file, no rights, no space) and refused credentials are raised at once.
    """
    import tenacity  # code that only computes needs neither retries nor this package

    attempts = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        wait=tenacity.wait_random_exponential(multiplier=0.2, max=10),
        retry=tenacity.retry_if_exception(_is_transient),
        reraise=True,
    )
    return attempts(work)


def refused(error: BaseException) -> bool:
    """Whether an error means that the object store denied the request, or that credentials are missing or wrong."""
    if type(error).__name__ in _NO_CREDENTIALS:
        return True
    ours = not isinstance(error, OSError) and _of_client(error)
    if not ours and (not isinstance(error, OSError) or error.errno is not None):
        return False
    return isinstance(error, PermissionError) or _REFUSED.search(str(error)) is not None


def passing(error: BaseException) -> str | None:
    """Why an error may not come again: the storage cannot be reached, it is full, or a token has expired; None: it is
    another error."""
    if isinstance(error, OSError) and error.errno is not None:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"the storage is full ({error})"
        unreachable = isinstance(error, ConnectionError | TimeoutError)
        return f"the storage cannot be reached ({error})" if unreachable else None
    if not isinstance(error, OSError) and not _of_client(error):
        return None
    whole = " ".join(str(error).split())
    if _EXPIRED.search(whole):
        return f"the token for the storage has expired ({whole[:300]}); renew it (such as AWS_SESSION_TOKEN)"
    if refused(error) or not _OUTAGE.search(whole):
        return None
    return f"the storage cannot be reached ({whole[:300]})"


def _of_client(error: BaseException) -> bool:
    return type(error).__module__.split(".")[0] in _OF_CLIENTS


def _is_transient(error: BaseException) -> bool:
    missing = isinstance(error, FileNotFoundError | FileExistsError)  # some clients give them no errno
    return isinstance(error, OSError) and error.errno is None and not missing and not refused(error)
