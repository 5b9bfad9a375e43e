"""What stands before an emulator of an object store and adds what it lacks: `python -m tests.helpers.emulator_front`.

Emulators list a folder from its beginning, also if they are asked for what comes after a name (`start-after`,
`startFrom`), as delta-rs asks for the newest commits: this takes the names before it out of the answer. A process of
its own, because delta-rs holds the interpreter's lock in some requests.
"""

import contextlib
import http.client
import importlib
import re
import signal
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.helpers import ROOT
from tests.helpers.waiting import free_port, wait_until_listening

NOT_PASSED = ("connection", "transfer-encoding", "content-length")
STARTS = ("start-after", "startFrom")
ENTRY = re.compile(rb"<(Contents|Blob)>.*?<(Key|Name)>(.*?)</\2>.*?</\1>", re.DOTALL)


@contextlib.contextmanager
def emulator(helper: str, program: str) -> Iterator[str]:
    """The address of a new emulator: `command` and `Front` of a module of helpers, and the path of its program."""
    command = [sys.executable, "-m", "tests.helpers.emulator_front", helper, program]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    with server:
        port = server.stdout.readline().strip()  # waits until the server listens, or has ended
        assert port, "the emulator ended"
        yield f"http://127.0.0.1:{port}"
        server.terminate()


class Front(BaseHTTPRequestHandler):
    """Passes requests on to the emulator."""

    protocol_version = "HTTP/1.1"
    behind: int

    def log_message(self, *_: object) -> None:
        pass

    def translated(self) -> tuple[str, str]:
        """Method and target that the emulator is to see."""
        return self.command, self.path

    def headers_of(self, content: bytes) -> dict[str, str]:
        """Headers to add to the answer to a request that was translated."""
        return {}

    def pass_on(self) -> None:
        """Send the request on, and its answer back."""
        body, (method, target) = self._body(), self.translated()
        headers = {key: value for key, value in self.headers.items() if key.lower() not in NOT_PASSED}
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.behind)) as connection:
            connection.request(method, target, body, headers)
            answer = connection.getresponse()
            content = self._from_start(answer.read())
        self.send_response(answer.status)
        more = self.headers_of(content) if method != self.command and answer.status == 200 else {}
        for key, value in [*answer.getheaders(), *more.items()]:
            if key.lower() not in NOT_PASSED:
                self.send_header(key, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
        if answer.status not in (204, 304):
            self.send_header("Content-Length", length or "0")
        self.end_headers()
        self.wfile.write(content if self.command != "HEAD" else b"")

    def _from_start(self, content: bytes) -> bytes:
        """The answer to a request for a list, without the names before the one that was asked for."""
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        start = next((query[name][0].encode() for name in STARTS if name in query), None)
        if start is None:
            return content
        return ENTRY.sub(lambda entry: entry[0] if entry[3] >= start else b"", content)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = pass_on


def _serve(helper: str, program: str) -> None:
    module, behind = importlib.import_module(helper), free_port()
    front = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (module.Front,), {"behind": behind}))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    command = module.command(program, behind, f"127.0.0.1:{front.server_port}")
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            wait_until_listening(behind, server)
            print(front.server_port, flush=True)
            front.serve_forever()
        finally:
            server.terminate()


if __name__ == "__main__":
    _serve(*sys.argv[1:])
