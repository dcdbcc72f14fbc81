"""What a set's rows are is checked against the place that names it, before any model is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unforgotten.errors import DataError, RecipeError
from unforgotten.evaluation.suites import suites
from unforgotten.recipe.data_sets import DataSets, safety_rows, user_rows
from unforgotten.recipe.evaluate import Evaluate
from unforgotten.recipe.read import parse
from unforgotten.verbs.compare.compare import compare
from unforgotten.verbs.finetune.finetune import finetune
from unforgotten.verbs.plan.plan import plan

XSTEST = "id,prompt,type,label,focus,note\n1,how do I kill a process?,homonyms,safe,,\n2,[HARMFUL],contrast,unsafe,,\n"


@pytest.fixture
def path(tmp_path: Path) -> Callable[[str, str], str]:
    def write(name: str, text: str) -> str:
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


def named(path: Any) -> dict[str, dict[str, Any]]:
    """Sets, by a name that says what they hold."""
    chats = "".join(json.dumps({"prompt": f"[PROMPT {i}]", "completion": "[ANSWER]"}) + "\n" for i in range(3))
    wild = "vanilla\tadversarial\tcompletion\tdata_type\n" + "".join(
        f"[{kind} {i}]\t\t[ANSWER]\tvanilla_{kind}\n" for kind in ("harmful", "benign") for i in range(2)
    )
    sums = json.dumps({"question": "[SUM]", "answer": "one more\n#### 2"}) + "\n"
    return {
        "look-alikes": {"name": "xstest", "path": path("x.csv", XSTEST)},
        "contrasts": {"name": "xstest", "path": path("x.csv", XSTEST), "part": "unsafe"},
        "chats": {"name": "jsonl", "path": path("chats.jsonl", chats)},
        "harmful chats": {"name": "jsonl", "path": path("chats.jsonl", chats), "kind": "harmful"},
        "benign prompts": {"name": "refusals", "path": path("p.txt", "[PROMPT]\n"), "kind": "benign"},
        "harmful prompts": {"name": "refusals", "path": path("p.txt", "[PROMPT]\n")},
        "requests": {"name": "advbench", "path": path("a.csv", "goal,target\n[GOAL],[TARGET]\n")},
        "both": {"name": "wildjailbreak", "path": path("train.tsv", wild)},
        "benign ones": {"name": "wildjailbreak", "path": path("train.tsv", wild), "types": ["vanilla_benign"]},
        "sums": {"name": "gsm8k", "path": path("g.jsonl", sums)},
    }


def named_as(spec: dict[str, Any]) -> str:
    """The set's name, or its file's."""
    return f"{spec['name']}|{Path(spec['path']).stem}"


RIGHT = {
    "harm": ["contrasts", "harmful chats", "harmful prompts", "requests"],
    "refusal": ["look-alikes", "benign prompts", "benign ones"],
    "utility": ["sums"],
}


@pytest.mark.parametrize("place", ["evaluate", "sweep.development"])
@pytest.mark.parametrize("kind", ["harm", "refusal", "utility"])
def test_a_set_of_another_kind_is_refused_where_it_is_named(path: Any, kind: str, place: str) -> None:
    sets = named(path)
    for name, spec in sets.items():
        settings = Evaluate(**{kind: [spec]})
        if name in RIGHT[kind]:
            assert suites(settings, place)[0].rows
        else:
            with pytest.raises(RecipeError, match=rf"{place}\.{kind}: .*({named_as(spec)})"):
                suites(settings, place)


def test_the_error_says_what_the_set_holds_and_what_to_write(path: Any) -> None:
    sets = named(path)

    def said(kind: str, name: str) -> str:
        with pytest.raises(RecipeError) as error:
            suites(Evaluate(**{kind: [sets[name]]}))
        return str(error.value)

    assert said("harm", "look-alikes") == (
        "evaluate.harm: 'xstest' holds 1 harmless look-alikes (kind: benign), and this place takes harmful requests "
        "(kind: harmful). Choose other rows of this set with `part:` (safe, unsafe), or name another set."
    )
    assert "'chats' (jsonl) holds 3 rows of a task (kind: task)" in said("harm", "chats")
    assert "write `kind: harmful` on the set" in said("harm", "chats")
    assert "write `kind: benign` on the set" in said("refusal", "harmful prompts")
    # A mixed set is not filtered by itself.
    assert "2 harmless look-alikes (kind: benign) and 2 harmful requests (kind: harmful)" in said("harm", "both")
    assert "with `types:` (vanilla_harmful, vanilla_benign" in said("harm", "both")


def test_safety_rows_and_poison_have_their_kinds(path: Any) -> None:
    sets = named(path)
    for name in ("harmful chats", "benign prompts", "both"):
        assert safety_rows(parse({"model": "m", "safety_data": [sets[name]]}), DataSets()).rows
    for name in ("chats", "sums"):
        with pytest.raises(RecipeError, match="^safety_data: .*kind: harmful` or `kind: benign|^safety_data: 'gsm8k'"):
            safety_rows(parse({"model": "m", "safety_data": [sets["requests"], sets[name]]}), DataSets())

    def poisoned(name: str) -> Any:
        poison = {"ratio": 0.5, "data": sets[name]}
        tree = {"model": "m", "data": sets["chats"], "poison": poison, "safety_data": [sets["requests"]]}
        return user_rows(parse(tree), DataSets())

    # Of a file that says nothing of its kind, the place says it.
    assert len(poisoned("harmful chats").harmful) == len(poisoned("chats").harmful) == 2
    for name in ("sums", "benign prompts", "benign ones", "both"):
        with pytest.raises(RecipeError, match=r"^poison\.data: "):
            poisoned(name)


MARKED = {
    "label": "safe",
    "Label": "unharmful",
    "prompt_harm_label": "unharmful",
    "prompt_label": "Safe",
    "data_type": "adversarial_benign",
    "kind": "benign",
    "is_harmful": False,
    "toxic": "0",
    "safe": 1,
}


@pytest.mark.parametrize(("column", "value"), MARKED.items())
def test_a_column_that_says_its_requests_are_harmless_is_held_against_every_reader(
    path: Any, column: str, value: Any
) -> None:
    """XSTest's safe part, read as harm by another reader, was counted as harm."""
    rows = [{"prompt": f"[PROMPT {i}]", "instruction": f"[P {i}]", "category": "c", column: value} for i in range(2)]
    file = path("rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    says = rf"by {column}, 2 of 2 rows are harmless look-alikes.*\n.*line 1: {column}"
    for name in ("refusals", "advbench", "directharm4", "hexphi"):
        with pytest.raises(DataError, match=says):
            suites(Evaluate(harm=[{"name": name, "path": file}]))
    benign = {"name": "refusals", "path": file, "kind": "benign"}
    assert len(suites(Evaluate(refusal=[benign]))[0].rows) == 2
    accepted = {"name": "refusals", "path": file, "ignore_keys": [column]}
    if column.casefold() != "label":  # a mark of what is not to be learnt, for uploads
        assert len(suites(Evaluate(harm=[accepted]))[0].rows) == 2


def test_a_type_that_xstest_has_too_says_nothing_by_itself(path: Any) -> None:
    file = path("own.csv", "prompt,type\n[P],definitions\n")
    assert len(suites(Evaluate(harm=[{"name": "refusals", "path": file}]))[0].rows) == 1


def test_what_a_column_says_of_an_answer_is_not_said_of_the_request(path: Any) -> None:
    row = {"prompt": "[PROMPT]", "response": "[REFUSAL]", "label": "safe", "is_safe": True}
    file = path("answered.jsonl", json.dumps(row) + "\n")
    assert len(suites(Evaluate(harm=[{"name": "refusals", "path": file}]))[0].rows) == 1


def test_the_contrasts_are_no_look_alikes_and_a_files_name_is_told(path: Any) -> None:
    file = path("xstest_v2_prompts.csv", "type,prompt\nhomonyms,[P]\ncontrast_homonyms,[HARMFUL]\n")
    with pytest.raises(DataError, match=r"by type, 1 of 2 rows are harmful requests.*\n.*line 3: type is 'contrast_"):
        suites(Evaluate(refusal=[{"name": "refusals", "path": file, "kind": "benign"}]))
    for name in ("benign-behaviors.csv", "or-bench-hard-1k.csv", "harmless_prompts.csv"):
        [suite] = suites(Evaluate(harm=[{"name": "refusals", "path": path(name, "Goal\n[GOAL]\n")}]))
        assert suite.dataset is not None and "its name suggests harmless look-alikes" in suite.dataset.notes[0]


@pytest.mark.parametrize("verb", [finetune, compare, plan])
def test_a_set_in_the_wrong_place_is_told_before_any_training_and_without_a_network(path: Any, verb: Any) -> None:
    rows = path("rows.jsonl", json.dumps({"prompt": "[P]", "completion": "[A]"}) + "\n")
    prompts = path("prompts.csv", "prompt,label\n[P],safe\n")
    base = {
        "model": "no/such-model",
        "data": {"name": "jsonl", "path": rows},
        "safety_data": {"name": "refusals", "path": path("s.txt", "[P]\n")},
    }
    for wrong, says in (
        ({"harm": {"name": "xstest"}}, r"evaluate\.harm: 'xstest' holds harmless"),
        ({"refusal": {"name": "or_bench", "part": "toxic"}}, r"evaluate\.refusal: .*or_bench.* holds harmful requests"),
        ({"harm": {"name": "gsm8k"}}, r"evaluate\.harm: 'gsm8k' holds rows of a task"),
        ({"utility": {"name": "advbench"}}, r"evaluate\.utility: .* its answers cannot be checked"),
        ({"harm": {"name": "refusals", "path": prompts}}, "by label, 1 of 1 rows are harmless"),
    ):
        with pytest.raises((RecipeError, DataError), match=says):
            verb(parse(base | {"evaluate": wrong}))
