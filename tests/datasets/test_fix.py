"""`data fix`: what it writes, what it drops, and that every line of both is said."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from unforgotten.cli import app
from unforgotten.datasets.jsonl import Jsonl
from unforgotten.datasets.reading.fix import places
from unforgotten.errors import DataError
from unforgotten.verbs import data_fix

ASKED, REPLY = {"role": "user", "content": "1?"}, {"role": "assistant", "content": "one"}
ROWS = [
    {"messages": [{**ASKED, "train": True}, {**REPLY, "weight": 1}], "score": 3},
    {"prompt": "1?", "completion": "one", "label": True},
    {"prompt": "1?", "completion": "[HARMFUL ANSWER]", "label": False},
    {"prompt": "1?", "chosen": "one", "rejected": "[HARMFUL ANSWER]"},
    {"chosen": [ASKED, REPLY], "rejected": [ASKED, {**REPLY, "content": "[HARMFUL ANSWER]"}]},
    {"messages": [ASKED, REPLY], "rejected_response": "[HARMFUL ANSWER]"},
    {"input": {"messages": [ASKED]}, "preferred_output": [REPLY], "non_preferred_output": [{**REPLY, "content": "x"}]},
    {"messages": [ASKED, {**REPLY, "content": "[HARMFUL ANSWER]", "train": False}, ASKED, REPLY]},
    {"conversations": [{"from": "human", "value": "1?"}, {"from": "gpt", "value": "one"}], "system": "Be brief."},
    {"messages": [ASKED, {**REPLY, "weight": 0.5}]},
    {"prompt": "1?", "completion": "[HARMFUL ANSWER]", "weight": 0},
    {"prompt": "1?", "rejected": "[HARMFUL ANSWER]"},
]
PLAIN = [ASKED, REPLY]


def test_what_is_clean_is_written_and_the_rest_is_named(tmp_path) -> None:
    file = tmp_path / "up.jsonl"
    file.write_text("\n".join(map(json.dumps, ROWS)) + '\n{"a": \n', encoding="utf-8")
    done = CliRunner().invoke(app, ["data", "fix", str(file), "--out", str(tmp_path / "clean.jsonl")])
    assert done.exit_code == 0, done.output
    written = [json.loads(line) for line in (tmp_path / "clean.jsonl").read_text().splitlines()]
    context = {**REPLY, "content": "[HARMFUL ANSWER]", "weight": 0}
    assert [row["messages"] for row in written] == [
        *[PLAIN] * 6,
        [ASKED, context, ASKED, REPLY],
        [{"role": "system", "content": "Be brief."}, *PLAIN],
    ]
    assert all(set(row) == {"messages"} for row in written)
    rows = (data := Jsonl(path=str(tmp_path / "clean.jsonl"))).rows()
    assert rows[6].context_turns == {1} and "not read" not in "".join(data.notes)
    messages = " ".join(done.output.split())
    assert "8 rows are written; 5 dropped." in messages
    for said in (
        "line 3 dropped: `label: false` marks it as not to be learnt",
        "line 10 dropped: turn 2: `weight` is 0.5",
        "line 11 dropped: `weight: 0` marks the row",
        "line 12 dropped: `rejected` is given without the chosen answer",
        "line 13 dropped: broken JSON",
        "line 1 changed: `score` was removed, since it is not used",
        "line 1 changed: `train` on a user turn was removed",
        "line 2 changed: `label: true` was left out",
        "lines 4–5 changed: the answer under `rejected` was left out",
        "line 8 changed: the mark `train` is written as weight",
        "line 9 changed: `system` became the first turn",
    ):
        assert said in messages, said


def test_a_clean_file_comes_out_as_it_went_in(tmp_path) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    row = {
        "messages": [ASKED, {"role": "assistant", "content": "", "tool_calls": [call]},
                     {"role": "tool", "content": "1", "tool_call_id": "c1"},
                     {**REPLY, "reasoning_content": "so"}],
        "tools": [{"type": "function", "function": {"name": "add", "parameters": {"default": None}}}],
        "category": "sums",
    }  # fmt: skip
    alpaca = {"instruction": "Add.", "input": "1", "output": "2"}
    (tmp_path / "a.json").write_text(json.dumps([row]))
    (tmp_path / "b.jsonl").write_text(json.dumps(alpaca))
    where, actual = data_fix.fix(str(tmp_path / "a.json"))
    assert where == tmp_path / "a.fixed.jsonl" and json.loads(where.read_text()) == row
    assert actual.dropped == actual.changed == []
    for name in ("a.json", "b.jsonl"):
        there, _ = data_fix.fix(str(tmp_path / name), str(tmp_path / "out.jsonl"), force=True)
        [before], [after] = Jsonl(path=str(tmp_path / name)).rows(), Jsonl(path=str(there)).rows()
        assert (before.messages, before.tools) == (after.messages, after.tools)


def test_nothing_is_overwritten_unless_told_and_never_half(tmp_path) -> None:
    file, out = tmp_path / "up.jsonl", tmp_path / "out.jsonl"
    file.write_text(json.dumps(ROWS[1]))
    out.write_text("mine")
    with pytest.raises(DataError, match="exists already. Name another file with --out, or add --force"):
        data_fix.fix(str(file), str(out))
    assert out.read_text() == "mine"
    data_fix.fix(str(file), str(out), force=True)
    assert json.loads(out.read_text())["messages"] == PLAIN
    with pytest.raises(DataError, match="is the input file"):
        data_fix.fix(str(file), str(file), force=True)
    (tmp_path / "link.jsonl").symlink_to(file)
    with pytest.raises(DataError):
        data_fix.fix(str(out), str(tmp_path / "link.jsonl"), force=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link.jsonl", "out.jsonl", "up.jsonl"]


def test_a_file_with_no_row_left_is_an_error(tmp_path) -> None:
    (tmp_path / "up.jsonl").write_text(json.dumps(ROWS[2]))
    with pytest.raises(DataError, match="no row that can be trained on is left"):
        data_fix.fix(str(tmp_path / "up.jsonl"))
    assert not (tmp_path / "up.fixed.jsonl").exists()


def test_places_are_said_as_ranges() -> None:
    assert [places(lines) for lines in ([3], [1, 2, 3, 7], [2, 1], [5, 9])] == [
        "line 3", "lines 1–3, 7", "lines 1–2", "lines 5, 9"]  # fmt: skip
