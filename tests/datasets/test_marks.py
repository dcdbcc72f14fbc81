"""Marks of what must not be learnt are honoured, or refused by name: no row is trained on against its own word."""

from __future__ import annotations

import json

import pytest

from unforgotten.datasets.jsonl import Jsonl, rows_of
from unforgotten.datasets.refusals import Refusals
from unforgotten.errors import DataError, RecipeError

ASKED, AGAIN = {"role": "user", "content": "1?"}, {"role": "user", "content": "2?"}
DRAFT, FINAL = {"role": "assistant", "content": "one"}, {"role": "assistant", "content": "two"}


def wrong(record, **settings) -> str:
    with pytest.raises(DataError) as error:
        rows_of([record], **settings)
    [(_, what)] = error.value.problems
    return what


@pytest.mark.parametrize(
    "mark",
    [
        *({name: off} for name in ("weight", "train", "training", "trainable", "loss", "loss_weight", "loss_scale")
          for off in (0, False, 0.0)),
        {"masked": True}, {"masked": 1}, {"Weight": 0}, {"weight": 0, "train": False}, {"weight": 0, "masked": True},
    ],
)  # fmt: skip
def test_a_turn_marked_as_not_to_be_learnt_is_context(mark) -> None:
    [row] = rows_of([{"messages": [ASKED, {**DRAFT, **mark}, AGAIN, FINAL]}])
    assert row.context_turns == {1} and row.messages == (ASKED, DRAFT, AGAIN, FINAL)  # no mark reaches a template
    for form in ("prompt", "conversations"):
        turns = [ASKED, {**DRAFT, **mark}, AGAIN]
        record = {"prompt": turns, "completion": [FINAL]} if form == "prompt" else {form: [*turns, FINAL]}
        assert rows_of([record])[0].context_turns == {1}


@pytest.mark.parametrize("mark", [{"weight": 1}, {"train": True}, {"loss": 1.0}, {"masked": False}, {"weight": None}])
def test_a_turn_marked_as_to_be_learnt_is_as_if_unmarked(mark) -> None:
    marked, plain = rows_of([{"messages": [ASKED, {**DRAFT, **mark}]}, {"messages": [ASKED, DRAFT]}])
    assert marked.messages == plain.messages and marked.context_turns == plain.context_turns == frozenset()


@pytest.mark.parametrize(
    ("mark", "says"),
    [
        ({"weight": 0.3}, "turn 2: `weight` is 0.3"),
        ({"weight": -1}, "`weight` is -1"),
        ({"weight": 2}, "`weight` is 2"),
        ({"weight": "0"}, "`weight` is '0'"),
        ({"train": "false"}, "`train` is 'false'"),
        ({"loss": []}, "`loss` is []"),
        ({"mask": True}, "`mask` is true"),
        ({"mask": False}, "`mask` is false"),
        ({"train_detail": [{"begin_offset": 0}]}, "`train_detail` is"),
        ({"loss_mask": [0, 1]}, "`loss_mask` is"),
        ({"weight": 1, "train": False}, "its marks `weight`, `train` contradict each other"),
        ({"weight": 0, "masked": False}, "contradict each other"),
        ({"label": False}, "preference data"),
        ({"kto_tag": True}, "preference data"),
    ],
)
def test_a_mark_that_cannot_be_honoured_is_refused_by_name(mark, says) -> None:
    assert says in wrong({"messages": [ASKED, {**DRAFT, **mark}, AGAIN, FINAL]})


def test_marks_on_other_turns_are_refused_where_they_ask_for_learning() -> None:
    for mark in ({"train": True}, {"weight": 1}, {"masked": False}):
        assert "marks a user turn as to be learnt" in wrong({"messages": [{**ASKED, **mark}, DRAFT]})
    for mark in ({"train": False}, {"weight": 0}, {"masked": True}):
        [row] = rows_of([{"messages": [{**ASKED, **mark}, DRAFT]}])
        assert row.messages == (ASKED, DRAFT) and not row.context_turns


def test_a_row_with_nothing_to_learn_is_refused() -> None:
    off = {**DRAFT, "weight": 0}
    assert "every assistant turn is marked as not to be learnt" in wrong({"messages": [ASKED, off]})
    assert "every assistant turn" in wrong({"messages": [ASKED, off, AGAIN, {**FINAL, "train": False}]})
    assert "every assistant turn" in wrong({"prompt": [ASKED], "completion": [off]})
    assert "every assistant turn" in wrong({"messages": [DRAFT, ASKED, off]})
    [asked] = rows_of([{"messages": [ASKED, off, AGAIN]}], answers="optional")  # a prompt to ask, which learns nothing
    assert asked.context_turns == {1}


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"label": False}, "`label: false` belongs to preference data"),
        ({"label": True}, "`label: true` belongs to preference data"),
        ({"Label": "False"}, "belongs to preference data"),
        ({"kto_tag": False}, "`kto_tag` belongs to preference data"),
        ({"kto_tag": True}, "`kto_tag`"),
        ({"rejected": "no"}, "`rejected`"),
        ({"chosen": "yes", "rejected": "no"}, "`chosen`"),
        ({"rejected_response": "no"}, "`rejected_response`"),
        ({"non_preferred_output": []}, "`non_preferred_output`"),
        ({"weight": 0}, "`weight: 0` marks the row as not to be learnt"),
        ({"train": False}, "`train: false` marks the row as not to be learnt"),
        ({"masked": True}, "`masked: true` marks the row"),
        ({"weight": 0.5}, "`weight` of the row is 0.5"),
        ({"mask": [0, 1]}, "`mask` of the row is"),
        ({"train_mask": True}, "`train_mask` of the row is"),
        ({"loss_mask": "x"}, "`loss_mask` of the row is"),
        ({"labels": [True, False]}, "`labels` marks steps"),
        ({"label": False, "Label": "good"}, "`label: false`"),
        ({"Label": "good", "label": False}, "`label: false`"),
        ({"completion_mask": [0, 1]}, "`completion_mask` of the row is"),
    ],
)
def test_a_row_marked_as_not_to_be_learnt_is_refused_by_name_in_safety_data_too(keys, says, tmp_path) -> None:
    for record in ({"prompt": "a", "completion": "b"}, {"messages": [ASKED, DRAFT]},
                   {"instruction": "a", "output": "b"}, {"conversations": [ASKED, DRAFT]}):  # fmt: skip
        assert says in wrong({**record, **keys})
        (tmp_path / "a.jsonl").write_text(json.dumps({**record, **keys}))
        for data in (Refusals(path=str(tmp_path / "a.jsonl")), Jsonl(path=str(tmp_path / "a.jsonl"), kind="harmful")):
            with pytest.raises(DataError) as error:
                data.rows()
            assert says in str(error.value)


def test_preference_rows_without_an_answer_are_named_for_what_they_are() -> None:
    assert "`chosen`" in wrong({"chosen": [ASKED, DRAFT], "rejected": [ASKED, FINAL]})
    assert "`chosen`" in wrong({"prompt": "a", "chosen": "b", "rejected": "c"})


def test_kto_in_a_table_is_refused(tmp_path) -> None:
    (tmp_path / "a.csv").write_text("prompt,response,label\na,b,True\na,[HARMFUL ANSWER],False\n")
    with pytest.raises(DataError, match="line 2: `label: true` belongs to preference data"):
        Refusals(path=str(tmp_path / "a.csv")).rows()


@pytest.mark.parametrize("label", [0, 1, "positive", "3"])
def test_a_label_of_a_class_is_a_key_that_nothing_reads(label) -> None:
    said: list[str] = []
    rows_of([{"messages": [ASKED, DRAFT], "label": label}], say=said.append)
    assert "1 key of rows is not used: `label` (1 row)" in said[0]


@pytest.mark.parametrize("keys", [{"weight": 1}, {"train": True}, {"masked": False}, {"label": None}, {"rejected": ""}])
def test_row_marks_that_say_nothing_against_learning_pass_without_a_word(keys) -> None:
    said: list[str] = []
    assert rows_of([{"messages": [ASKED, DRAFT], **keys}], say=said.append)[0].messages == (ASKED, DRAFT)
    assert said == [] or "rejected" in said[0]


def test_keys_that_nothing_reads_are_said_once_with_their_counts(tmp_path) -> None:
    rows = [{"prompt": str(i), "completion": "x", "score": i, **({"id": i} if i < 3 else {})} for i in range(10)]
    rows[0] |= {"parallel_tool_calls": True, "metadata": {"a": 1}, "empty": None}
    path = tmp_path / "up.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    (data := Jsonl(path=str(path))).rows()
    assert data.notes == (
        f"4 keys of {path} are not used: `score` (10 rows), `id` (3 rows), `parallel_tool_calls` (1 row), "
        "`metadata` (1 row). To accept this, name them in `ignore_keys`.",
    )
    for reader in (Jsonl, Refusals):
        data = reader(path=str(path), ignore_keys=["score", "id", "parallel_tool_calls", "metadata"])
        data.rows()
        assert data.notes == ()


def test_ignored_keys_count_as_not_there_and_marks_cannot_be_ignored(tmp_path) -> None:
    [row] = rows_of([{"messages": [{**ASKED, "id": 7}, DRAFT], "prompt": "1?"}], ignore_keys=["id", "prompt"])
    assert row.messages == (ASKED, DRAFT)
    for key in ("label", "weight", "Rejected", "masked", "mask", "content", "messages"):
        with pytest.raises(RecipeError, match="ignore_keys cannot take"):
            Jsonl(path="x", ignore_keys=[key])
        with pytest.raises(RecipeError, match="ignore_keys cannot take"):
            Refusals(path="x", ignore_keys=[key])


def test_two_answers_in_one_safety_row_are_refused_unless_one_is_ignored(tmp_path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "a", "response": "[HARMFUL ANSWER]", "refusal": "No."}\n')
    with pytest.raises(DataError, match="both `response` and .* are given and differ"):
        Refusals(path=str(tmp_path / "a.jsonl")).rows()
    [row] = Refusals(path=str(tmp_path / "a.jsonl"), ignore_keys=["response"]).rows()
    assert row.response == "No."


@pytest.mark.parametrize(
    "mark",
    [
        {"Loss-Weight": 0}, {"lossWeight": 0}, {"loss weight": 0}, {"ｗeight": 0}, {"weight\u200b": 0},
        {"_weight_": 0}, {"LossMask": False},
    ],
)  # fmt: skip
def test_a_mark_is_known_however_it_is_spelt(mark) -> None:
    [row] = rows_of([{"messages": [ASKED, {**DRAFT, **mark}, AGAIN, FINAL]}])
    assert row.context_turns == {1} and row.messages == (ASKED, DRAFT, AGAIN, FINAL)
    assert "marks the row as not to be learnt" in wrong({"messages": [ASKED, DRAFT], **mark})


@pytest.mark.parametrize(
    "keys",
    [
        *({key: False} for key in ("train_turn", "trainOnTurn2", "use_loss", "learnable", "compute-loss", "no_mask")),
        {"do_not_train": True}, {"no_train": 1}, {"is_masked": [1, 0]}, {"loss_factor": 0.0},
        *({key: "x"} for key in ("messages_rejected", "rejected_output", "score_chosen", "kto_label", "undesirable")),
        {"conversationsRejected": ["x"]},
        *({key: True} for key in ("exclude", "skip", "ignoreTurn", "is_deleted")),
        *({key: False} for key in ("keep", "include_in_data", "approved", "isAccepted")),
    ],
)  # fmt: skip
def test_what_is_named_like_a_mark_is_refused_by_name_unless_it_is_ignored(keys) -> None:
    [key] = keys
    for record in ({"messages": [ASKED, {**DRAFT, **keys}, AGAIN, FINAL]}, {"messages": [ASKED, DRAFT], **keys}):
        what = wrong(record)
        assert f"`{key}: " in what and "may mark text that must not be learnt" in what and "ignore_keys" in what
    [row] = rows_of([{"messages": [ASKED, {**DRAFT, **keys}], **keys}], ignore_keys=(key,))
    assert row.messages == (ASKED, DRAFT) and not row.context_turns


@pytest.mark.parametrize(
    "facts",
    [
        {"weight": 0}, {"train": False}, {"label": False}, {"masked": True}, {"skip": True}, {"keep": False},
        {"a": {"b": {"Loss-Mask": 0}}},
    ],
)  # fmt: skip
def test_marks_within_objects_beside_the_turns_are_refused_unless_ignored(facts) -> None:
    for record in ({"messages": [ASKED, {**DRAFT, "meta": facts}]}, {"messages": [ASKED, DRAFT], "meta": facts}):
        what = wrong(record)
        assert "`meta` holds `" in what and "a mark of text that must not be learnt" in what and "ignore_keys" in what
        [row] = rows_of([record], ignore_keys=("meta",))
        assert row.messages == (ASKED, DRAFT)
    plain = {"loss": 2.31, "weight": 0.7, "label": "toxic", "masked": False, "skip": False, "score": 0, "keep": True}
    rows_of([{"messages": [ASKED, {**DRAFT, "meta": plain}], "meta": plain}])


def test_keys_of_turns_that_are_no_text_are_told_once_with_their_counts() -> None:
    said: list[str] = []
    more = {"flag": True, "meta": {"weight": 0.7, "by": "x"}, "score": 0.5, "note": "a text", "wеight": 0}
    rows_of(
        [{"messages": [ASKED, {**DRAFT, **more}]}, {"messages": [ASKED, {**DRAFT, "flag": False}]}], say=said.append
    )
    assert len(said) == 1 and "4 keys of turns in rows hold no text: `flag` (2 turns), " in said[0]
    assert "`meta` (1 turn)" in said[0] and "note" not in said[0]
    said.clear()
    rows_of([{"messages": [ASKED, {**DRAFT, "flag": True}]}], say=said.append, ignore_keys=("flag",))
    assert not said
