"""Calls of delta-rs: how it reaches the object store, and which of its errors are worth another attempt."""

import os
import re
from collections.abc import Callable
from typing import TypeVar

from deltalake.exceptions import DeltaError

from ray_ggsm import storage
from ray_ggsm.object_stores import EXTRAS, delta_options, scheme_of

T = TypeVar("T")
STORE_ERRORS = (
    "interacting with object store",
    "Generic S3 error",
    "Generic GCS error",
    "Generic MicrosoftAzure error",
)
"""Words in errors of delta-rs that stand for errors of the object store."""


def storage_options(location: str) -> dict[str, str]:
    """Options for delta-rs, beside those that it takes from the environment itself (AWS_*, AWS_ENDPOINT_URL, ...)."""
    if scheme_of(location) in EXTRAS:
        return delta_options(location)
    if not location.startswith("s3://"):
        return {}
    plain = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
    return {"aws_conditional_put": "etag", "aws_allow_http": str(plain).lower()}


def retried(work: Callable[[], T]) -> T:
    """`storage.retried` for calls of delta-rs, which raises some errors of the object store as errors of its own."""

    def work_once() -> T:
        try:
            return work()
        except DeltaError as error:
            if not any(words in str(error) for words in STORE_ERRORS):
                raise
            raise OSError(one_line(error)) from error

    return storage.retried(work_once)


def one_line(error: BaseException) -> str:
    """An error of delta-rs in one line, without colours, at most 300 characters."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m|↳", "", str(error)).split())[:300]
