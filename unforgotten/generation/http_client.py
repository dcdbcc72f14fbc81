"""Requests that are asked until they are answered: many at a time, again after a wait. The standard library alone.

    asked again     no connection, one that drops, no answer in time, an answer that is cut; 408, 425, 429 and every 5xx
    unread          a prompt that the server's filter stops, or that is too long for the model (generation/unread)
    an error        every other status, in the server's own words, without the key
    the wait        what Retry-After says, and 0.5, 1, 2 … 60 seconds by attempt, drawn from [½, 1½] of that

Whatever was answered reaches the caller: after an error no new request is begun, and those under way are waited for.
"""

from __future__ import annotations

import http.client
import json
import queue
import random
import socket
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

from unforgotten.errors import EndpointError
from unforgotten.generation.unread import Unread, of_error

FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 60.0
AGAIN = (408, 425, 429)
LONGEST_ANSWER = 64 << 20
"""Bytes of one answer; a reply of 100,000 tokens with their likeliest alternatives has some 50 MB."""
NOBODY_THERE = 3
"""Attempts at a host that nobody answers at, as long as it has never been reached: mostly a mistyped address."""

T = TypeVar("T")


class Server:
    """One HTTP server, safe for many threads. Its key is in no message and no file."""

    def __init__(self, url: str, key: str, *, timeout_seconds: float, retries: int) -> None:
        self.url, self.timeout_seconds, self.retries = url.rstrip("/"), timeout_seconds, retries
        self._key = key
        self._reached = False
        here = (urlsplit(url).hostname or "") in ("localhost", "127.0.0.1", "::1")
        # A redirect is an error like any other: followed, it would carry the key to another host.
        self._opener = urllib.request.build_opener(_NoRedirect, *([urllib.request.ProxyHandler({})] if here else []))

    def post(self, path: str, body: Mapping[str, Any], stop: threading.Event) -> dict[str, Any]:
        """The JSON object that the server answers with. Raises EndpointError, and Unread where the fault is this
        prompt's alone; `stop` ends a wait."""
        headers = {"Content-Type": "application/json", "User-Agent": "unforgotten"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        where = f"{self.url}/{path}"
        request = urllib.request.Request(where, json.dumps(body).encode(), headers, method="POST")
        attempt = 0
        while True:
            attempt += 1
            least, patience = 0.0, self.retries + 1
            try:
                with self._opener.open(request, timeout=self.timeout_seconds) as answer:
                    self._reached = True
                    payload = json.loads(self._whole(answer))
                if isinstance(payload, dict):
                    return payload
                fault = "the answer is no JSON object"
            except urllib.error.HTTPError as error:
                self._reached = True
                said = self._said(error)
                fault = f"HTTP {error.code}: {self._words(said, error.reason)}"
                if of_error(error.code, said):
                    raise Unread(fault) from None
                if error.code not in AGAIN and error.code < 500:
                    raise EndpointError(f"{where} refused the request. {fault}{_hint(error.code)}") from None
                least = _retry_after(error.headers.get("Retry-After"))
                if least > self.timeout_seconds:
                    raise EndpointError(f"{where} asks to wait {least:.0f} seconds. {fault}") from None
            except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
                reason = error.reason if isinstance(error, urllib.error.URLError) else error
                fault = self._plain(f"{type(reason).__name__}: {reason}" if str(reason) else type(reason).__name__)
                if isinstance(reason, ssl.SSLCertVerificationError):
                    raise EndpointError(f"{where} cannot be trusted: {fault}") from None
                if isinstance(reason, (ConnectionRefusedError, socket.gaierror)) and not self._reached:
                    patience = min(patience, NOBODY_THERE)
            if attempt >= patience:
                times = "once" if attempt == 1 else f"{attempt} times"
                raise EndpointError(f"{where} did not answer, asked {times}. {fault}")
            wait = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2 ** (attempt - 1)) * random.uniform(0.5, 1.5)
            if stop.wait(least + wait):
                raise EndpointError(f"{where}: stopped while waiting to ask again. {fault}")

    @staticmethod
    def _said(error: urllib.error.HTTPError) -> str:
        try:
            return error.read(1 << 16).decode("utf-8", "replace")
        except (OSError, http.client.HTTPException):
            return ""

    @staticmethod
    def _whole(answer: Any) -> bytes:
        """The answer's bytes; no more of them than any reply has, since whatever answers may be no such server."""
        if len(data := answer.read(LONGEST_ANSWER + 1)) > LONGEST_ANSWER:
            raise ValueError(f"the answer has more than {LONGEST_ANSWER >> 20} MB")
        return bytes(data)

    def _words(self, text: str, reason: str) -> str:
        """The server's own message, wherever its kind of server puts it."""
        try:
            tree = json.loads(text)
            inner = tree.get("error", tree) if isinstance(tree, dict) else tree
            said = inner.get("message") or inner.get("detail") or inner if isinstance(inner, dict) else inner
            text = said if isinstance(said, str) else json.dumps(said)
        except (ValueError, RecursionError):
            pass
        return self._plain(text or reason or "")

    def _plain(self, text: str) -> str:
        """One short line without the key, should a server repeat it."""
        text = text.replace(self._key, "…") if self._key else text
        return " ".join(text.split())[:400]


def each(work: Callable[[int, threading.Event], T], indices: Sequence[int], at_once: int) -> Iterator[tuple[int, T]]:
    """(index, work's result) in the order in which results come, `at_once` of them under way.

    `work` is given an event that is set when the rest is given up. The threads are daemons: Ctrl-C does not wait for a
    slow server.
    """
    stop, lock, left = threading.Event(), threading.Lock(), iter(indices)
    done: queue.SimpleQueue[tuple[int, T | None, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        while not stop.is_set():
            with lock:
                index = next(left, None)
            if index is None:
                return
            try:
                done.put((index, work(index, stop), None))
            except BaseException as error:  # it is raised again where the results are read
                done.put((index, None, error))
                return

    threads = [threading.Thread(target=run, daemon=True) for _ in range(min(at_once, len(indices)))]
    for thread in threads:
        thread.start()
    try:
        for _ in indices:
            index, result, error = done.get()
            if error is not None:
                stop.set()
                for thread in threads:
                    thread.join()
                raise error
            yield index, cast(T, result)
    finally:
        stop.set()


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def _retry_after(said: str | None) -> float:
    """Seconds, from seconds or from a date; 0 where it says nothing that can be read."""
    if not said:
        return 0.0
    try:
        return max(0.0, float(said))
    except ValueError:
        pass
    try:
        when = parsedate_to_datetime(said)
    except ValueError:
        return 0.0
    return max(0.0, (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _hint(status: int) -> str:
    if status in (401, 403):
        return " `key_variable` names the environment variable that holds the server's key."
    if status == 404:
        return " The address mostly ends in /v1, and the model's name must be the one that the server goes by."
    return ""
