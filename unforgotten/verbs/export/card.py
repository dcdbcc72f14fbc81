"""An export's model card: what a run's card says, with how these files are loaded, served and were proven."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unforgotten.report import model_card
from unforgotten.runs import console, results
from unforgotten.verbs.finetune.job import method_specs

if TYPE_CHECKING:
    from unforgotten.recipe.recipe import Recipe
    from unforgotten.verbs.export.vllm import VllmCommands

FORMS = {
    "adapter": "a LoRA adapter, as it was trained",
    "stacked": "one LoRA adapter, the alignment's and the fine-tuning's joined exactly",
    "merged": "whole weights, the adapter merged in fp32",
}


def card(run: Path, recipe: Recipe, facts: dict[str, Any], name: str, vllm: VllmCommands) -> str:
    """README.md of an export. facts: those of export.json. The figures are left out where they are of other weights."""
    proof = facts["proof"]
    row, otherwise = _measured(run, proof["digests"]["before"])
    data = model_card.metadata(recipe, row, name, facts["form"] != "merged", facts["base"])
    form = FORMS[facts["form"]] if facts.get("tensors", {}).get("merged") != 0 else "whole weights"
    text = [
        *model_card.body(recipe, method_specs(recipe), row, model_card.facts_of(run), otherwise),
        "",
        "## Gate",
        "",
        *_gate(facts["gate"]),
        "",
        "## How to load it",
        "",
        f"This is {form}. After the export it gave the same greedy replies to {proof['prompts']} prompts as before; "
        f"the largest deviation of a logit was {proof['largest_logit_deviation']:.1e} (export.json).",
        "",
        *console.fenced("python", _loading(name, facts)),
        "",
        *(["With vLLM, from the folder in which this one lies:", ""] if vllm.commands else []),
        *(console.fenced("sh", vllm.lines()) if vllm.commands else map(console.markdown, vllm.lines())),
    ]
    return model_card.written(data, text, recipe)


def _gate(decided: dict[str, Any] | None) -> list[str]:
    """What was decided on these weights before they were released."""
    if decided is None:
        return ["No gate has decided on these weights."]
    lines = [f"- {console.markdown(line)}" for line in decided["lines"]]
    return [f"**{console.markdown(decided['outcome'])}**, on these very weights:", "", *lines]


def _measured(run: Path, loaded: str) -> tuple[results.ResultRow | None, str]:
    """The run's row, if its figures are of these weights; else what to say instead."""
    file = run / "results.json"
    rows = results.read(file) if file.is_file() else []
    of = rows[0].digests.loaded if rows and rows[0].digests else None
    if rows and of in (None, loaded):
        return rows[0], ""
    return None, "What was measured is of other weights, and left out." if rows else "Nothing was measured of it."


def _loading(name: str, facts: dict[str, Any]) -> list[str]:
    name, base = json.dumps(name, ensure_ascii=False), json.dumps(facts["base"], ensure_ascii=False)
    if facts["base"] is None or facts["form"] == "merged":  # transformers puts a bundled adapter on by itself
        return [
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            f"model = AutoModelForCausalLM.from_pretrained({name})",
            f"tokenizer = AutoTokenizer.from_pretrained({name})  # its chat template is the one trained with",
        ]
    revision = f", revision={json.dumps(facts['revision'])}" if facts["revision"] else ""
    return [
        "from peft import PeftModel",
        "from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig",
        "",
        f"base = AutoModelForCausalLM.from_pretrained({base}{revision})",
        f"model = PeftModel.from_pretrained(base, {name})",
        f"model.generation_config = GenerationConfig.from_pretrained({name})",
        f"tokenizer = AutoTokenizer.from_pretrained({name})  # its chat template is the one trained with",
    ]
