"""A server's key stands in no recipe, and what a server says cannot hurt."""

from __future__ import annotations

import http.server
import threading
from typing import Any

import pytest

from unforgotten.errors import EndpointError, RecipeError
from unforgotten.evaluation.gate_limits import Limits
from unforgotten.generation import endpoint, http_client
from unforgotten.recipe.read import parse
from unforgotten.runs import variables

KEY = "sk-a-secret-of-ours"
GIVEN: list[dict[str, Any]] = [
    {"url": f"http://h/v1#{KEY}"},
    {"url": f"http://h/v1?key={KEY}"},
    {"url": f"http://:{KEY}@h/v1"},
    {"url": f"http://{KEY}@h/v1"},
    {"url": f"http://{KEY} h/v1"},
    {"url": f"http://[{KEY}/v1"},
    {"url": "http://h:99999/v1"},
    {"url": "http://h/v1", "key_variable": KEY},
    {"url": "http://h/v1", "extra": {"api_key": KEY}},
    {"url": "http://h/v1", "extra": {"a": [{"Authorization": f"Bearer {KEY}"}]}},
    {"url": "http://h/v1", "extra": {"x-api-key": KEY}},
]


@pytest.mark.parametrize("given", GIVEN)
def test_a_key_in_a_recipe_is_refused_and_not_repeated(given: dict[str, Any]) -> None:
    with pytest.raises(RecipeError) as in_recipe:
        parse({"model": "m", "evaluate": {"harm": "advbench", "endpoint": given}})
    with pytest.raises(RecipeError) as in_python:
        endpoint.Endpoint(model="m", **given)
    assert KEY not in str(in_recipe.value) + str(in_python.value)


def test_what_servers_know_passes() -> None:
    extra = {"chat_template_kwargs": {"enable_thinking": False}, "stop_token_ids": [1], "max_tokens": None}
    made = endpoint.Endpoint(url="http://localhost:8000/v1", model="m", retries="3", extra=extra)  # type: ignore[arg-type]
    assert made.retries == 3 and dict(made.extra) == extra


@pytest.mark.parametrize(
    "wrong",
    [{"url": 5}, {"model": 5}, {"retries": 1.5}, {"timeout_seconds": float("nan")}, {"concurrent_requests": True},
     {"extra": 5}],
)  # fmt: skip
def test_fields_of_an_endpoint_are_checked_in_python(wrong: dict[str, Any]) -> None:
    with pytest.raises(RecipeError):
        endpoint.Endpoint(**({"url": "http://h/v1", "model": "m"} | wrong))


@pytest.mark.parametrize("wrong", [True, "five", [5], float("nan"), -1])
def test_limits_are_checked_in_python(wrong: Any) -> None:
    with pytest.raises(RecipeError, match="max_asr"):
        Limits(max_asr=wrong)


def test_a_variable_in_extra_stands_in_results_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNFORGOTTEN_TENANT", KEY)
    made = endpoint.Endpoint(url="http://h/v1", model="m", extra={"user": variables.expand("${UNFORGOTTEN_TENANT}")})
    assert made.extra["user"] == KEY and endpoint.decoding(made)["extra"] == {"user": "${UNFORGOTTEN_TENANT}"}


@pytest.mark.parametrize("body", [b"[" * 200_000, b" " * 3_000_000], ids=["deep", "long"])
def test_an_answer_that_is_none_is_an_error_of_the_server(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    class Says(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    monkeypatch.setattr(http_client, "LONGEST_ANSWER", 1_000_000)
    with http.server.HTTPServer(("127.0.0.1", 0), Says) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        there = http_client.Server(f"http://127.0.0.1:{server.server_port}", "", timeout_seconds=5, retries=0)
        with pytest.raises(EndpointError, match="did not answer"):
            there.post("v1", {}, threading.Event())


@pytest.mark.parametrize(
    "address",
    [
        "https://user:s3cr3t@host/x.jsonl",
        "https://s3cr3t@host/x",
        "https://h/x?a=1&token=s3cr3t&b=2",
        "x;api_key=s3cr3t",
    ],
)
def test_an_error_repeats_no_key_of_an_address(address: str) -> None:
    said = variables.hidden(f"There is no file {address}. Mail me@example.org, or see https://host/a?b=c.")
    assert "s3cr3t" not in said and said.endswith("Mail me@example.org, or see https://host/a?b=c.")
