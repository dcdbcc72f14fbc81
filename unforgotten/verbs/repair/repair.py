"""Weight edits of finished models, without training: MagMax, SafeLoRA, SafeMERGE, interpolation.

One tensor of each model is in memory at a time.

out/
  model.safetensors (or shards), config, tokenizer        where whole weights come out
  adapter_model.safetensors, adapter_config, tokenizer    where an adapter does
  repair.json                                             method, models, counts, notes
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from unforgotten import registry
from unforgotten.errors import RecipeError
from unforgotten.runs import atomic_folder, digests, safe_text
from unforgotten.runs.progress import Say, quiet
from unforgotten.verbs.repair.models import open_models
from unforgotten.verbs.repair.write import copy_beside, write

if TYPE_CHECKING:
    from unforgotten.methods.base import Method


def repair(
    method: Any,
    *,
    unaligned_model: str | None = None,
    aligned: str,
    tuned: str,
    out: str,
    as_lora: int | None = None,
    say: Say = quiet,
) -> Path:
    """Applies a method's `finish` to finished models and writes the result to `out`, whole or not at all.

    method: a name or `{name: …, field: …}`. unaligned_model: θ₀, for an edit that reads it. aligned: θ_safe, whole or
    an adapter on θ₀. tuned: θ*, whole, or an adapter on θ_safe or on θ₀. as_lora: the rank of an adapter on θ_safe
    nearest to the result; its error is told.
    Raises RecipeError for a method that edits no weights or an `out` that exists; ModelError for unlike models.
    """
    edit = registry.build("methods", method)
    _refuse_others(edit)
    if edit.needs_unaligned_model and unaligned_model is None:
        raise RecipeError(f"{type(edit).__name__} reads θ₀, the model before alignment. Name it as --unaligned-model.")
    target = Path(out).expanduser()
    if target.exists():
        raise RecipeError(f"{out} exists already. Name a new folder, so that nothing is overwritten.")
    weights = open_models(unaligned_model, aligned, tuned, edit)
    with atomic_folder.folder(target) as part:
        facts = write(edit, weights, part, as_lora)
        if not facts["edited"]:
            weights.note(
                f"Nothing was edited: with these settings of {type(edit).__name__}, the result is equal to --tuned "
                "and no safer"
            )
        named = {role: model for role, model in (("unaligned_model", unaligned_model), ("aligned", aligned)) if model}
        named["tuned"] = tuned
        facts |= {"method": registry.spec_of(edit), "notes": weights.notes}
        facts |= {"models": {role: digests.public_name(model) for role, model in named.items()}}
        copy_beside(part, [m for m in (tuned, aligned, unaligned_model) if m], adapter=facts["result"] == "adapter")
        (part / "repair.json").write_text(safe_text.json_text(facts, nan=True) + "\n", encoding="utf-8")
        atomic_folder.publish(part, target)
    say(f"Edited {facts['edited']} of {facts['of']} {'modules' if facts['result'] == 'adapter' else 'weights'}.")
    for note in weights.notes:
        say(note)
    return target


def _refuse_others(edit: Method) -> None:
    from unforgotten.methods.base import turns

    name, taken = type(edit).__name__, turns(type(edit))
    if taken != ["finish"]:
        able = [n for n in registry.names("methods") if turns(registry.load("methods", n)) == ["finish"]]
        raise RecipeError(
            f"{name} works during training ({', '.join(taken) or 'no turn'}), so it cannot repair a finished model. "
            f"Use one of: {', '.join(able)}."
        )
