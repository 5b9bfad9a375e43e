"""The environment of a job's workers on a cluster: variables of the job, and its directory.

A cluster gives workers the environment that its nodes were started with. This passes the job's on, by a function that
every worker of the job calls when it starts (`worker_process_setup_hook` of the job's runtime environment). The values
stay in the memory of the cluster's head until the job ends: Ray writes `env_vars` of a runtime environment into its log
files, on every node and in plain text, but of a function only the name.
"""

import base64
import fnmatch
import hashlib
import json
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import ray
from ray._private import ray_constants
from ray.experimental.internal_kv import _internal_kv_del

from ray_ggsm.config import InputError
from ray_ggsm.experiment import RayConfig
from ray_ggsm.object_stores import scheme_of
from ray_ggsm.on_ray.cluster.nodes import name_of, on_all_nodes, started_by_job

PASSED = (
    "AWS_*", "GOOGLE_*", "STORAGE_EMULATOR_HOST", "AZURE_*", "GCSFS_*",
    "HF_*", "HUGGING_FACE_HUB_TOKEN", "TRANSFORMERS_OFFLINE", "RAY_GGSM_*", "ONEDNN_PRIMITIVE_CACHE_CAPACITY",
    "OPENAI_API_KEY",
    "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy",
)  # fmt: skip
"""Variables that workers get, unless the config says otherwise: those of storage, of models and of proxies."""
OF_A_MACHINE = (
    "*_FILE", "*_PATH", "AWS_CA_BUNDLE", "AWS_CONTAINER_*", "AWS_ROLE_*", "AWS_EXECUTION_ENV", "HF_HOME", "HF_*_CACHE",
    "HF_ASSETS_*", "GOOGLE_APPLICATION_CREDENTIALS", "AZURE_CONFIG_DIR",
)  # fmt: skip
"""Of these, variables that name files or the identity of one machine; each node has its own."""
CREDENTIALS = (
    ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN", "AWS_PROFILE"),
    (
        "AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_SAS_TOKEN",
        "AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_CLIENT_ID", "AZURE_STORAGE_CLIENT_SECRET",
        "AZURE_STORAGE_TENANT_ID",
    ),
)  # fmt: skip
"""Variables that belong together: where one is passed on, workers lose what they have of the others of its group."""
IDENTITIES = {
    "s3": ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"),
    "gs": ("STORAGE_EMULATOR_HOST",),
    **dict.fromkeys(
        ("abfs", "abfss", "az"),
        ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_CLIENT_ID"),
    ),
}
"""Scheme -> variables that say which object store is meant, and who asks."""
HOOK = "worker_process_setup_hook"
"""Key of Ray's runtime environments."""
OURS = "environment_of_the_job"
"""Name of the function that this module gives workers to call."""
SENT = "ray_runtime_env_func::"
"""What Ray writes before the key of a function that it keeps for workers."""


def runtime_environment(config: RayConfig) -> dict[str, object]:
    """What `ray.init` is to add to the runtime environment of a job on a cluster; nothing where that has a hook."""
    submitted = _submitted()
    if HOOK in submitted:
        return {}
    values = passed(config, os.environ)
    # a job that is submitted with its files has a copy of them on each node
    directory = None if submitted.get("working_dir") else os.getcwd()
    return {HOOK: _begin(values, _replaced(values), directory)}


def passed(config: RayConfig, environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of `environment` that workers get."""
    if config.pass_environment is not None:
        return {name: value for name, value in environment.items() if _matches(name, config.pass_environment)}
    return {
        name: value
        for name, value in environment.items()
        if _matches(name, PASSED) and not _matches(name, OF_A_MACHINE)
    }


def forget() -> None:
    """Take the values off the cluster's head before the job's connection ends: Ray 2.60 would keep them for ever."""
    if not _is_passed():
        return
    variables = ray.get_runtime_context().runtime_env["env_vars"]
    key = variables[ray_constants.WORKER_PROCESS_SETUP_HOOK_ENV_VAR].removeprefix(SENT)
    with suppress(Exception):  # the head has gone, and the values with it
        _internal_kv_del(base64.b64decode(key), namespace=ray_constants.KV_NAMESPACE_FUNCTION_TABLE)


def check_identity(key: str, location: str) -> None:
    """Refuse a location in an object store that workers would look for in another store, or as somebody else.

    That can be where this package could not give them the job's variables: the job has a hook of its own, or somebody
    else connected to Ray.

    Raises:
        InputError: naming the variable and the node.
    """
    names = IDENTITIES.get(scheme_of(location), ())
    mine = {name: os.environ[name] for name in names if name in os.environ}
    if not mine or started_by_job() or _is_passed():
        return
    salt = uuid.uuid4().hex  # so that what travels tells nothing
    for node, theirs in on_all_nodes(_fingerprints, names, salt).items():
        for name, value in mine.items():
            if theirs.get(name) != _fingerprint(salt, value):
                have = f"another {name} than this job" if name in theirs else f"no {name}"
                raise InputError(
                    f"{key}: {location}: workers on node {name_of(node)} have {have}, and the job cannot pass its on: "
                    f"its runtime environment has a {HOOK} of its own, or Ray was connected to before; set it there"
                )


def _begin(values: Mapping[str, str], without: tuple[str, ...], directory: str | None) -> Callable[[], None]:
    """The function that workers call; it is sent whole, so it must be one that is made here."""
    job = uuid.uuid4().hex  # Ray keeps equal functions once, and this job's goes when the job ends

    def environment_of_the_job(_: str = job) -> None:
        for name in without:
            os.environ.pop(name, None)
        os.environ.update(values)
        if directory is not None:
            with suppress(OSError):  # a node without it stays where it is
                os.chdir(directory)

    assert environment_of_the_job.__name__ == OURS
    return environment_of_the_job


def _replaced(values: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(name for group in CREDENTIALS if any(each in values for each in group) for name in group)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _submitted() -> dict[str, object]:
    """The runtime environment that `ray job submit` gave this job, which `ray.init` adds to."""
    job: dict[str, dict[str, object]] = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    return job.get("runtime_env") or {}


def _is_passed() -> bool:
    name: str | None = ray.get_runtime_context().runtime_env.get(HOOK)
    return name == OURS


def _fingerprints(names: Sequence[str], salt: str) -> dict[str, str]:
    return {name: _fingerprint(salt, os.environ[name]) for name in names if name in os.environ}


def _fingerprint(salt: str, value: str) -> str:
    return hashlib.sha256(f"{salt}{value}".encode()).hexdigest()
