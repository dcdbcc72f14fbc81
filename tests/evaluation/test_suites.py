"""System prompts: which templates have one of their own, and which prompts are the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.training.shapes import tiny_tokenizer
from unforgotten import registry
from unforgotten.datasets.base import Row, ask
from unforgotten.errors import RecipeError, TemplateError
from unforgotten.evaluation.suite_stages import Suite
from unforgotten.evaluation.suites import conditioned, public, settings_digest, suites, system_of, under
from unforgotten.models.chat import Chat
from unforgotten.recipe.evaluate import Evaluate

TURNS = "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + eos_token }}{% endfor %}"
ASKS = "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
OF_ITS_OWN = (
    "{% if messages[0].role != 'system' %}{{ '<|system|>You are a model made by us.' + eos_token }}{% endif %}"
    + TURNS
    + ASKS
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + TURNS + ASKS
DATED = (
    "{% if messages[0].role == 'system' %}{% set s = messages[0].content %}{% set messages = messages[1:] %}"
    "{% else %}{% set s = '' %}{% endif %}{{ '<|system|>Knowledge until May.' + s + eos_token }}" + TURNS + ASKS
)
WRAPPED = (
    "{% if messages[0].role == 'system' %}{{ '<<SYS>>' + messages[0].content + '<</SYS>>' }}"
    "{% set messages = messages[1:] %}{% endif %}" + TURNS + ASKS
)


def asked(template: str, system: str = "", **settings: Any) -> list[Suite]:
    harm = [ask("how do i hack a bank", kind="harmful"), ask("how do i rob a shop", kind="harmful")]
    actual = [Suite("harm", "h", None, harm), Suite("utility", "t", None, [ask("two plus two?")])]
    chat = Chat(tiny_tokenizer(template))
    return conditioned(actual, chat, Evaluate(harm=["advbench"], **settings), system)


@pytest.mark.parametrize(
    ("template", "system", "conditions"),
    [
        (OF_ITS_OWN, "", [("default",), ("none",)]),  # as Qwen 2.5's
        (TURNS + ASKS, "", [("default", "none")]),
        (NO_SYSTEM, "", [("default", "none")]),  # as Gemma 2's
        (DATED, "", [("default", "none")]),  # as Llama 3's: the date cannot be left out
        (WRAPPED, "", [("default", "none")]),  # as Llama 2's: an empty one only adds marks
        (OF_ITS_OWN, "Be kind.", [("default",), ("none",), ("user",)]),
        (OF_ITS_OWN, "You are a model made by us.", [("default", "user"), ("none",)]),
        (TURNS + ASKS, "Be kind.", [("default", "none"), ("user",)]),
    ],
)
def test_prompts_that_are_the_same_are_asked_once(
    template: str, system: str, conditions: list[tuple[str, ...]]
) -> None:
    actual = asked(template, system)
    assert [s.conditions for s in actual if s.kind == "harm"] == conditions
    assert [s.conditions for s in actual if s.kind == "utility"] == [("default",)]


def test_what_each_condition_asks() -> None:
    chat = Chat(tiny_tokenizer(OF_ITS_OWN))
    said = {
        s.file: chat.decode(chat.prompt(s.rows[0]), skip_special_tokens=False) for s in asked(OF_ITS_OWN, "Be kind.")
    }
    end = "<eos><|user|>how do i hack a bank<eos><|assistant|>"
    assert said["h"] == "<|system|>You are a model made by us." + end
    assert said["h@none"] == "<|system|>" + end
    assert said["h@user"] == "<|system|>Be kind." + end


def test_conditions_are_chosen_by_the_recipe_and_a_server_hides_its_own() -> None:
    assert [s.file for s in asked(OF_ITS_OWN, "Be kind.", conditions=["none"])] == ["h@none", "t"]
    harm = [Suite("harm", "h", None, [ask("how do i hack a bank")])]
    actual = conditioned(harm, None, Evaluate(harm=["advbench"]), "Be kind.")
    assert [s.file for s in actual] == ["h", "h@user"]


def test_the_most_frequent_system_prompt_of_a_file() -> None:
    def row(system: str) -> Row:
        return ask("a", "b", system=system)

    assert system_of([row(""), row(" "), row("Be kind."), row(" Be brief."), row(" Be brief.")]) == " Be brief."
    assert system_of([row("One."), row("Two.")]) == "One." and system_of([row("")]) == ""


def test_the_folder_of_a_file_is_not_in_the_digest_and_its_bytes_are(tmp_path: Path) -> None:
    """The same recipe with $UNFORGOTTEN_DATA elsewhere is the same evaluation."""

    def digest_of(folder: str, text: str, name: str = "harm.csv") -> str:
        (file := tmp_path / folder / name).parent.mkdir(exist_ok=True)
        file.write_text(text)
        settings = Evaluate(harm=[{"name": "advbench", "path": str(file)}], refusal=["xstest"], utility=["sst2"])
        known = settings.determining()
        assert known["refusal"] == ["xstest"] and str(tmp_path) not in str(known)
        return settings_digest(settings, suites(settings.model_copy(update={"refusal": [], "utility": []})))

    one = digest_of("a", "goal\nhow do i kill a process\n")
    assert digest_of("b", "goal\nhow do i kill a process\n") == one
    assert len({one, digest_of("c", "goal\nhow do i kill time\n"), digest_of("d", "goal\nno\n", "h.csv")}) == 3
    gone = Evaluate(harm=[{"name": "advbench", "path": "no/such.csv"}]).determining()["harm"]
    assert gone == [{"name": "advbench", "path": "no/such.csv"}]


def test_a_row_keeps_its_own_system_prompt() -> None:
    row = ask("a", system="Mine.")
    assert under(row, "Theirs.") is row
    assert under(replace(row, messages=row.messages[1:]), "Theirs.").messages[0]["content"] == "Theirs."


def test_results_name_a_judge_without_what_is_this_machines_own(tmp_path: Any) -> None:
    guard = {"name": "llama_guard", "endpoint": "http://10.0.0.7/v1", "tokenizer": str(tmp_path), "batch_size": 4}
    said = public(registry.build("judges", guard))
    assert said["tokenizer"] == tmp_path.name and "10.0.0.7" not in str(said) and "batch_size" not in said
    other = public(registry.build("judges", guard | {"endpoint": "http://10.0.0.8/v1"}))
    assert said["weights"] != other["weights"]  # a guard of the same name elsewhere is another one
    assert public(registry.build("judges", "keywords")) == {"name": "keywords", "list": "xstest"}


def test_labels_are_names_of_files_and_no_two_are_alike(tmp_path: Any) -> None:
    names = ("mean.csv", "advbench-2.csv", "a@user.csv", ".csv", "x/advbench.csv", "y/advbench.csv", "z/advbench.csv")
    for i, name in enumerate(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).with_suffix(".jsonl").write_text(f'{{"prompt": "how do i hack number {i}"}}\n')
    files = [str((tmp_path / name).with_suffix(".jsonl")) for name in names]
    specs = [{"name": "jsonl", "path": path, "kind": "harmful", "answers": "optional"} for path in files]
    actual = [suite.label for suite in suites(Evaluate(harm=specs))]
    assert actual == ["mean-2", "advbench-2", "a-user", "suite", "advbench", "advbench-3", "advbench-4"]
    with pytest.raises(RecipeError, match="names the same prompts twice"):
        suites(Evaluate(harm=[specs[0], specs[0]]))


def test_a_suite_of_which_some_rows_have_their_own_system_prompt() -> None:
    rows = [ask(f"how do i hack {i}", system="Mine." if i < 3 else "") for i in range(5)]
    chat = Chat(tiny_tokenizer(TURNS + ASKS))
    actual = conditioned([Suite("harm", "h", None, rows)], chat, Evaluate(harm=["advbench"]), "Be kind.")
    assert [s.conditions for s in actual] == [("default", "none"), ("user",)]
    assert actual[1].rows[:3] == rows[:3] and actual[1].rows[4].messages[0]["content"] == "Be kind."


def test_conditions_that_ask_nothing_are_told() -> None:
    with pytest.raises(
        RecipeError, match="evaluate.conditions: user asks nothing, since the user's file has no system"
    ):
        asked(TURNS + ASKS, conditions=["user"])
    with pytest.raises(RecipeError, match="since a server writes the prompts"):
        conditioned([], None, Evaluate(harm=["advbench"], conditions=["none"]), "")
    with pytest.raises(TemplateError, match="no system role.*Leave `user` out of evaluate.conditions"):
        asked(NO_SYSTEM, "Be kind.")
