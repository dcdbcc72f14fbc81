"""An export's model card: what a run's card says, with how these files are loaded, served and were proven."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from unforgotten import report, results

if TYPE_CHECKING:
    from unforgotten.recipe import Recipe
    from unforgotten.serving import Served

FORMS = {
    "adapter": "a LoRA adapter, as it was trained",
    "stacked": "one LoRA adapter, the alignment's and the fine-tuning's joined exactly",
    "merged": "whole weights, the adapter merged in fp32",
}


def card(run: Path, recipe: Recipe, facts: dict[str, Any], name: str, vllm: Served) -> str:
    """README.md of an export. facts: those of export.json. The figures are left out where they are of other weights."""
    import yaml

    adapter, base = facts["form"] != "merged", facts["base"]
    front: dict[str, Any] = {"library_name": "peft" if adapter else "transformers", "pipeline_tag": "text-generation"}
    if base:
        front |= {"base_model": base, "base_model_relation": "adapter" if adapter else "finetune"}
    methods = [str(m if isinstance(m, str) else m["name"]) for m in recipe.methods]
    front["tags"] = ["unforgotten", "safety", *(["lora"] if adapter else []), *methods]
    proof = facts["proof"]
    form = FORMS[facts["form"]] if facts.get("tensors", {}).get("merged") != 0 else "whole weights"
    text = [
        "---",
        yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip(),
        "---",
        "",
        *_measured(run, recipe, proof["digests"]["before"], "+".join(methods)),
        "",
        f"This is {form}. After the export it gave the same greedy replies to {proof['prompts']} prompts as before; "
        f"the largest deviation of a logit was {proof['largest_logit_deviation']:.1e} (export.json).",
        "",
        "```python",
        *_loading(name, facts),
        "```",
        "",
        *(["With vLLM, from the folder in which this one lies:", "", "```sh"] if vllm.commands else []),
        *vllm.lines(),
        *(["```"] if vllm.commands else []),
    ]
    written = "\n".join(text) + "\n"
    for method in methods:
        if "/" in method:  # a class in a file of the user's own, whose folder is nobody's business
            written = written.replace(method, Path(method).name)
    return written


def _measured(run: Path, recipe: Recipe, loaded: str, methods: str) -> list[str]:
    """The run's own card without its front matter and without how its folder is loaded."""
    file = run / "results.json"
    rows = results.read(file) if file.is_file() else []
    of = (rows[0]["digests"] or {}).get("loaded") if rows else None
    if not rows or of not in (None, loaded):
        why = "Its figures are of other weights, and left out." if rows else "Nothing was measured of it."
        return [f"# {run.name}", "", f"Fine-tuned with {methods}, seed {recipe.seed}, by unforgotten. {why}"]
    own = report.model_card(rows[0], recipe).split("---\n", 2)[2]
    body = own.partition("```python")[0].replace(" Every reply with its verdict is in replies/.", "")
    return [body.strip()]


def _loading(name: str, facts: dict[str, Any]) -> list[str]:
    if facts["base"] is None or facts["form"] == "merged":  # transformers puts a bundled adapter on by itself
        return [
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            f'model = AutoModelForCausalLM.from_pretrained("{name}")',
            f'tokenizer = AutoTokenizer.from_pretrained("{name}")  # its chat template is the one trained with',
        ]
    revision = f', revision="{facts["revision"]}"' if facts["revision"] else ""
    return [
        "from peft import PeftModel",
        "from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig",
        "",
        f'base = AutoModelForCausalLM.from_pretrained("{facts["base"]}"{revision})',
        f'model = PeftModel.from_pretrained(base, "{name}")',
        f'model.generation_config = GenerationConfig.from_pretrained("{name}")',
        f'tokenizer = AutoTokenizer.from_pretrained("{name}")  # its chat template is the one trained with',
    ]
