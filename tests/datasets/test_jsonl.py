"""The user's upload: what is read, and what each mistake is told."""

from __future__ import annotations

import gzip
import json

import pytest

from unforgotten import registry
from unforgotten.datasets.jsonl import rows_of
from unforgotten.errors import DataError, RecipeError, UnknownName

USER, REPLY = {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}


def rows(path, **settings):
    return registry.build("datasets", {"name": "jsonl", "path": path, **settings}).rows()


def lines(*records) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def wrong(record, **settings) -> str:
    """What a single wrong row is told."""
    with pytest.raises(DataError) as error:
        rows_of([record], **settings)
    [(line, what)] = error.value.problems
    assert line == 1
    return what


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [USER, REPLY]},
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "2+"}, {"type": "text", "text": "2?"}]},
                REPLY,
            ]
        },
        {"prompt": "2+2?", "completion": "4"},
        {"prompt": [USER], "completion": [REPLY]},
        {"instruction": "2+2?", "input": "", "output": "4"},
        {"instruction": "2+2?", "output": "4"},
        # as Arrow hands them out: a column for every key, None where a row has none
        {"messages": [{**USER, "name": None, "tool_calls": None}, {**REPLY, "tool_calls": None}], "prompt": None},
        {"prompt": None, "instruction": "2+2?", "input": None, "output": "4"},
    ],
)
def test_every_format_is_the_same_conversation(record) -> None:
    [row] = rows_of([record])
    assert row.messages == (USER, REPLY)
    assert (row.request, row.response, row.kind, row.tools) == ("2+2?", "4", "task", ())


def test_an_instruction_with_an_input_keeps_both_apart_and_joined() -> None:
    [row] = rows_of([{"instruction": "Add.", "input": "2 and 2", "output": "4"}])
    assert row.messages[0] == {
        "role": "user",
        "content": "Add.\n\n2 and 2",
        "instruction": "Add.",
        "input": "2 and 2",
    }


def test_turns_of_tools_and_developers() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 2, "b": 2}'}}
    tool = {"type": "function", "function": {"name": "add", "parameters": {}}}
    turns = [
        {"role": "developer", "content": "Be brief."},
        USER,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": ""},
        REPLY,
    ]
    [row] = rows_of([{"messages": turns, "tools": [tool]}])
    assert [m["role"] for m in row.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert row.messages[2] == {"role": "assistant", "content": "", "tool_calls": [call]}
    assert row.messages[3] == {"role": "tool", "tool_call_id": "1", "content": ""}
    assert row.tools == (tool,)
    assert len(row.prompt) == 4


def test_text_is_left_as_it_is() -> None:
    [row] = rows_of([{"prompt": " Say  it\n", "completion": "\tcafé ’ 日本 "}])
    assert (row.request, row.response) == (" Say  it\n", "\tcafé ’ 日本 ")


@pytest.mark.parametrize(
    ("record", "what"),
    [
        ("hello", "a row must be an object, not a string"),
        ([USER, REPLY], "a row must be an object, not a list"),
        (None, "a row must be an object, not null"),
        ({"text": "2+2=4", "id": 3}, "has no `messages`, `prompt` or `instruction` (keys: text, id)"),
        ({}, "(keys: none)"),
        ({"messages": []}, "`messages` must be a list of turns, not an empty list"),
        ({"messages": "hi"}, "`messages` must be a list of turns, not a string"),
        ({"messages": ["hi"]}, "turn 1 must be an object, not a string"),
        (
            {"messages": [USER, {"role": "bot", "content": "4"}]},
            "turn 2: unknown role 'bot'; the roles are system, user",
        ),
        ({"messages": [USER, {"content": "4"}]}, "turn 2: unknown role None"),
        ({"messages": [USER, {"role": ["user"], "content": "4"}]}, "turn 2: unknown role ['user']"),
        (
            {"messages": [USER]},
            "no assistant turn to train on (for prompts without answers, set answers: optional)",
        ),
        ({"messages": [USER, REPLY, USER]}, "ends in a user turn: the last turn must be an assistant turn"),
        ({"messages": [REPLY]}, "no user turn"),
        ({"messages": [USER, {"role": "assistant", "content": " \n"}]}, "turn 2: the assistant turn is empty"),
        ({"messages": [USER, {"role": "assistant", "content": None}]}, "turn 2: the assistant turn is empty"),
        ({"messages": [{"role": "user", "content": ""}, REPLY]}, "turn 1: the user turn is empty"),
        ({"messages": [{"role": "user", "content": 7}, REPLY]}, "the content of turn 1 must be text, not a number"),
        (
            {"messages": [{"role": "user", "content": {"a": 1}}, REPLY]},
            "the content of turn 1 must be text, not an object",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, REPLY]},
            "the content of turn 1: a part must be {type: text, text: …}, not 'image_url'",
        ),
        (
            {"messages": [USER, {"role": "assistant", "tool_calls": [{"name": "add"}]}]},
            "turn 2: tool_calls must be a list",
        ),
        ({"messages": [USER, REPLY], "tools": "add"}, "tools must be a list of objects"),
        ({"prompt": "", "completion": "4"}, "`prompt` is empty"),
        (
            {"prompt": "2+2?", "completion": " "},
            "`completion` is empty (for prompts without answers, set answers: optional)",
        ),
        ({"prompt": "2+2?"}, "`completion` is missing (for prompts without answers, set answers: optional)"),
        ({"prompt": "2+2?", "completion": 4}, "`completion` must be text, not a number"),
        ({"instruction": " ", "input": "2+2?", "output": "4"}, "`instruction` is empty"),
        ({"instruction": "Add.", "input": 4, "output": "4"}, "`input` must be text, not a number"),
        ({"instruction": "Add.", "output": ""}, "`output` is empty"),
        ({"prompt": "\ud83d", "completion": "4"}, "half a character"),
    ],
)
def test_every_mistake_is_told(record, what) -> None:
    assert what in wrong(record)


def test_prompts_alone_where_answers_are_optional(write) -> None:
    records = [{"prompt": "2+2?"}, {"prompt": "2+2?", "completion": ""}, {"prompt": "2+2?", "completion": "4"}]
    path = write("ask.jsonl", lines(*records))
    assert [row.response for row in rows(path, answers="optional")] == ["", "", "4"]
    [row] = rows_of([{"messages": [USER, REPLY, USER]}], answers="optional")
    assert row.messages == row.prompt == (USER, REPLY, USER)
    assert "`prompt` is empty" in wrong({"prompt": ""}, answers="optional")


def test_all_bad_lines_at_once_and_twenty_are_shown(write) -> None:
    good = json.dumps({"messages": [USER, REPLY]})
    text = "\n".join([good, "{", *['{"messages": [{"role": "user", "content": "x"}]}'] * 22, '{"text": 1}', good])
    with pytest.raises(DataError) as error:
        rows(write("up.jsonl", text))
    message = str(error.value)
    assert [line for line, _ in error.value.problems] == list(range(2, 26))
    assert "up.jsonl: 24 rows cannot be used:\n  line 2: broken JSON at column 2" in message
    assert "  line 3: no assistant turn" in message
    assert "  line 21: " in message and "  line 22: " not in message
    assert message.endswith("… and 4 more")


def test_a_file_keeps_to_one_format(write) -> None:
    path = write(
        "up.jsonl", lines({"prompt": "a", "completion": "b"}, {"messages": [USER, REPLY]}, {"instruction": "a"})
    )
    with pytest.raises(DataError) as error:
        rows(path)
    assert error.value.problems == [
        (2, "mixed formats: messages here, prompt/completion on line 1"),
        (3, "mixed formats: Alpaca here, prompt/completion on line 1"),
    ]


def test_array_gzip_and_sources(write) -> None:
    records = [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d", "category": "sums"}]
    plain = write("up.jsonl", lines(*records))
    array = write("up.json", "\ufeff" + json.dumps(records, indent=1))
    packed = write("up.jsonl.gz", gzip.compress(lines(*records).encode()))
    for path in (plain, array, packed):
        assert [(row.request, row.response, row.category) for row in rows(path)] == [("a", "b", ""), ("c", "d", "sums")]
    assert [row.source for row in rows(plain)] == [f"{plain}:1", f"{plain}:2"]
    assert [row.source for row in rows(array)] == [f"{array}:2", f"{array}:6"]
    assert rows(packed, kind="benign")[0].kind == "benign"
    labels = [registry.build("datasets", {"name": "jsonl", "path": p}).label for p in (plain, array, packed)]
    assert labels == ["up", "up", "up"]


def test_a_sample_is_drawn_after_all_rows_were_checked(write) -> None:
    records = [{"prompt": str(i), "completion": "x"} for i in range(30)]
    drawn = [row.request for row in rows(write("up.jsonl", lines(*records)), n_rows=5, seed=3)]
    assert drawn == sorted(drawn, key=int) and len(set(drawn)) == 5
    with pytest.raises(DataError, match="n_rows is 31, but there are 30 rows"):
        rows(write("up.jsonl", lines(*records)), n_rows=31)
    with pytest.raises(DataError, match="line 31: `prompt` is empty"):
        rows(write("bad.jsonl", lines(*records, {"prompt": "", "completion": "x"})), n_rows=1)


def test_files_that_are_no_upload(write) -> None:
    with pytest.raises(DataError, match="has no rows"):
        rows(write("none.json", "[]"))
    with pytest.raises(DataError, match="is a table"):
        rows(write("up.csv.gz", b"prompt,completion\n"))
    with pytest.raises(DataError, match="is a table"):
        rows(write("up.parquet", b"PAR1"))
    with pytest.raises(DataError, match="There is no file owner/name. An upload is a local file"):
        rows("owner/name")


def test_fields_are_checked(write) -> None:
    path = write("up.jsonl", lines({"prompt": "a", "completion": "b"}))
    with pytest.raises(RecipeError, match="kind"):
        rows(path, kind="nice")
    with pytest.raises(UnknownName, match="'n_rows'"):
        rows(path, nrows=3)


def test_rows_of_takes_what_can_be_iterated_and_nothing_else() -> None:
    records = ({"prompt": str(i), "completion": "x"} for i in range(2))
    assert [row.source for row in rows_of(records, source="mine")] == ["mine:1", "mine:2"]
    with pytest.raises(DataError, match="one split of a dataset, not dict"):
        rows_of({"train": []})  # what a DatasetDict is
    with pytest.raises(DataError, match="mine has no rows"):
        rows_of([], source="mine")


def test_rows_of_a_real_dataset_object() -> None:
    datasets = pytest.importorskip("datasets")
    records = [
        {"messages": [USER, REPLY]},
        {"messages": [{"role": "system", "content": "Hi", "name": "x"}, USER, REPLY]},
    ]
    first, second = rows_of(datasets.Dataset.from_list(records))
    assert first.messages == (USER, REPLY)
    assert second.messages[0] == {"role": "system", "content": "Hi", "name": "x"}


def test_answers_are_dropped_on_demand_and_counted(write) -> None:
    path = write(
        "a.jsonl",
        lines(
            {"messages": [USER, REPLY]},
            {"messages": [USER, REPLY, USER, REPLY]},
            {"messages": [USER]},
        ),
    )
    source = registry.build("datasets", {"name": "jsonl", "path": path, "answers": "dropped", "kind": "benign"})
    one, two, three = source.rows()
    assert [message["role"] for message in one.messages] == ["user"]
    assert [message["role"] for message in two.messages] == ["user", "assistant", "user"]
    assert one.messages == three.messages and not two.response and two.kind == "benign"
    assert source.notes == (f"{path}: the answers of 2 of 3 rows are left out.",)
