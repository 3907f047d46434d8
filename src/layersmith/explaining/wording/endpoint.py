"""A writer behind an OpenAI-compatible address: POST /chat/completions, by the standard library alone.

Prompts hold passages of the user's text, so they go to the address that was named and nowhere else: a redirect is an
error, and what is on this machine is reached without a proxy. The key comes from the environment; it is in no result,
no message and no name.
"""

from __future__ import annotations

import http.client
import json
import os
import time
from collections.abc import Sequence
from typing import Any, NoReturn
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

from layersmith.errors import UserError
from layersmith.explaining.wording.address import is_here
from layersmith.explaining.wording.writer import Unanswered, Writer

#: The variable of the environment that holds the key, where the address wants one.
KEY = "LAYERSMITH_WORDS_KEY"
#: Seconds before each further try; the server may ask for more, up to the last number.
PAUSES, LONGEST_PAUSE = (1.0, 4.0, 16.0), 60.0
#: Seconds in which there has to be somebody at the address at all.
REACHED = 10.0
#: Bytes of an answer.
LONGEST = 1_000_000
#: Statuses of a server that may answer a little later.
_LATER = (408, 425, 429, 500, 502, 503, 504)


class _NotNow(Exception):
    """No answer, and another try may bring one.  after  seconds that the server asks for"""

    def __init__(self, why: str, after: float = 0.0):
        super().__init__(why)
        self.after = after


class _Stay(HTTPRedirectHandler):
    """Leaves a redirect the error that it is."""

    def redirect_request(self, *redirect: Any) -> None:
        return None


class Endpoint(Writer):
    """
    address   up to and without /chat/completions: http://localhost:8000/v1
    model     the name that the server knows it by
    timeout   seconds to wait for an answer
    """

    def __init__(self, address: str, model: str, timeout: float):
        self.address: str = address.rstrip("/")
        self.model, self.timeout = model, timeout
        self.name = f"{model} at {self.address}"
        self.identity = {"address": self.address, "model": model}
        self._key = os.environ.get(KEY, "")
        if not self._key.isascii() or not self._key.isprintable() or " " in self._key:
            raise UserError(f"The key in {KEY} holds a space or a sign that no key has. Set it again.")
        proxies = ProxyHandler({}) if is_here(self.address) else ProxyHandler()
        self._opener = build_opener(proxies, _Stay())

    def check(self) -> None:
        """One look whether somebody is there, and one word from the model."""
        try:
            self._open("/models", None, min(self.timeout, REACHED))
        except Unanswered:
            pass  # a server without a list of its models is there all the same
        except _NotNow as error:
            raise UserError(
                f"The writer at {self.address} cannot be reached: {error}. Is the server running, and the address "
                f"complete (most end in /v1)?"
            ) from error
        try:
            self._asked("Answer with one word: ready", 512, ())
        except Unanswered as error:
            raise UserError(f"{self.name} does not answer as a writer has to: {error}.") from error

    def ask(self, prompt: str, most: int) -> str:
        return self._asked(prompt, most, PAUSES)

    def _asked(self, prompt: str, most: int, pauses: Sequence[float]) -> str:
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": most,
            "temperature": 0,
        }
        for pause in (*pauses, None):
            try:
                return _text(self._open("/chat/completions", json.dumps(body).encode(), self.timeout))
            except _NotNow as error:
                if pause is None:
                    raise UserError(
                        f"{self.name} does not answer: {error} (tried {len(pauses) + 1} times). What it has answered "
                        f"is kept: give the same command again to go on."
                    ) from error
                time.sleep(max(pause, min(error.after, LONGEST_PAUSE)))
        raise AssertionError("unreachable")

    def _open(self, path: str, body: bytes | None, timeout: float) -> bytes:
        """What the server sends back. Unanswered, _NotNow or UserError for all that is not an answer."""
        request = Request(self.address + path, data=body, headers={"Content-Type": "application/json"})
        if self._key:
            request.add_unredirected_header("Authorization", f"Bearer {self._key}")
        try:
            with self._opener.open(request, timeout=timeout) as response:
                return _read(response, time.monotonic() + timeout)
        except HTTPError as error:
            with error:
                self._refused(error, body is None)
        except TimeoutError as error:
            raise _NotNow(f"no answer within {timeout:g} s") from error
        except URLError as error:
            late = isinstance(error.reason, TimeoutError)
            raise _NotNow(f"no answer within {timeout:g} s" if late else self._plain(str(error.reason))) from error
        except (OSError, http.client.HTTPException) as error:
            raise _NotNow(self._plain(f"{type(error).__name__}: {error}")) from error

    def _refused(self, error: HTTPError, looking: bool) -> NoReturn:
        """Raise what a status other than success means.  looking  it is not the model yet that was asked"""
        told = self._said(error)
        if 300 <= error.code < 400:
            raise UserError(
                f"{self.address} sends on to {self._plain(error.headers.get('Location') or 'somewhere else')!r}. Text "
                f"is sent to the address that was named and to no other: give that one, if it is meant."
            )
        if looking:
            raise Unanswered(told)
        if error.code in (401, 403):
            raise UserError(
                f"{self.name} refuses to answer ({told}). Put a key that is valid there into the environment variable "
                f"{KEY}{'' if self._key else ', which is not set'}."
            )
        if error.code in (404, 405):
            raise UserError(
                f"{self.address}/chat/completions has no model {self.model!r} ({told}). Is the address complete (most "
                f"end in /v1), and is that the model's name there?"
            )
        if error.code in _LATER:
            after = error.headers.get("Retry-After") or ""
            raise _NotNow(told, float(after) if after.isascii() and after.isdigit() else 0.0)
        raise Unanswered(told)

    def _said(self, error: HTTPError) -> str:
        """The status, and the first words of the server's own about it."""
        try:
            text = _read(error, time.monotonic() + REACHED).decode("utf-8", "replace")
        except (OSError, http.client.HTTPException, Unanswered):
            text = ""
        try:
            found = json.loads(text)
            text = str(found["error"]["message"] if isinstance(found.get("error"), dict) else found["message"])
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            pass  # no JSON of the usual form: its text as it is
        words = self._plain(text)
        return f"HTTP {error.code}: {words}" if words else f"HTTP {error.code}"

    def _plain(self, text: str) -> str:
        """Words of a server in one line: without the key, which some repeat, and nothing that controls a terminal."""
        text = text.replace(self._key, "…") if self._key else text
        return " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())[:200].rstrip(".")


def _read(response: Any, until: float) -> bytes:
    """The body, which may come in drops but not for ever."""
    parts: list[bytes] = []
    while part := response.read1(65536):
        parts.append(part)
        if time.monotonic() > until:
            raise TimeoutError
        if sum(map(len, parts)) > LONGEST:
            raise Unanswered(f"the answer is longer than {LONGEST:,} bytes")
    return b"".join(parts)


def _text(body: bytes) -> str:
    """What the model wrote. Unanswered where it wrote nothing, or the body is not one of this kind."""
    try:
        text = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise Unanswered("the answer is no JSON with choices[0].message.content") from error
    if not isinstance(text, str) or not text.strip():
        raise Unanswered("the answer is empty")
    return text
