"""Locations that a job writes to: do all nodes of the cluster mean the same by them?"""

import os
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress

import ray

from ray_ggsm import storage
from ray_ggsm.config import InputError
from ray_ggsm.on_ray.cluster.environment import check_identity
from ray_ggsm.on_ray.cluster.nodes import alive, name_of, on_all_nodes

LOOKS, PAUSE_SECONDS = 5, 1.0
"""How often a node looks for a file that another one has written, and how long it waits between: network file systems
need a moment."""


def check_place(key: str, location: str) -> None:
    """Refuse a location that nodes of the cluster do not share; `key` is its config key.

    Raises:
        InputError: the location is refused.
    """
    check_kept(key, location)
    if "://" in location:
        check_identity(key, location)
    elif len(alive()) > 1:
        check_shared(key, storage.absolute(location))


def check_kept(key: str, location: str) -> None:
    """Refuse a location in the copy of the working directory that a submitted job runs in; `key` is its config key.

    Raises:
        InputError: the location is refused.
    """
    if (
        ray.get_runtime_context().runtime_env.get("working_dir")
        and "://" not in location
        and not os.path.isabs(location)
    ):
        raise InputError(
            f"{key}: '{location}' is relative, and this job runs in a copy of the working directory, which Ray deletes;"
            " use an absolute path that all nodes share, or one in an object store (s3://, gs://, abfs://)"
        )


def check_shared(key: str, directory: str, seen_as: Mapping[str, str] | None = None) -> None:
    """Refuse a directory that is not the same one on every node: each must find a file there that this process writes,
    and this process must find its answer.

    Args:
        key: config key of the directory.
        directory: absolute path; it is made where it is missing.
        seen_as: id of a node -> what it finds at that path, for tests of nodes that share a disk.

    Raises:
        InputError: naming the first node that has another directory there, or cannot write to it.
    """
    token = f".shared-{uuid.uuid4().hex}"
    os.makedirs(directory, exist_ok=True)
    _write(os.path.join(directory, token), token)
    try:
        found = on_all_nodes(_answer, directory, token, dict(seen_as or {}), but_this=True)
        for node, complaint in found.items():
            answered = complaint is None and _read(_answer_file(directory, token, node), token)
            if not answered:
                why = complaint or "writes to another directory of this name"
                raise InputError(
                    f"{key}: {directory} is not shared: node {name_of(node)} {why}; use a path that all nodes share, "
                    "or one in an object store (s3://, gs://, abfs://)"
                )
    finally:
        for name in (token, *(f"{token}-{node}" for node in alive())):
            with suppress(FileNotFoundError):
                os.remove(os.path.join(directory, name))


def _answer(directory: str, token: str, seen_as: Mapping[str, str]) -> str | None:
    """Read the token and write the answer; returns what is wrong here, None: nothing."""
    node = ray.get_runtime_context().get_node_id()
    directory = seen_as.get(node, directory)
    if not _read(os.path.join(directory, token), token):
        return "does not find there what this job wrote"
    try:
        _write(_answer_file(directory, token, node), token)
    except OSError as error:
        return f"cannot write there ({error.strerror})"
    return None


def _answer_file(directory: str, token: str, node: str) -> str:
    return os.path.join(directory, f"{token}-{node}")


def _write(file: str, text: str) -> None:
    with open(file, "w") as opened:
        opened.write(text)
        opened.flush()
        os.fsync(opened.fileno())


def _read(file: str, text: str) -> bool:
    """Whether there is a file with this text, now or soon."""
    for look in range(LOOKS):
        with suppress(OSError), open(file) as opened:
            if opened.read() == text:
                return True
        if look < LOOKS - 1:
            time.sleep(PAUSE_SECONDS)
    return False
