"""An S3 server in a process of its own that can be told to fail: `python -m tests.helpers.s3_server`.

A process of its own, because delta-rs holds the interpreter's lock in some requests. Faults are shares of all requests:
`error` answers 500, `slow` waits, `drop` closes the connection in the middle of the answer, `expired` answers 403, and
`readonly` answers 403 to whoever writes.
"""

import contextlib
import json
import random
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

from tests.helpers import ROOT, iam

SECONDS = 0.3
"""How long a slow answer takes to begin."""
FAULTS, REQUESTS, POLICIES = "/-faults", "/-requests", "/-policies"
BUCKET = "s3://bucket"
"""Of the tests on Ray."""
REFUSALS = {"error": "500 Internal Server Error", "expired": "403 Forbidden", "readonly": "403 Forbidden"}
CODES = {"error": "InternalError", "expired": "ExpiredToken", "readonly": "AccessDenied"}


@contextlib.contextmanager
def s3_server(host: str = "127.0.0.1") -> Iterator[str]:
    """The address of a new server, which listens on `host`."""
    command = [sys.executable, "-m", "tests.helpers.s3_server", host]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    with server:
        port = server.stdout.readline().strip()  # waits until the server listens, or has ended
        assert port, "the S3 server ended"
        try:
            yield f"http://{host}:{port}"
        finally:
            server.terminate()


@contextlib.contextmanager
def faults(server: str, **shares: float) -> Iterator[dict[str, int]]:
    """Make the server fail for so large shares of the requests; the dict tells afterwards how often it did."""
    counts: dict[str, int] = {}
    _tell(server, shares)
    try:
        yield counts
    finally:
        counts.update(_tell(server, {}))


def _tell(server: str, shares: dict[str, float]) -> dict[str, int]:
    request = urllib.request.Request(server + FAULTS, json.dumps(shares).encode(), method="POST")
    with urllib.request.urlopen(request) as answer:
        counts: dict[str, int] = json.load(answer)
    return counts


def give_policies(server: str, policies: dict[str, Any]) -> None:
    """Access key -> policy (`tests.helpers.iam`) that its requests must be allowed by; other keys may do everything."""
    with urllib.request.urlopen(urllib.request.Request(server + POLICIES, json.dumps(policies).encode())):
        pass


def requests(server: str) -> int:
    """How many requests the server has had since this was asked last."""
    with urllib.request.urlopen(server + REQUESTS) as answer:
        return int(json.load(answer))


def environment(endpoint: str) -> dict[str, str]:
    """What an S3 client finds in its environment to use the server at `endpoint` (http://host:port)."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


class _Faulty:
    """The server's application, and what goes wrong on the way to it."""

    def __init__(self, application: Any) -> None:
        self.application, self.shares, self.counts, self.policies = application, {}, {}, {}
        self.draw, self.requests = random.Random(0), 0

    def __call__(self, environ: dict[str, Any], start: Any) -> Any:
        if environ["PATH_INFO"] == FAULTS:
            counts, self.counts = self.counts, {}
            self.shares = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
            start("200 OK", [("Content-Type", "application/json")])
            return [json.dumps(counts).encode()]
        if environ["PATH_INFO"] == REQUESTS:
            found, self.requests = self.requests, 0
            start("200 OK", [("Content-Type", "application/json")])
            return [str(found).encode()]
        if environ["PATH_INFO"] == POLICIES:
            self.policies = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
            start("200 OK", [("Content-Type", "application/json")])
            return [b"{}"]
        self.requests += 1
        if refused := iam.refused(environ, self.policies):
            start("403 Forbidden", [("Content-Type", "application/xml")])
            told = f"<Error><Code>AccessDenied</Code><Message>{refused}</Message></Error>".encode()
            return [told if environ["REQUEST_METHOD"] != "HEAD" else b""]
        fault = self._drawn()
        if fault in REFUSALS and not (fault == "readonly" and environ["REQUEST_METHOD"] in ("GET", "HEAD")):
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start(REFUSALS[fault], [("Content-Type", "application/xml")])
            return [f"<Error><Code>{CODES[fault]}</Code><Message>injected</Message></Error>".encode()]
        if fault == "slow":
            time.sleep(SECONDS)
        answer = self.application(environ, start)
        return self._half(answer) if fault == "drop" else answer

    def _drawn(self) -> str | None:
        number = self.draw.random()
        for fault, share in self.shares.items():
            number -= share
            if number < 0:
                self.counts[fault] = self.counts.get(fault, 0) + 1
                return fault
        return None

    def _half(self, answer: Any) -> Iterator[bytes]:
        body = b"".join(answer)
        yield body[: len(body) // 2]
        raise ConnectionAbortedError("injected")


def _serve() -> None:
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    application = _Faulty(DomainDispatcherApplication(create_backend_app))
    server = make_server(sys.argv[1], 0, application, threaded=True)
    print(server.port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    _serve()
