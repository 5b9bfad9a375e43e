"""Starts a job: arguments, --dry-run, exit code. Heavy imports wait until the arguments are read: help is fast."""

import argparse
import datetime as dt
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from ray_ggsm import log
from ray_ggsm.cli.jobs import COMMANDS, JOBS, Job
from ray_ggsm.config import InputError, load


def main(job: str | None = None, default_config: str | None = None) -> None:
    """Run a job with this process's arguments and exit with its code; without a name, the first argument names the job.

    `default_config` is the config file of a call without --config; None: the argument is required.
    """
    arguments, program = sys.argv[1:], os.path.basename(sys.argv[0])
    if job is None:
        job, arguments = _choose(arguments, program), arguments[1:]
        program = f"{program} {job}"
    signal.signal(signal.SIGTERM, _unwind)
    with log.printed_as(_form_of_lines(), job):
        if job in COMMANDS:
            code = importlib.import_module(f"ray_ggsm.cli.{job}").run_command(arguments, program)
        else:
            code = run(JOBS[job], arguments, default_config, program, job)
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)


def _form_of_lines() -> str:
    form = os.environ.get("RAY_GGSM_LOG", "text")
    if form in ("text", "json"):
        return form
    print(f"error: RAY_GGSM_LOG: expected 'text' or 'json', found '{form}'", file=sys.stderr)
    sys.exit(2)


def _unwind(number: int, _: FrameType | None) -> None:
    """End the job on SIGTERM, as schedulers do it, so that locks are released and reports are written."""
    from ray_ggsm.cli import exit_codes

    exit_codes.ended_by = number
    raise KeyboardInterrupt  # any other exception in `ray.get` would end the process at once


def run(
    job: Job,
    arguments: Sequence[str],
    default_config: str | None = None,
    program: str | None = None,
    name: str | None = None,
) -> int:
    """Run a job and return its exit code; `program` is the name in its help, `name` that in its events."""
    options = _parser(job, default_config, program).parse_args(arguments)
    from ray_ggsm.cli.exit_codes import exit_code

    def work() -> None:
        steps = job.load()
        settings = [*options.set, *([f"{job.day}={options.as_of}"] if job.day and options.as_of else [])]
        config = load(steps.config, options.config, settings)
        if options.dry_run:
            print(steps.preview(config))
        elif job.makes_up and options.first:
            assert steps.run_since is not None, "a job with days can make them up"
            steps.run_since(config, _day(options.first), options.publish_anyway)
        elif job.publishes:
            steps.run(config, options.publish_anyway)
        else:
            steps.run(config)

    config_name = os.path.splitext(os.path.basename(options.config))[0]
    return exit_code(work, f"{name}.{config_name}" if name and not options.dry_run else None)


def _day(text: str) -> dt.date:
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        raise InputError(f"--from: expected a day such as 2025-01-31, found '{text}'") from None


def _choose(arguments: Sequence[str], program: str) -> str:
    """The job that the first argument names."""
    titles = {name: job.help.splitlines()[0] for name, job in JOBS.items()}
    titles |= COMMANDS
    listed = "\n".join(f"  {name:17} {title}" for name, title in titles.items())
    parser = argparse.ArgumentParser(
        prog=program,
        usage=f"{program} JOB [--help] ...",
        description=f"User embeddings from behaviour logs. Jobs:\n\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("job", choices=titles, metavar="JOB", help="one of the jobs above")
    chosen: str = parser.parse_args(arguments[:1]).job
    return chosen


def _parser(job: Job, default_config: str | None, program: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program, description=job.help, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config", required=default_config is None, default=default_config, help="YAML file, local or s3://"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY.PATH=VALUE", help="change one setting; repeatable"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check config, files, columns and SQL; print the resolved config and the plan; change nothing",
    )
    if job.day:
        parser.add_argument("--as-of", metavar="DAY", help=f"the day whose rows are made (2025-01-31): {job.day}")
    if job.makes_up:
        help_ = "first make up the nights from this day on, in their order, one version each"
        parser.add_argument("--from", dest="first", metavar="DAY", help=help_)
    if job.publishes:
        parser.add_argument(
            "--publish-anyway", metavar="REASON", help="publish even if gates fail; the reason stands in the version"
        )
    return parser
