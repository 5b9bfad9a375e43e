"""An API of Kubernetes and a dashboard of Ray that answer as a script says."""

import contextlib
import datetime as dt
import json
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ray_ggsm.cli import kubernetes, rayjob

PATH = "/apis/ray.io/v1/namespaces/users/rayjobs"
Status = dict[str, str]
DONE: Status = {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}


class Cluster:
    """The API, and the dashboard of all clusters."""

    def __init__(self, *templates: dict[str, Any]) -> None:
        self.jobs: dict[str, dict[str, Any]] = {each["metadata"]["name"]: each for each in templates}
        self.templates = set(self.jobs)
        self.statuses: list[list[Status]] = []
        """Of each run that is created: its status at every look; the last one stays."""
        self.driver_exit_codes: list[int | None] = []
        """What the dashboard says, in the order of asking; empty: it has gone."""
        self.trouble: list[int] = []
        """Answers to the next requests of the API instead of the right ones."""
        self.authorization: set[str | None] = set()
        self.address = ""

    def answer(self, method: str, path: str, body: bytes, authorization: str | None) -> tuple[int, Any]:
        self.authorization.add(authorization)
        if path.startswith("/api/jobs/"):
            assert path == "/api/jobs/one"
            return (
                (200, {"driver_exit_code": self.driver_exit_codes.pop(0)}) if self.driver_exit_codes else (502, "gone")
            )
        if self.trouble:
            return self.trouble.pop(0), "in trouble"
        place, _, query = path.partition("?")
        assert place.startswith(PATH)
        name = place[len(PATH) + 1 :]
        if method == "POST":
            return self._create(json.loads(body))
        if name:
            return (200, self._looked_at(name)) if name in self.jobs else (404, "not found")
        wanted = dict(pair.split("=") for pair in urllib.parse.parse_qs(query)["labelSelector"][0].split(","))
        found = [n for n, job in self.jobs.items() if wanted.items() <= job["metadata"].get("labels", {}).items()]
        return 200, {"items": [self.jobs[n] for n in found]}

    def _create(self, job: dict[str, Any]) -> tuple[int, Any]:
        if job["metadata"]["name"] in self.jobs:
            return 409, "AlreadyExists"
        self.add(job, self.statuses.pop(0))
        return 201, job

    def add(self, job: dict[str, Any], statuses: list[Status]) -> None:
        job["metadata"]["creationTimestamp"] = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        statuses = [{"dashboardURL": self.address.removeprefix("http://"), **status} for status in statuses]
        self.jobs[job["metadata"]["name"]] = {**job, "status": statuses[0], "later": statuses[1:]}

    def _looked_at(self, name: str) -> dict[str, Any]:
        job = self.jobs[name]
        shown = dict(job)
        if job.get("later"):
            job["status"] = job["later"].pop(0)
        return shown

    def runs(self) -> list[str]:
        return [name for name in self.jobs if name not in self.templates]


@contextlib.contextmanager
def serving(found: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make a cluster answer, and `ray-ggsm rayjob` ask it, without waiting between its questions."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            code, value = found.answer(self.command, self.path, body, self.headers.get("Authorization"))
            self.send_response(code)
            self.end_headers()
            self.wfile.write(json.dumps(value).encode())

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    account = tmp_path / "account"
    account.mkdir()
    (account / "token").write_text("pod-token\n")
    (account / "namespace").write_text("users")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(kubernetes.RayJobs, "in_this_pod", lambda: kubernetes.RayJobs(found.address, account))
    monkeypatch.setattr(rayjob, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(rayjob, "PAUSE_SECONDS", 0.0)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "ray-token")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
