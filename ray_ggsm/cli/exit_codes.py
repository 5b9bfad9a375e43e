"""The exit codes of jobs.

0 done, 2 wrong input (one sentence says what), 3 a publish gate failed, 4 not now (input is not complete, or another
process is at it: try again), 5 done as far as possible (what was left out is listed), 1 anything else.
"""

import errno
import sys
import traceback
from collections.abc import Callable

from ray_ggsm import storage
from ray_ggsm.config import InputError, NotNow
from ray_ggsm.tables.gates import GateError

INCOMPLETE = 5
"""Done as far as possible; what was left out is listed."""
STORAGE_ERRORS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)
"""Errors that the user has to fix: missing rights, read-only or full storage."""

MISTAKES = (InputError, storage.LocationError)
"""Errors whose message is the sentence about the user's mistake."""


def exit_code(work: Callable[[], int | None]) -> int:
    """Call `work`, print its error if it fails, and return the exit code: that of `work`, or 0 for None."""
    try:
        return work() or 0
    except GateError as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    except NotNow as error:
        cause = getattr(error, "cause", None)  # of an error in a task, which Ray wraps
        print(f"not now: {cause if isinstance(cause, NotNow) else error}", file=sys.stderr)
        return 4
    except KeyboardInterrupt:
        print("\nInterrupted. Finished stages are kept; run the same command to go on.", file=sys.stderr)
        return 1
    except Exception as error:
        if sentence := user_error(error):
            print(f"error: {sentence}", file=sys.stderr)
            return 2
        traceback.print_exc()
        return 1


def user_error(error: BaseException) -> str | None:
    """The sentence about the user's mistake behind an exception, however deep Ray wrapped it; None: there is none."""
    seen: list[BaseException] = []
    queue: list[BaseException | None] = [error]
    while queue:
        current = queue.pop(0)
        if current is None or any(current is s for s in seen):
            continue
        seen.append(current)
        if isinstance(current, MISTAKES):
            cause = getattr(current, "cause", None)
            return str(cause if isinstance(cause, MISTAKES) else current)
        if isinstance(current, OSError) and current.errno in STORAGE_ERRORS:
            return str(current)
        if storage.refused(current):
            answer = " ".join(str(current).split())[:300]
            return f"the storage refuses access ({answer}); check the credentials (AWS_*), their rights and expiry"
        queue += [current.__cause__, current.__context__, getattr(current, "cause", None)]
        failures = getattr(current, "worker_failures", None)
        queue += list(failures.values()) if isinstance(failures, dict) else []
    return None
