"""What all jobs share: arguments, --dry-run, and exit codes (0 done, 2 the user's input is wrong, 3 a publish gate
failed, 1 anything else).
"""

import argparse
import errno
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import yaml

from ray_ggsm import storage
from ray_ggsm.config import Config, InputError, load
from ray_ggsm.data.prepare import check
from ray_ggsm.experiment import Experiment, stages
from ray_ggsm.tables.gates import GateError

STORAGE_ERRORS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)
"""What the user has to mend: rights, read-only or full storage."""


def run(
    description: str,
    job: Callable[..., object],
    default_config: str | None = None,
    arguments: Sequence[str] | None = None,
    *,
    publishes: bool = False,
    preview: Callable[[Any], str] | None = None,
    schema: type[Config] = Experiment,
) -> int:
    """Parse arguments, load the config, do the job; returns the exit code.

    Args:
        description: help text.
        job: gets the config.
        default_config: file that is used without --config; None: the argument is required.
        arguments: of the command line; None: this process's.
        publishes: the job has publish gates; it gets the reason of --publish-anyway, too.
        preview: checks what the job needs, and tells what it would do (--dry-run); None: the stages are checked.
        schema: of the config file.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--config", required=default_config is None, default=default_config, help="YAML file, local or s3://"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY.PATH=VALUE", help="change one setting; repeatable"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check config, files, columns and SQL; print the resolved config and the stages; change nothing",
    )
    if publishes:
        parser.add_argument(
            "--publish-anyway", metavar="REASON", help="publish even if gates fail; the reason stands in the version"
        )
    options = parser.parse_args(arguments)
    try:
        config = load(schema, options.config, options.set)
        if options.dry_run:
            print((preview or _plan)(config))
        elif publishes:
            job(config, options.publish_anyway)
        else:
            job(config)
    except GateError as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print("\nInterrupted. Finished stages are kept; run the same command to go on.", file=sys.stderr)
        return 1
    except Exception as error:
        if sentence := user_error(error):
            print(f"error: {sentence}", file=sys.stderr)
            return 2
        traceback.print_exc()
        return 1
    return 0


def main(
    description: str,
    job: Callable[..., object],
    default_config: str | None = None,
    *,
    publishes: bool = False,
    preview: Callable[[Any], str] | None = None,
    schema: type[Config] = Experiment,
) -> None:
    """Run a job (arguments as in `run`) and exit the process with its code."""
    code = run(description, job, default_config, publishes=publishes, preview=preview, schema=schema)
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)


def _plan(experiment: Any) -> str:
    check(experiment.data)
    resolved = yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    lines = [
        f"  {s.name:9} {'finished' if s.result() else 'to do':9} {s.location}" for s in stages(experiment).values()
    ]
    return "\n".join([resolved, "stages:", *lines])


def user_error(error: BaseException) -> str | None:
    """The user's mistake behind an exception, however deep a remote worker wrapped it."""
    seen: list[BaseException] = []
    queue: list[BaseException | None] = [error]
    while queue:
        current = queue.pop(0)
        if current is None or any(current is s for s in seen):
            continue
        seen.append(current)
        if isinstance(current, InputError):
            cause = getattr(current, "cause", None)
            return str(cause if isinstance(cause, InputError) else current)
        if isinstance(current, OSError) and current.errno in STORAGE_ERRORS:
            return str(current)
        if storage.refused(current):
            said = " ".join(str(current).split())[:300]
            return f"the storage refuses access ({said}); look at the credentials (AWS_*), their rights and their end"
        queue += [current.__cause__, current.__context__, getattr(current, "cause", None)]
        failures = getattr(current, "worker_failures", None)
        queue += list(failures.values()) if isinstance(failures, dict) else []
    return None
