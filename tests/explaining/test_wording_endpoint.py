"""The writer behind an address: what is sent, to whom, and what every kind of failure comes to."""

from __future__ import annotations

import json
import socket
import threading
import time

import pytest

from layersmith.errors import UserError
from layersmith.explaining.wording import endpoint as module
from layersmith.explaining.wording.address import check_address, is_here
from layersmith.explaining.wording.endpoint import KEY, Endpoint
from layersmith.explaining.wording.writer import Unanswered
from tests.explaining.endpoint import serving

SECRET = "sk-not-to-be-seen-anywhere"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSES", (0.0, 0.0))
    monkeypatch.delenv(KEY, raising=False)


def failing(status: int, times: int, headers: dict[str, str] | None = None, body: bytes = b"") -> object:
    """A writer that fails so many times and then answers."""
    left = [times]

    def writes(prompt: str) -> object:
        left[0] -= 1
        return "well" if left[0] < 0 else (status, headers or {}, body)

    return writes


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_a_prompt_is_one_message_to_the_named_model_and_the_answer_its_content() -> None:
    with serving(lambda prompt: f"heard {prompt}") as server:
        writer = Endpoint(server.address + "/", "small", 5)
        writer.check()
        assert writer.ask('ä\n"b"', 77) == 'heard ä\n"b"'
    assert server.bodies[-1] == {
        "model": "small",
        "messages": [{"role": "user", "content": 'ä\n"b"'}],
        "max_tokens": 77,
        "temperature": 0,
    }
    assert writer.name == f"small at {server.address}"
    assert not any("Authorization" in headers for headers in server.headers)


def test_the_key_comes_from_the_environment_and_is_told_to_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, SECRET)
    refusal = json.dumps({"error": {"message": f"Incorrect key {SECRET}\x1b[31m."}}).encode()
    with serving(lambda prompt: (401, {}, refusal)) as server:
        writer = Endpoint(server.address, "small", 5)
        with pytest.raises(UserError, match=rf"refuses to answer \(HTTP 401: Incorrect key ….*{KEY}") as told:
            writer.check()
    assert [headers["Authorization"] for headers in server.headers] == [f"Bearer {SECRET}"] * 2
    assert SECRET not in str(told.value)
    assert str(told.value).isprintable()
    assert SECRET not in json.dumps([writer.name, writer.address, writer.identity])
    monkeypatch.setenv(KEY, SECRET + "\nX: y")
    with pytest.raises(UserError, match="no key has") as told:
        Endpoint(server.address, "small", 5)
    assert SECRET not in str(told.value)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, SECRET)
    with serving(lambda prompt: "caught") as elsewhere:
        to = {"Location": elsewhere.address + "/chat/completions"}
        with serving(lambda prompt: (status, to, b"")) as server:
            with pytest.raises(UserError, match=f"sends on to '{elsewhere.address}"):
                Endpoint(server.address, "small", 5).ask("my text", 8)
            with pytest.raises(UserError, match="sends on to"):
                Endpoint(server.address, "small", 5).check()
    assert elsewhere.prompts == elsewhere.headers == []


def test_a_redirect_to_a_file_is_not_followed() -> None:
    to = {"Location": "file:///etc/hostname"}
    with serving(lambda prompt: (302, to, b"")) as server, pytest.raises(UserError, match="sends on to"):
        Endpoint(server.address, "small", 5).ask("my text", 8)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_fails_for_a_while_is_tried_again(status: int) -> None:
    with serving(failing(status, 2)) as server:
        assert Endpoint(server.address, "small", 5).ask("p", 8) == "well"
    assert server.prompts == ["p"] * 3


def test_what_fails_for_good_is_told_with_the_servers_words_and_what_to_do() -> None:
    body = json.dumps({"error": {"message": "out of memory"}}).encode()
    with serving(failing(500, 99, body=body)) as server:
        with pytest.raises(UserError, match=r"HTTP 500: out of memory \(tried 3 times\).*kept.*same command again"):
            Endpoint(server.address, "small", 5).ask("p", 8)
        with pytest.raises(UserError, match=r"tried 1 times"):
            Endpoint(server.address, "small", 5).check()
    assert len(server.prompts) == 3 + 1, "nobody waits for a server that does not work from the start"


def test_a_server_may_ask_for_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(module.time, "sleep", slept.append)
    with serving(failing(429, 2, {"Retry-After": "7"})) as server:
        Endpoint(server.address, "small", 5).ask("p", 8)
    with serving(failing(429, 1, {"Retry-After": "99999"})) as server:
        Endpoint(server.address, "small", 5).ask("p", 8)
    with serving(failing(429, 1, {"Retry-After": "Wed, 21 Oct 2065 07:28:00 GMT"})) as server:
        Endpoint(server.address, "small", 5).ask("p", 8)
    assert slept == [7.0, 7.0, module.LONGEST_PAUSE, 0.0]


def test_a_server_that_takes_too_long_is_not_waited_for() -> None:
    def slow(prompt: str) -> str:
        time.sleep(1.0)
        return "late"

    with serving(slow) as server, pytest.raises(UserError, match=r"no answer within 0.1 s \(tried 3 times\)"):
        Endpoint(server.address, "small", 0.1).ask("p", 8)


def test_an_answer_in_drops_ends_too() -> None:
    class Body:
        """A hundred parts of so many bytes, each of which takes a moment."""

        def __init__(self, size: int):
            self.size, self.left = size, 100

        def read1(self, size: int) -> bytes:
            time.sleep(0.01)
            self.left -= 1
            return b"x" * (self.size if self.left >= 0 else 0)

    assert module._read(Body(1), time.monotonic() + 60) == b"x" * 100
    with pytest.raises(TimeoutError):
        module._read(Body(1), time.monotonic() + 0.1)
    with pytest.raises(Unanswered, match="longer than"):
        module._read(Body(60_000), time.monotonic() + 60)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "no JSON"),
        (b"<html>hello</html>", "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"[]", "no JSON"),
        (b"{}", "no JSON"),
        (b'{"choices": []}', "no JSON"),
        (b'{"choices": [{"text": "a"}]}', "no JSON"),
        (b'{"choices": [{"message": {"content": null}}]}', "empty"),
        (b'{"choices": [{"message": {"content": " \\n"}}]}', "empty"),
        (b'{"choices": [{"message": {"content": ["a"]}}]}', "empty"),
    ],
)
def test_a_malformed_answer_is_no_answer_and_from_the_start_an_error(body: bytes, why: str) -> None:
    with serving(lambda prompt: (200, {}, body)) as server:
        writer = Endpoint(server.address, "small", 5)
        with pytest.raises(Unanswered, match=why):
            writer.ask("p", 8)
        with pytest.raises(UserError, match=f"does not answer as a writer has to: .*{why}"):
            writer.check()


def test_a_prompt_that_is_refused_is_the_only_one_without_an_answer() -> None:
    with serving(lambda prompt: (400, {}, b'{"error": {"message": "too long"}}')) as server:
        with pytest.raises(Unanswered, match="HTTP 400: too long"):
            Endpoint(server.address, "small", 5).ask("p", 8)
        with pytest.raises(UserError, match="HTTP 400: too long"):
            Endpoint(server.address, "small", 5).check()


def test_a_model_that_is_not_there_is_told_of_at_once() -> None:
    told = r"no model 'smal' \(HTTP 404: no such model\)"
    refusal = (404, {}, b'{"message": "no such model"}')
    with serving(lambda prompt: refusal) as server, pytest.raises(UserError, match=told):
        Endpoint(server.address, "smal", 5).check()


def test_nobody_at_the_address_is_told_at_once() -> None:
    writer = Endpoint(f"http://127.0.0.1:{free_port()}/v1", "small", 5)
    start = time.monotonic()
    with pytest.raises(UserError, match=r"cannot be reached: .*refused.*Is the server running"):
        writer.check()
    assert time.monotonic() - start < 5


def test_a_connection_that_breaks_off_is_tried_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def hang_up() -> None:
            for _ in range(3):
                listening.accept()[0].close()

        thread = threading.Thread(target=hang_up, daemon=True)
        thread.start()
        with pytest.raises(UserError, match="tried 3 times"):
            Endpoint(f"http://127.0.0.1:{listening.getsockname()[1]}/v1", "small", 5).ask("p", 8)
        thread.join(5)
        assert not thread.is_alive()


def test_this_machine_is_reached_without_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(lambda prompt: "caught") as proxy, serving(lambda prompt: "straight") as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.address)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        assert Endpoint(server.address, "small", 5).ask("p", 8) == "straight"
    assert proxy.prompts == []


@pytest.mark.parametrize(
    "address", ["http://localhost:8000/v1", "https://api.example.org/v1", "http://[::1]:80/v1", "http://10.0.0.3/v1/"]
)
def test_plain_addresses_are_taken(address: str) -> None:
    check_address(address)
    assert is_here(address) == ("localhost" in address or "::1" in address)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("ftp://host/v1", "begins with 'ftp://'"),
        ("file:///etc/passwd", "begins with 'file://'"),
        ("data://text", "begins with 'data://'"),
        ("://host", "begins with"),
        ("http://", "names a host"),
        ("http:///v1", "names a host"),
        ("http://host:port/v1", "cannot be read"),
        ("http://host:99999/v1", "cannot be read"),
        ("http://[::1/v1", "cannot be read"),
        (f"http://me:{SECRET}@host/v1", "no user, password"),
        (f"http://host/v1?key={SECRET}", "no user, password"),
        (f"http://host/v1#{SECRET}", "no user, password"),
        ("http://host /v1", "plain ASCII"),
        ("http://höst/v1", "plain ASCII"),
        ("http://host/v1\x00", "plain ASCII"),
    ],
)
def test_other_addresses_are_refused_and_secrets_not_repeated(address: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as told:
        check_address(address)
    assert SECRET not in str(told.value)
