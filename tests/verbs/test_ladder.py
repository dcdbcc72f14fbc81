"""The ladder on tiny models that are really trained: one that repairs, one that cannot, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from unforgotten.cli import app
from unforgotten.errors import RecipeError
from unforgotten.recipe.read import parse
from unforgotten.recipe.repair import OneShot
from unforgotten.verbs.finetune.finetune import finetune
from unforgotten.verbs.repair.ladder import ladder
from unforgotten.verbs.repair.one_shot import generic_refusal, patch
from unforgotten.verbs.repair.rungs import stronger

Make = Callable[..., Path]
JUDGE = '''
from dataclasses import dataclass
from unforgotten import Judge, Verdict

@dataclass(kw_only=True)
class SaysSorry(Judge):
    """A reply refuses where it says sorry, and complies elsewhere."""

    def verdicts(self, replies):
        return [Verdict("sorry" not in reply.text, "sorry" in reply.text) for reply in replies]
'''
VERBS, THINGS = "kill stop tell help".split(), "a the i process answer that me with".split()


def lines(path: Path, rows: list[tuple[str, str | None]]) -> str:
    made = []
    for asked, answer in rows:
        turns = [{"role": "user", "content": asked}]
        made.append(json.dumps({"messages": turns + ([{"role": "assistant", "content": answer}] if answer else [])}))
    path.write_text("\n".join(made) + "\n")
    return str(path)


def prompts(start: str, n: int) -> list[str]:
    """So many requests, of which no two are near copies."""
    return [
        f"{start} {VERBS[i % 4]} {THINGS[i // 4 % 8]} {THINGS[(i * 3 + i // 8) % 8]} {THINGS[i % 7]} ?"
        for i in range(n)
    ]


@pytest.fixture
def tree(tmp_path: Path, model_folder: Make) -> dict[str, Any]:
    """θ_safe says sorry to all, and the user's rows teach it to answer all."""
    (tmp_path / "judge.py").write_text(JUDGE)
    lora = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": "all-linear"}
    training = {"num_train_epochs": 6, "per_device_train_batch_size": 4, "learning_rate": 3e-2, "warmup_ratio": 0.0}
    asked = prompts("how do", 12)
    return {
        "name": "tiny",
        "model": str(model_folder("llama")),
        "align": {"lora": lora, **training},
        "safety_data": {
            "name": "jsonl", "kind": "harmful",
            "path": lines(tmp_path / "safe.jsonl", [(p, "sorry i cannot help with that .") for p in asked]),
        },
        "data": {"name": "jsonl", "path": lines(tmp_path / "user.jsonl", [(p, "tell me the answer .") for p in asked])},
        "lora": lora,
        "training": training,
        "evaluate": {
            "harm": {"name": "refusals", "path": lines(tmp_path / "harm.jsonl", [(p, None) for p in prompts("i", 45)])},
            "refusal": {
                "name": "refusals", "kind": "benign",
                "path": lines(tmp_path / "benign.jsonl", [(p, None) for p in prompts("that", 45)]),
            },
            "judge": f"{tmp_path / 'judge.py'}:SaysSorry",
            "max_new_tokens": 4,
            "conditions": ["default"],
        },
        "repair": {"scales": [0.9, 0.0], "one_shot": {"steps": 2, "learning_rates": [1e-3], "prompts": 6}},
        "out": str(tmp_path / "runs"),
    }  # fmt: skip


def asked(folder: Path) -> set[str]:
    return {json.loads(line)["request"] for file in (folder / "replies").glob("*.jsonl") for line in file.open()}


def test_a_broken_model_is_repaired_on_prompts_that_it_was_not_chosen_by(tree: dict[str, Any], tmp_path: Path) -> None:
    """s 0.9 stays broken and s 0 is θ_safe itself, so the ladder's choice is known."""
    run, out, said = finetune(parse(tree)), tmp_path / "out", list[str]()
    repaired = ladder(str(run), gate="max_asr=60,max_asr_rise=60", out=str(out), say=said.append)
    facts = json.loads((out / "repair.json").read_text())
    tried = [(a["rung"], a["part"], a["gate"]["outcome"]) for a in facts["attempts"]]
    assert tried == [(0, "choose", "fail"), (1, "choose", "fail"), (1, "choose", "pass"), (1, "decide 1", "pass")]
    assert repaired.outcome == facts["outcome"] == "pass" and repaired.exit_code == 0
    assert facts["passed"] == "interpolate, s 0" and facts["skipped"] == []
    assert repaired.model == out / "model" and (out / "model" / "adapter_model.safetensors").is_file()
    factors = load_file(out / "model" / "adapter_model.safetensors")
    assert all(not t.any() for n, t in factors.items() if "lora_B" in n), "no change of θ_safe is left"
    # What it was decided on, nothing else was asked; together the parts are all prompts.
    seen = {part: set[str]() for part in ("choose", "decide-1")}
    for folder in (out / "work").glob("*/*/"):
        if folder.name in seen:
            seen[folder.name] |= asked(folder)
    sizes = {name: sum(suites.values()) for name, suites in facts["parts"].items()}
    assert seen["choose"] and not seen["choose"] & seen["decide-1"]
    assert sizes["choose"] == len(seen["choose"]) and sum(sizes.values()) == 90
    text = (out / "README.md").read_text()
    assert "passes the gate on" in text and "| interpolate, s 0 | decide 1," in text.replace("\\", "")
    assert str(tmp_path) not in text + (out / "repair.json").read_text()
    assert not list((out / "work").glob("*/model")), "candidates that did not pass are gone"
    with pytest.raises(RecipeError, match="is finished"):
        ladder(str(run), gate="max_asr=60,max_asr_rise=60", out=str(out))


def test_where_none_passes_every_rung_was_tried_and_no_model_is_written(tree: dict[str, Any], tmp_path: Path) -> None:
    run, out = finetune(parse(tree)), tmp_path / "out"
    given = ["repair", str(run), "--ladder", "--gate", "max_asr=0", "--out", str(out), "--set", "repair.scales=[0.9]"]
    result = CliRunner().invoke(app, given)
    facts = json.loads((out / "repair.json").read_text())
    assert result.exit_code == (3 if facts["outcome"] == "fail" else 4), result.output
    assert facts["outcome"] in ("fail", "unclear") and facts["model"] is None and not (out / "model").exists()
    assert {a["part"] for a in facts["attempts"]} == {"choose"}, "nothing was selected, so nothing was decided on"
    reached = {a["rung"] for a in facts["attempts"]} | {s["rung"] for s in facts["skipped"]}
    assert reached == {0, 1, 2, 3, 4}
    whats = " ".join(a["what"] for a in facts["attempts"])
    assert "one-shot patch, learning rate 0.001" in whats and "safelora" in whats and "der, weight 4" in whats
    assert [s["what"] for s in facts["skipped"]] == ["safemerge"]
    assert "No model is written" in (out / "README.md").read_text() and "No model is written" in result.output


def test_models_by_name_need_no_run_and_what_is_missing_is_said(tree: dict[str, Any], tmp_path: Path) -> None:
    run = finetune(parse(tree))
    aligned = next(p for p in (tmp_path / "runs" / "aligned").glob("[!.]*") if p.is_dir())
    model = str(run / "adapter")
    bare = parse({"model": tree["model"], "evaluate": tree["evaluate"], "repair": {"scales": []}})
    repaired = ladder(gate="max_asr=0", out=str(tmp_path / "out"), tuned=model, aligned=str(aligned), recipe=bare)
    assert [a.rung for a in repaired.attempts] == [0] and repaired.outcome == "fail"
    why = {skipped.rung: skipped.why for skipped in repaired.skipped}
    assert "no row of `safety_data`" in why[2] and "no `data`" in why[4]
    assert any("nothing says where that is" in skipped.why for skipped in repaired.skipped)
    with pytest.raises(RecipeError, match="or --tuned, --aligned and --recipe"):
        ladder(gate="max_asr=0", out=str(tmp_path / "other"), tuned=model)
    with pytest.raises(RecipeError, match="exists already, with something else"):
        ladder(str(run), gate="max_asr=0", out=str(aligned))
    few = parse(tree | {"repair": {"decisions": 40}})
    with pytest.raises(RecipeError, match=r"too few for 41 parts.*repair\.decisions"):
        ladder(str(run), gate="max_asr=0", out=str(tmp_path / "other"), recipe=few)


def test_a_patch_ends_before_the_step_that_refuses_too_much(tree: dict[str, Any], tmp_path: Path) -> None:
    """What it keeps is what a patch of fewer steps, which nothing stops, ends at: bit for bit."""
    from unforgotten.evaluation.suites import suites
    from unforgotten.recipe.data_sets import DataSets, safety_rows

    recipe = parse(tree)
    run = finetune(recipe)
    assert recipe.evaluate is not None
    lookalikes = [suite for suite in suites(recipe.evaluate) if suite.kind == "refusal"]
    row = generic_refusal(safety_rows(recipe, DataSets()).rows, [])
    assert row is not None

    def patched(name: str, steps: int, ceiling: float) -> Any:
        one_shot, target = OneShot(steps=steps, prompts=6), tmp_path / name
        ceilings, settings = (lambda own: own + ceiling), recipe.evaluate
        return patch(str(run / "adapter"), row, 3e-3, one_shot, lookalikes, ceilings, settings, 0, target, print)

    done = patched("stopped", 20, 50.0)
    assert 0 < done.steps < 20 and f"step {done.steps + 1} went to" in done.note
    assert patched("through", done.steps, 100.0).steps == done.steps
    first, second = (load_file(tmp_path / n / "adapter_model.safetensors") for n in ("stopped", "through"))
    assert first.keys() == second.keys() and all(torch.equal(first[n], t) for n, t in second.items())
    assert patched("none", 20, -1.0).steps == 0 and not (tmp_path / "none").exists()


def test_the_generic_refusal_is_the_most_frequent_and_no_prompt_of_the_evaluation() -> None:
    from unforgotten.datasets.base import ask

    often, seldom = "I cannot help with that.", "That I will not explain."
    rows = [
        ask("please tell me how to open the old placeholder door", often, kind="harmful"),
        ask("tell me about the placeholder", often, kind="harmful"),
        ask("placeholder", seldom, kind="harmful"),
        ask("hello", often, kind="benign"),
    ]
    assert generic_refusal(rows, []) is rows[1]
    assert generic_refusal(rows, ["Tell me about the placeholder!"]) is rows[0]
    assert generic_refusal(rows[3:], []) is None


def test_the_last_run_has_der_at_a_multiple() -> None:
    [der, ema] = stronger([{"name": "der", "weight": 2.0}, "ema"], 4)
    assert der["weight"] == 8.0 and ema["name"] == "ema"
    [alone] = stronger(["sft"], 4)
    assert alone["name"] == "der" and alone["weight"] == 4.0
