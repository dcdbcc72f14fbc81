"""A run's model as others take it: an adapter, one adapter on the public base, or whole weights, with its proof.

    adapter   the run's adapter as it was trained, its base bundled where that is no public model
    stacked   one adapter on the model below θ_safe: θ_safe's adapter and the run's, joined exactly; ranks add up
    merged    whole weights in the base's precision, merged in fp32, one tensor in memory at a time

out/
  adapter_model.safetensors, adapter_config.json, or model.safetensors, config.json; where a base is bundled, both
  tokenizer, chat_template.jinja, generation_config.json    greedy, with every token that ends a reply
  README.md                                                 the model card
  export.json                                               what was made of what, the proof, how vLLM serves it
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from unforgotten.datasets.reading import files
from unforgotten.errors import ModelError, RecipeError, UnknownName
from unforgotten.evaluation.gate_decision import recorded, sentence
from unforgotten.models.folder.adapter import base_of
from unforgotten.models.folder.open import opened, pinned
from unforgotten.models.shelf import Shelf, chat_of
from unforgotten.runs import atomic, atomic_folder, safe_text
from unforgotten.runs.progress import Say, quiet
from unforgotten.verbs.export import push, verify
from unforgotten.verbs.export import vllm as serving
from unforgotten.verbs.export.card import card
from unforgotten.verbs.export.run import Left, left_by, no_adapter, operator, public_base
from unforgotten.verbs.gate import check_gated

if TYPE_CHECKING:
    from unforgotten.models.chat import Chat

Form = Literal["adapter", "merged", "stacked"]
DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Exported:
    """What `export` made."""

    folder: Path
    vllm: serving.VllmCommands
    address: str | None = None
    """On the Hub, where it was pushed."""


@pinned()
def export(
    run: str,
    form: str,
    *,
    out: str | None = None,
    max_rank: int = serving.RANKS[-1],
    dtype: str = "auto",
    push_to: str | None = None,
    private: bool = False,
    api: Any = None,
    say: Say = quiet,
) -> Exported:
    """Writes a run's model to `out` (by default <run>/exports/<form>), whole or not at all, and proves it.

    run: the folder of a trained run, or its recipe. max_rank: what a server takes. dtype: of `merged`; the base's own
    by default. push_to: OWNER/NAME on the Hub. api: a client of the Hub in place of the user's own.
    Raises RecipeError for what cannot be asked of this run, and ModelError where the export replies otherwise.
    """
    if form not in get_args(Form):
        raise UnknownName("form (--as)", form, get_args(Form))
    _check(form, dtype, private, push_to)
    left = left_by(run)
    say(sentence(gated := check_gated(left.folder, left.recipe)))
    if left.part.name == "model" and form != "merged":
        raise RecipeError(no_adapter(left, form))
    target = Path(out).expanduser() if out else left.folder / "exports" / form
    if target.exists():
        raise RecipeError(f"{target} exists already. Remove it, or name a new folder with --out.")
    hub = push.ready(push_to, api) if push_to else None
    rows, chat, shelf = verify.prompts(left.recipe, say), chat_of(left.folder, left.recipe), Shelf()
    tokens = min(verify.NEW_TOKENS, left.recipe.evaluate.max_new_tokens if left.recipe.evaluate else verify.NEW_TOKENS)
    with atomic_folder.folder(target) as part:
        say(f"Writing {left.folder.name} as {form}.")
        facts = {
            "form": form,
            "run": left.folder.name,
            "adapter_mode": left.adapter_mode,
            **_weights(left, form, dtype, part),
        }
        _beside(part, chat)
        say(f"Asking both {len(rows)} prompts.")
        before = verify.heard(shelf.model(left.folder, left.recipe), chat, rows, tokens)
        stored = left.recipe if dtype == "auto" else left.recipe.model_copy(update={"dtype": "auto"})
        after = verify.heard(shelf.model(str(part), stored), chat_of(str(part), stored), rows, tokens)
        shelf.clear()
        facts |= {"gate": recorded(gated), "proof": (proof := verify.proven(before, after))}
        name, address = push_to or left.folder.name, push_to or target.name
        served = serving.served(part, address.rpartition("/")[2], name, max_rank)
        facts["vllm"] = {"why_not": served.why_not, "commands": served.commands}
        (part / "README.md").write_text(card(left.folder, left.recipe, facts, address, served), encoding="utf-8")
        (part / "export.json").write_text(safe_text.json_text(facts, nan=True) + "\n", encoding="utf-8")
        atomic_folder.publish(part, target)
    off, n = f"{proof['largest_logit_deviation']:.1e}", proof["prompts"]
    say(
        f"The replies (greedy) to {n} prompts are the same before and after. The largest deviation of a logit is {off}."
    )
    vllm = serving.served(target, str(target), name, max_rank)
    return Exported(target, vllm, push.push(hub, target, push_to, private, name) if push_to else None)


def _check(form: str, dtype: str, private: bool, push_to: str | None) -> None:
    if dtype not in DTYPES:
        raise UnknownName("dtype", dtype, DTYPES)
    if dtype != "auto" and form != "merged":
        raise RecipeError(
            f"--dtype {dtype} works only with `--as merged`: an adapter keeps the precision that it was trained in."
        )
    if private and not push_to:
        raise RecipeError("--private needs --push OWNER/NAME. Add --push, or leave --private out.")


def _weights(left: Left, form: str, dtype: str, part: Path) -> dict[str, Any]:
    """Writes the weights of one form; returns what they are and what they lie on."""
    from unforgotten.models import load
    from unforgotten.models.saved_adapter import bundle
    from unforgotten.models.weights.adapted import Adapted
    from unforgotten.models.weights.concatenate import as_merged, concatenated
    from unforgotten.models.weights.files import Files
    from unforgotten.models.weights.open import adapter_base

    if form == "merged":
        below = adapter_base(left.part, operator(left)) if left.part.name == "adapter" else Files(left.part)
        adapted = Adapted(below, left.part) if left.part.name == "adapter" else None
        assert isinstance(below, Files)
        return {"base": public_base(left), **_merged(below, adapted, dtype, part)}
    lowest = _lower(left) if form == "stacked" else None
    bottom = lowest or str(left.part)
    on = Path(bottom).expanduser() if load.is_bundled(bottom) else None
    named, revision = (None, None) if on else _named(bottom, operator(left))
    if form == "stacked":
        below = Files(on) if on else Files(str(named), revision)
        # A gate has read what the lower one was merged into, and not itself.
        lower = [as_merged(Adapted(below, lowest), adapter_base(left.part, operator(left)))] if lowest else []
        rank = concatenated([*lower, Adapted(below, left.part)], part)
        config = atomic.read_object(part / "adapter_config.json")
    else:
        place = opened(left.part, part="adapter")
        shutil.copyfile(place.path / "adapter_model.safetensors", part / "adapter_model.safetensors")
        config = dict(place.adapter or {})
        rank = config["r"]
    local = on or (Path(named).expanduser() if named and Path(named).expanduser().is_dir() else None)
    # A folder's name means nothing elsewhere, so a base that is no Hub id lies in the same folder and is not named.
    config |= {"base_model_name_or_path": None if local else named, "revision": None if local else revision}
    _put(part / "adapter_config.json", config)
    if local:
        bundle(local, part)
        _config(part, part)
    return {
        "base": None if local else named,
        "revision": None if local else revision,
        "bundled": bool(local),
        "r": rank,
    }


def _merged(below: Any, adapted: Any, dtype: str, part: Path) -> dict[str, Any]:
    import torch

    from unforgotten.models.weights.stream import stream

    wanted = getattr(torch, dtype) if dtype != "auto" else None

    def stored(name: str) -> torch.dtype:
        present: torch.dtype = below.dtype(name)
        return wanted if wanted is not None and present.is_floating_point else present

    edits = ((name, adapted[name]) for name in adapted.adapted()) if adapted else iter(())
    counts = stream(below, edits, part, dtype=stored)
    _config(below.folder, part, None if wanted is None else dtype)
    return {"dtype": dtype, "tensors": {"merged": counts["edited"], "copied": counts["copied"]}}


def _lower(left: Left) -> str | None:
    """The adapter that makes θ_safe of a public base; None where the run's own lies on it, alone or joined already."""
    from unforgotten.models import load

    where = left.where
    if left.adapter_mode != "merge":
        return None
    if where.by_align_stage:
        linked, beside = left.folder / "aligned", left.folder.parent / "aligned" / where.digest
        # The run's own link leads to the runs' folder of that digest; a link to anywhere else is not followed.
        inside = linked.is_dir() and not linked.is_symlink()
        adapter = str((linked if inside else beside) / "adapter")
    elif where.adapter is not None:
        adapter = where.adapter
    elif (left.folder / "merged").is_dir():
        adapter = where.base  # a folder in which a base and an adapter lay together
    else:
        return None
    if not (Path(adapter).expanduser() / "adapter_config.json").is_file() and (
        where.by_align_stage or not load.is_adapter(adapter)
    ):
        if where.by_align_stage or not files.is_hub_id(adapter):
            raise ModelError(
                "--as stacked joins the aligned model's adapter with the run's, but the aligned model's is missing "
                f"from {adapter}. Put it back, or use `--as adapter` or `--as merged`."
            )
    return adapter


def _named(adapter: str, operator: tuple[str | None, ...]) -> tuple[str, str | None]:
    """What an adapter's config calls its base, and at which revision; a folder only where the operator names it."""
    config = opened(adapter, part="adapter").adapter or {}
    return base_of(config, adapter, operator), config.get("revision")


def _config(source: Path, part: Path, dtype: str | None = None) -> None:
    """config.json without the path that some versions leave in it; a copy, since a bundled one is a link."""
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    config.pop("_name_or_path", None)
    if dtype:
        config |= dict.fromkeys([k for k in ("dtype", "torch_dtype") if k in config] or ["dtype"], dtype)
    _put(part / "config.json", config)


def _beside(part: Path, chat: Chat) -> None:
    """Tokenizer and template; and a generation config that ends where the chat does, and samples nothing."""
    from transformers import GenerationConfig

    chat.save(part)
    file = part / "tokenizer_config.json"
    if file.is_file():
        config = json.loads(file.read_text(encoding="utf-8"))
        config.pop("name_or_path", None)
        _put(file, config)
    (part / "generation_config.json").unlink(missing_ok=True)  # a bundled one is a link into the run
    GenerationConfig(
        do_sample=False,
        bos_token_id=chat.tokenizer.bos_token_id,
        eos_token_id=list(chat.end_ids),
        pad_token_id=chat.pad_id,
    ).save_pretrained(part)


def _put(file: Path, facts: dict[str, Any]) -> None:
    file.unlink(missing_ok=True)
    file.write_text(safe_text.json_text(facts, nan=True) + "\n", encoding="utf-8")
