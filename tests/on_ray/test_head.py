"""A driver whose cluster's head is gone says so and ends with the exit code for "not now"."""

import os
import socket
import subprocess
import sys

import pytest

from ray_ggsm.config import NotNow
from ray_ggsm.on_ray.cluster.head import RAY_WAITS

DRIVER = """
import sys, time
from ray_ggsm.on_ray.cluster import head
head.POLL_SECONDS = 0.1
with head.watched_head(sys.argv[1]):
    print("watching", flush=True)
    time.sleep(float(sys.argv[2]))
print("done")
"""


def driver(port: int, seconds: float) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", DRIVER, f"127.0.0.1:{port}", str(seconds)]
    waits = {**os.environ, RAY_WAITS: "10.5"}
    started = subprocess.Popen(command, env=waits, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert started.stdout is not None
    assert started.stdout.readline() == "watching\n"
    return started


def test_a_lost_head() -> None:
    with socket.create_server(("127.0.0.1", 0)) as head:
        watching = driver(head.getsockname()[1], 600)
        with pytest.raises(subprocess.TimeoutExpired):
            watching.wait(2)
    _, errors = watching.communicate()
    assert watching.returncode == NotNow.EXIT_CODE
    assert "the head of the cluster (127.0.0.1:" in errors


def test_a_head_that_was_never_reached_is_not_watched() -> None:
    with socket.create_server(("127.0.0.1", 0)) as head:
        port = head.getsockname()[1]
    output, errors = driver(port, 3).communicate()
    assert (output, errors) == ("done\n", "")
