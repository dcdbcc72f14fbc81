"""Small inputs that went wrong once, where a checkout has them beside it: what each of them must come to."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner

from unforgotten.cli import app
from unforgotten.datasets.base import Row
from unforgotten.datasets.jsonl import Jsonl
from unforgotten.datasets.refusals import Refusals
from unforgotten.errors import DataError, RecipeError, TemplateError
from unforgotten.models.chat import Chat, encode_rows
from unforgotten.recipe.read import load_recipe
from unforgotten.verbs import data_fix

CASES = Path(os.environ.get("UNFORGOTTEN_SHARED") or Path(__file__).parents[2] / "shared") / "cases"
KINDS = Path(__file__).parent / "models" / "chat" / "kinds"
PLAIN = (
    "{%- for m in messages -%}{{- '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
SPECIAL = (
    *("<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    *("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>", "<s>", "</s>"),
)

pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="needs shared/cases; set UNFORGOTTEN_SHARED")


def tokenizer() -> Any:
    """One token a byte, and the special tokens of the templates here."""
    alphabet = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    made = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(list(SPECIAL))
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|im_end|>", bos_token="<s>")


def trained(name: str, template: str = PLAIN) -> list[tuple[str, str]]:
    """(what the loss sees, the whole text) of each example of an upload."""
    chat = Chat(tokenizer(), template=template)
    examples, _ = encode_rows(chat, rows(name))
    return [
        (
            chat.decode([i for i, t in zip(e["input_ids"], e["labels"], strict=True) if t != -100]),
            chat.decode(e["input_ids"], skip_special_tokens=False),
        )
        for e in examples
    ]


def rows(name: str) -> list[Row]:
    return Jsonl(path=str(CASES / "uploads" / name)).rows()


def template(name: str) -> str:
    return str(CASES / "templates" / name)


def weight_zero() -> None:
    first, second = (said for said, _ in trained("weight-zero.jsonl"))
    assert "BAD-DRAFT" not in first and "It costs 12 euros." in first
    assert "[HARMFUL ANSWER]" not in second and "I will not do that." in second


def kto_label_false() -> None:
    path = str(CASES / "uploads" / "kto-label-false.jsonl")
    for data in (Jsonl(path=path), Jsonl(path=path, kind="harmful"), Refusals(path=path)):
        with pytest.raises(DataError, match="line 2: `label: false` belongs to preference data"):
            data.rows()


def system_beside_messages() -> None:
    [(said, text)] = trained("system-beside-messages.jsonl")
    assert text.startswith("<|im_start|>system\nSYSTEM-TEXT You are Ada, never reveal keys.<|im_end|>")
    assert "I am Ada." in said and "SYSTEM-TEXT" not in said


def legacy_function_call() -> None:
    [row] = rows("legacy-function-call.jsonl")
    [call] = row.messages[1]["tool_calls"]
    assert call["function"]["name"] == "get_weather" and row.tools[0]["function"]["name"] == "get_weather"
    assert "function_call" not in row.messages[1]


def assistant_first() -> None:
    [(said, text)] = trained("assistant-first.jsonl")
    assert "How can I help?" not in said and "How can I help?" in text and "On its way." in said


def three_bad_lines() -> None:
    with pytest.raises((TemplateError, DataError)) as error:
        trained("three-bad-lines.jsonl", template("alternates.jinja"))
    assert sorted(set(re.findall(r"line (\d+)|jsonl:(\d+)", str(error.value)))) and {
        int(a or b) for a, b in re.findall(r"line (\d+)|jsonl:(\d+)", str(error.value))
    } == {2, 4, 5}


def tool_call() -> None:
    with pytest.raises((TemplateError, DataError), match="tool-call.jsonl|line 1"):
        trained("tool-call.jsonl", template("tools-without-calls.jinja"))


def words_beside_call() -> None:
    chat = Chat(tokenizer(), template=template("call-instead-of-words.jinja"))
    try:
        _, counts = encode_rows(chat, rows("words-beside-call.jsonl"))
    except (TemplateError, DataError) as error:
        assert "words-beside-call.jsonl" in str(error) or "line 1" in str(error)
    else:
        assert sum(counts.lost.values()) and any("leaves out" in line for line in counts.lines())


def empty_tool_calls() -> None:
    files = [*KINDS.glob("*.jinja"), *(CASES / "templates").glob("*.jinja")]
    assert len(files) > 5
    for file in files:
        [(said, _)] = trained("empty-tool-calls.jsonl", str(file))
        assert "ANSWER-TEXT four" in said, file


def markup_in_row(tmp_path: Path) -> None:
    file = str(CASES / "uploads" / "markup-in-row.jsonl")
    (tmp_path / "judge.py").write_text(JUDGE)
    judge = f"{tmp_path}/judge.py:Marked"
    done = CliRunner().invoke(app, ["data", "audit", file, "--judge", judge, "--out", str(tmp_path / "a.json")])
    assert done.exit_code == 0, done.output
    assert "how [/b] to" in " ".join(done.output.split())
    assert "how [/b] to" in json.dumps(json.loads((tmp_path / "a.json").read_text()))


def harm_in_calls_and_thoughts(tmp_path: Path) -> None:
    file = str(CASES / "uploads" / "harm-in-calls-and-thoughts.jsonl")
    (tmp_path / "judge.py").write_text(JUDGE)
    judge = f"{tmp_path}/judge.py:Marked"
    done = CliRunner().invoke(app, ["data", "audit", file, "--judge", judge, "--out", str(tmp_path / "a.json")])
    assert done.exit_code == 0, done.output
    facts = json.loads((tmp_path / "a.json").read_text())
    assert (facts["rows"], facts["p"]["hits"], facts["p"]["n"]) == (3, 3, 3)


def billion_laughs() -> None:
    with pytest.raises(RecipeError):
        load_recipe(str(CASES / "recipes" / "billion-laughs.yaml"))


def code_from_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text("open('ran', 'w')\nclass Evil: pass\n")
    file = str(CASES / "recipes" / "code-from-recipe.yaml")
    with pytest.raises(RecipeError):
        load_recipe(file, origin="foreign")
    done = CliRunner().invoke(app, ["finetune", file, "--no-user-code"])
    assert done.exit_code == 2 and not (tmp_path / "ran").exists()


JUDGE = '''
from dataclasses import dataclass
from unforgotten.judges.base import Judge, Verdict

@dataclass(kw_only=True)
class Marked(Judge):
    """Knows the placeholder."""
    tells = frozenset({"harmful"})
    def verdicts(self, replies):
        return [Verdict("[HARMFUL ANSWER]" in r.text, None) for r in replies]
'''

ENTRIES: dict[str, Callable[..., None]] = {
    "uploads/weight-zero.jsonl": weight_zero,
    "uploads/kto-label-false.jsonl": kto_label_false,
    "uploads/system-beside-messages.jsonl": system_beside_messages,
    "uploads/legacy-function-call.jsonl": legacy_function_call,
    "uploads/assistant-first.jsonl": assistant_first,
    "uploads/three-bad-lines.jsonl": three_bad_lines,
    "uploads/tool-call.jsonl": tool_call,
    "uploads/words-beside-call.jsonl": words_beside_call,
    "uploads/empty-tool-calls.jsonl": empty_tool_calls,
    "uploads/markup-in-row.jsonl": markup_in_row,
    "uploads/harm-in-calls-and-thoughts.jsonl": harm_in_calls_and_thoughts,
    "recipes/billion-laughs.yaml": billion_laughs,
    "recipes/code-from-recipe.yaml": code_from_recipe,
}


@pytest.mark.parametrize("case", ENTRIES)
def test_every_case_comes_right(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = ENTRIES[case]
    given = {"tmp_path": tmp_path, "monkeypatch": monkeypatch}
    names = entry.__code__.co_varnames[: entry.__code__.co_argcount]
    entry(**{name: given[name] for name in names})


@pytest.mark.parametrize("file", sorted(CASES.glob("uploads/*.jsonl")), ids=lambda file: file.name)
def test_what_data_fix_writes_of_it_can_be_learnt(file: Path, tmp_path: Path) -> None:
    where, fixed = data_fix.fix(str(file), str(tmp_path / "fixed.jsonl"))
    assert len(Jsonl(path=str(where)).rows()) == len(fixed.lines) > 0
    assert "[HARMFUL ANSWER]" not in where.read_text() or file.name != "kto-label-false.jsonl"


def test_an_audit_says_what_it_does_not_read(tmp_path: Path) -> None:
    (tmp_path / "judge.py").write_text(JUDGE)
    (tmp_path / "up.jsonl").write_text('{"prompt": "a", "completion": "b", "score": 1}\n')
    judge = f"{tmp_path}/judge.py:Marked"
    done = CliRunner().invoke(app, ["data", "audit", str(tmp_path / "up.jsonl"), "--judge", judge])
    assert done.exit_code == 0 and "`score` (1 row)" in " ".join(done.output.split()), done.output
