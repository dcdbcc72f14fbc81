"""A small server that speaks OpenAI's HTTP on the loopback, and fails in every way that servers do when told to."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Fault = str | tuple[int, Mapping[str, str], Any]
"""drop, reset, cut, html, hang, list; or a status with headers and a body. Each is done once, in the order given."""


class Talker:
    """What it was asked and what it answered, by key: the last user turn's text, or the prompt."""

    def __init__(
        self,
        say: Callable[[Mapping[str, Any]], Mapping[str, Any]],
        faults: Mapping[str, Sequence[Fault]] | None = None,
        *,
        hang_seconds: float = 1.0,
    ) -> None:
        self.say, self.hang_seconds = say, hang_seconds
        self.faults = {key: list(each) for key, each in (faults or {}).items()}
        self.asked: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.keys: list[str | None] = []
        self.times: dict[str, list[float]] = {}
        self.here = self.most = 0
        self.gate = threading.Event()
        """Rows whose key begins with `slow` wait for it."""
        self.lock = threading.Lock()
        self.url = ""

    def key_of(self, body: Mapping[str, Any]) -> str:
        if "messages" in body:
            return str([turn for turn in body["messages"] if turn["role"] == "user"][-1]["content"])
        return str(body["prompt"])


@contextmanager
def serving(talker: Talker) -> Iterator[Talker]:
    class Handler(BaseHTTPRequestHandler):
        gone = False

        def do_POST(self) -> None:
            self.gone = False
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            key = talker.key_of(body)
            with talker.lock:
                talker.asked[key] += 1
                talker.bodies.append(body)
                talker.paths.append(self.path)
                talker.keys.append(self.headers.get("Authorization"))
                talker.times.setdefault(key, []).append(time.monotonic())
                talker.here += 1
                talker.most = max(talker.most, talker.here)
                fault = talker.faults[key].pop(0) if talker.faults.get(key) else None
            try:
                if key.startswith("slow"):
                    talker.gate.wait(20)
                if fault is None:
                    self.answer(key, talker.say(body))
                elif isinstance(fault, tuple):
                    self.send(*fault)
                else:
                    self.fail(fault)
            except (BrokenPipeError, ConnectionResetError):
                pass
            finally:
                self.leave()

        def leave(self) -> None:
            """Is no longer under way: said before the answer is sent, for whoever has it may ask again at once."""
            with talker.lock:
                talker.here -= not self.gone
            self.gone = True

        def answer(self, key: str, body: Any) -> None:
            """Counted before it is sent, so that who has it finds it counted; and not if nobody takes it."""
            with talker.lock:
                talker.answered[key] += 1
            try:
                self.send(200, {}, body)
            except OSError:
                with talker.lock:
                    talker.answered[key] -= 1
                raise

        def send(self, status: int, headers: Mapping[str, str], body: Any) -> None:
            raw = (body if isinstance(body, str) else json.dumps(body)).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.leave()
            self.wfile.write(raw)

        def fail(self, how: str) -> None:
            if how == "hang":
                time.sleep(talker.hang_seconds)
            elif how == "cut":
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b'{"choices": [')
            elif how == "html":
                self.send(200, {}, "<html>one moment</html>")
            elif how == "list":
                self.send(200, {}, [1])
            elif how == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            # drop: the connection is closed without a word

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    talker.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield talker
    finally:
        talker.gate.set()
        server.shutdown()
        server.server_close()


def echo(body: Mapping[str, Any]) -> dict[str, Any]:
    """Says what it was asked, in capitals."""
    if "messages" in body:
        text = str(body["messages"][-1]["content"]).upper()
        choice: dict[str, Any] = {"index": 0, "message": {"role": "assistant", "content": text}}
    else:
        text = f"after {body['prompt']}"
        choice = {"index": 0, "text": text}
    usage = {"prompt_tokens": 3, "completion_tokens": len(text.split()), "total_tokens": 3 + len(text.split())}
    return {"object": "chat.completion", "choices": [choice | {"finish_reason": "stop"}], "usage": usage}
