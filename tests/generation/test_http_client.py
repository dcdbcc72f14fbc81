"""The client against bare sockets: servers that trickle, set cookies, pack their answers; and the machine's proxies."""

from __future__ import annotations

import gzip
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from unforgotten.errors import EndpointError
from unforgotten.generation import http_client

ANSWER = b'{"choices": []}'
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(ANSWER)


@contextmanager
def listening(answer: Callable[[socket.socket], None]) -> Iterator[tuple[str, list[bytes]]]:
    """An address where each connection's request is read and then answered, and the requests."""
    requests: list[bytes] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                requests.append(_request(connection))
                try:
                    answer(connection)
                except OSError:  # the client has gone
                    pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}", requests
        listener.shutdown(socket.SHUT_RDWR)


def _request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data or not data.endswith(b"}"):
        data += connection.recv(65536)
    return data


def post(url: str, *, timeout_seconds: float = 5.0, key: str = "") -> dict[str, object]:
    server = http_client.Server(url, key, timeout_seconds=timeout_seconds, retries=0)
    return server.post("completions", {"prompt": "x"}, threading.Event())


def plainly(connection: socket.socket) -> None:
    connection.sendall(PLAIN + ANSWER)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"


@pytest.mark.parametrize(
    ("first", "each"),
    [(b"", b"H"), (b"HTTP/1.1 200 OK\r\nX: ", b"x"), (HEAD, b" "), (b"HTTP/1.0 200 OK\r\n\r\n", b" ")],
    ids=["status", "header", "body", "body without length"],
)
def test_a_server_that_trickles_is_cut_off_in_time(first: bytes, each: bytes) -> None:
    def trickle(connection: socket.socket) -> None:
        connection.sendall(first)
        while True:
            connection.sendall(each)
            time.sleep(0.05)

    with listening(trickle) as (place, _):
        begun = time.monotonic()
        with pytest.raises(EndpointError, match=r"asked once. The answer was not complete after 0.5 seconds"):
            post(f"http://{place}/v1", timeout_seconds=0.5)
        assert 0.4 < time.monotonic() - begun < 3


def test_a_slow_answer_that_ends_in_time_is_taken() -> None:
    def slowly(connection: socket.socket) -> None:
        for byte in PLAIN + ANSWER:
            connection.sendall(bytes([byte]))
            time.sleep(0.002)

    with listening(slowly) as (place, _):
        assert post(f"http://{place}/v1") == {"choices": []}
    timers = [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
    for timer in timers:
        timer.join(2)
    assert not any(timer.is_alive() for timer in timers), "its deadline is called off"


def test_nothing_is_kept_between_requests_and_no_answer_is_unpacked() -> None:
    packed = gzip.compress(b" " * 10_000_000 + ANSWER)

    def answer(connection: socket.socket) -> None:
        if len(requests) == 2:
            head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed)
            connection.sendall(head + packed)
        else:
            connection.sendall(PLAIN.replace(b"\r\n", b"\r\nSet-Cookie: a=b\r\n", 1) + ANSWER)

    with listening(answer) as (place, requests):
        server = http_client.Server(f"http://{place}/v1", "", timeout_seconds=5, retries=0)
        server.post("completions", {}, threading.Event())
        with pytest.raises(EndpointError, match="asked once. UnicodeDecodeError"):
            server.post("completions", {}, threading.Event())
        server.post("completions", {}, threading.Event())
    assert len(requests) == 3 and not any(b"cookie" in request.lower() for request in requests)
    assert all(b"accept-encoding: identity\r\n" in request.lower() for request in requests)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for scheme in ("http", "https", "all", "no"):
        for name in (f"{scheme}_proxy", f"{scheme}_PROXY".upper()):
            monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_the_machines_proxy_is_asked_with_the_whole_address(environment: pytest.MonkeyPatch) -> None:
    with listening(plainly) as (place, requests):
        for proxy in (place, f"http://name:word@{place}"):  # with and without a scheme
            environment.setenv("http_proxy", proxy)
            assert post("http://a-server.invalid/v1", key="sk-ours") == {"choices": []}
        assert all(request.startswith(b"POST http://a-server.invalid/v1/completions HTTP/1.1") for request in requests)
        assert b"proxy-authorization: Basic bmFtZTp3b3Jk" in requests[1].replace(b"Proxy-A", b"proxy-a")
        environment.setenv("no_proxy", ".invalid")
        with pytest.raises(EndpointError, match="asked once. gaierror"):
            post("http://a-server.invalid/v1")
        assert len(requests) == 2


def test_a_proxy_for_other_programs_is_not_ours(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("all_proxy", "socks5://127.0.0.1:9")
    with listening(plainly) as (place, _):
        environment.setenv("http_proxy", "http://127.0.0.1:9")
        assert post(f"http://{place}/v1") == {"choices": []}, "there is no proxy before this machine"
    environment.delenv("http_proxy")
    assert http_client._proxy("https://a-server.invalid/v1") is None


@pytest.mark.parametrize("proxy", ["ftp://name:s3cr3t@host", "http://name:s3cr3t@host:port"])
def test_a_proxy_that_cannot_be_used_is_said_without_its_password(environment: pytest.MonkeyPatch, proxy: str) -> None:
    environment.setenv("https_proxy", proxy)
    with pytest.raises(EndpointError, match="Set https_proxy to an address such as") as caught:
        post("https://a-server.invalid/v1")
    assert "s3cr3t" not in str(caught.value)


def test_an_error_is_read_to_its_limit_and_is_one_short_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "LONGEST_ERROR", 1000)
    text = json.dumps({"error": {"message": "no\nsuch field"}})

    def refuse(connection: socket.socket) -> None:
        if len(requests) == 1:
            connection.sendall(b"HTTP/1.1 400 Bad\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text.encode()))
        else:
            connection.sendall(b"HTTP/1.1 400 Bad\r\n\r\n" + b"x" * 100_000)

    with listening(refuse) as (place, requests):
        with pytest.raises(EndpointError, match=r"refused the request. HTTP 400: no such field$"):
            post(f"http://{place}/v1")
        with pytest.raises(EndpointError, match=r"HTTP 400: x{400}$"):
            post(f"http://{place}/v1")


def test_the_client_is_loaded_with_the_first_server() -> None:
    code = "import sys, unforgotten.generation.endpoint as e; assert 'httpx2' not in sys.modules, 'early'"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
