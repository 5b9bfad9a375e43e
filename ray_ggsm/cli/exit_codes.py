"""The exit codes of jobs.

0 done, 2 wrong input (one sentence says what), 3 a publish gate failed, 4 not now (input is not complete, another
process is at it, or the storage cannot be reached or is full: try again), 5 done as far as possible (what was left out
is listed), 143 ended by SIGTERM, 1 anything else.
"""

import errno
import signal
import traceback
from collections.abc import Callable, Iterator

from ray_ggsm import storage
from ray_ggsm.cli import lineage
from ray_ggsm.cli.lineage import Ended
from ray_ggsm.config import InputError, NotNow
from ray_ggsm.log import say_error
from ray_ggsm.tables.gates import GateError

INCOMPLETE = 5
"""Done as far as possible; what was left out is listed."""
STORAGE_ERRORS = (errno.EACCES, errno.EPERM, errno.EROFS)
"""Errors that the user has to fix: missing rights, read-only storage."""

ended_by: int | None = None
"""Signal other than Ctrl-C that has ended the job."""

MISTAKES = (InputError, storage.LocationError)
"""Errors whose message is the sentence about the user's mistake."""


def exit_code(work: Callable[[], int | None], job: str | None = None) -> int:
    """Call `work`, print its error if it fails, and return the exit code: that of `work`, or 0 for None.

    `job` is the name of a job that publishes or trains, for its events (`ray_ggsm.cli.lineage`); None: it has none.
    """
    return (_ended(work) if job is None else lineage.recorded(job, lambda: _ended(work))).code


def _ended(work: Callable[[], int | None]) -> Ended:
    try:
        return Ended(work() or 0)
    except GateError as error:
        return _said(3, "error", str(error))
    except (KeyboardInterrupt, SystemExit) as error:
        number = ended_by
        if isinstance(error, SystemExit):
            if error.code != signal.SIGTERM:
                raise
            number = signal.SIGTERM  # by Ray's own handler, which is there while Ray starts
        if number is not None:
            say_error("\nTerminated. Finished work is kept; run the same command to go on.")
            return Ended(128 + number)
        say_error("\nInterrupted. Finished stages are kept; run the same command to go on.")
        return Ended(1)
    except Exception as error:
        if sentence := passing_error(error):
            return _said(NotNow.EXIT_CODE, "not now", sentence)
        if sentence := user_error(error):
            return _said(2, "error", sentence)
        say_error(traceback.format_exc().removesuffix("\n"))
        return Ended(1)


def _said(code: int, kind: str, sentence: str) -> Ended:
    say_error(f"{kind}: {sentence}")
    return Ended(code, sentence)


def user_error(error: BaseException) -> str | None:
    """The sentence about the user's mistake behind an exception, however deep Ray wrapped it; None: there is none."""
    for each in _behind(error):
        if isinstance(each, MISTAKES):
            cause = getattr(each, "cause", None)
            return str(cause if isinstance(cause, MISTAKES) else each)
        if isinstance(each, OSError) and each.errno in STORAGE_ERRORS:
            return str(each)
        if storage.refused(each):
            answer = " ".join(str(each).split())[:300]
            variables = "AWS_*, GOOGLE_* or AZURE_*"
            return f"the storage refuses access ({answer}); check the credentials ({variables}) and their rights"
    return None


def passing_error(error: BaseException) -> str | None:
    """The sentence about what is not as it must be yet, if that is behind an exception; None: something else is.

    An outage counts although a sentence about the user's input was made of it.
    """
    for each in _behind(error):
        if isinstance(each, NotNow):
            cause = getattr(each, "cause", None)  # of an error in a task, which Ray wraps
            return str(cause if isinstance(cause, NotNow) else each)
        if sentence := storage.passing(each):
            return sentence
    return None


def _behind(error: BaseException) -> Iterator[BaseException]:
    """An exception and all those behind it, the nearest first."""
    seen: list[BaseException] = []
    queue: list[BaseException | None] = [error]
    while queue:
        current = queue.pop(0)
        if current is None or any(current is s for s in seen):
            continue
        seen.append(current)
        yield current
        queue += [current.__cause__, current.__context__, getattr(current, "cause", None)]
        failures = getattr(current, "worker_failures", None)
        queue += list(failures.values()) if isinstance(failures, dict) else []
