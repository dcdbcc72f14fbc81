"""Published files of prompts are read as they are, and others by the names that a user gives. Placeholders alone."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest

from unforgotten import registry
from unforgotten.errors import DataError, RecipeError

HARMBENCH = """Behavior,FunctionalCategory,SemanticCategory,Tags,ContextString,BehaviorID
[BEHAVIOR 1],standard,chemical_biological,,,one_1
"[BEHAVIOR, 2]",contextual,cybercrime_intrusion,context,"[CONTEXT, of
two lines]",two_2
[BEHAVIOR 3],copyright,copyright,"lyrics, hash_check",,three_3
"""
STRONGREJECT = "category,source,forbidden_prompt\nFraud,custom,[FORBIDDEN 1]\nHate,AdvBench,[FORBIDDEN 2]\n"
JAILBREAKBENCH = """Index,Goal,Target,Behavior,Category,Source
0,[GOAL 1],"Sure, [TARGET]",[NAME 1],Privacy,Original
1,[GOAL 2],"Sure, [TARGET]",[NAME 2],Malware/Hacking,TDC/HarmBench
"""
SORRY = "".join(
    json.dumps({"question_id": n, "category": str(n), "turns": [f"[TURN {n}]"], "prompt_style": "base"}) + "\n"
    for n in (1, 2)
)


def read(path: str, name: str = "refusals", **settings: Any) -> tuple[list[tuple[str, str]], tuple[str, ...]]:
    data = registry.build("datasets", {"name": name, "path": path, **settings})
    rows = data.rows()
    assert {row.kind for row in rows} == {"harmful"} and not any(row.response for row in rows)
    return [(row.request, row.category) for row in rows], data.notes


def test_harmbench_as_published(write: Any) -> None:
    rows, [note, *_] = read(write("harmbench_behaviors_text_all.csv", HARMBENCH))
    assert rows == [
        ("[BEHAVIOR 1]", "chemical_biological"),
        # As its baselines join them.
        ("[CONTEXT, of\ntwo lines]\n\n---\n\n[BEHAVIOR, 2]", "cybercrime_intrusion"),
        ("[BEHAVIOR 3]", "copyright"),
    ]
    assert "1 of 3 prompts are HarmBench's copyright behaviors" in note and "hashes" in note


def test_strongreject_and_sorry_bench_as_published(write: Any) -> None:
    rows, notes = read(write("strongreject_dataset.csv", STRONGREJECT))
    assert rows == [("[FORBIDDEN 1]", "Fraud"), ("[FORBIDDEN 2]", "Hate")] and not any("is read as" in n for n in notes)
    rows, notes = read(write("question.jsonl", SORRY))
    assert rows == [("[TURN 1]", "1"), ("[TURN 2]", "2")] and not any("is read as" in n for n in notes)
    two = json.dumps({"question_id": 1, "category": "1", "turns": ["[TURN]", "[SECOND]"]})
    with pytest.raises(DataError, match="line 1"):
        read(write("two.jsonl", two))


@pytest.mark.parametrize(
    ("cell", "prompt"),
    [
        ("['[TURN 1]']", "[TURN 1]"),
        ('["[TURN]\'s"]', "[TURN]'s"),
        ('["a \\u00e9 \\/"]', "a é /"),
        ("array(['[TURN 1]'], dtype=object)", "[TURN 1]"),
        (" ['two\\nlines'] ", "two\nlines"),
        ("[TURN 1] as it is", "[TURN 1] as it is"),
        ("plain words", "plain words"),
        ("['a', 'b']", None),
        ("['a' 'b']", None),
        ("[]", None),
        ("[1]", None),
        ("[" * 5000 + "]", None),
        ("['a'] + ['b']", None),
    ],
)
def test_sorry_bench_as_pandas_writes_it(write: Any, cell: str, prompt: str | None) -> None:
    text = io.StringIO()
    csv.writer(text).writerows([("question_id", "category", "turns"), (1, 2, cell)])
    path = write("sorry.csv", text.getvalue())
    for name, given in (("refusals", None), ("hexphi", {"prompt": "turns"})):
        if prompt is None:
            with pytest.raises(DataError, match="line 2: `turns` holds"):
                read(path, name, columns=given)
        else:
            assert read(path, name, columns=given)[0] == [(prompt, "2")]


@pytest.mark.parametrize("context", [["[CONTEXT]"], {"a": "[CONTEXT]"}, 5])
def test_a_context_that_is_no_text_is_not_left_out(write: Any, context: Any) -> None:
    path = write("own.jsonl", json.dumps({"question": "[PROMPT]", "context": context}) + "\n")
    with pytest.raises(DataError, match="`context` must be text"):
        read(path)


def test_jailbreakbenchs_goal_is_asked_and_not_its_name_and_the_choice_is_told(write: Any) -> None:
    path = write("harmful-behaviors.csv", JAILBREAKBENCH)
    rows, [note, *_] = read(path)
    assert rows == [("[GOAL 1]", "Privacy"), ("[GOAL 2]", "Malware/Hacking")]
    assert "'Goal' is read as the prompt, not 'Behavior'; `columns: {prompt: Behavior}` reads the other." in note
    names, notes = read(path, columns={"prompt": "Behavior"})
    assert names == [("[NAME 1]", "Privacy"), ("[NAME 2]", "Malware/Hacking")]
    assert not any("is read as" in n for n in notes)
    assert read(path, "advbench")[0] == rows


@pytest.mark.parametrize("column", ["prompt", "Goal", "BEHAVIOR", "forbidden_prompt", "Question", "query", "Request"])
def test_usual_names_are_known_in_any_case(write: Any, column: str) -> None:
    rows, notes = read(write("a.csv", f"id,{column},CATEGORY\n1,[PROMPT],x\n"))
    assert rows == [("[PROMPT]", "x")] and not any("is read as" in n for n in notes)
    rows, _ = read(write("a.jsonl", json.dumps({"id": 1, column: "[PROMPT]", "Category": "x"})))
    assert rows == [("[PROMPT]", "x")]


@pytest.mark.parametrize("name", ["refusals", "advbench", "hexphi"])
def test_columns_that_a_user_names(write: Any, name: str) -> None:
    path = write("own.csv", "Nr,Anfrage,Art,Umfeld\n1,[ASKED],x,\n2,[TOO],y,[AROUND]\n")
    given = {"prompt": "anfrage", "category": "Art", "context": "Umfeld"}
    assert read(path, name, columns=given)[0] == [("[ASKED]", "x"), ("[TOO]\n\n[AROUND]", "y")]


def test_instruction_with_context_and_an_answer(write: Any) -> None:
    line = json.dumps({"instruction": "[DO]", "context": "[AROUND]", "response": "[NO]", "category": "x"})
    [row] = registry.build("datasets", {"name": "refusals", "path": write("d.jsonl", line)}).rows()
    assert (row.request, row.response, row.category) == ("[DO]\n\n[AROUND]", "[NO]", "x")


@pytest.mark.parametrize("name", ["refusals", "advbench", "hexphi", "xstest", "or_bench", "directharm4"])
def test_a_misspelt_column_is_told_with_those_of_the_file(write: Any, name: str) -> None:
    path = write("own.csv", "prompt,instruction,type,category,label\n[P],[I],a,b,safe\n")
    with pytest.raises(DataError, match="names 'Promt', but the file has no such column") as error:
        read(path, name, columns={"prompt": "Promt"})
    assert "It has prompt, instruction, type, category, label. Did you mean 'prompt'?" in str(error.value)
    with pytest.raises(RecipeError, match="unknown part 'promt'. Did you mean 'prompt'"):
        read(path, name, columns={"promt": "prompt"})


def test_other_readers_take_columns_in_any_case_too(write: Any) -> None:
    path = write("x.csv", "Prompt,Type,Label\n[SAFE],homonyms,safe\n[UNSAFE],contrast,unsafe\n")
    assert read(path, "xstest", part="unsafe")[0] == [("[UNSAFE]", "contrast")]
    path = write("y.csv", "Text,Kind,Safe?\n[SAFE],homonyms,safe\n[UNSAFE],contrast,unsafe\n")
    given = {"prompt": "Text", "category": "Kind", "label": "Safe?"}
    assert read(path, "xstest", part="unsafe", columns=given)[0] == [("[UNSAFE]", "contrast")]
    path = write("z.csv", "Text,Group\n[TOXIC],x\n")
    assert read(path, "or_bench", part="toxic", columns={"prompt": "Text", "category": "Group"})[0] == [
        ("[TOXIC]", "x")
    ]


def test_a_file_without_a_known_column_is_told_what_it_has(write: Any) -> None:
    with pytest.raises(DataError, match="the first line names none of the columns .*it is 'one, two'"):
        read(write("a.csv", "one,two\n[A],[B]\n"))


def test_an_evaluation_says_how_a_file_was_read(write: Any) -> None:
    from unforgotten.evaluation.suites import suites
    from unforgotten.recipe.evaluate import Evaluate

    [suite] = suites(Evaluate(harm=[{"name": "refusals", "path": write("j.csv", JAILBREAKBENCH)}]))
    assert suite.dataset is not None and "'Goal' is read as the prompt" in suite.dataset.notes[0]


def test_a_header_that_names_a_column_twice_is_refused(write: Any) -> None:
    with pytest.raises(DataError, match="names 'prompt' twice"):
        read(write("a.csv", "prompt,prompt\n[A],[B]\n"))
    assert read(write("b.csv", ",,prompt\n0,0,[A]\n"))[0] == [("[A]", "")]
