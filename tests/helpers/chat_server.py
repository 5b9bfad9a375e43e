"""A server with OpenAI's interface that answers as a script says."""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = str | int | bytes | None
"""A reply's text, the code of an error, the whole body of a response, or None for a connection that is closed without a
word."""


@dataclass
class ChatServer:
    """What was asked, and where."""

    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    """Bodies of all requests, in their order."""
    answered: Counter[str] = field(default_factory=Counter)
    """Messages -> how often they got a reply."""


def good(messages: list[dict[str, str]]) -> str:
    """A fitting reply to any of the prompts."""
    system, data = messages[0]["content"], json.loads(messages[1]["content"])
    if "different situations" in system:
        return json.dumps({"scenarios": [f"what about {i}?" for i in range(5)]})
    if "Choose the" in system:
        return json.dumps({"chosen": [2, 0]})
    if "Write one question" in system:
        pairs = [
            {"scenario": n, "query": f"{scenario} {len(data['history'])} events", "answer": data["history"][0]}
            for n, scenario in enumerate(data["scenarios"])
        ]
        return json.dumps({"pairs": pairs})
    if "Check each pair" in system:
        verdicts = [{"pair": n, "verdict": "keep"} for n in range(len(data["pairs"]))]
        return json.dumps({"verdicts": verdicts})
    return json.dumps({"rules": ["ask about what is rare"]})


@contextmanager
def chat_server(script: Callable[[list[dict[str, str]], int], Answer]) -> Iterator[ChatServer]:
    """A server; the script gets the messages of a request, and how many requests had the same before."""
    state, lock = ChatServer(), threading.Lock()
    asked: Counter[str] = Counter()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            key = json.dumps(body["messages"])
            with lock:
                state.requests.append({**body, "authorization": self.headers.get("Authorization")})
                before = asked[key]
                asked[key] += 1
            answer = script(body["messages"], before)
            if answer is None:
                self.close_connection = True
                return
            code = answer if isinstance(answer, int) else 200
            content = answer if isinstance(answer, bytes) else _body(answer)
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            if code != 200:
                self.send_header("Retry-After-Ms", "1")
            self.end_headers()
            self.wfile.write(content)
            if code == 200:
                with lock:
                    state.answered[key] += 1

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _body(answer: str | int) -> bytes:
    error = {"error": {"message": "scripted"}}
    return json.dumps(error if isinstance(answer, int) else reply(answer)).encode()


def reply(text: str | None, finish_reason: str = "stop") -> dict[str, Any]:
    """The body of a response with this text."""
    return {
        "id": "1", "object": "chat.completion", "created": 0, "model": "scripted",
        "choices": [{"index": 0, "finish_reason": finish_reason, "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": 100, "completion_tokens": len(text or ""), "total_tokens": 100 + len(text or "")},
    }  # fmt: skip
