"""Requests to a server, each sent again after a wait until it is answered.

    asked again     no connection, one that drops, no whole answer in time, an answer that is cut; 408, 425, 429, 5xx
    unread          a prompt that the server's filter stops, or that is too long for the model (generation/unread)
    an error        every other status, redirects included, in the server's own words, without the key
    the wait        what Retry-After says, and 0.5, 1, 2 … 60 seconds by attempt, drawn from [½, 1½] of that

The client is httpx2, the continuation of httpx that Hugging Face's hub client uses. It is imported at the first server.
"""

from __future__ import annotations

import itertools
import json
import random
import socket
import ssl
import threading
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from unforgotten.errors import EndpointError
from unforgotten.generation.prompt_faults import Unread, of_error

if TYPE_CHECKING:
    import httpx2

FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 60.0
AGAIN = (408, 425, 429)
LONGEST_ANSWER = 64 << 20
"""Bytes of one answer; a reply of 100,000 tokens with their likeliest alternatives has some 50 MB."""
LONGEST_ERROR = 1 << 16
"""Bytes of an error's body that are read."""
NOBODY_THERE = 3
"""Attempts at a host where nothing listens, as long as it was never reached: the address is probably mistyped."""
THIS_MACHINE = ("localhost", "127.0.0.1", "::1")


class Server:
    """One HTTP server, safe for many threads. Its key is in no message and no file."""

    def __init__(self, url: str, key: str, *, timeout_seconds: float, retries: int) -> None:
        """timeout_seconds: the longest that one whole answer may take. Raises EndpointError for an unusable proxy."""
        self.url, self.timeout_seconds, self.retries = url.rstrip("/"), timeout_seconds, retries
        self._key = key
        self._reached = False
        self._client = _client(self.url, key, timeout_seconds)

    def post(self, path: str, body: Mapping[str, Any], stop: threading.Event) -> dict[str, Any]:
        """The JSON object that the server answers with. Raises EndpointError, and Unread where the fault is this
        prompt's alone; `stop` ends a wait."""
        where, content = f"{self.url}/{path}", json.dumps(body).encode()
        for attempt in itertools.count(1):
            try:
                return self._post_once(where, content)
            except _Unanswered as error:
                unanswered = error
            nobody = unanswered.nobody_there and not self._reached
            if attempt > self.retries or (nobody and attempt >= NOBODY_THERE):
                times = "once" if attempt == 1 else f"{attempt} times"
                raise EndpointError(f"{where} did not answer, asked {times}. {unanswered}")
            wait = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2 ** (attempt - 1)) * random.uniform(0.5, 1.5)
            if stop.wait(unanswered.least_wait_seconds + wait):
                raise EndpointError(f"{where}: stopped while waiting to ask again. {unanswered}")
        raise AssertionError  # count() has no end

    def _post_once(self, where: str, content: bytes) -> dict[str, Any]:
        """Raises _Unanswered where the request can be sent again, EndpointError where that would not help."""
        import httpx2

        with _Deadline(self.timeout_seconds) as deadline:
            try:
                extensions = {"trace": deadline.watch}
                with self._client.stream("POST", where, content=content, extensions=extensions) as response:
                    self._reached = True
                    if not response.is_success:
                        raise self._refusal(where, response)
                    payload = json.loads(_body(response))
            except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError, RecursionError) as error:
                if deadline.passed:
                    seconds = f"{self.timeout_seconds:g} seconds (timeout_seconds)"
                    raise _Unanswered(f"The answer was not complete after {seconds}.") from None
                raise self._lost(where, _cause(error)) from None
        if not isinstance(payload, dict):
            raise _Unanswered("The answer is no JSON object.")
        return payload

    def _refusal(self, where: str, response: httpx2.Response) -> EndpointError | _Unanswered:
        """The error for a status that is no success; it holds the server's own message."""
        import httpx2

        status, text = response.status_code, ""
        with suppress(httpx2.HTTPError, OSError):
            text = _body(response, LONGEST_ERROR, cut=True).decode("utf-8", "replace")
        fault = f"HTTP {status}: {self._without_key(_message(text) or response.reason_phrase)}"
        if of_error(status, text):
            return Unread(fault)
        if status not in AGAIN and status < 500:
            return EndpointError(f"{where} refused the request. {fault}{_hint(status)}")
        least = _retry_after(response.headers.get("Retry-After"))
        if least > self.timeout_seconds:
            return EndpointError(f"{where} asks to wait {least:.0f} seconds. {fault}")
        return _Unanswered(fault, least_wait_seconds=least)

    def _lost(self, where: str, cause: BaseException) -> EndpointError | _Unanswered:
        """The error for an answer that did not come, or that could not be read."""
        name, words = type(cause).__name__, str(cause)
        fault = self._without_key(f"{name}: {words}" if words else name)
        if isinstance(cause, ssl.SSLCertVerificationError):
            return EndpointError(f"{where} cannot be trusted: {fault}")
        return _Unanswered(fault, nobody_there=isinstance(cause, (ConnectionRefusedError, socket.gaierror)))

    def _without_key(self, text: str) -> str:
        """One short line without the key, should a server repeat it."""
        text = text.replace(self._key, "…") if self._key else text
        return " ".join(text.split())[:400]


class _Unanswered(Exception):
    """A request that got no answer this time; the message is the reason."""

    def __init__(self, fault: str, *, least_wait_seconds: float = 0.0, nobody_there: bool = False) -> None:
        super().__init__(fault)
        self.least_wait_seconds = least_wait_seconds
        self.nobody_there = nobody_there


class _Deadline:
    """Shuts a request's socket when its time is up.

    A socket's own timeout bounds one silence only: a server that sends a byte now and then would never reach it.
    """

    def __init__(self, seconds: float) -> None:
        self.passed = False
        self._socket: socket.socket | None = None
        self._timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), self._pass)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def watch(self, event: str, info: Mapping[str, Any]) -> None:
        """httpx2's `trace` hook: takes the newest socket, the plain one or the one with TLS over it."""
        if event.endswith((".connect_tcp.complete", ".start_tls.complete")):
            self._socket = info["return_value"].get_extra_info("socket")
            if self.passed:
                self._shut()

    def _pass(self) -> None:
        self.passed = True
        self._shut()

    def _shut(self) -> None:
        if self._socket is not None:
            with suppress(OSError):  # it is closed already
                # The base class's method: ssl's own would take the TLS state from under the thread that reads.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


def _client(url: str, key: str, timeout_seconds: float) -> httpx2.Client:
    """A client that keeps nothing between requests: no cookies, no open connections, no redirects followed.

    A redirect would carry the key to another host; an idle connection may be closed by the server at any moment.
    """
    import httpx2

    headers = {"Content-Type": "application/json", "User-Agent": "unforgotten"}
    headers |= {"Accept-Encoding": "identity", "Connection": "close"}  # no small answer unpacks to a huge one
    if key:
        headers["Authorization"] = f"Bearer {key}"
    try:
        return httpx2.Client(
            headers=headers,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            verify=ssl.create_default_context(),
            proxy=_proxy(url),
            trust_env=False,
            timeout=timeout_seconds,
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=0),
        )
    except (ImportError, ValueError, httpx2.InvalidURL):  # the message may hold the proxy's password
        raise EndpointError(
            f"The proxy that this machine's settings name for {url} cannot be used. Set {urlsplit(url).scheme}_proxy "
            "to an address such as http://host:3128, or name the server in no_proxy. A SOCKS proxy needs "
            "`pip install 'httpx2[socks]'`."
        ) from None


def _proxy(url: str) -> str | None:
    """The proxy for an address, from http_proxy, https_proxy and no_proxy or the system's settings.

    There is none for this machine. httpx2's own reading would also take all_proxy, which is often a SOCKS proxy.
    """
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(url)
    proxy = getproxies().get(parts.scheme)
    if not proxy or parts.hostname in THIS_MACHINE or proxy_bypass(parts.netloc):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _body(response: httpx2.Response, most: int | None = None, *, cut: bool = False) -> bytes:
    """The body's bytes, at most `most`: what answers may be no such server. Beyond, they are cut, or a ValueError."""
    most = LONGEST_ANSWER if most is None else most
    data = bytearray()
    for chunk in response.iter_raw():
        data += chunk
        if len(data) > most:
            if cut:
                break
            raise ValueError(f"the answer has more than {most >> 20} MB")
    return bytes(data[:most])


def _cause(error: BaseException) -> BaseException:
    """The operating system's error behind one of the client's, where there is one: it says more."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    return cause or error


def _message(text: str) -> str:
    """The server's own message, wherever its kind of server puts it."""
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError):
        return text
    inner = tree.get("error", tree) if isinstance(tree, dict) else tree
    message = inner.get("message") or inner.get("detail") or inner if isinstance(inner, dict) else inner
    return message if isinstance(message, str) else json.dumps(message)


def _retry_after(header: str | None) -> float:
    """Seconds, from seconds or from a date; 0 where the header holds nothing that can be read."""
    if not header:
        return 0.0
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        when = parsedate_to_datetime(header)
    except ValueError:
        return 0.0
    return max(0.0, (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _hint(status: int) -> str:
    if status in (401, 403):
        return " `key_variable` names the environment variable that holds the server's key."
    if status == 404:
        return " The address mostly ends in /v1, and the model's name must be the one that the server goes by."
    return ""
