"""The job `rayjob`: run a RayJob on Kubernetes, wait for it, and end with the exit code of its driver.

Neither `ray job submit` nor a RayJob hands on exit codes. What counts is the RayJob's `jobStatus`; where that is no
success, what Ray recorded of the driver (`driver_exit_code`, while the cluster is there); where nothing is recorded,
whether the table has got a version since. The exit of KubeRay's submitter says nothing.
"""

import argparse
import datetime as dt
import json
import os
import re
import time
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import JsonValue

from ray_ggsm.cli.commands import Commands, at_least
from ray_ggsm.cli.exit_codes import INCOMPLETE, exit_code
from ray_ggsm.cli.kubernetes import SECONDS, RayJob, RayJobs
from ray_ggsm.config import InputError, NotNow
from ray_ggsm.log import say
from ray_ggsm.tables import delta, open_table
from ray_ggsm.tables.metrics import last_publish

DESCRIPTION = """Run a suspended RayJob, the template, as tonight's on Kubernetes, in the pod of a CronJob (infra/base).

Reads   the template in the pod's own namespace, and how the run ended: its status, Ray's record, the table's log
Writes  a RayJob per attempt, which goes with the Job that owns it; exit code as the driver's, 4 where nobody knows it
"""
NIGHT, TEMPLATE = "ray-ggsm/night", "ray-ggsm/template"
"""Labels of what was made of a template."""
QUEUE = "ray-ggsm/queue"
"""Annotation of a template: the Kueue queue of its runs. A template in a queue would be started by Kueue."""
FINAL = (0, 2, 3, INCOMPLETE)
"""Exit codes that no further attempt changes."""
LONGEST_NAME = 47
"""Characters; KubeRay refuses longer names of RayJobs."""
POLL_SECONDS = 10.0
"""Time between two looks at a run."""
PAUSE_SECONDS = 600.0
"""Time between two attempts when it is "not now"."""


def run_command(arguments: Sequence[str], program: str | None = None) -> int:
    """Run one command and return the exit code; `program` is the name in its help."""
    options = _parser(program).parse_args(arguments)
    return exit_code(lambda: options.command(options))


def _parser(program: str | None) -> argparse.ArgumentParser:
    commands = Commands(program, DESCRIPTION, "template", "name of the suspended RayJob")
    run = commands.add("run", _run, "run a template as tonight's, or go on waiting for tonight's run")
    run.add_argument("--night", required=True, help="name of the CronJob's Job: its end says the night")
    run.add_argument("--owner", help="uid of that Job; the run is deleted with it")
    run.add_argument("--timezone", required=True, help="whose days {today} and {yesterday} in the entrypoint are")
    run.add_argument("--table", help="table that the run publishes to, for runs of which nothing else is known")
    help_ = "time in which exit code 4 is tried again here, every ten minutes (default 0)"
    run.add_argument("--again-for-minutes", type=at_least(0), default=0, help=help_)
    return commands.parser


def _run(options: argparse.Namespace) -> int:
    jobs, until = RayJobs.in_this_pod(), time.monotonic() + 60 * options.again_for_minutes
    attempts = jobs.labelled({NIGHT: options.night, TEMPLATE: options.template})
    newest = max(attempts, key=lambda job: _number(job.metadata.name), default=None)
    number = -1 if newest is None else _number(newest.metadata.name)
    if newest is not None and newest.ended and (code := _judged(newest, options.table)) in FINAL:
        return code
    name = _created(jobs, number + 1, options) if newest is None or newest.ended else newest.metadata.name
    while True:
        code = _judged(_waited_for(jobs, name), options.table)
        say(f"rayjob: {name} ends with exit code {code}")
        if code != NotNow.EXIT_CODE or time.monotonic() >= until:
            return code
        time.sleep(PAUSE_SECONDS)
        name = _created(jobs, _number(name) + 1, options)


def _created(jobs: RayJobs, number: int, options: argparse.Namespace) -> str:
    """The name of tonight's attempt of this number, which was created."""
    template = options.template
    prefix = options.night if options.night.startswith(f"{template}-") else f"{template}-{options.night}"
    name = f"{prefix}-{number}"
    if len(name) > LONGEST_NAME:
        raise InputError(f"rayjob: '{name}' has {len(name)} characters, KubeRay takes {LONGEST_NAME}; shorten --night")
    jobs.create(_manifest(jobs.get(template), name, options))
    say(f"rayjob: {name} is made of {template}")
    return name


def _number(name: str) -> int:
    """Of the attempt with this name."""
    return int(name.rsplit("-", 1)[1])


def _manifest(template: RayJob, name: str, options: argparse.Namespace) -> dict[str, JsonValue]:
    entrypoint = template.spec.get("entrypoint")
    if not isinstance(entrypoint, str) or template.spec.get("suspend") is not True:
        raise InputError(f"rayjob: '{options.template}' is no template; expected an entrypoint and suspend: true")
    today = night_of(options.night, options.timezone)
    for day, date in (("{today}", today), ("{yesterday}", today - dt.timedelta(days=1))):
        entrypoint = entrypoint.replace(day, date.isoformat())
    labels = {**template.metadata.labels, NIGHT: options.night, TEMPLATE: options.template}
    if queue := template.metadata.annotations.get(QUEUE):
        labels["kueue.x-k8s.io/queue-name"] = queue
    metadata: dict[str, JsonValue] = {"name": name, "labels": dict(labels)}
    if options.owner:
        owner: JsonValue = {"apiVersion": "batch/v1", "kind": "Job", "name": options.night, "uid": options.owner}
        metadata["ownerReferences"] = [owner]
    spec: dict[str, JsonValue] = {**template.spec, "suspend": False, "entrypoint": entrypoint}
    return {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": metadata, "spec": spec}


def night_of(job: str, timezone: str) -> dt.date:
    """The day of a CronJob's Job, whenever its pod runs: the name ends in the minutes from 1970 to its schedule.

    Raises:
        InputError: the name does not end so, or there is no such time zone.
    """
    if not (minutes := re.search(r"-(\d{7,9})$", job)):
        raise InputError(f"--night: expected the name of a CronJob's Job, such as refresh-29402040, found '{job}'")
    try:
        zone = ZoneInfo(timezone)
    except (ValueError, ZoneInfoNotFoundError):
        raise InputError(f"--timezone: expected a name such as Europe/Berlin, found '{timezone}'") from None
    return dt.datetime.fromtimestamp(60 * int(minutes[1]), zone).date()


def _waited_for(jobs: RayJobs, name: str) -> RayJob:
    """The run, when KubeRay is done with it, however long that takes; the CronJob and the RayJob have deadlines."""
    said = ""
    while True:
        try:
            job = jobs.get(name)
        except NotNow as error:
            say(f"rayjob: {error}")
        else:
            status = job.status
            now = " ".join(filter(None, (status.jobDeploymentStatus, status.jobStatus, status.reason, status.message)))
            if now != said:
                say(f"rayjob: {name}: {now}")
                said = now
            if job.ended:
                return job
        time.sleep(POLL_SECONDS)


def _judged(job: RayJob, table: str | None) -> int:
    """The exit code of a run that ended."""
    if job.status.jobStatus == "SUCCEEDED":
        return 0
    if code := _driver_exit_code(job):
        return code if code > 0 else 128 - code  # of a driver that a signal ended, Ray records the negative number
    published = last_publish(open_table(table)) if table is not None and delta.exists(table) else None
    if published and published.timestamp >= dt.datetime.fromisoformat(job.metadata.creationTimestamp):
        say(f"rayjob: nobody knows how {job.metadata.name} ended, but it published version {published.version}")
        return 0
    return NotNow.EXIT_CODE


def _driver_exit_code(job: RayJob) -> int | None:
    """What Ray recorded of the driver; None: nothing, or its dashboard has gone."""
    url = f"http://{job.status.dashboardURL}/api/jobs/{job.status.jobId}"
    headers = {"Authorization": f"Bearer {os.environ.get('RAY_AUTH_TOKEN', '')}"}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=SECONDS) as answer:
            code = json.load(answer).get("driver_exit_code")
    except (OSError, ValueError, HTTPException) as error:
        say(f"rayjob: Ray's record of {job.metadata.name} cannot be read ({error})")
        return None
    return code if isinstance(code, int) else None
