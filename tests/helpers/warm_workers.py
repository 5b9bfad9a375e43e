"""Ray workers that start at once: each is forked from one process that has imported what they need.

A worker that trains or embeds imports torch, transformers, peft and the package: some four seconds of processor time,
in each of the hundreds of workers that these tests start. Ray itself is imported by the worker: it reads its
environment then. What tests do with the processes of a job's session is done with workers that Ray starts itself.
"""

import array
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import runpy
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path

import ray_ggsm
from tests.helpers import ROOT

LIBRARIES = (
    "transformers.models.llama.modeling_llama",
    "peft",
    "sklearn.linear_model",
    "pandas",
    "duckdb",
    "deltalake",
)
ASK = """#!{python} -ISB
import array, json, os, socket, sys
if not any(argument.endswith("default_worker.py") for argument in sys.argv):
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
request = json.dumps([sys.argv[1:], dict(os.environ), os.getcwd()]).encode()
server.sendmsg([len(request).to_bytes(8, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))])
server.sendall(request)
sys.exit(int(server.recv(16) or 1))
"""
"""The program that Ray starts: it asks for a forked worker and ends with it. What is no worker becomes plain Python."""


@contextlib.contextmanager
def warm_workers(directory: Path) -> Iterator[str]:
    """Path of a program for `sys.executable` where Ray is started; `directory` is a new one."""
    address, program = directory / "address", directory / "python"
    program.write_text(ASK.format(python=sys.executable, address=str(address)))
    program.chmod(0o755)
    one_thread = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    server = subprocess.Popen(
        [sys.executable, "-m", __name__, str(address)], stdout=subprocess.PIPE, env=one_thread, cwd=ROOT, text=True
    )
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n", "the process that workers are forked from did not start"
        yield str(program)
    finally:
        server.kill()
        server.communicate()


def serve(address: str) -> None:
    """Import everything, then fork a worker for each program that asks."""
    for module in pkgutil.walk_packages(ray_ggsm.__path__, "ray_ggsm."):
        if not module.name.startswith("ray_ggsm.on_ray") and not module.name.endswith("_tracker"):  # of extras
            importlib.import_module(module.name)
    for name in LIBRARIES:
        importlib.import_module(name)
    assert "ray" not in sys.modules
    gc.collect()
    gc.freeze()  # a forked worker's collector would copy all that is imported, to look at it
    server = socket.socket(socket.AF_UNIX)
    server.bind(address)
    server.listen(64)
    print("ready", flush=True)
    while True:
        connection = server.accept()[0]
        try:
            arguments, environment, directory, files = _received(connection)
        except (EOFError, ConnectionError):  # Ray has ended the program meanwhile
            connection.close()
            continue
        worker = os.fork()
        if worker == 0:
            server.close()
            _become(arguments, environment, directory, files)
        for file in files:
            os.close(file)
        for task, handle in ((_tell_end, os.pidfd_open(worker)), (_end_with, os.pidfd_open(worker))):
            threading.Thread(target=task, args=(handle, connection), daemon=True).start()


def _received(connection: socket.socket) -> tuple[list[str], dict[str, str], str, list[int]]:
    files = array.array("i")
    header, ancillary, _, _ = connection.recvmsg(8, socket.CMSG_SPACE(3 * files.itemsize))
    if not ancillary:
        raise EOFError
    files.frombytes(ancillary[0][2])
    request = b""
    while len(request) < int.from_bytes(header, "big"):
        if not (part := connection.recv(1 << 16)):
            for file in files:
                os.close(file)
            raise EOFError
        request += part
    arguments, environment, directory = json.loads(request)
    return arguments, environment, directory, list(files)


def _tell_end(worker: int, connection: socket.socket) -> None:
    ended = os.waitid(os.P_PIDFD, worker, os.WEXITED)
    with contextlib.suppress(OSError):
        connection.sendall(str(ended.si_status if ended else 1).encode())
        connection.shutdown(socket.SHUT_RDWR)
    os.close(worker)


def _end_with(worker: int, connection: socket.socket) -> None:
    """Kill the worker when the program that asked for it is killed."""
    with contextlib.suppress(OSError):
        if not connection.recv(1):
            signal.pidfd_send_signal(worker, signal.SIGKILL)
    os.close(worker)


def _become(arguments: list[str], environment: dict[str, str], directory: str, files: list[int]) -> None:
    """Run Ray's worker, as its setup_worker.py would start it where a runtime environment has variables alone."""
    for target, file in enumerate(files):
        os.dup2(file, target)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    context = "--serialized-runtime-env-context="
    for argument in arguments:
        if argument.startswith(context):
            os.environ.update(json.loads(argument.removeprefix(context)).get("env_vars") or {})
    script = next(place for place, argument in enumerate(arguments) if argument.endswith("default_worker.py"))
    sys.argv = [each for each in arguments[script:] if not each.startswith((context, "--language="))]
    sys.path[0] = os.path.dirname(sys.argv[0])
    status = 1
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


if __name__ == "__main__":
    serve(sys.argv[1])
