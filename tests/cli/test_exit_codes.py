"""Every end of a job has its exit code, and a user's mistake its one sentence, however deep it was wrapped."""

import errno

import pytest
from botocore.exceptions import EndpointConnectionError, NoCredentialsError, PartialCredentialsError

from ray_ggsm import storage
from ray_ggsm.cli.exit_codes import exit_code, passing_error, user_error
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
        (OSError(errno.ENOSPC, "No space left"), 4, "not now: the storage is full ([Errno 28] No space left)\n"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), 4, "not now: the storage cannot be reached ([Errno"),
        (EndpointConnectionError(endpoint_url="http://s3"), 4, "not now: the storage cannot be reached (Could not co"),
        (OSError("AWS Error NETWORK_CONNECTION during GetObject"), 4, "not now: the storage cannot be reached (AWS"),
        (OSError("Generic S3 error: error sending request for url"), 4, "not now: the storage cannot be reached (Gen"),
        (OSError("An error occurred (ExpiredToken)"), 4, "not now: the token for the storage has expired (An error"),
        (WorkerError(NotNow("the day is not complete")), 4, "not now: the day is not complete\n"),
        (ConnectionError("no Ray at this address"), 1, "Traceback (most recent call last)"),
        (OSError("Page was smaller (500) than expected in timeouts.parquet"), 1, "Traceback (most recent call last)"),
        (OSError("Couldn't deserialize thrift: No more data to read"), 1, "Traceback (most recent call last)"),
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
        (SystemExit(15), 143, "\nTerminated. Finished work is kept;"),  # of Ray's handler of SIGTERM, while it starts
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


def test_other_exits_stay_what_they_are() -> None:
    with pytest.raises(SystemExit) as stop:
        exit_code(failing(SystemExit(7)))
    assert stop.value.code == 7


def test_a_mistake_below_other_errors() -> None:
    failure = RuntimeError("a task failed")
    failure.__cause__ = InputError("rows: no file")
    assert user_error(WorkerError(failure)) == "rows: no file"


def test_an_outage_below_a_sentence_about_the_input() -> None:
    sentence = InputError("users: the table cannot be opened")
    sentence.__cause__ = OSError("Generic S3 error: timed out")
    assert passing_error(WorkerError(sentence)) == "the storage cannot be reached (Generic S3 error: timed out)"


def test_an_error_that_is_its_own_cause_ends() -> None:
    error = WorkerError()
    error.cause = error
    assert user_error(error) is None
