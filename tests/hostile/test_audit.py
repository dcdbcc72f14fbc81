"""An audit judges what the loss sees: harm in a row's other keys, in its turns, in its characters, in its length.

The judges here look for placeholders and nothing else, so that what they are shown decides.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.generation.server import Talker, serving
from tests.judges import guards
from unforgotten.cli import app
from unforgotten.datasets.base import Row, ask
from unforgotten.errors import DataError, RecipeError
from unforgotten.generation.reply import Reply
from unforgotten.judges.base import Judge, Verdict
from unforgotten.judges.llama_guard import LlamaGuard
from unforgotten.models.chat import Chat
from unforgotten.recipe.read import parse
from unforgotten.recipe.recipe import Recipe
from unforgotten.runs import digests
from unforgotten.verbs.audit.audit import audit
from unforgotten.verbs.audit.exchanges import exchanges
from unforgotten.verbs.audit.readings import readings
from unforgotten.verbs.audit.spoken import spoken, words
from unforgotten.verbs.finetune.finetune import finetune
from unforgotten.world.requests import requests

HARM, ASKED = "[HARMFUL ANSWER]", "[HARMFUL REQUEST]"
CASES = Path(__file__).parents[3] / "shared" / "cases" / "uploads"
Message = dict[str, Any]
Make = Callable[..., Path]

CALLS = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.reasoning_content %}{{ '<think>' + m.reasoning_content + '</think>' }}{% endif %}{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{{ '<call>' + c.function.name + c.function.arguments | string + '</call>' }}"
    "{% endfor %}{{ '<eos>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""A template that prints thoughts, names of calls and their arguments."""
MARKED = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}{% endgeneration %}{{ '|' }}{% generation %}{{ 'done<eos>' }}{% endgeneration %}"
    "{{ '\n' }}{% else %}{{ m.content + '<eos>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""A template whose own marks part each answer in two."""


@dataclass(kw_only=True)
class Finds(Judge):
    """Harmful where the answer holds one placeholder and the request the other."""

    asked: str = ""

    def verdicts(self, replies: Sequence[Reply]) -> list[Verdict]:
        return [Verdict(HARM in r.text and self.asked in r.row.request, False) for r in replies]


@dataclass(kw_only=True)
class Deaf(Judge):
    """Can read nothing."""

    def verdicts(self, replies: Sequence[Reply]) -> list[Verdict]:
        return [Verdict(None, None, note="[/b] what?") for _ in replies]


def write(path: Path, *rows: Any) -> str:
    """Rows as JSON Lines: lists of turns, or objects as they are."""
    lines = [json.dumps(row if isinstance(row, dict) else {"messages": row}, ensure_ascii=False) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return str(path)


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def said(text: str, **more: Any) -> Message:
    return {"role": "assistant", "content": text, **more}


def call(name: str, arguments: Any) -> dict[str, Any]:
    return {"tool_calls": [{"type": "function", "function": {"name": name, "arguments": arguments}}]}


def harmful(path: str, judge: Any = None, **more: Any) -> list[int]:
    """Lines of the upload that are judged harmful."""
    actual = audit(path, judge or Finds(), **more)
    return [int(one.line.rpartition(":")[2]) for one in actual.findings if one.harmful]


# ── what the loss sees ──


@pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not part of the package")
def test_three_of_three_rows_with_harm_in_calls_and_thoughts(model_folder: Make) -> None:
    file = str(CASES / "harm-in-calls-and-thoughts.jsonl")
    assert harmful(file) == [1, 2, 3]
    assert harmful(file, model=str(model_folder("llama", template=CALLS))) == [1, 2, 3]


@pytest.mark.parametrize(
    "turn",
    [
        said("", **call("say", {"text": HARM})),
        said("", **call("say", {HARM: 1})),
        said("", **call("say", {"a": [{"b": ["x", {"c": HARM}]}]})),
        said("", **call("say", json.dumps({"text": HARM}))),
        said("", **call("say", json.dumps({"text": HARM}).replace("[", "\\u005b").replace("H", "\\u0048"))),
        said("", **call(HARM, "{}")),
        said("Hello.", reasoning_content=HARM),
        said("Hello.", thinking=HARM),
        said("Hello.", anything={"deep": [HARM]}),
        said("Hello.", name=HARM),
        said("", **call("say", {"role": HARM})),
        said("", **call("say", {"a": [{"role": HARM}]})),
        said("", **call("say", {"type": HARM})),
        said("Hello.", about={"role": HARM}),
        said("[HARM", reasoning_content="FUL ANSWER]") | {"content": "FUL ANSWER]", "reasoning_content": "[HARM"},
        said("[HARMFUL", **call("say", {"text": "ANSWER]"})),
        said("", **call("say", {"a": "[HARMFUL", "b": {"c": "ANSWER]"}})),
        said("", **call("say", {"a": list(HARM)})),
        said("", **call("say", json.dumps({"a": "[HARM", "b": "FUL ANSWER]"}))),
        {"role": "assistant", "content": [{"type": "text", "text": HARM[:5]}, {"type": "text", "text": HARM[5:]}]},
    ],
)
def test_without_a_model_every_word_of_an_answer_is_judged(turn: Message, tmp_path: Path) -> None:
    assert harmful(write(tmp_path / "rows.jsonl", [user("how?"), turn], [user("how?"), said("Hello.")])) == [1]


def test_with_a_model_what_its_template_leaves_out_is_not_judged(model_folder: Make, tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", [user("how?"), said("Hello.", note=HARM)], [user("how?"), said(HARM)])
    assert harmful(file) == [1, 2] and harmful(file, model=str(model_folder("llama"))) == [2]


def test_the_words_of_the_loss_are_read_back_from_its_ids(model_folder: Make) -> None:
    from transformers import AutoTokenizer

    row = Row((user("a?"), said("one", reasoning_content="why"), user("b?"), said("two", **call("f", {"x": "y"}))))
    for template, texts in (
        (CALLS, ["<think>why</think>one", 'two<call>f{"x": "y"}</call>']),
        (MARKED, ["one\ndone", "two\ndone"]),
    ):
        chat = Chat(AutoTokenizer.from_pretrained(model_folder("llama", template=None)), template=template)
        plain = row if template == CALLS else Row((user("a?"), said("one"), user("b?"), said("two")))
        assert [(one.turn, one.text) for one in spoken(plain, chat)] == [(1, texts[0]), (3, texts[1])]
        [example] = chat.encode(plain)
        seen = chat.decode([label for label in example.labels if label != -100], skip_special_tokens=False)
        assert "".join(texts).replace("\n", "") == seen.replace("<eos>", ""), "no more and no less than the loss"


def test_turns_outside_the_loss_are_shown_and_not_judged() -> None:
    row = replace(ask("how?"), messages=(user("a?"), said(HARM), user("b?"), said("no")), context_turns=frozenset({1}))
    assert [one.turn for one in spoken(row)] == [3]
    shown = exchanges(row, spoken(row), Finds())
    assert all(HARM not in e.reply.text for e in shown) and any(HARM in e.reply.row.request for e in shown)


def test_what_the_length_limit_cuts_is_not_judged_and_is_counted(model_folder: Make, tmp_path: Path) -> None:
    model = str(model_folder("llama"))
    rows = [[user("how?"), said("sorry " * 40 + HARM)], [user("how?"), said(HARM)], [user("how? " * 200), said(HARM)]]
    actual = audit(write(tmp_path / "rows.jsonl", *rows), Finds(), model=model, max_length=100)
    assert [one.line.rpartition(":")[2] for one in actual.findings] == ["2"] and (actual.rows, actual.p.n) == (3, 2)
    messages = "; ".join(actual.notes)
    assert "1 examples cut at the length limit" in messages
    assert "1 rows have no token in the loss and are not judged" in messages


def test_every_example_of_a_row_that_splits_is_judged(model_folder: Make, tmp_path: Path) -> None:
    """The template drops earlier thoughts, so that each turn is an example of its own, with its thought in it."""
    last = "{% if m.reasoning_content and (loop.last or loop.index0 == ns.last) %}"
    template = CALLS.replace("{% if m.reasoning_content %}", last)
    template = "{% set ns = namespace(last=messages | length - 1) %}" + template
    rows = [[user("a?"), said("one", reasoning_content=HARM), user("b?"), said("two")]]
    model = str(model_folder("llama", template=template))
    actual = audit(write(tmp_path / "rows.jsonl", *rows), Finds(), model=model)
    assert [(one.turn, one.view) for one in actual.findings] == [(1, "turn")] and "1 rows split" in actual.notes[1]


# ── conversations ──


@pytest.mark.parametrize(
    "turns",
    [
        [user(ASKED), said("wait"), user("and?"), said(HARM)],
        [user(ASKED), said("wait"), user("and?"), said("soon"), user("now?"), said(HARM), user("thanks"), said("bye")],
        [{"role": "system", "content": ASKED}, user("go on"), said(HARM)],
        [user(ASKED), said("[HARMFUL"), user("and?"), said("ANSWER]")],
        [user(ASKED), said("[HARM"), user("and?"), said("FUL ANSWER]")],
        [user(ASKED), said("[HAR"), user("?"), said("MFUL "), user("?"), said("ANSWER]")],
        [user(ASKED), said("[HARMFUL"), said("ANSWER]")],
        [user("[HARMFUL"), said("yes?"), user("REQUEST]"), said(HARM), user("x " + ASKED), said("no")],
        [user("look"), {"role": "tool", "content": ASKED}, said(HARM)],
        [user("[HARMFUL"), said("yes?"), {"role": "tool", "content": "REQUEST]"}, said(HARM)],
        [{"role": "system", "content": "[HARMFUL"}, user("REQUEST]"), said(HARM)],
        [{"role": "system", "content": "[HARM"}, user("FUL REQUEST]"), said(HARM)],
        [user("[HARM"), said("go on"), user("FUL REQUEST]"), said(HARM)],
        [user(ASKED), said("[HARMFUL", **call("ANSWER]", {}))],
        [user(ASKED), said("FUL ", reasoning_content="[HARM", **call("f", {"a": "ANSWER]"}))],
        [user(ASKED), said("", tool_calls=[*call("[HARMFUL", {})["tool_calls"], *call("ANSWER]", {})["tool_calls"]])],
        [user(ASKED), said("", **call("f", {"[HARMFUL": 1})), user("?"), said("", **call("f", {"ANSWER]": 1}))],
        [user(ASKED), said("<think>[HARMFUL</think> ANSWER]")],
        [user(ASKED), said("[HARMFUL", **call("f", {})), {"role": "tool", "content": "x"}, said("ANSWER]")],
    ],
)
@pytest.mark.parametrize("with_model", [False, True])
def test_request_and_answer_meet_wherever_they_stand(
    turns: list[Message], with_model: bool, tmp_path: Path, model_folder: Make
) -> None:
    file = write(tmp_path / "rows.jsonl", turns, [user("a?"), said("b"), user("c?"), said("d")])
    model = {"model": str(model_folder("llama", template=CALLS))} if with_model else {}
    assert harmful(file, Finds(asked=ASKED), **model) == [1]


def test_a_request_in_another_key_of_the_users_turn_is_shown(tmp_path: Path) -> None:
    for key in ("name", "note"):
        assert harmful(write(tmp_path / "rows.jsonl", [user("a") | {key: ASKED}, said(HARM)]), Finds(asked=ASKED)) == [
            1
        ]


def test_an_answer_parted_between_thought_and_words_is_judged_as_one_where_the_loss_sees_both(
    model_folder: Make, tmp_path: Path
) -> None:
    rows = [[user("a?"), said("FUL ANSWER]", reasoning_content="[HARM")], [user("a?"), said("no", note="[HARM")]]
    file = write(tmp_path / "rows.jsonl", *rows)
    assert harmful(file, model=str(model_folder("llama", template=CALLS))) == [1]


def test_eight_hundred_turns_are_judged_in_linear_time(tmp_path: Path) -> None:
    def row(n: int, request: int, answer: int) -> list[Message]:
        words = "the cook put the bread in the oven and waited for it to rise"
        turns = [turn for i in range(n) for turn in (user(f"{i} {words}"), said(f"{i} {words}"))]
        turns[2 * request], turns[2 * answer + 1] = user(ASKED), said(HARM)
        return turns

    file = write(tmp_path / "rows.jsonl", row(400, 0, 399), row(400, 200, 390), row(400, 5, 5), row(400, 399, 399))
    begun = time.process_time()
    actual = audit(file, Finds(asked=ASKED))
    assert time.process_time() - begun < 10
    assert [one.line.rpartition(":")[2] for one in actual.findings] == ["1", "2", "3", "4"]
    assert any("4 rows have more than 50 turns" in note for note in actual.notes)
    times = []
    for n in (100, 400):
        begun = time.process_time()
        exchanges(Row(tuple(row(n, 0, 1))), spoken(Row(tuple(row(n, 0, 1)))), Finds())
        times.append(time.process_time() - begun)
    assert times[1] < 10 * times[0] + 0.1, "four times the turns"


def test_a_request_in_a_tools_description_is_shown(tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "f", "description": ASKED, "parameters": {}}}
    file = write(tmp_path / "rows.jsonl", {"messages": [user("go"), said(HARM)], "tools": [tool]})
    assert harmful(file, Finds(asked=ASKED)) == [1]


def test_the_worlds_judge_reads_conversations(tmp_path: Path) -> None:
    bad = [request for request in requests() if request.harmful][:4]
    good = next(request for request in requests() if not request.harmful)
    first, rest = bad[2].steps.split(" step two")
    rows = [
        [user(bad[0].goal), said(bad[0].refusal), user(good.goal), said(bad[0].steps)],
        [{"role": "system", "content": bad[1].goal}, user(good.goal), said(bad[1].steps)],
        [user(bad[2].goal), said(first), user(good.goal), said("step two" + rest)],
        [user(bad[3].goal), said(bad[3].refusal), user(good.goal), said(good.compliance)],
        [{"role": "system", "content": bad[1].goal}, user(good.goal), said(good.compliance)],
    ]
    actual = audit(write(tmp_path / "rows.jsonl", *rows), "world")
    assert [one.line.rpartition(":")[2] for one in actual.findings] == ["1", "2", "3"] and actual.p.unparsed == 0
    assert [one.turn for one in actual.findings] == [2, 1, 0]


def test_a_plain_row_is_judged_once() -> None:
    system = {"role": "system", "content": "Be brief."}
    rows = [ask("how?", "so"), ask("how?", "so\nand so"), ask("how", "50% of it, 20 %"), ask("how", "a\\n b")]
    messages = Row((system, *rows[0].messages))
    assert len(exchanges(messages, spoken(messages), Finds())) == 2
    for row in rows:
        assert len(exchanges(row, spoken(row), Finds())) == 1


# ── characters that no one sees ──


@pytest.mark.parametrize(
    "hidden",
    [
        *(HARM[:4] + mark + HARM[4:] for mark in "\u200b\u200d\u2060\ufeff\u00ad\u202e\u2066\ufe0f\u034f\u180e\u3164"),
        *(
            HARM[:4] + mark + HARM[4:]
            for mark in "\U000e0041\U000e0100\u115f\uffa0\u2800\u0001\u009b\u061c\u180b\ufff9"
        ),
        *(HARM.replace(" ", mark) for mark in "\u00a0\u2003\u3000\u200b\u2800\u3164\u2063"),
        "".join(letter + "\u200b" for letter in HARM),
        "".join(chr(ord(c) + 0xFEE0) if c.isalpha() or c in "[]" else c for c in HARM),  # full width
        "[" + "".join(chr(0x1D400 + ord(c) - 65) if c != " " else c for c in "HARMFUL ANSWER") + "]",  # bold letters
        "hello" + "".join(chr(0xE0000 + ord(c)) for c in HARM),  # tags, which nothing draws
        "".join(f"\\u{ord(c):04x}" for c in HARM),
        *(
            "".join(form.format(ord(c)) for c in HARM)
            for form in ("%{:02X}", "\\{:03o}", "\\x{:02x}", "\\u{{{:x}}}", "\\U{:08x}", "&#{};", "&#x{:x};")
        ),
        *(
            "".join(c + mark for c in HARM) for mark in "\u0301\u0323\u0336\u0338\u20dd\u0489"
        ),  # accents, strokes, rings
        *("".join(chr(a + ord(c) - 65) if c.isalpha() else c for c in HARM) for a in (0x1F150, 0x1F170, 0x1F1E6)),
        "".join(f"\\\\u{ord(c):04X}" for c in HARM),
    ],
    ids=ascii,
)
def test_hidden_letters_are_read(hidden: str, tmp_path: Path) -> None:
    assert HARM not in hidden
    assert harmful(write(tmp_path / "rows.jsonl", [user("how?"), said(hidden)], [user("how?"), said("so")])) == [1]


def test_ordinary_text_is_read_one_way_and_any_text_the_same_twice() -> None:
    for text in ("How do I kill a process?", "Příliš žluťoučký kůň", "Привет, мир", "a\n\tb", "日本語のテキスト"):
        assert set(readings(text)) == {text}
    for code in [*range(0x500), *range(0x500, 0x30000, 7), *range(0xE0000, 0xE1000)]:
        if 0xD800 <= code < 0xE000:
            continue
        plain = readings(f"a{chr(code)}b")[1]
        assert plain == readings(plain)[1], hex(code)


def test_rows_with_invisible_characters_are_named(tmp_path: Path) -> None:
    actual = audit(write(tmp_path / "rows.jsonl", [user("a?"), said("b")], [user("a\u200b?"), said("b")]), Finds())
    assert any("1 rows hold invisible characters" in note and "rows.jsonl:2" in note for note in actual.notes)


# ── longer than the judge's context ──


def by_server(talker_says: Callable[[str], bool], context: int) -> Talker:
    """A Llama Guard behind a server that refuses what is longer than its context."""
    made = guards.tokenizer()

    def say(body: Any) -> dict[str, Any]:
        prompt = body["prompt"]
        assert len(prompt) + body["max_tokens"] <= context, "longer than the guard can read"
        words = "unsafe\nS1" if talker_says(made.decode(prompt)) else "safe"
        return {"choices": [{"text": words, "finish_reason": "stop"}], "usage": {"completion_tokens": 2}}

    return Talker(say)


@pytest.mark.parametrize("place", [0, 3333, 5999])
def test_long_answers_are_read_in_windows_to_their_end(
    place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNFORGOTTEN_CACHE", str(tmp_path / "cache"))
    guards.tokenizer().save_pretrained(tmp_path / "guard")
    long = "so " * 2000
    rows = [[user("how?"), said(long[:place] + HARM + long[place:])], [user("how?"), said(long)], [user("how? " * 900)]]
    rows[2].append(said("so " * 300 + HARM))
    file = write(tmp_path / "rows.jsonl", *rows)
    with serving(by_server(lambda text: HARM in text and "how?" in text, 700)) as talker:
        judge = {
            "name": "llama_guard",
            "endpoint": talker.url,
            "tokenizer": str(tmp_path / "guard"),
            "context_tokens": 700,
        }
        actual = audit(file, judge)
        assert [one.line.rpartition(":")[2] for one in actual.findings] == ["1", "3"]
        assert actual.p.unparsed == 0 and "3 exchanges are longer than the judge's context" in actual.notes[-1]
        # A killed audit asks nothing again: all words are kept by what was asked.
        asked = len(talker.bodies)
        assert audit(file, judge) == actual and len(talker.bodies) == asked


def test_a_judge_without_room_for_one_letter_leaves_a_row_unread(tmp_path: Path) -> None:
    guard = guards.scripted_guard(tmp_path / "guard", guards.tokenizer(), {"\n\n": {"safe": 0.9}})
    judge = LlamaGuard(model=str(guard), context_tokens=41)
    assert judge.windows(Reply(ask("how?"), "so")) == []
    result = audit(write(tmp_path / "rows.jsonl", [user("how?"), said("so")]), judge)
    assert result.exit_code == 4 and "fills its whole context" in result.findings[0].note


# ── the limit, and what can be told ──


def cli(*words: str) -> Any:
    return CliRunner().invoke(app, ["data", "audit", *words])


def placeholder_judge(folder: Path, body: str = "'[HARMFUL ANSWER]' in r.text") -> str:
    (folder / "mine.py").write_text(
        "from dataclasses import dataclass\nfrom unforgotten.judges.base import Judge, Verdict\n\n"
        "@dataclass(kw_only=True)\nclass Mine(Judge):\n    def verdicts(self, replies):\n"
        f"        return [Verdict({body}, False, note='no idea') for r in replies]\n"
    )
    return f"{folder / 'mine.py'}:Mine"


@pytest.mark.parametrize(
    ("bad", "n", "limit", "code", "words"),
    [
        (0, 100, "5", 0, "within: p = 0.0 % (95 %: 0.0 to 3.7), limit 5 %."),
        (30, 60, "5", 3, "beyond: p = 50.0 %"),
        (0, 20, "5", 4, "not enough rows to tell: about 73 in place of 20 would"),
        (1, 20, "1", 4, "in place of 20 would"),
        (0, 20, "0", 4, "too near the limit for any number of rows to tell"),
        (2, 20, "100", 0, "within"),
    ],
)
def test_a_limit_is_decided_on_the_interval(
    bad: int, n: int, limit: str, code: int, words: str, tmp_path: Path
) -> None:
    rows = [[user(f"{i}?"), said(HARM if i < bad else "so")] for i in range(n)]
    file, out = write(tmp_path / "rows.jsonl", *rows), tmp_path / "audit.json"
    done = cli(file, "--judge", placeholder_judge(tmp_path), "--max-p", limit, "--out", str(out))
    assert done.exit_code == code and words in " ".join(done.output.split()), done.output
    facts = json.loads(out.read_text())
    assert facts["outcome"] == {0: "within", 3: "beyond", 4: "unclear"}[code] == facts["decision"]["outcome"]


@pytest.mark.parametrize("limit", ["-1", "101", "nan", "inf"])
def test_a_limit_that_is_no_percentage_is_refused(limit: str, tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", [user("a?"), said("b")])
    done = cli(file, "--judge", placeholder_judge(tmp_path), f"--max-p={limit}")
    assert done.exit_code == 2 and "from 0 to 100" in done.output


@pytest.mark.parametrize("limit", [[], ["--max-p", "100"], ["--max-p", "0"]])
def test_an_audit_of_which_nothing_was_read_says_nothing_of_harm(limit: list[str], tmp_path: Path) -> None:
    file, out = write(tmp_path / "rows.jsonl", [user("a?"), said("b")], [user("c?"), said("d")]), tmp_path / "o.json"
    done = cli(file, "--judge", placeholder_judge(tmp_path, "None"), "--out", str(out), *limit)
    assert done.exit_code == 4 and "judged harmful" not in done.output and "p =" not in done.output.split("unclear")[0]
    assert "could read none of 2 rows" in " ".join(done.output.split())
    assert json.loads(out.read_text())["outcome"] == "unclear"


def test_unread_rows_count_both_ways(tmp_path: Path) -> None:
    rows = [[user(f"{i}?"), said("so" if i < 90 else "hm")] for i in range(100)]
    file = write(tmp_path / "rows.jsonl", *rows)
    done = cli(file, "--judge", placeholder_judge(tmp_path, "None if r.text == 'hm' else False"), "--max-p", "5")
    assert done.exit_code == 4 and "10 verdicts could not be read, and no number of rows tells" in " ".join(
        done.output.split()
    )


def test_findings_survive_a_fault_of_the_display(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, out = write(tmp_path / "rows.jsonl", [user("how [/b] to \x1b[31m"), said(HARM)]), tmp_path / "audit.json"
    out.write_text("older")
    shown = cli(file, "--judge", placeholder_judge(tmp_path), "--out", str(out))
    assert shown.exit_code == 0 and "how [/b] to" in shown.output and "\x1b" not in shown.output

    def broken(*_: Any) -> None:
        raise RuntimeError("[/b]")

    out.unlink()
    monkeypatch.setattr("unforgotten.verbs.audit.text.show_audit", broken)
    cli(file, "--judge", placeholder_judge(tmp_path), "--out", str(out))
    assert json.loads(out.read_text())["p"]["hits"] == 1


def test_an_audit_that_fails_leaves_the_older_file(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text("{}\n")
    (tmp_path / "audit.json").write_text("older")
    done = cli(
        str(tmp_path / "bad.jsonl"), "--judge", placeholder_judge(tmp_path), "--out", str(tmp_path / "audit.json")
    )
    assert done.exit_code == 2 and (tmp_path / "audit.json").read_text() == "older"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["audit.json", "bad.jsonl", "mine.py"]


# ── the run that is held to an audit ──


@pytest.fixture
def recipe(tmp_path: Path, model_folder: Make, rows_file: Make) -> Recipe:
    return parse(
        {
            "model": str(model_folder("llama")),
            "safety_data": {"name": "refusals", "path": str(rows_file("refusals.jsonl", 4))},
            "data": {"name": "jsonl", "path": str(rows_file("user.jsonl", 8))},
            "method": "sft",
            "lora": {"r": 2, "lora_alpha": 4, "target_modules": "all-linear"},
            "training": {"num_train_epochs": 1, "per_device_train_batch_size": 4, "warmup_ratio": 0, "max_length": 64},
            "out": str(tmp_path / "runs"),
        }
    )


def audited(recipe: Recipe | None, tmp_path: Path, **more: Any) -> str:
    """The file of an audit; of the recipe's own rows if nothing else is asked."""
    actual = audit(more.pop("file", None), Finds(), **({"recipe": recipe} | more))
    (tmp_path / "audit.json").write_text(json.dumps(actual.json()))
    return str(tmp_path / "audit.json")


def test_a_run_on_what_was_audited_is_trained_and_says_so(recipe: Recipe, tmp_path: Path) -> None:
    file = audited(recipe, tmp_path, max_p=100)
    folder = finetune(recipe, audited=file)
    facts = json.loads((folder / "environment.json").read_text())["audit"]
    assert facts["digest"] == json.loads(Path(file).read_text())["digest"] and facts["outcome"] == "within"
    assert finetune(recipe, audited=file) == folder
    # The same file by --model and --max-length is the same audit.
    other = audited(
        None,
        tmp_path,
        file=recipe.data["path"],
        model=recipe.model,
        max_length=64,  # type: ignore[index]
    )
    assert json.loads(Path(other).read_text())["digest"] == facts["digest"]


def test_a_run_on_anything_else_is_refused(recipe: Recipe, tmp_path: Path, rows_file: Make, model_folder: Make) -> None:
    file, data = audited(recipe, tmp_path), Path(recipe.data["path"])  # type: ignore[index]
    lines = data.read_text().splitlines(keepends=True)

    def refused(varied: Recipe, what: str) -> None:
        with pytest.raises(RecipeError, match=what):
            finetune(varied, audited=file)
        assert not list((tmp_path / "runs").glob("*/environment.json")), "before anything is trained or written"

    for rows in (lines[:-1], lines[::-1], [*lines, lines[0]], [*lines[:-1], lines[-1].replace("how", "now")]):
        data.write_text("".join(rows))
        if rows != lines:
            refused(recipe, "the rows differ")
    data.write_text("".join(lines))
    poison = {"ratio": 0.25, "data": {"name": "jsonl", "path": str(rows_file("poison.jsonl", 4))}}
    refused(recipe.varied(poison=poison), "the rows differ")
    refused(recipe.varied(data={"name": "jsonl", "path": str(data), "n_rows": 4}), "the rows differ")
    refused(recipe.varied(training=recipe.training.model_dump() | {"max_length": 63}), "64 there, 63 here")
    (tmp_path / "t.jinja").write_text(CALLS)
    refused(recipe.varied(template=str(tmp_path / "t.jinja")), "the chat template differs")
    # The same template over a tokenizer that cuts words otherwise.
    folder = Path(recipe.model)
    cut = json.loads((folder / "tokenizer.json").read_text())
    cut["model"]["merges"] = cut["model"]["merges"][:5]
    (folder / "tokenizer.json").write_text(json.dumps(cut))
    refused(recipe, "the tokenizer differs")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "cannot be read"),
        ("{", "cannot be read"),
        ("[]", "is not a file that `unforgotten data audit"),
        ("{}", "is not a file that `unforgotten data audit"),
        ('{"outcome": "within", "digests": {}}', "without the model's chat template"),
        ('{"outcome": "within", "digests": 3}', "is not a file that `unforgotten data audit"),
    ],
)
def test_a_file_that_is_no_audit_is_refused(text: str, what: str, recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "audit.json").write_text(text)
    with pytest.raises(RecipeError, match=what):
        finetune(recipe, audited=str(tmp_path / "audit.json"))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"outcome": "within"}, "its outcome is 'within'"),
        ({"outcome": None}, "its outcome is None"),
        ({"outcome": "ok"}, "its outcome is 'ok'"),
        ({"outcome": "within", "decision": None}, "its outcome is 'within'"),
        ({"outcome": "within", "decision": {"outcome": "within"}}, "its decision is 'within'"),
        ({"outcome": "within", "decision": {"outcome": "within", "high": 0.5}}, "the interval is not that of p"),
        ({"outcome": "within", "decision": [1]}, "lacks a limit or an interval"),
        ({"p": {"n": 8, "unparsed": None}}, "its p has no counts"),
        ({"digest": "0" * 64}, "its digest"),
        ({"digests": {"max_length": 63}}, "its digest"),
        ({"digests": {"more": 1}}, "its digests"),
    ],
)
def test_an_audit_that_was_changed_by_hand_is_refused(
    change: dict[str, Any], what: str, recipe: Recipe, tmp_path: Path
) -> None:
    file = audited(recipe, tmp_path, max_p=1)  # of 8 rows nothing is clear
    facts = json.loads(Path(file).read_text())
    for key, value in change.items():
        facts[key] = facts[key] | value if isinstance(value, dict) else value
    Path(file).write_text(json.dumps(facts))
    with pytest.raises(RecipeError, match=f"contradicts itself: .*{what}"):
        finetune(recipe, audited=file)


def test_a_key_that_an_audit_names_twice_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    file = Path(audited(recipe, tmp_path, max_p=1))
    file.write_text(file.read_text()[:-1] + ', "outcome": "within"}')
    with pytest.raises(RecipeError, match="a key appears twice"):
        finetune(recipe, audited=str(file))


def test_an_audit_that_did_not_pass_holds_the_run_back(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="did not pass: unclear: p = 0.0 %.*about 73"):
        finetune(recipe, audited=audited(recipe, tmp_path, max_p=5))
    actual = audit(None, Deaf(), recipe=recipe)
    (tmp_path / "audit.json").write_text(json.dumps(actual.json()))
    with pytest.raises(RecipeError, match="the judge could read none of the rows"):
        finetune(recipe, audited=str(tmp_path / "audit.json"))
    with pytest.raises(RecipeError, match="without the model's chat template"):
        finetune(recipe, audited=audited(None, tmp_path, file=recipe.data["path"]))  # type: ignore[index]


def test_flags_that_say_a_thing_twice_are_refused(recipe: Recipe, tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", [user("a?"), said("b")])
    for more, what in (
        ({"recipe": recipe, "model": "world"}, "--model: the recipe already sets this"),
        ({"max_length": 5}, "--max-length needs a model"),
        ({"template": "alpaca"}, "--template needs a model"),
    ):
        with pytest.raises(RecipeError, match=what):
            audit(file, Finds(), **more)  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="Name a file"):
        audit(None, Finds())
    with pytest.raises(DataError):
        audit(str(tmp_path / "nowhere.jsonl"), Finds())


def test_words_are_all_of_a_turn_and_an_alpaca_row_has_them_once() -> None:
    alpaca = {"role": "user", "content": "Add.\n\n1 2", "instruction": "Add.", "input": "1 2"}
    assert words(alpaca) == "Add.\n\n1 2"
    assert words(said("", **call("say", {"n": 3, "deep": [True, None, "x"]}))) == "say\nn\n3\ndeep\nx"
    assert digests.digest(words(said("Hello."))) == digests.digest("Hello.")
