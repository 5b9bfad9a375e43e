"""Every end of a job has its exit code, and a user's mistake its one sentence, however deep it was wrapped."""

import errno

import pytest
from botocore.exceptions import NoCredentialsError, PartialCredentialsError

from ray_ggsm import storage
from ray_ggsm.cli.exit_codes import exit_code, user_error
from ray_ggsm.config import InputError, NotNow
from ray_ggsm.tables.gates import GateError


def failing(error: BaseException):
    def work() -> None:
        raise error

    return work


class WorkerError(Exception):
    """As Ray's: the worker's exception is an attribute, not Python's own cause."""

    def __init__(self, cause: BaseException | None = None, failures: dict[int, BaseException] | None = None) -> None:
        super().__init__("a worker failed")
        self.cause, self.worker_failures = cause, failures


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (InputError("rows: no file"), 2, "error: rows: no file\n"),
        (GateError("nothing was published"), 3, "error: nothing was published\n"),
        (NotNow("the day is not complete"), 4, "not now: the day is not complete\n"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "error: [Errno 28] No space left on device\n"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/out"),
            2,
            "error: [Errno 13] Permission denied: '/out'\n",
        ),
        (OSError("AWS Error ACCESS_DENIED during PutObject"), 2, "error: the storage refuses access (AWS Error"),
        (NoCredentialsError(), 2, "error: the storage refuses access (Unable to locate credentials); check the"),
        (PartialCredentialsError(provider="env", cred_var="x"), 2, "error: the storage refuses access (Partial cred"),
        (storage.LocationError("gs://a: expected a local path"), 2, "error: gs://a: expected a local path\n"),
        (WorkerError(storage.LocationError("gs://a: expected")), 2, "error: gs://a: expected\n"),
        (WorkerError(InputError("rows: no file")), 2, "error: rows: no file\n"),
        (WorkerError(failures={0: ValueError("x"), 1: InputError("rows: no file")}), 2, "error: rows: no file\n"),
        (KeyboardInterrupt(), 1, "\nInterrupted."),
        (RuntimeError("a disk is full"), 1, "Traceback (most recent call last)"),
        (FileNotFoundError(errno.ENOENT, "No such file"), 1, "Traceback (most recent call last)"),
    ],
)
def test_errors(error: BaseException, code: int, sentence: str, capsys) -> None:
    assert exit_code(failing(error)) == code
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(sentence)


@pytest.mark.parametrize("result", [None, 0, 1])
def test_the_work_may_give_a_code(result: int | None) -> None:
    assert exit_code(lambda: result) == (result or 0)


def test_a_mistake_below_other_errors() -> None:
    failure = RuntimeError("a task failed")
    failure.__cause__ = InputError("rows: no file")
    assert user_error(WorkerError(failure)) == "rows: no file"


def test_an_error_that_is_its_own_cause_ends() -> None:
    error = WorkerError()
    error.cause = error
    assert user_error(error) is None
