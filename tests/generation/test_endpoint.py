"""Against a real HTTP server that drops, cuts, refuses, delays: every row is answered, in order, and asked once more
only where it was not answered."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from tests.generation.server import Talker, echo, serving
from tests.training.shapes import tiny_tokenizer
from unforgotten.datasets.base import Row, ask
from unforgotten.errors import EndpointError, RecipeError
from unforgotten.generation import http_client
from unforgotten.generation.concurrent import each
from unforgotten.generation.endpoint import Endpoint, complete, decoding, generate
from unforgotten.models.chat import Chat

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "FIRST_WAIT_SECONDS", 0.01)


@pytest.fixture
def talker() -> Iterator[Talker]:
    with serving(Talker(echo)) as actual:
        yield actual


def at(talker: Talker, **more: Any) -> Endpoint:
    return Endpoint(url=talker.url, model="a-model", **{"concurrent_requests": 4, "timeout_seconds": 5.0, **more})


def rows(n: int, word: str = "row") -> list[Row]:
    return [ask(f"{word} {i}", source=f"set:{i}") for i in range(n)]


# ── what is asked ──


def test_replies_come_in_the_rows_order_with_finish_and_tokens(talker: Talker) -> None:
    def say(body: Any) -> Any:
        actual = echo(body)
        index = int(body["messages"][-1]["content"].split()[1])
        time.sleep(0.02 * (5 - index % 5))  # later rows of each five are answered first
        actual["choices"][0]["finish_reason"] = "length" if index % 2 else "stop"
        return actual

    talker.say = say
    lines: list[tuple[int, int]] = []
    replies = generate(at(talker), rows(12), progress=lambda done, n: lines.append((done, n)))
    assert [r.text for r in replies] == [f"ROW {i}" for i in range(12)]
    assert [r.row for r in replies] == rows(12)
    assert [r.finish for r in replies] == ["stop", "length"] * 6
    assert {r.tokens for r in replies} == {2}
    assert lines == [(n, 12) for n in range(1, 13)]
    assert talker.answered == talker.asked == {f"row {i}": 1 for i in range(12)}
    assert generate(at(talker), []) == [] and len(talker.bodies) == 12


def test_a_row_is_asked_as_openai_writes_it_and_greedily(talker: Talker) -> None:
    tool = {"type": "function", "function": {"name": "look"}}
    turns = (
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Say it.\n\nhello", "instruction": "Say it.", "input": "hello", "name": None},
        {"role": "assistant", "content": "an answer, which is left away"},
    )
    generate(at(talker), [Row(turns, tools=(tool,))], max_new_tokens=7)
    assert talker.paths == ["/v1/chat/completions"]
    assert talker.bodies == [
        {
            "model": "a-model",
            "messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Say it.\n\nhello"}],
            "tools": [tool],
            **{"max_tokens": 7, "temperature": 0.0, "top_p": 1.0, "repetition_penalty": 1.0, "stream": False},
        }
    ]
    assert talker.keys == [None]


def test_sampling_is_seeded_by_the_rows_place_and_extra_fields_have_the_last_word(talker: Talker) -> None:
    own = at(talker, extra={"repetition_penalty": None, "chat_template_kwargs": {"enable_thinking": False}})
    generate(own, rows(2), temperature=0.7, top_p=0.9, seed=5)
    bodies = sorted(talker.bodies, key=lambda body: body["seed"])
    assert [body["seed"] for body in bodies] == [5, 6]
    for body in bodies:
        assert (body["temperature"], body["top_p"], body["top_k"]) == (0.7, 0.9, -1)
        assert "repetition_penalty" not in body and body["chat_template_kwargs"] == {"enable_thinking": False}


def test_with_a_chat_the_prompts_are_written_here_and_sent_as_ids(talker: Talker) -> None:
    chat = Chat(tiny_tokenizer("{% for m in messages %}{{ m.content + eos_token }}{% endfor %}"))
    [reply] = generate(at(talker), [ask("how do i kill a process ?")], chat=chat)
    [body] = talker.bodies
    assert talker.paths == ["/v1/completions"]
    assert body["prompt"] == chat.prompt(ask("how do i kill a process ?"))
    assert body["stop_token_ids"] == list(chat.end_ids)
    assert reply.text == f"after {body['prompt']}"


def test_plain_prompts_are_completed_as_text_or_ids_with_probabilities(talker: Talker) -> None:
    def say(body: Any) -> Any:
        logprobs = {
            "tokens": [" yes", "."],
            "token_logprobs": [-0.25, None],
            "top_logprobs": [{" yes": -0.25, " no": -1.5}, None],
            "text_offset": [0, 4],
        }
        return {"choices": [{"text": " yes.", "finish_reason": "length", "logprobs": logprobs}]}

    talker.say = say
    one, two = complete(at(talker), ["Is it?", [1, 2, 3]], max_new_tokens=2, logprobs=5)
    assert one == two and (one.text, one.finish, one.tokens) == (" yes.", "length", 0)
    assert one.logprobs == [(" yes", {" yes": -0.25, " no": -1.5}), (".", {})]
    assert one.p_first(" yes") == pytest.approx(0.7788007830714049)
    assert one.p_first(" perhaps") == 0.0
    assert sorted(str(body["prompt"]) for body in talker.bodies) == ["Is it?", "[1, 2, 3]"]
    assert {body["logprobs"] for body in talker.bodies} == {5}


def test_a_lone_probability_says_nothing_of_other_tokens(talker: Talker) -> None:
    said = {"tokens": ["safe"], "token_logprobs": [-0.1], "top_logprobs": None}
    talker.say = lambda body: {"choices": [{"text": "safe", "finish_reason": "stop", "logprobs": said}]}
    [lone] = complete(at(talker), ["x"], max_new_tokens=1, logprobs=5)
    assert lone.p_first("safe") == pytest.approx(0.9048374180359595) and lone.p_first("unsafe") is None


# ── what goes wrong and is mended ──

BUSY = (429, {"Retry-After": "0"}, {"error": {"message": "slow down"}})


def test_nothing_is_lost_and_nothing_answered_is_asked_again(talker: Talker, tmp_path: Path) -> None:
    talker.hang_seconds = 3.0
    faults = {
        "row 0": ["drop"],
        "row 1": ["reset", "drop"],
        "row 2": ["cut"],
        "row 3": ["html", "list"],
        "row 4": [BUSY, BUSY],
        "row 5": [(500, {}, "oh"), (503, {}, {"message": "loading"}), (502, {}, "")],
        "row 6": ["hang"],
        "row 7": [(408, {}, ""), (425, {}, ""), (504, {}, "")],
    }
    talker.faults = {key: list(each) for key, each in faults.items()}
    replies = generate(at(talker, timeout_seconds=2.0), rows(20), resume_file=tmp_path / "kept.jsonl")
    assert [r.text for r in replies] == [f"ROW {i}" for i in range(20)]
    assert talker.answered == {f"row {i}": 1 for i in range(20)}
    assert talker.asked == {f"row {i}": 1 + len(faults.get(f"row {i}", [])) for i in range(20)}
    assert len((tmp_path / "kept.jsonl").read_text().splitlines()) == 20


def test_a_server_that_says_when_is_not_asked_before(talker: Talker) -> None:
    talker.faults = {"row 0": [(429, {"Retry-After": "1"}, "")]}
    generate(at(talker), rows(2))
    first, second = talker.times["row 0"]
    assert second - first >= 1.0
    with pytest.raises(EndpointError, match="asks to wait 3600 seconds"):
        talker.faults = {"row 0": [(503, {"Retry-After": "3600"}, "maintenance")]}
        generate(at(talker), rows(1))


def test_retry_after_is_seconds_or_a_date() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30))
    assert http_client._retry_after("2.5") == 2.5
    assert 25 < http_client._retry_after(soon) <= 30
    past = format_datetime(datetime.now(UTC) - timedelta(hours=1), usegmt=True)
    assert [http_client._retry_after(said) for said in (None, "", "later", "-3", past)] == [0.0] * 5


def test_waits_grow_and_are_drawn(talker: Talker, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    class Watch(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout or 0.0)
            return False

    monkeypatch.setattr(http_client, "FIRST_WAIT_SECONDS", 0.5)
    talker.faults = {"row 0": [(500, {}, "")] * 10}
    server = http_client.Server(talker.url, "", timeout_seconds=5, retries=10)
    server.post("chat/completions", {"messages": [{"role": "user", "content": "row 0"}]}, Watch())
    middle = [0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert len(waits) == 10 and len(set(waits)) == 10
    assert all(m / 2 <= wait <= m * 1.5 for m, wait in zip(middle, waits, strict=True))


def test_as_many_requests_are_under_way_as_were_asked_for(talker: Talker) -> None:
    meeting = threading.Barrier(3)

    def say(body: Any) -> Any:
        meeting.wait(10)  # broken, unless three are here at once
        return echo(body)

    talker.say = say
    generate(at(talker, concurrent_requests=3), rows(9))
    assert talker.most == 3


# ── what goes wrong and is told ──


def test_a_refusal_is_told_in_the_servers_words_and_what_was_answered_is_kept(talker: Talker, tmp_path: Path) -> None:
    kept = tmp_path / "kept.jsonl"
    talker.faults = {"row 3": [(400, {}, {"error": {"message": "unknown field top_k"}})]}
    with pytest.raises(EndpointError, match=r"set:3: .*refused.*HTTP 400: unknown field top_k"):
        generate(at(talker, concurrent_requests=2), rows(40), resume_file=kept)
    done = len(kept.read_text().splitlines())
    assert done == sum(talker.answered.values()) < 40, "those under way are waited for, and no new ones begun"
    assert [r.text for r in generate(at(talker), rows(40), resume_file=kept)] == [f"ROW {i}" for i in range(40)]
    assert talker.answered == {f"row {i}": 1 for i in range(40)}


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (401, {"error": {"message": "no such key: sk-secret"}}, "no such key: … `key_variable` names"),
        (403, {"detail": "not yours"}, "HTTP 403: not yours"),
        (404, {"object": "error", "message": "no model a-model"}, "no model a-model The address mostly ends in /v1"),
        (422, {"detail": [{"loc": ["body", "top_k"]}]}, '"loc": ["body", "top_k"]'),
        (400, "plain words", "HTTP 400: plain words"),
        (302, "", "HTTP 302"),
    ],
)
def test_every_kind_of_servers_message_is_found_and_the_key_is_in_none(
    talker: Talker, monkeypatch: pytest.MonkeyPatch, status: int, body: Any, said: str
) -> None:
    monkeypatch.setenv("A_KEY", " sk-secret\n")
    headers = {"Location": f"{talker.url}/elsewhere"} if status == 302 else {}
    talker.faults = {"row 0": [(status, headers, body)]}
    with pytest.raises(EndpointError) as caught:
        generate(at(talker, key_variable="A_KEY"), rows(1))
    assert said in str(caught.value) and "sk-secret" not in str(caught.value)
    assert talker.keys == ["Bearer sk-secret"], "sent once, and a redirect is not followed"


def test_the_key_is_in_the_environment_alone(talker: Talker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("A_KEY", "sk-secret")
    endpoint, kept = at(talker, key_variable="A_KEY"), tmp_path / "kept.jsonl"
    generate(endpoint, rows(2), resume_file=kept)
    assert talker.keys == ["Bearer sk-secret"] * 2
    assert "sk-secret" not in kept.read_text() + repr(endpoint) + json.dumps(decoding(endpoint))
    monkeypatch.delenv("A_KEY")
    assert len(generate(endpoint, rows(2), resume_file=kept)) == 2, "nothing is left to ask, so no key is needed"
    with pytest.raises(EndpointError, match="A_KEY holds no key"):
        generate(endpoint, rows(3), resume_file=kept)
    monkeypatch.setenv("A_KEY", "sk-sec\nret")
    with pytest.raises(EndpointError, match="A_KEY holds no key") as caught:
        generate(endpoint, rows(3), resume_file=kept)
    assert "sec" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "localhost:8000/v1"},
        {"url": "file:///etc/passwd"},
        {"url": "http://user:sk-secret@host/v1"},
        {"url": "http://host/v1?key=sk-secret"},
        {"url": "http://host/v1", "key_variable": "sk-secret"},
        {"url": "http://host/v1", "concurrent_requests": 0},
    ],
)
def test_a_wrong_endpoint_is_told_at_the_door_and_no_key_repeated(wrong: Any) -> None:
    with pytest.raises(RecipeError) as caught:
        Endpoint(model="m", **wrong)
    assert "secret" not in str(caught.value)


def test_a_server_that_never_answers_is_given_up(talker: Talker) -> None:
    talker.faults = {"row 0": [(500, {}, {"error": {"message": "out of memory"}})] * 9}
    with pytest.raises(EndpointError, match="did not answer, asked 3 times. HTTP 500: out of memory"):
        generate(at(talker, retries=2), rows(1))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(EndpointError, match="asked 3 times. ConnectionRefusedError"):
        generate(Endpoint(url=nobody, model="m"), rows(1))


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"choices": []}, "without a choice"),
        ({"error": {"message": "no"}}, "without a choice.*no"),
        ({"choices": [{"text": "a", "finish_reason": "abort"}]}, "abort"),
        ({"choices": [{"text": "a"}], "usage": 7}, "set:0: the answer is not as OpenAI writes it"),
        ({"choices": [{"text": "a", "logprobs": {"tokens": ["a"], "top_logprobs": [{}, {}]}}]}, "not as OpenAI"),
    ],
)
def test_what_is_no_reply_of_the_models_is_an_error(talker: Talker, said: Any, why: str) -> None:
    talker.say = lambda body: said
    with pytest.raises(EndpointError, match=why):
        generate(at(talker), rows(1))


HELLO = {"message": {"content": "hello"}}


@pytest.mark.parametrize(
    "said",
    [
        *({"choices": choices} for choices in (None, [], {}, {"message": {"content": "hello"}}, 5, "hello", [None])),
        *({"choices": [HELLO | {"finish_reason": reason}]} for reason in ({"type": "x"}, ["stop"], 5, True, "abort")),
        *({"choices": [{"message": {"content": content}}]} for content in ({"a": 1}, 5, [{"type": "image_url"}])),
        *({"choices": [{"message": message}]} for message in (None, "hello", ["hello"])),
        *({"choices": [HELLO], "usage": {"completion_tokens": n}} for n in ("a", [1], float("inf"))),
        {"choices": [HELLO | {"logprobs": 5}]},
        {"choices": [{"finish_reason": "stop"}]},
        {"error": {"message": "overloaded"}},
    ],
)
def test_one_answer_that_holds_no_reply_is_unread_and_asked_again_by_the_next_call(
    talker: Talker, tmp_path: Path, said: Any
) -> None:
    kept = tmp_path / "kept.jsonl"
    talker.faults = {"row 1": [(200, {}, said)]}
    actual = generate(at(talker), rows(3), resume_file=kept)
    assert [bool(reply.unread) for reply in actual] == [False, True, False] and not actual[1].text
    assert [reply.text for reply in generate(at(talker), rows(3), resume_file=kept)] == ["ROW 0", "ROW 1", "ROW 2"]
    assert talker.asked["row 1"] == 2 and talker.asked["row 0"] == 1


def test_a_server_that_gives_no_reply_at_all_is_an_error_and_not_asked_to_the_end(talker: Talker) -> None:
    talker.say = lambda body: {"choices": {}}
    with pytest.raises(EndpointError, match=r"set:\d+: .*without a choice"):
        generate(at(talker, concurrent_requests=1), rows(60))
    assert sum(talker.asked.values()) <= 22


@pytest.mark.parametrize("reason", ["STOP", "Stop", "end_turn", "tool_use", None, ""])
def test_other_words_for_a_whole_answer_are_known(talker: Talker, reason: Any) -> None:
    talker.say = lambda body: {"choices": [HELLO | {"finish_reason": reason}]}
    assert [(reply.text, reply.finish) for reply in generate(at(talker), rows(1))] == [("hello", "stop")]
    talker.say = lambda body: {"choices": [HELLO | {"finish_reason": "MAX_TOKENS"}]}
    assert generate(at(talker), rows(1))[0].finish == "length"


def test_an_answer_in_parts_is_its_text_and_its_thought(talker: Talker) -> None:
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    parts = [thought, {"type": "text", "text": "I "}, {"type": "refusal", "refusal": "cannot."}]
    talker.say = lambda body: {"choices": [{"message": {"content": parts}, "finish_reason": "stop"}]}
    [reply] = generate(at(talker), rows(1))
    assert (reply.text, reply.thought) == ("I cannot.", "hm")


AZURE = {"error": {"code": "content_filter", "status": 400, "innererror": {"code": "ResponsibleAIPolicyViolation"}}}


@pytest.mark.parametrize(
    ("status", "said", "why"),
    [
        (400, AZURE, "content_filter"),
        (400, {"error": {"message": "blocked", "code": "content_policy_violation"}}, "blocked"),
        (400, {"error": {"message": "Invalid prompt: flagged as …", "code": "invalid_prompt"}}, "Invalid prompt"),
        (403, {"error": {"code": 403, "message": "no", "metadata": {"flagged_input": "[PROMPT]"}}}, "HTTP 403: no"),
        (400, {"object": "error", "message": "This model's maximum context length is 9 tokens."}, "is 9 tokens"),
        (400, {"error": {"message": "too much", "code": "context_length_exceeded"}}, "too much"),
        (422, {"error": "`inputs` tokens + `max_new_tokens` must be <= 9"}, "must be <= 9"),
        (413, "too large", "HTTP 413"),
        (451, "", "HTTP 451"),
        (200, {"choices": [{"message": {"content": "half"}, "finish_reason": "content_filter"}]}, "content_filter"),
        (200, {"choices": [{"message": {"content": None}, "finish_reason": "content_filter: SAFETY"}]}, "SAFETY"),
        (200, {"choices": [{"finish_reason": "SAFETY"}]}, "SAFETY"),
        (200, {"choices": [{"finish_reason": "content-filter"}]}, "content-filter"),
        (200, {"choices": [{"finish_reason": "ContentFilter"}]}, "ContentFilter"),
        (200, {"choices": [{"finish_reason": "IMAGE_SAFETY"}]}, "SAFETY"),
        (200, {"choices": [{"text": "", "content_filter_results": {"hate": {"filtered": True}}}]}, "content filter"),
        (200, {"choices": [{"finish_reason": "error", "native_finish_reason": "content_filter"}]}, "content_filter"),
        (200, {"choices": [{"finish_reason": {"type": "content_filter"}}]}, "content_filter"),
        (200, {"choices": None, "prompt_filter_results": [{"content_filter_results": {}}]}, "content filter"),
        (200, {"error": {"code": "content_filter", "message": "blocked"}}, "content filter"),
        (200, {"choices": [], "prompt_filter_results": [{"content_filter_results": {}}]}, "content filter"),
    ],
)
def test_what_a_filter_stops_or_is_too_long_is_unread_and_the_others_are_answered(
    talker: Talker, tmp_path: Path, status: int, said: Any, why: str
) -> None:
    kept = tmp_path / "kept.jsonl"
    talker.faults = {"row 3": [(status, {}, said)]}
    for _ in range(2):  # asked once, and read back the second time
        actual = generate(at(talker), rows(6), resume_file=kept)
        assert [reply.unread != "" for reply in actual] == [i == 3 for i in range(6)] and why in actual[3].unread
        assert [reply.text for reply in actual if not reply.unread] == [f"ROW {i}" for i in range(6) if i != 3]
    assert sum(talker.asked.values()) == 6


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_key_or_a_name_that_is_wrong_ends_it_whatever_the_server_says_of_policies(
    talker: Talker, status: int
) -> None:
    talker.faults = {"row 3": [(status, {}, {"error": {"message": "no access by our usage policies"}})] * 9}
    with pytest.raises(EndpointError, match=f"HTTP {status}"):
        generate(at(talker), rows(6))


def test_a_reply_without_text_is_empty_and_a_refusal_of_the_server_is_one(talker: Talker) -> None:
    says = {
        "row 0": {"message": {"content": None, "reasoning": "hm"}, "finish_reason": None},
        "row 1": {"message": {"content": None, "refusal": "I cannot."}, "finish_reason": "stop"},
    }
    talker.say = lambda body: {"choices": [says[body["messages"][0]["content"]]], "usage": None}
    assert [(r.text, r.finish, r.tokens) for r in generate(at(talker), rows(2))] == [
        ("", "stop", 0),
        ("I cannot.", "stop", 0),
    ]


def test_a_proxy_does_not_stand_between_us_and_this_machine(talker: Talker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    assert len(generate(at(talker, retries=0), rows(1))) == 1


# ── what is finished stays finished ──


def test_a_killed_call_goes_on_where_it_was(talker: Talker, tmp_path: Path) -> None:
    """A process of its own, killed while requests are under way: what it had written is not asked again."""
    kept = tmp_path / "deep" / "kept.jsonl"
    asked = [*rows(10), *rows(6, "slow")]
    code = f"""
from pathlib import Path
from unforgotten.datasets.base import ask
from unforgotten.generation.endpoint import Endpoint, generate
rows = [ask(f"row {{i}}") for i in range(10)] + [ask(f"slow {{i}}") for i in range(6)]
generate(Endpoint(url={talker.url!r}, model="a-model", concurrent_requests=3), rows, resume_file=Path({str(kept)!r}))
"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    try:
        deadline = time.monotonic() + 60
        while talker.here < 3 or not kept.exists() or len(kept.read_text().splitlines()) < 10:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.02)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert [key for key in talker.asked if key.startswith("row")] and talker.answered == {
        f"row {i}": 1 for i in range(10)
    }
    with kept.open("a") as file:
        file.write('{"key": "0123456789ab", "text": "half a li')  # what a kill in the middle of a write leaves
    talker.gate.set()
    said: list[tuple[int, int]] = []
    replies = generate(at(talker), asked, resume_file=kept, progress=lambda done, n: said.append((done, n)))
    assert [r.text for r in replies] == [row.request.upper() for row in asked]
    assert talker.asked == {row.request: 1 for row in rows(10)} | {f"slow {i}": 2 if i < 3 else 1 for i in range(6)}, (
        "only the three under way when it was killed are asked twice"
    )
    assert said[0] == (10, 16) and said[-1] == (16, 16)
    lines = [json.loads(line) for line in kept.read_text().splitlines()]
    assert len({line["key"] for line in lines}) == len(lines) == 16
    assert generate(at(talker), asked, resume_file=kept) == replies and sum(talker.asked.values()) == 19


def test_kept_rows_are_those_of_the_same_question_alone(talker: Talker, tmp_path: Path) -> None:
    kept = tmp_path / "kept.jsonl"
    twins = [ask("row 0"), ask("row 0"), ask("row 1")]
    generate(at(talker), twins[:1], resume_file=kept)
    generate(at(talker), twins, resume_file=kept)
    assert talker.asked == {"row 0": 2, "row 1": 1}, "rows that are asked alike are still as many rows"
    generate(at(talker), twins, resume_file=kept)
    assert sum(talker.asked.values()) == 3
    generate(at(talker), twins, max_new_tokens=9, resume_file=kept)
    generate(at(talker, extra={"min_p": 0.1}), twins, resume_file=kept)
    assert sum(talker.asked.values()) == 9
    kept.write_text(kept.read_text().replace('"ROW 1"', '"ROW', 1))  # a line that is no JSON is asked again
    generate(at(talker), twins, resume_file=kept)
    assert talker.asked == {"row 0": 6, "row 1": 4}


def test_probabilities_survive_the_file(talker: Talker, tmp_path: Path) -> None:
    logprobs = {"tokens": ["a"], "token_logprobs": [-0.5], "top_logprobs": [{"a": -0.5, "b": -1.0}]}
    talker.say = lambda body: {"choices": [{"text": "a", "finish_reason": "stop", "logprobs": logprobs}]}
    fresh, again = (complete(at(talker), ["x"], max_new_tokens=1, resume_file=tmp_path / "k.jsonl") for _ in range(2))
    assert fresh == again and sum(talker.asked.values()) == 1


def test_when_the_reader_goes_away_the_workers_stop() -> None:
    begun: list[int] = []
    stopped = threading.Event()

    def work(index: int, stop: threading.Event) -> int:
        begun.append(index)
        if index and stop.wait(10):
            stopped.set()
        return index

    actual = each(work, range(100), 2)
    assert next(actual) == (0, 0)
    actual.close()
    assert stopped.wait(10) and len(begun) <= 4


def test_the_facts_of_decoding_name_no_address(talker: Talker) -> None:
    assert decoding(at(talker), max_new_tokens=8) == {
        "strategy": "greedy",
        "max_new_tokens": 8,
        "engine": "endpoint",
        "model": "a-model",
        "extra": {},
    }
    assert decoding(at(talker), temperature=0.5, seed=3)["seed"] == 3
