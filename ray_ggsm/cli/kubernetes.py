"""RayJobs in the API of the Kubernetes cluster that this process runs in, as its pod's service account."""

import json
import os
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from pydantic import BaseModel, Field, JsonValue

from ray_ggsm.config import InputError, NotNow, Record

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod has the token, the certificate and the namespace of its service account."""
SECONDS = 30.0
"""Time that a request may take."""


class Metadata(Record):
    """Of a RayJob."""

    name: str
    labels: dict[str, str] = Field({})
    annotations: dict[str, str] = Field({})
    creationTimestamp: str = ""
    """ISO, UTC."""


class RayJobStatus(Record):
    """What KubeRay says of a RayJob (`kubectl explain rayjob.status`)."""

    jobId: str = ""
    jobStatus: str = ""
    """Of the Ray job: PENDING, RUNNING, STOPPED, SUCCEEDED, FAILED; empty: it was not submitted."""
    jobDeploymentStatus: str = ""
    """Of cluster and job together: Initializing, Running, Complete, Failed, Suspended, ..."""
    reason: str = ""
    message: str = ""
    dashboardURL: str = ""
    """Host and port, without http://."""


class RayJob(Record):
    """A RayJob (ray.io/v1)."""

    metadata: Metadata
    spec: dict[str, JsonValue]
    status: RayJobStatus = RayJobStatus()

    @property
    def ended(self) -> bool:
        """Whether KubeRay is done with it."""
        return self.status.jobDeploymentStatus in ("Complete", "Failed")


class _List(BaseModel):
    items: list[RayJob]


@dataclass(frozen=True)
class RayJobs:
    """The RayJobs of one namespace."""

    address: str
    """Of the API, https://host:port."""
    account: Path = ACCOUNT
    """Directory as `ACCOUNT`; files are read for each request, as tokens are renewed."""

    @classmethod
    def in_this_pod(cls) -> "RayJobs":
        """Those of this pod's namespace.

        Raises:
            InputError: this is no pod, or it has no service account.
        """
        host, port = (os.environ.get(f"KUBERNETES_SERVICE_{name}") for name in ("HOST", "PORT"))
        if not host or not ACCOUNT.is_dir():
            raise InputError(
                f"rayjob: expected a pod of Kubernetes with a service account ({ACCOUNT}), found none; "
                "elsewhere use kubectl"
            )
        return cls(f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}")

    def get(self, name: str) -> RayJob:
        """The RayJob of this name.

        Raises:
            InputError: there is none, or the service account may not read it.
            NotNow: the API does not answer.
        """
        found = self._ask("GET", name)
        if found is None:
            raise InputError(f"rayjob: there is no RayJob '{name}' in this namespace; kubectl get rayjobs lists them")
        return RayJob.model_validate_json(found)

    def labelled(self, labels: Mapping[str, str]) -> list[RayJob]:
        """Those with these labels; raises like `get`."""
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        found = self._ask("GET", "?" + urllib.parse.urlencode({"labelSelector": selector}))
        return [] if found is None else _List.model_validate_json(found).items

    def create(self, body: Mapping[str, JsonValue]) -> None:
        """Create a RayJob, unless there is one of its name; raises like `get`."""
        self._ask("POST", "", json.dumps(body).encode())

    def _ask(self, method: str, path: str, body: bytes | None = None) -> bytes | None:
        """The answer; None: there is no such thing (404), or there is one already (409)."""
        namespace = (self.account / "namespace").read_text().strip()
        url = f"{self.address}/apis/ray.io/v1/namespaces/{namespace}/rayjobs"
        url += path if path.startswith("?") else f"/{path}" if path else ""
        headers = {"Authorization": f"Bearer {(self.account / 'token').read_text().strip()}"}
        request = urllib.request.Request(url, body, {**headers, "Content-Type": "application/json"}, method=method)
        context = None
        if self.address.startswith("https://"):
            context = ssl.create_default_context(cafile=str(self.account / "ca.crt"))
        try:
            with urllib.request.urlopen(request, timeout=SECONDS, context=context) as answer:
                content: bytes = answer.read()
                return content
        except urllib.error.HTTPError as error:
            with error:
                if error.code in (404, 409):
                    return None
                said = " ".join(error.read().decode(errors="replace").split())[:300]
            if error.code == 429 or error.code >= 500:
                raise NotNow(f"Kubernetes answers {error.code} ({said})") from error
            raise InputError(f"Kubernetes refuses {method} {url} with {error.code} ({said})") from error
        except (OSError, HTTPException) as error:
            raise NotNow(f"Kubernetes does not answer ({error})") from error
