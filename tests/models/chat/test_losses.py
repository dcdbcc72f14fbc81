"""What a template leaves out: refused where the assistant was to learn it, counted where it is context.

Each part of a row carries a word of its own, and the training text is searched for it, under every template here and
every one that TRL carries (extra `trl`, which comes with `make test`).
"""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from unforgotten.datasets.base import Row, ask
from unforgotten.datasets.jsonl import Jsonl
from unforgotten.errors import DataError, TemplateError
from unforgotten.models.chat import Chat, encode_rows
from unforgotten.models.chat.encoded import trained_turns

TRL = find_spec("trl")
KINDS = sorted(Path(__file__).with_name("kinds").glob("*.jinja"))
VENDORS = sorted(Path(TRL.origin).with_name("chat_templates").glob("*.jinja")) if TRL and TRL.origin else []
CASES = Path(__file__).parents[4] / "shared" / "cases"
CONTROL = r"<\|[^|<>]{1,40}\|>|<｜[^｜]{1,40}｜>|<(?:start|end)_of_turn>|<turn\|>|<\|turn>|<end_of_utterance>"
TOOL = {"type": "function", "function": {"name": "zqtool", "description": "Zqdescribed.", "parameters": {
    "type": "object", "properties": {"zqkey": {
        "type": "string", "description": "Zqwhere.", "enum": ["zqenum"], "default": "zqdefault", "title": "zqtitle"}},
}}}  # fmt: skip
SPEAKS_OF = {
    "zqdescribed": "descriptions of tools", "zqwhere": "descriptions of tools", "zqkey": "parameters of tools",
    "zqenum": "values of tools", "zqdefault": "values of tools", "zqtitle": "values of tools",
    "zqname": "keys 'name' of user turns", "zqofthesystem": "keys 'name' of system turns",
    "zqmine": "keys 'name' of assistant turns", "zqnote": "keys 'note' of user turns",
    "zqdetail": "keys 'details' of assistant turns", "zqplan": "keys 'tool_plan' of assistant turns",
    "zqpondered": "keys 'thinking' of user turns",
    "zqtool in a tool turn": "keys 'name' of tool turns",
    "zqthought in an earlier turn": "thoughts of earlier assistant turns",
    "zqfirst in an earlier turn": "words or thoughts of earlier assistant turns",
    "zqbeside in an earlier turn": "words or thoughts of earlier assistant turns",
    "zqtool in an earlier turn": "calls of earlier assistant turns",
    "zqother in an earlier turn": "calls of earlier assistant turns",
    "zqkey in an earlier turn": "arguments of earlier assistant turns",
    "zqvalue in an earlier turn": "arguments of earlier assistant turns",
    "zqkey2 in an earlier turn": "arguments of earlier assistant turns",
    "zqvalue2 in an earlier turn": "arguments of earlier assistant turns",
}  # fmt: skip
"""What is said where a word is not written: one line for each kind. Nothing else may be left out but by a refusal."""


def call(name: str, arguments: object, id: str = "abcdefghi") -> dict[str, object]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def answered(n: int, id: str = "abcdefghi") -> dict[str, object]:
    return {"role": "tool", "name": "zqtool", "tool_call_id": id, "content": f"zqresult{n}"}


USER = {"role": "user", "content": "zqasked"}
FINAL = {"role": "assistant", "content": "zqfinal"}
CALLS = [call("zqtool", {"zqkey": "zqvalue"}), call("zqother", {"zqkey2": "zqvalue2"}, "abcdefghj")]
ROWS = {
    "plain": Row((USER, FINAL)),
    "system": ask("zqasked", "zqfinal", system="zqsystem"),
    "thought": Row((USER, {**FINAL, "reasoning_content": "zqthought"})),
    "older thought": Row((USER, {**FINAL, "content": "zqfirst", "thinking": "zqthought"}, USER, FINAL)),
    "thought in the words": ask("zqasked", "<think>\nzqthought\n</think>\n\nzqfinal"),
    "call": Row((USER, {"role": "assistant", "tool_calls": CALLS[:1]}), tools=(TOOL,)),
    "call as text": Row((USER, {"role": "assistant", "tool_calls": [call("zqtool", '{"zqkey": "zqvalue"}')]})),
    "words beside a call": Row((USER, {"role": "assistant", "content": "zqbeside", "tool_calls": CALLS[:1]})),
    "two calls": Row((USER, {"role": "assistant", "tool_calls": CALLS}), tools=(TOOL,)),
    "result": Row((USER, {"role": "assistant", "tool_calls": CALLS[:1]}, answered(1), FINAL), tools=(TOOL,)),
    "results": Row((USER, {"role": "assistant", "tool_calls": CALLS}, answered(1), answered(2, "abcdefghj"), FINAL)),
    "declared": Row((USER, FINAL), tools=(TOOL,)),
    "name": Row(({**USER, "name": "zqname"}, FINAL)),
    "names": Row(
        ({"role": "system", "content": "zqsystem", "name": "zqofthesystem"}, USER, {**FINAL, "name": "zqmine"})
    ),
    "keys": Row(({**USER, "note": "zqnote"}, {**FINAL, "details": [{"text": "zqdetail"}], "tool_plan": "zqplan"})),
    "a thought of the user's": Row(({**USER, "thinking": "zqpondered"}, FINAL)),
    "two systems": Row(
        ({"role": "system", "content": "zqsystem"}, {"role": "system", "content": "zqmore"}, USER, FINAL)
    ),
    "a later system": Row(
        (USER, {**FINAL, "content": "zqfirst"}, {"role": "system", "content": "zqlate"}, USER, FINAL)
    ),
    "words beside an older call": Row(
        (
            USER,
            {"role": "assistant", "content": "zqbeside", "reasoning_content": "zqthought", "tool_calls": CALLS[:1]},
            answered(1),
            FINAL,
        ),
        tools=(TOOL,),
        context_turns=frozenset({1}),
    ),
    "more in a call": Row(
        (
            USER,
            {
                "role": "assistant",
                "tool_calls": [{**call("zqtool", {"zqkey": {"zqin": ["zqlist", 7351]}}), "zqbesides": "zqof"}],
            },
        ),
        tools=(TOOL,),
    ),
    "more in a function": Row(
        (
            USER,
            {
                "role": "assistant",
                "tool_calls": [
                    {"type": "function", "function": {"name": "zqtool", "arguments": {}, "parameters": {"zqp": "zqpv"}}}
                ],
            },
        )
    ),
    "a tool of a server's": Row((USER, FINAL), tools=({"type": "zqsearch"},)),
    "refusal": Row((USER, {**FINAL, "refusal": "zqrefused"})),
    "old call": Row((USER, {**FINAL, "function_call": {"name": "zqold", "arguments": "{}"}})),
}


SPEAKS_OF_KEYS = ("name", "details", "tool_plan")
"""Keys of an assistant's turn that are no words of its answer."""


def missing(word, place, name, shown, counts):
    """A word that is not written is counted by the line that speaks of its own kind."""
    if all(word in each for each in shown):
        return
    line = SPEAKS_OF.get(f"{word} in {place}", SPEAKS_OF.get(word.lower()))
    assert line in counts.lost, (name, word, place, dict(counts.lost), shown)


def words(value: object) -> set[str]:
    return set(re.findall(r"[Zz]q\w+", json.dumps(value)))


@pytest.mark.parametrize("file", [*KINDS, *VENDORS], ids=lambda file: file.stem)
def test_no_part_of_a_row_is_lost_in_silence(file, tokenizer):
    text = file.read_text(encoding="utf-8")
    made = tokenizer(bos_token="<s>")
    made.chat_template = text
    made.add_special_tokens({"additional_special_tokens": sorted(set(re.findall(CONTROL, text)))})
    try:
        chat = Chat(made)
    except TemplateError as error:
        assert "in parts" in str(error) or "a plain question" in str(error)  # templates for images
        return
    for name, row in ROWS.items():
        try:
            examples, counts = encode_rows(chat, [row])
        except TemplateError as error:
            assert str(error).startswith(("row 1", "This chat template"))  # the row, or the template as a whole
            continue
        shown = [chat.decode(e["input_ids"], skip_special_tokens=False) for e in examples]
        taught = [chat.decode([i for i in e["labels"] if i >= 0], skip_special_tokens=False) for e in examples]
        split, turns = len(shown) > 1, trained_turns(row)
        last = max(i for i, m in enumerate(row.messages) if m["role"] == "assistant")
        for i, message in enumerate(row.messages):
            mine = message["role"] == "assistant" and i not in row.context_turns
            said = {k: v for k, v in message.items() if k not in ("role", *SPEAKS_OF_KEYS)}
            if mine:
                given = words(said)
                assert all(any(word in each for each in taught) for word in given), (name, given, taught)
            place = "a tool turn" if message["role"] == "tool" else "an earlier turn" if i < last else "the last turn"
            for word in words({k: v for k, v in message.items() if k != "role"}):
                missing(word, place, name, shown[sum(t < i for t in turns[:-1]) :] if split else shown, counts)
        for word in words(list(row.tools)):
            missing(word, "the tools", name, shown, counts)
        assert not any('\\\\"' in each or '{\\"' in each for each in taught)  # no JSON twice over
        assert bool(counts.lost) == any("left out by the template" in line for line in counts.lines())


def test_the_arguments_of_a_call_come_as_the_template_wants_them(tokenizer):
    start = "{% for m in messages %}{{ m.role }}: {{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function.name }}"
    end = "{% endfor %}</s>{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    forms = {
        "{{ c.function.arguments | tojson }}": '{"a": "b"}',
        "{{ c.function.arguments }}": '{"a": "b"}',
        "{{ '=' + c.function.arguments }}": '={"a": "b"}',
        "{% for k, v in c.function.arguments.items() %}{{ k }}={{ v }}{% endfor %}": "a=b",
        "{% if c.function.arguments is string %}{{ c.function.arguments }}{% else %}"
        "{{ c.function.arguments | tojson }}{% endif %}": '{"a": "b"}',
    }
    for form, expected in forms.items():
        chat = Chat(tokenizer(), template=start + form + end)
        for arguments in ({"a": "b"}, '{"a": "b"}'):
            row = Row((USER, {"role": "assistant", "tool_calls": [call("f", arguments)]}))
            (example,) = chat.encode(row)
            assert chat.decode([i for i in example.labels if i >= 0], False) == f"f{expected}</s>"
    chat = Chat(tokenizer(), template=start + "{{ c.function.arguments | tojson }}" + end)
    for empty in ({"name": "f"}, {"name": "f", "arguments": None}, {"name": "f", "arguments": ""}):
        row = Row((USER, {"role": "assistant", "tool_calls": [{"type": "function", "function": empty}]}))
        assert chat.decode(chat.encode(row)[0].input_ids, False).endswith("f{}</s>")
    for wrong in ("not json", "[1]", 7, [1]):
        with pytest.raises(DataError, match="f:3: the arguments of call 1"):
            chat.encode(Row((USER, {"role": "assistant", "tool_calls": [call("f", wrong)]}), source="f:3"))


def test_numbers_and_nested_arguments_are_looked_for_as_well(tokenizer):
    text = "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function.name }}"
    text += "{% for k in c.function.arguments %}{{ k }};{% endfor %}{% endfor %}</s>{% endfor %}"
    row = Row((USER, {"role": "assistant", "tool_calls": [call("f", {"a": 17.5})]}))
    with pytest.raises(TemplateError, match="the argument 'a' of the call, 'f'"):
        Chat(tokenizer(), template=text).encode(row)
    with pytest.raises(TemplateError, match="the argument 'a' of the call, 'f'"):
        Chat(tokenizer(), template=text).encode(
            Row((USER, {"role": "assistant", "tool_calls": [call("f", {"a": {"b": ["c"]}})]}))
        )


def test_a_template_that_changes_words_or_cuts_them_is_refused(tokenizer):
    for change in ("m.content[:11]", "m.content | replace('z', 'y')", "m.content.split('zq')[-1]"):
        text = (
            "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% else %}{{ " + change + " }}{% endif %}"
        )
        with pytest.raises(TemplateError, match="leaves out trained content of message 2: the words"):
            Chat(tokenizer(), template=text + "</s>{% endfor %}").encode(ask("zqasked", "zqfinal and the rest of it"))


def test_an_answer_of_nothing_but_its_end_is_refused(tokenizer):
    for kind in ("llama3", "qwen3", "marked", None):
        for content in ("", " \n"):
            with pytest.raises(TemplateError, match="message 2: all words: the turn is empty"):
                Chat(tokenizer(kind)).encode(ask("hello", content))


def test_empty_lists_of_calls_are_no_calls(tokenizer):
    text = "{% for m in messages %}{% if m.tool_calls is defined %}calls{% else %}{{ m.content }}{% endif %}</s>"
    chat = Chat(tokenizer(), template=text + "{% endfor %}")
    row = Row((USER, {**FINAL, "tool_calls": []}))
    assert chat.encode(row)[0].input_ids == chat.encode(Row((USER, FINAL)))[0].input_ids


def test_context_turns_are_outside_the_loss_in_nested_and_in_split_rows(tokenizer):
    turns = (*ask("a", "zqone").messages, *ask("b", "zqtwo").messages, *ask("c", "zqthree").messages)
    for kind, split in (("llama3", 1), ("qwen3", 2), ("gemma", 1)):
        chat = Chat(tokenizer(kind))
        for context, learnt in (({1}, {"zqtwo", "zqthree"}), ({5}, {"zqone", "zqtwo"}), ({1, 5}, {"zqtwo"})):
            row = Row(turns, context_turns=frozenset(context))
            examples, counts = encode_rows(chat, [row])
            taught = " ".join(chat.decode([i for i in e["labels"] if i >= 0], False) for e in examples)
            assert words(taught) == learnt and len(examples) == (len(learnt) if split > 1 else 1)
            assert ("zqthree" in chat.decode(examples[-1]["input_ids"])) == (5 not in context)
            assert counts.context_turns == len(context) and "are context" in "".join(counts.lines())
        with pytest.raises(DataError, match="row 1: no assistant turn to train on .*marked as context"):
            chat.encode(Row(turns, context_turns=frozenset({1, 3, 5})))


def test_an_opening_assistant_turn_is_context(tokenizer):
    row = Row(({"role": "assistant", "content": "zqopening"}, USER, FINAL), source="f:1")
    examples, counts = encode_rows(Chat(tokenizer("llama3")), [row])
    chat = Chat(tokenizer("llama3"))
    assert "zqopening" in chat.decode(examples[0]["input_ids"]) and counts.context_turns == 1
    assert words(chat.decode([i for i in examples[0]["labels"] if i >= 0])) == {"zqfinal"}
    with pytest.raises(TemplateError, match="f:1: the chat template refuses assistant → user"):
        encode_rows(Chat(tokenizer("mistral")), [row])


def test_prompts_with_tools_are_refused_where_the_template_has_no_place_for_them(tokenizer):
    chat = Chat(tokenizer("qwen3"))
    with pytest.raises(TemplateError, match="f:1 uses tools"):
        chat.prompt(Row((USER,), tools=(TOOL,), source="f:1"))
    called = {"role": "assistant", "content": "", "tool_calls": CALLS[:1]}
    with pytest.raises(TemplateError, match="leaves out the tool turn's words"):
        chat.prompt(Row((USER, called, answered(1))))
    with pytest.raises(TemplateError, match="leaves out calls"):
        chat.prompt([USER, called, USER])


def test_rows_with_tools_take_the_template_for_tools_and_both_are_kept(tokenizer, tmp_path):
    made = tokenizer("llama3")
    plain = "{% for m in messages %}{{ m.role }}: {{ m.content }}<|eot_id|>{% endfor %}"
    plain += "{% if add_generation_prompt %}assistant: {% endif %}"
    made.chat_template = {"default": plain, "tool_use": "{{ tools | tojson }}" + plain}
    chat = Chat(made)
    with_tools, without = Row((USER, FINAL), tools=(TOOL,)), Row((USER, FINAL))
    assert "Zqdescribed" in chat.decode(chat.encode(with_tools)[0].input_ids)
    assert chat.decode(chat.encode(without)[0].input_ids).startswith("user: ")
    for row in (with_tools, without):
        theirs = made.apply_chat_template([USER], tools=list(row.tools) or None, add_generation_prompt=True)
        assert chat.prompt(row) == theirs["input_ids"] == chat.encode(row)[0].input_ids[: len(theirs["input_ids"])]
    chat.save(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.chat_template == made.chat_template and Chat(again).prompt(with_tools) == chat.prompt(with_tools)


def test_every_bad_row_is_named_in_one_run(tokenizer):
    chat = Chat(tokenizer("mistral"))
    twice = (USER, USER, FINAL)
    rows = [ask("a", "b", source=f"up.jsonl:{n}") for n in range(1, 60)]
    rows[7], rows[11] = Row(twice, source="up.jsonl:8"), Row((FINAL, FINAL, USER), source="up.jsonl:12")
    with pytest.raises(DataError, match=r"up.jsonl: 2 of 59 rows") as actual:
        encode_rows(chat, rows)
    assert [line for line, _ in actual.value.problems] == [8, 12]
    with pytest.raises(TemplateError, match=r"(?s)line 1: .*… and 10 more") as actual:
        encode_rows(chat, [Row(twice, source=f"up.jsonl:{n}") for n in range(1, 31)])
    assert len(actual.value.problems) == 30


@pytest.mark.skipif(not CASES.is_dir(), reason="the shared cases are not here")
@pytest.mark.parametrize(
    ("upload", "template", "lines", "said"),
    [
        ("three-bad-lines", "alternates", [2, 4, 5], "Turns must go"),
        ("tool-call", "tools-without-calls", [1], "the call, 'get_weather'"),
        ("words-beside-call", "call-instead-of-words", [1], "the words beside the call"),
    ],
)
def test_the_cases_are_refused_by_line(upload, template, lines, said, tokenizer):
    rows = Jsonl(path=str(CASES / "uploads" / f"{upload}.jsonl")).rows()
    chat = Chat(tokenizer(eos_token="<|im_end|>"), template=str(CASES / "templates" / f"{template}.jinja"))
    with pytest.raises(TemplateError) as actual:
        encode_rows(chat, rows)
    assert [line for line, _ in actual.value.problems] == lines and all(
        said in what for _, what in actual.value.problems
    )


def test_parts_of_text_are_one_text_and_escaped_control_tokens_are_refused(tokenizer):
    text = "{% for m in messages %}{{ m.content }}</s>{% endfor %}"
    escaped = text.replace("</s>", "{{ (m.name or '') | tojson(ensure_ascii=true) }}</s>")
    parts = {
        "role": "user",
        "content": [{"type": "text", "text": "zq"}, {"type": "text", "text": "asked"}],
        "name": "a",
    }
    chat = Chat(tokenizer(), template=text)
    assert "zqasked</s>" in chat.decode(chat.encode(Row((parts, FINAL)))[0].input_ids, False)
    odd = Row(({**USER, "name": "a</s>b"}, {**FINAL, "name": "b"}), source="f:2")
    with pytest.raises(TemplateError, match="f:2: a text holds a control token"):
        Chat(tokenizer(), template=escaped).encode(odd)
