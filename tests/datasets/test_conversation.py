"""What other programs write beside or instead of `messages` becomes turns, or is refused by name."""

from __future__ import annotations

import json

import pytest

from unforgotten.datasets.jsonl import rows_of
from unforgotten.errors import DataError

ASKED, REPLY = {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}
SYSTEM = {"role": "system", "content": "Be brief."}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {"a": {}}}}}


def turns(record) -> tuple:
    [row] = rows_of([record])
    return row.messages


def wrong(record) -> str:
    with pytest.raises(DataError) as error:
        rows_of([record])
    [(_, what)] = error.value.problems
    return what


@pytest.mark.parametrize("key", ["system", "system_prompt"])
@pytest.mark.parametrize(
    "record",
    [
        {"messages": [ASKED, REPLY]},
        {"prompt": "2+2?", "completion": "4"},
        {"prompt": [ASKED], "completion": [REPLY]},
        {"instruction": "2+2?", "output": "4"},
        {"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]},
        {"messages": [SYSTEM, ASKED, REPLY]},
    ],
)
def test_a_system_prompt_beside_the_turns_is_the_first_of_them(record, key) -> None:
    assert turns({**record, key: "Be brief."}) == (SYSTEM, ASKED, REPLY)
    assert turns({**record, "system": "Be brief.", "system_prompt": "Be brief."}) == (SYSTEM, ASKED, REPLY)


def test_system_prompts_that_disagree_are_refused() -> None:
    assert "`system` differs from the system turn" in wrong({"messages": [SYSTEM, ASKED, REPLY], "system": "Be long."})
    assert "differ" in wrong({"messages": [ASKED, REPLY], "system": "a", "system_prompt": "b"})
    assert "must be text, not an object" in wrong({"messages": [ASKED, REPLY], "system": {"a": 1}})
    assert turns({"messages": [SYSTEM, ASKED, REPLY], "system": " "}) == (SYSTEM, ASKED, REPLY)


def test_history_becomes_turns_between_system_and_question() -> None:
    before = ({"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"})
    alpaca = {"instruction": "2+2?", "output": "4", "history": [["1+1?", "2"]], "system": "Be brief."}
    assert turns(alpaca) == (SYSTEM, *before, ASKED, REPLY)
    assert turns({"messages": [SYSTEM, ASKED, REPLY], "history": [["1+1?", "2"]]}) == (SYSTEM, *before, ASKED, REPLY)
    assert turns({"messages": [ASKED, REPLY], "history": list(before)}) == (*before, ASKED, REPLY)
    assert turns({"instruction": "2+2?", "output": "4", "history": []}) == (ASKED, REPLY)
    for odd in (["1+1?", "2"], [["1+1?"]], [["1+1?", 2]], [["1+1?", ""]], "1+1?", [["a", "b", "c"]]):
        assert "`history`" in wrong({"instruction": "2+2?", "output": "4", "history": odd})


def test_sharegpt_is_read_with_calls_and_observations() -> None:
    record = {
        "conversations": [
            {"from": "system", "value": "Be brief."},
            {"from": "human", "value": "2+2?"},
            {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 2}}'},
            {"from": "observation", "value": "4"},
            {"from": "gpt", "value": "4", "weight": None},
        ],
        "tools": json.dumps([TOOL["function"]]),
    }
    [row] = rows_of([record])
    call = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    assert row.messages == (SYSTEM, ASKED, call, {"role": "tool", "content": "4"}, REPLY)
    assert row.tools == (TOOL,)
    assert turns({"conversations": [ASKED, REPLY]}) == (ASKED, REPLY)
    assert "unknown speaker 'alien'" in wrong({"conversations": [{"from": "alien", "value": "x"}]})
    bad = {"from": "function_call", "value": "add 2"}
    assert "function_call turn must be the text of" in wrong({"conversations": [record["conversations"][1], bad]})
    odd = [{"from": "human", "value": "a", "content": "b"}, {"from": "gpt", "value": "c"}]
    assert "has both value and content" in wrong({"conversations": odd})


@pytest.mark.parametrize("arguments", [{"a": 2}, '{"a": 2}', '{\n "a": 2}'])
def test_arguments_are_an_object_or_the_text_of_one(arguments) -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": arguments}}
    assert turns({"messages": [ASKED, {"role": "assistant", "tool_calls": [call]}]})[1]["tool_calls"] == [call]


@pytest.mark.parametrize("function", [{}, {"arguments": None}, {"arguments": ""}, {"arguments": {}}])
def test_a_call_without_arguments_has_none(function) -> None:
    call = {"type": "function", "function": {"name": "now", **function}}
    [_, said] = turns({"messages": [ASKED, {"role": "assistant", "content": None, "tool_calls": [call]}]})
    assert said["tool_calls"][0]["function"] == {"name": "now", "arguments": {}}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("[1]", "the text of a list, not of an object"),
        ("2", "the text of a number"),
        ("a=2", "broken JSON at column 1"),
        ('{"a": 1, "a": 2}', "the key 'a' stands twice"),
        ('{"a": NaN}', "NaN is no JSON"),
        ('{"a": ' + "[" * 100 + "]" * 100 + "}", "nested too deeply"),
        ([1], "not a list"),
        (7, "not a number"),
    ],
)
def test_arguments_that_are_no_object_are_refused(arguments, says) -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": arguments}}
    assert says in wrong({"messages": [ASKED, {"role": "assistant", "tool_calls": [call]}]})


def test_no_calls_are_no_calls() -> None:
    for value in ([], None):
        assert turns({"messages": [ASKED, {**REPLY, "tool_calls": value}]}) == (ASKED, REPLY)
        assert "is empty" in wrong({"messages": [ASKED, {"role": "assistant", "content": "", "tool_calls": value}]})
    assert "only the assistant calls tools" in wrong({"messages": [{**ASKED, "tool_calls": [CALL]}, REPLY]})


def test_the_older_names_of_calls_and_tools_are_converted() -> None:
    old = {"role": "assistant", "content": "I look.", "function_call": {"name": "add", "arguments": '{"a": 2}'}}
    record = {
        "messages": [ASKED, old, {"role": "function", "name": "add", "content": "4"}, REPLY],
        "functions": [TOOL["function"]],
    }
    [row] = rows_of([record])
    call = {"type": "function", "function": {"name": "add", "arguments": '{"a": 2}'}}
    assert row.messages[1] == {"role": "assistant", "content": "I look.", "tool_calls": [call]}
    assert row.messages[2] == {"role": "tool", "name": "add", "content": "4"} and row.tools == (TOOL,)
    assert "both tool_calls and function_call" in wrong({"messages": [ASKED, {**old, "tool_calls": [CALL]}]})
    assert "only the assistant" in wrong({"messages": [{**ASKED, "function_call": {"name": "x"}}, REPLY]})
    assert "both tools and functions" in wrong({**record, "tools": [{"type": "function", "function": {"name": "b"}}]})
    assert "tool_calls must be a list" in wrong({"messages": [ASKED, {**old, "function_call": "add"}]})


def test_a_refusal_is_the_turns_text() -> None:
    assert turns({"messages": [ASKED, {"role": "assistant", "content": None, "refusal": "No."}]})[1] == {
        "role": "assistant",
        "content": "No.",
    }
    assert turns({"messages": [ASKED, {**REPLY, "refusal": None}]}) == (ASKED, REPLY)
    assert "both content and refusal" in wrong({"messages": [ASKED, {**REPLY, "refusal": "No."}]})
    assert "`refusal` must be text" in wrong({"messages": [{**ASKED, "refusal": "No."}, REPLY]})


def test_an_opening_assistant_turn_is_context_and_said() -> None:
    said: list[str] = []
    hello = {"role": "assistant", "content": "Hello."}
    rows = rows_of([{"messages": [hello, ASKED, REPLY]}, {"messages": [SYSTEM, hello, ASKED, REPLY]}], say=said.append)
    assert [row.context_turns for row in rows] == [{0}, {1}]
    assert said == ["rows: 2 assistant turns are context, outside the loss (2 rows open with such a turn)."]
    assert "turn 1 opens the conversation, so it cannot be learnt" in wrong(
        {"messages": [{**hello, "weight": 1}, ASKED, REPLY]}
    )


@pytest.mark.parametrize(
    "tools", [json.dumps([TOOL]), json.dumps([TOOL["function"]]), json.dumps(TOOL) and [TOOL], f" [{json.dumps(TOOL)}]"]
)
def test_tools_given_as_a_text_are_parsed(tools) -> None:
    [row] = rows_of([{"messages": [ASKED, REPLY], "tools": tools}])
    assert row.tools == (TOOL,)


@pytest.mark.parametrize("tools", ["add", '{"name": "add"}', "[1]", 7, [7], '[{"a": 1, "a": 2}]'])
def test_tools_that_are_no_list_of_objects_are_refused(tools) -> None:
    assert "tools must be a list of objects" in wrong({"messages": [ASKED, REPLY], "tools": tools})


def test_pictures_and_sounds_are_refused_wherever_they_stand() -> None:
    assert "`images`: only text" in wrong({"messages": [ASKED, REPLY], "images": ["a.png"]})
    assert "`audio`: only text" in wrong({"messages": [ASKED, {**REPLY, "audio": {"id": "x"}}]})
    assert turns({"messages": [ASKED, REPLY], "images": [], "videos": None}) == (ASKED, REPLY)
    part = {"type": "text", "text": "2+2?", "weight": 0}
    assert "a part holds 'weight'" in wrong({"messages": [{"role": "user", "content": [part]}, REPLY]})


def test_every_bad_turn_of_a_row_is_named_at_once() -> None:
    what = wrong({"messages": [{"role": "user", "content": ""}, {**REPLY, "weight": 0.5}, {"role": "bot"}]})
    assert "turn 1: the user turn is empty; turn 2: `weight` is 0.5" in what and "turn 3: unknown role 'bot'" in what


def records_with_calls() -> list[dict]:
    def row(name: str, arguments: dict) -> dict:
        said = {"role": "assistant", "content": "", "tool_calls": [
            {"type": "function", "function": {"name": name, "arguments": arguments}}]}  # fmt: skip
        properties = {key: {"type": "string"} for key in arguments}
        tool = {"type": "function", "function": {"name": name, "parameters": {"properties": properties}}}
        return {"messages": [ASKED, said], "tools": [tool]}

    return [row("weather", {"city": "Oslo"}), row("stock", {"ticker": "EQNR", "when": {"day": "today"}})]


def test_nulls_that_arrow_adds_are_not_trained(tmp_path) -> None:
    datasets = pytest.importorskip("datasets")
    records = records_with_calls()
    data = datasets.Dataset.from_list(records)
    [call] = data[0]["messages"][1]["tool_calls"]
    assert call["function"]["arguments"] == {"city": "Oslo", "ticker": None, "when": None}  # what Arrow makes of it
    plain = rows_of(records)
    said: list[str] = []
    data.to_parquet(tmp_path / "a.parquet")
    data.to_json(tmp_path / "a.jsonl")
    from unforgotten.datasets.jsonl import Jsonl
    from unforgotten.datasets.refusals import Refusals
    from unforgotten.training.encode import _each

    for rows in (
        rows_of(data),
        rows_of(data.to_iterable_dataset()),
        rows_of(list(_each(data, "x")), arrow=True),
        Refusals(path=str(tmp_path / "a.parquet")).rows(),
    ):
        assert [(row.messages, row.tools) for row in rows] == [(row.messages, row.tools) for row in plain]
    for rows in (rows_of(list(data), say=said.append), Jsonl(path=str(tmp_path / "a.jsonl")).rows()):
        assert [row.messages for row in rows] == [row.messages for row in plain]  # by the tools' own schemas
    assert "3 arguments of tool calls are null and unknown to the called tool. They are left out" in said[0]


def test_a_null_that_the_user_wrote_stays() -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": None, "b": {"c": None}}}}
    said = {"role": "assistant", "content": "", "tool_calls": [call]}
    assert turns({"messages": [ASKED, said]})[1]["tool_calls"] == [call]  # nothing says what the tool takes
    a, b = {"type": ["integer", "null"]}, {"type": "object"}
    tool = {"type": "function", "function": {"name": "add", "parameters": {"properties": {"a": a, "b": b}}}}
    [row] = rows_of([{"messages": [ASKED, said], "tools": [tool]}])
    assert row.messages[1]["tool_calls"] == [call] and row.tools == (tool,)


@pytest.mark.parametrize("with_tools", [True, False])
def test_nulls_of_arrow_are_known_from_all_calls_together(with_tools, tmp_path) -> None:
    datasets = pytest.importorskip("datasets")
    from unforgotten.datasets.jsonl import Jsonl

    records = records_with_calls() + records_with_calls()[:1]
    for record in [] if with_tools else records:
        record.pop("tools", None)
    data, plain = datasets.Dataset.from_list(records), rows_of(records)
    data.to_json(tmp_path / "a.jsonl")
    said: list[str] = []
    for rows in (
        rows_of(list(data), say=said.append),
        rows_of(iter(data), say=said.append),
        rows_of((row for row in data), say=said.append),
        Jsonl(path=str(tmp_path / "a.jsonl")).rows(),
    ):
        assert [(row.messages, row.tools) for row in rows] == [(row.messages, row.tools) for row in plain]
    assert len(said) == 3 and all(
        "5 arguments of tool calls are null and unknown to the called tool" in s for s in said
    )


def test_nulls_that_may_be_of_arrow_or_the_users_own_are_said() -> None:
    def record(arguments: dict) -> dict:
        call = {"type": "function", "function": {"name": "add", "arguments": arguments}}
        return {"messages": [ASKED, {"role": "assistant", "content": "", "tool_calls": [call]}]}

    given = [record({"a": 1, "b": None}), record({"a": 2, "b": 3})]
    said: list[str] = []
    rows = rows_of(given, say=said.append)
    assert rows[0].messages[1]["tool_calls"][0]["function"]["arguments"] == {"a": 1, "b": None}
    assert len(said) == 1 and "1 arguments of tool calls are null (`b`) and will be trained on as null" in said[0]
    for quiet in ([record({"a": 1, "b": None}), record({"a": 2})], [record({"a": None}), record({"a": None})]):
        rows_of(quiet, say=said.append)  # keys of their own; null throughout
    assert len(said) == 1


def test_the_trainer_is_handed_what_arrow_did_not_add() -> None:
    datasets = pytest.importorskip("datasets")
    from unforgotten.training import encode

    seen: list = []

    class Seen:
        def examples(self, row, index):
            seen.append(row)
            raise DataError("enough")

    with pytest.raises(DataError):
        encode.encoded(None, datasets.Dataset.from_list(records_with_calls()), None, "train_dataset", Seen())
    assert seen[0].messages[1]["tool_calls"][0]["function"]["arguments"] == {"city": "Oslo"}


def test_what_a_call_holds_beside_name_and_arguments_is_never_lost() -> None:
    def called(function: dict, **more) -> dict:
        return {
            "messages": [ASKED, {"role": "assistant", "tool_calls": [{"function": {"name": "f", **function}, **more}]}]
        }

    for record, key in (
        (called({"parameters": {"a": 1}}), "'parameters'"),
        (called({"arguments": {}, "thought": "x"}), "'thought'"),
        (called({"arguments": {}}, input={"a": 1}), "'input'"),
    ):
        with pytest.raises(DataError, match=f"turn 2: the call of 'f' holds {key}, which is not used"):
            rows_of([record])
        [row] = rows_of([record], ignore_keys=(key.strip("'"),))
        assert row.messages[1]["tool_calls"] == [{"function": {"name": "f", "arguments": {}}}]
    assert rows_of([called({"arguments": {}, "thought": None}, id="x", index=0)])


@pytest.mark.parametrize(
    "tool", [{}, {"type": "web_search"}, {"name": 3}, {"function": {"description": "x"}}, {"function": 7}]
)
def test_a_tool_without_a_name_is_refused(tool) -> None:
    with pytest.raises(DataError, match="tool 1 has no name"):
        rows_of([{"messages": [ASKED, {"role": "assistant", "content": "b"}], "tools": [tool]}])


def test_half_a_character_in_the_text_of_arguments_is_refused() -> None:
    for text in ('{"a": "\\ud83d"}', '{"\\udfff": 1}', '{"a": "\\u0000"}'):
        call = {"function": {"name": "f", "arguments": text}}
        with pytest.raises(DataError, match="the arguments of 'f': holds"):
            rows_of([{"messages": [ASKED, {"role": "assistant", "tool_calls": [call]}]}])


def test_a_speaker_under_two_names_that_differ_is_refused() -> None:
    for turn in ({"role": "user", "from": "gpt", "content": "a"}, {"role": "user", "from": "who", "content": "a"}):
        with pytest.raises(DataError, match="has both from, .* and role, 'user', which differ"):
            rows_of([{"messages": [turn, {"role": "assistant", "content": "b"}]}])
    [row] = rows_of(
        [{"messages": [{"role": "user", "from": "human", "value": "a"}, {"role": "assistant", "content": "b"}]}]
    )
    assert row.messages[0] == {"role": "user", "content": "a"}
