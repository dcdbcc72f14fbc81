"""An export's model card: what a run's card says, with how these files are loaded, served and were proven."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unforgotten.report import model_card
from unforgotten.runs import results
from unforgotten.verbs.finetune.job import method_specs

if TYPE_CHECKING:
    from unforgotten.recipe.recipe import Recipe
    from unforgotten.verbs.export.vllm import VllmCommands

FORMS = {
    "adapter": "a LoRA adapter, as it was trained",
    "stacked": "one LoRA adapter: the exact sum of the alignment's adapter and the fine-tuning's",
    "merged": "whole weights, with the adapter merged in fp32",
}


def card(run: Path, recipe: Recipe, facts: dict[str, Any], name: str, vllm: VllmCommands) -> str:
    """README.md of an export. facts: those of export.json. The figures are left out where they are of other weights."""
    proof = facts["proof"]
    row, otherwise = _measured(run, proof["digests"]["before"])
    data = model_card.metadata(recipe, row, name, facts["form"] != "merged", facts["base"])
    form = FORMS[facts["form"]] if facts.get("tensors", {}).get("merged") != 0 else "whole weights"
    content = model_card.content_of(recipe, method_specs(recipe), row, model_card.facts_of(run), otherwise)
    return model_card.written(
        "verbs/export/card", data, content, recipe, gate=facts["gate"], form=form, proof=proof,
        code=model_card.code("python", _loading(name, facts)),
        vllm=model_card.code("sh", vllm.lines()) if vllm.commands else None, without_vllm=vllm.lines(),
    )  # fmt: skip


def _measured(run: Path, loaded: str) -> tuple[results.ResultRow | None, str]:
    """The run's row, if its figures are of these weights; else what to say instead."""
    file = run / "results.json"
    rows = results.read(file) if file.is_file() else []
    of = rows[0].digests.loaded if rows and rows[0].digests else None
    if rows and of in (None, loaded):
        return rows[0], ""
    return None, "The figures are of other weights, so they are left out." if rows else "Nothing was measured."


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
