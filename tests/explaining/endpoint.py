"""An OpenAI-compatible endpoint in a thread, and writers for it whose answers are known beforehand.

A writer is a function of the prompt that gives an answer, or (status, headers, body) for anything else.
"""

from __future__ import annotations

import json
import random
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Writes = Callable[[str], str | tuple[int, dict[str, str], bytes]]

_ACTIVE = re.compile(r"\[\[(.*?)\|\d+\]\]", re.DOTALL)
_TOKEN = re.compile(r"^(\d+): (\".*\")$", re.MULTILINE)
_NAMED = re.compile(r"The token (\".*?\")\.$", re.MULTILINE)


class Endpoint:
    """address   its base URL
    prompts   what was asked, in order
    headers   of every request, the look at the models among them"""

    def __init__(self, address: str):
        self.address = address
        self.prompts: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.bodies: list[dict] = []

    @property
    def asked(self) -> list[str]:
        """The prompts without the check's."""
        return [prompt for prompt in self.prompts if not prompt.startswith("Answer with one word")]


@contextmanager
def serving(writes: Writes) -> Iterator[Endpoint]:
    """A server of this machine for as long as the context lasts."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.headers.append(dict(self.headers))
            self._send(404, {}, b"no list of models")

        def do_POST(self) -> None:
            found.headers.append(dict(self.headers))
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            found.bodies.append(body)
            (message,) = body["messages"]
            found.prompts.append(message["content"])
            answer = writes(message["content"])
            if isinstance(answer, str):
                answer = (200, {}, json.dumps({"choices": [{"message": {"content": answer}}]}).encode())
            self._send(*answer)

        def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
            with suppress(ConnectionError):  # a client that waits no longer
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Endpoint(f"http://127.0.0.1:{server.server_port}/v1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def oracle(prompt: str) -> str:
    """Knows features that fire on one token: names it, and foretells exactly from the sentence it is given."""
    if marked := _ACTIVE.findall(prompt.partition("In the passages below")[2].partition("Passage 1:")[2]):
        return f"The token {json.dumps(max(set(marked), key=marked.count))}."
    named = _NAMED.search(prompt)
    if named is None:
        return "ready"
    return "\n".join(f"{n}: {10 if token == named[1] else 0}" for n, token in _TOKEN.findall(prompt))


def useless(prompt: str) -> str:
    """Says something, and foretells at random."""
    draw = random.Random(len(prompt))
    return "\n".join(f"{n}: {draw.randint(0, 10)}" for n, _ in _TOKEN.findall(prompt)) or "Something or other."
