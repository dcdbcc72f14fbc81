"""A push through the real client of the Hub, to a server in this process that answers as the Hub does."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi

from tests.verbs.export.test_export import run_of
from unforgotten.errors import RecipeError
from unforgotten.verbs.export.export import export as verb
from unforgotten.verbs.export.push import push, ready


class Hub(ThreadingHTTPServer):
    """One repository: its files, whether it is private, and what was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.files: dict[str, bytes] = {}
        self.private: bool | None = None
        self.asked: list[str] = []
        self.messages: list[str] = []
        self.refuses = ""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answers(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        path = self._path()
        if path == "/api/whoami-v2":
            right = self.headers.get("Authorization") == "Bearer right"
            self._say({"name": "owner", "type": "user"} if right else {"error": "Invalid token"}, 200 if right else 401)
        elif "/tree/" in path:
            self._say(
                [{"type": "file", "path": p, "size": len(b), "oid": "0" * 40} for p, b in self.server.files.items()]
            )
        else:
            facts = {"id": "owner/name", "_id": "0", "private": bool(self.server.private), "sha": "0" * 40}
            self._say({**facts, "siblings": [], "tags": [], "downloads": 0, "likes": 0})

    def do_POST(self) -> None:
        path, body = self._path(), self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.server.refuses and self.server.refuses in path:
            self._say({"error": "You don't have the rights"}, 403)
        elif path == "/api/repos/create":
            if self.server.private is None:
                wanted = json.loads(body)  # an older client says private: true
                self.server.private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
                self._say({"url": f"{self.server.address}/owner/name"})
            else:
                self._say(
                    {"error": "You already created this model repo", "url": f"{self.server.address}/owner/name"}, 409
                )
        elif "/preupload/" in path:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            self._say({"files": files})
        elif "/commit/" in path:
            for line in body.decode().splitlines():
                self._commit(json.loads(line))
            said = {"commitUrl": f"{self.server.address}/owner/name/commit/{'1' * 40}", "commitOid": "1" * 40}
            self._say({**said, "success": True})
        else:
            self._say({"errors": [], "warnings": []})

    def _commit(self, line: dict[str, Any]) -> None:
        if line["key"] == "header":
            self.server.messages.append(line["value"]["summary"])
        elif line["key"] == "file":
            self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        elif line["key"] == "deletedFile":
            del self.server.files[line["value"]["path"]]

    def _path(self) -> str:
        path = self.path.partition("?")[0]
        self.server.asked.append(f"{self.command} {path}")
        return path

    def _say(self, tree: Any, status: int = 200) -> None:
        body = json.dumps(tree).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # tests are offline; this server is here
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def export(tmp_path: Path) -> Path:
    folder = tmp_path / "merged"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(bytes(range(200)))
    (folder / "config.json").write_text("{}\n")
    (folder / "README.md").write_text("---\nlibrary_name: transformers\n---\n\n# a model\n")
    return folder


def client(hub: Hub, token: str = "right") -> HfApi:
    return HfApi(endpoint=hub.address, token=token)


def test_all_files_arrive_and_weights_of_an_earlier_form_go(hub: Hub, export: Path) -> None:
    hub.files = {"adapter_model.safetensors": b"old", "notes.md": b"kept", ".gitattributes": b"kept"}
    address = push(ready("owner/name", client(hub)), export, "owner/name", False, "merged")
    assert address == f"{hub.address}/owner/name" and hub.private is False
    ours = {f.name: f.read_bytes() for f in export.iterdir()}
    assert hub.files == ours | {"notes.md": b"kept", ".gitattributes": b"kept"}
    assert hub.messages == ["Export of merged"]


def test_an_export_is_pushed_as_it_was_proven(
    hub: Hub, tmp_path: Path, model_folder: Callable[..., Path], rows_file: Callable[..., Path]
) -> None:
    run = run_of(tmp_path, model_folder("llama"), rows_file)
    made = verb(str(run), "merged", push_to="owner/name", private=True, api=client(hub))
    assert made.address == f"{hub.address}/owner/name" and hub.private is True
    assert hub.files == {f.name: f.read_bytes() for f in made.folder.iterdir()}
    text = hub.files["README.md"].decode()
    assert 'from_pretrained("owner/name")' in text and "vllm serve name --served-model-name owner/name" in text
    assert not [name for name, held in hub.files.items() if str(tmp_path).encode() in held]


def test_a_private_one_is_private_or_nothing_is_uploaded(hub: Hub, export: Path) -> None:
    push(client(hub), export, "owner/name", True, "merged")
    assert hub.private is True and hub.files
    hub.private, hub.files = False, {}
    with pytest.raises(RecipeError, match="already public, so nothing was pushed"):
        push(client(hub), export, "owner/name", True, "merged")
    assert not hub.files


def test_who_is_not_signed_in_is_told_before_anything_is_made(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecipeError, match="rejects this token"):
        ready("owner/name", client(hub, "wrong"))
    monkeypatch.setattr("huggingface_hub.hf_api.get_token", lambda: None)
    monkeypatch.setattr("huggingface_hub.utils._headers.get_token", lambda: None)
    with pytest.raises(RecipeError, match="hf auth login"):
        ready("owner/name", HfApi(endpoint=hub.address))
    with pytest.raises(RecipeError, match="OWNER/NAME, not 'name'"):
        ready("name", client(hub))
    assert not [one for one in hub.asked if one.startswith("POST")]


@pytest.mark.parametrize("step", ["/api/repos/create", "/commit/"])
def test_a_push_that_fails_names_the_export_that_stays(step: str, hub: Hub, export: Path) -> None:
    hub.refuses = step
    with pytest.raises(RecipeError, match="The export is complete in .*hf upload owner/name"):
        push(client(hub), export, "owner/name", False, "merged")
    assert (export / "model.safetensors").is_file() and not hub.files
