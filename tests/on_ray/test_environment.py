"""What of a job's environment its workers get."""

import os
import subprocess
import sys
from collections.abc import Mapping

import pytest
from ray import cloudpickle

from ray_ggsm.experiment import RayConfig
from ray_ggsm.on_ray.cluster import environment

MINE = {
    "AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "s", "AWS_ENDPOINT_URL": "http://here", "HF_TOKEN": "t",
    "https_proxy": "http://proxy", "RAY_GGSM_ANYTHING": "1",
}  # fmt: skip
OF_THE_MACHINE = {
    "PATH": "/bin", "AWS_WEB_IDENTITY_TOKEN_FILE": "/var/token", "AWS_ROLE_ARN": "arn", "HF_HOME": "/home/me/hf",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://169.254.170.23", "RAY_ADDRESS": "auto",
}  # fmt: skip


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [(None, MINE), ((), {}), (("HF_HOME", "RAY_GGSM_*"), {"HF_HOME": "/home/me/hf", "RAY_GGSM_ANYTHING": "1"})],
)
def test_passed(chosen: tuple[str, ...] | None, expected: Mapping[str, str]) -> None:
    assert environment.passed(RayConfig(pass_environment=chosen), MINE | OF_THE_MACHINE) == expected


def test_a_worker_has_no_other_credentials_than_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token of the node beside the job's key would be refused by the storage."""
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    theirs = {"AWS_ACCESS_KEY_ID": "node", "AWS_SESSION_TOKEN": "of the node", "AWS_DEFAULT_REGION": "eu-west-1"}
    assert _in_worker({"AWS_ACCESS_KEY_ID": "me"}, theirs) == {
        "AWS_ACCESS_KEY_ID": "me", "AWS_DEFAULT_REGION": "eu-west-1",
    }  # fmt: skip
    assert _in_worker({"HF_TOKEN": "t"}, theirs) == {**theirs, "HF_TOKEN": "t"}


def _in_worker(mine: Mapping[str, str], theirs: Mapping[str, str]) -> dict[str, str]:
    """The variables of a process that was started with `theirs`, after it called what a job with `mine` sends it."""
    with pytest.MonkeyPatch.context() as job:
        for name in [name for name in os.environ if name.startswith(("AWS_", "HF_"))]:
            job.delenv(name)
        for name, value in mine.items():
            job.setenv(name, value)
        hook = environment.runtime_environment(RayConfig())[environment.HOOK]
    assert hook.__name__ == environment.OURS
    script = (
        "import os, pickle, sys; pickle.load(sys.stdin.buffer)();"
        "print(*(f'{k}={v}' for k, v in os.environ.items() if k.startswith(('AWS_', 'HF_'))), sep='\\n')"
    )
    kept = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", script]
    done = subprocess.run(
        command, input=cloudpickle.dumps(hook), env={**kept, **theirs}, capture_output=True, check=True
    )
    return dict(line.split("=", 1) for line in done.stdout.decode().splitlines())


def test_a_submitted_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray refuses a second hook, and workers are in their copy of the working directory already."""
    job = "RAY_JOB_CONFIG_JSON_ENV_VAR"
    monkeypatch.setenv(job, '{"runtime_env": {"worker_process_setup_hook": "theirs"}, "metadata": {}}')
    assert environment.runtime_environment(RayConfig()) == {}
    monkeypatch.setenv(job, '{"runtime_env": {"working_dir": "gcs://files.zip"}, "metadata": {}}')
    here = os.getcwd()
    with monkeypatch.context() as place:
        place.chdir("/")
        hook = environment.runtime_environment(RayConfig(pass_environment=()))[environment.HOOK]
    hook()
    assert os.getcwd() == here
