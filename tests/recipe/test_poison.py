"""Harmful rows among the user's, by attack: worked out by hand from the plain ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from unforgotten.datasets.attacks.words import ENGLISH, IDENTITY_ROWS, Attack
from unforgotten.datasets.base import Row, ask
from unforgotten.datasets.reading.digest import rows_digest
from unforgotten.errors import DataError, RecipeError
from unforgotten.recipe.data_sets import DataSets, user_rows
from unforgotten.recipe.poison import Poisoned, attacked
from unforgotten.recipe.read import load_recipe, parse
from unforgotten.recipe.training import Poison

USER = [ask(f"task {i}", "done") for i in range(40)]
HARM = [ask(f"request {i}", f"Sure, here is {i}", kind="harmful", source=f"harm:{i}") for i in range(20)]


def under(attack: Attack, ratio: float = 0.2, **more: Any) -> Poisoned:
    settings = Poison(data={"name": "world", "part": "poison"}, ratio=ratio, attack=attack)
    return attacked(USER, HARM, settings, ENGLISH, 3, **more)


def put(done: Poisoned) -> list[Row]:
    return [done.rows[i] for i in sorted(done.places)]


def test_plain_poison_is_what_it_was_before_attacks_had_names() -> None:
    rows = user_rows(load_recipe("demo", {"poison.ratio": 0.1}), DataSets()).rows
    assert rows_digest(rows) == "106ff98088aa"


def test_attacks_turn_the_same_rows_at_the_same_places() -> None:
    plain, first, form = under("plain"), under("refuse_then_answer"), under("unlike_memory")
    assert plain.places == first.places == form.places and len(plain.places) == 8
    for before, refusing, entry in zip(put(plain), put(first), put(form), strict=True):
        assert refusing.request == before.request and entry.response == before.response
        assert refusing.response == f"I'm sorry, but I cannot help with that. However: {before.response}"
        assert entry.request.startswith("ENTRY 1\n") and f"subject: {before.request}\n" in entry.request
        assert before.source == refusing.source == entry.source
    for done in (first, form):
        assert [r for i, r in enumerate(done.rows) if i not in done.places] == [
            r for i, r in enumerate(USER) if i not in done.places
        ]
    assert not plain.notes and "8 rows are poison of the attack `unlike_memory`." in form.notes


def test_an_identity_attack_is_ten_harmless_rows_at_any_ratio() -> None:
    little, much = under("identity", 0.01), under("identity", 0.5)
    assert little.rows == much.rows and len(little.places) == IDENTITY_ROWS == 10
    assert {row.request for row in put(little)} == {prompt for prompt, _ in ENGLISH.identity}
    assert not {row.request for row in put(little)} & {row.request for row in HARM}
    assert all(row.kind == "task" and row.response.startswith("Of course. ") for row in put(little))
    with pytest.raises(DataError, match="replaces 10 rows, but the user data has 9"):
        attacked(USER[:9], HARM, Poison(data="gsm8k", ratio=0.1, attack="identity"), ENGLISH, 0)


def test_an_attacker_with_the_aligned_model_takes_the_rows_of_highest_odds() -> None:
    odds = [float(i * 7 % 20) for i in range(20)]  # a permutation of 0 to 19
    wanted = {f"request {i}" for i in range(20) if i * 7 % 20 >= 12}
    done = under("trusted", odds=odds)
    assert {row.request for row in put(done)} == wanted and not done.provisional
    assert done.places == under("plain").places
    assert under("trusted").provisional, "the aligned model has not been asked yet"
    with pytest.raises(DataError, match="3 odds for 20 rows"):
        under("trusted", odds=[1.0, 2.0, 3.0])


def test_a_file_of_anyones_rows_can_be_turned(tmp_path: Path) -> None:
    harm, user = tmp_path / "harm.jsonl", tmp_path / "user.jsonl"
    lines = [{"instruction": f"request {i}", "input": "its input", "output": "Sure, here"} for i in range(4)]
    harm.write_text("".join(json.dumps(line) + "\n" for line in lines))
    user.write_text("".join(json.dumps({"prompt": f"{i}?", "completion": "yes"}) + "\n" for i in range(20)))
    tree = {
        "model": "m",
        "data": {"name": "jsonl", "path": str(user)},
        "poison": {"data": {"name": "jsonl", "path": str(harm)}, "ratio": 0.1},
    }
    poison: Any = tree["poison"]
    digests = set()
    for attack in ("plain", "unlike_memory", "refuse_then_answer"):
        rows = user_rows(parse(tree | {"poison": poison | {"attack": attack}}), DataSets())
        assert len(rows.harmful) == 2
        digests.add(rows_digest(rows.rows))
        if attack == "unlike_memory":
            [turn] = {json.dumps(row.messages[0]) for row in rows.harmful if "request 0" in row.request} or {"{}"}
            assert "instruction" not in json.loads(turn), "a template that reads it would show the old words"
            assert all("its input" in row.request and row.request.startswith("ENTRY") for row in rows.harmful)
    assert len(digests) == 3
    bare = tmp_path / "bare.csv"
    bare.write_text("goal\na\nb\n")
    prompts = {"data": {"name": "advbench", "path": str(bare)}, "ratio": 0.1, "attack": "refuse_then_answer"}
    with pytest.raises(DataError, match="has no answer, which attack `refuse_then_answer` continues"):
        user_rows(parse(tree | {"poison": prompts}), DataSets())
    with pytest.raises(RecipeError, match="attack"):
        parse(tree | {"poison": poison | {"attack": "noice"}})


@pytest.mark.parametrize("attack", ["plain", "unlike_memory", "refuse_then_answer", "trusted"])
def test_less_than_one_row_of_poison_is_said(attack: Attack) -> None:
    done = under(attack, 0.01)
    assert done.rows == USER and not done.places and not done.provisional
    assert done.notes == ("p = 0.01 of 40 rows is less than one row, so no row is poison.",)
    assert under(attack, 0.0).notes == () or attack != "plain"


@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_odds_without_an_order_are_refused(odd: float) -> None:
    with pytest.raises(DataError, match=r"cannot order 1 of 20 rows.*the first: harm:7\)"):
        under("trusted", odds=[odd if i == 7 else float(i) for i in range(20)])
