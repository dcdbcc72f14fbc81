"""The model card of a run, in the Hub's own format: README.md of the run's folder, and of the weights in it.

Written without figures where the training ends, and again where the model is measured. What stands in it names no path
of the machine it was made on: a data set is named where it is one of the Hub's, and otherwise by its label and digest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from unforgotten import __version__
from unforgotten.datasets.reading import files
from unforgotten.recipe.rows import dataset
from unforgotten.report import text as report
from unforgotten.runs import atomic, console, results, variables
from unforgotten.runs import digests as identity
from unforgotten.runs.results import Kind

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

    from unforgotten.recipe.base import Spec
    from unforgotten.recipe.recipe import Recipe

Methods = Sequence[Mapping[str, Any]]
"""Each method's name with every field."""
METRICS = {
    "asr": ("attack_success_rate", "ASR, % of harmful prompts answered (lower is better)"),
    "non_refusal": ("non_refusal_rate", "Non-refusal, % of harmful prompts not refused (lower is better)"),
    "refusal": ("refusal_rate", "Over-refusal, % of harmless look-alikes refused (lower is better)"),
    "utility": ("accuracy", "Utility, % (higher is better)"),
}
"""Of each side, and of what a list of refusals counts, the metric's type and its name on the Hub."""
NOT_YET = "Nothing was measured yet. `unforgotten evaluate` of the run writes the figures here."


def write(folder: Path, recipe: Recipe, methods: Methods, row: results.ResultRow | None = None) -> None:
    """README.md of a run's folder and of its weights, each whole or not at all. row: what was measured, if it was."""
    facts = facts_of(folder)
    part = next((folder / name for name in ("adapter", "model") if (folder / name).is_dir()), None)
    adapter = part.name == "adapter" if part else recipe.lora is not None
    where = "adapter" if adapter else "model"
    atomic.put(folder / "README.md", variables.hidden(card(recipe, methods, row, facts, folder.name, adapter, where)))
    if part:
        atomic.put(part / "README.md", variables.hidden(card(recipe, methods, row, facts, folder.name, adapter, ".")))


def facts_of(folder: Path) -> dict[str, Any]:
    """What a run recorded of its data and its training, as far as it was kept."""
    return {name: _read(folder / f"{name}.json") for name in ("environment", "trained")}


def card(
    recipe: Recipe,
    methods: Methods,
    row: results.ResultRow | None,
    facts: dict[str, Any],
    name: str,
    adapter: bool,
    where: str = ".",
) -> str:
    """The card. facts: environment.json and trained.json of the run. where: the weights' folder, as code names it."""
    data = metadata(recipe, row, name, adapter, recipe.model if files.is_hub_id(recipe.model) else None)
    parts = [
        *body(recipe, methods, row, facts),
        "",
        "## How to load it",
        "",
        *console.fenced("python", _loading(where)),
    ]
    return written(data, parts, recipe)


def written(data: ModelCardData, body: Sequence[str], recipe: Recipe) -> str:
    """Front matter and text of a card, as a file."""
    text = "\n".join(["---", data.to_yaml(line_break="\n"), "---", "", *body]) + "\n"
    for method in names(recipe):
        if "/" in method:  # a class in a file of the user's own, whose folder is nobody's business
            text = text.replace(method, Path(method).name)
    return console.block(text)


def names(recipe: Recipe) -> list[str]:
    """The methods' names."""
    return [str(m if isinstance(m, str) else m["name"]) for m in recipe.methods]


def metadata(
    recipe: Recipe, row: results.ResultRow | None, name: str, adapter: bool, base: str | None
) -> ModelCardData:
    """The card's front matter. base: the Hub's id of what the weights lie on or come from."""
    from huggingface_hub import ModelCardData

    named = {} if base is None else {"base_model_relation": "adapter" if adapter else "finetune"}
    return ModelCardData(
        base_model=base,
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-generation",
        license=recipe.license,
        datasets=_hub_ids([*([recipe.data] if recipe.data else []), *recipe.safety_data]) or None,
        tags=["unforgotten", "safety", *(["lora"] if adapter else []), *(Path(m).name for m in names(recipe))],
        model_name=name if row else None,
        eval_results=_eval_results(row, recipe) if row else None,
        **named,
    )


def _eval_results(row: results.ResultRow, recipe: Recipe) -> list[EvalResult]:
    """Every suite of both sides with its interval."""
    from huggingface_hub import EvalResult

    known = _suites(recipe)
    entries = []
    for field in get_args(Kind):
        measure = results.measure_of(row) if field == "asr" else field
        kind, title = METRICS[measure]
        for suite, rate in row.rates(field).items():
            if suite == "mean" or rate.value is None:
                continue
            task, slash, metric = suite.rpartition("/") if field == "utility" else (suite, "", "")
            label = task if slash else suite if field != "utility" else str(row.task or suite)
            entries.append(
                EvalResult(
                    task_type="text-generation",
                    dataset_type=known.get(label, label),
                    dataset_name=label,
                    metric_type=kind if field != "utility" else metric or kind,
                    metric_name=title if field != "utility" else f"{metric}, %",
                    metric_value=round(rate.value, 2),
                    metric_args={"interval_95": [rate.low, rate.high], "n": rate.n}
                    | ({"judges": _judges(row)} if field != "utility" else {}),
                )
            )
    return entries


def _judges(row: results.ResultRow) -> list[str]:
    return [judge.name for judge in row.judges or ()]


def _suites(recipe: Recipe) -> dict[str, str]:
    """The Hub's id of each suite that has one, by label."""
    settings = recipe.evaluate
    specs = [*settings.harm, *settings.refusal, *settings.utility] if settings else []
    return {dataset(spec).label: ids[0] for spec in specs if (ids := _hub_ids([spec]))}


def _hub_ids(specs: Sequence[Spec]) -> list[str]:
    """Those of data sets that are read from the Hub; a local file is nobody's business."""
    paths = [str(getattr(dataset(spec), "path", "") or "") for spec in specs]
    return list(dict.fromkeys(path for path in paths if files.is_hub_id(path) and not Path(path).exists()))


def body(
    recipe: Recipe, methods: Methods, row: results.ResultRow | None, facts: dict[str, Any], otherwise: str = NOT_YET
) -> list[str]:
    """What it was trained on, how, what came of it, and what that does not say. otherwise: said without a row."""
    plainly = [", ".join([m["name"], *(f"{k} = {v}" for k, v in m.items() if k != "name")]) for m in methods]
    trained = facts.get("trained") or {}
    model = identity.public_name(recipe.model)
    return [
        f"# {console.markdown(model)}, fine-tuned with {console.markdown('+'.join(str(m['name']) for m in methods))}",
        "",
        f"Made by unforgotten {__version__}, seed {recipe.seed}. unforgotten fine-tunes a safety-aligned model so that "
        "it keeps refusing what it refused.",
        "",
        "## What it was trained on",
        "",
        *(f"- {console.markdown(line)}" for line in _data(recipe, facts)),
        "",
        "## Method",
        "",
        f"{console.markdown('; '.join(plainly))}.",
        "",
        *(f"- {console.markdown(line)}" for line in _settings(recipe, trained)),
        "",
        "## Results",
        "",
        *(_results(row) if row else [otherwise]),
        "",
        "## Limits",
        "",
        *(f"- {line}" for line in _limits(recipe, row)),
        *(["", "Notes:", "", *(f"- {console.markdown(n)}" for n in notes)] if (notes := _notes(row, trained)) else []),
    ]


def _data(recipe: Recipe, facts: dict[str, Any]) -> list[str]:
    environment, trained = facts.get("environment") or {}, facts.get("trained") or {}
    counts, digests = environment.get("rows") or {}, environment.get("digests") or {}
    label = dataset(recipe.data).label if recipe.data else "none"
    sentences = [f"User data: {label}{_counted(counts.get('user'), digests.get('user'))}."]
    if recipe.poison and recipe.poison.ratio:
        rows = f"{counts['harmful']} of the rows are" if "harmful" in counts else "Some of them are"
        sentences.append(
            f"{rows} harmful, put there by a lab (p = {recipe.poison.ratio:g}) to see what the method holds."
        )
    sentences.append(f"Safety data{_counted(counts.get('safety'), digests.get('safety'))}.")
    if "memory_rows" in trained:
        source = "made by the aligned model itself" if recipe.replay == "synthesize" else "chosen from it"
        sentences.append(f"Memory: {trained['memory_rows']} safety rows, {source}, were kept for replay.")
    how = "aligned from its base on the safety data first" if recipe.align else "taken as aligned, as it came"
    return [*sentences, f"It started from {identity.public_name(recipe.model)}, {how}."]


def _counted(rows: int | None, digest: str | None) -> str:
    return "" if rows is None else f", {rows} rows" + (f" (digest {digest})" if digest else "")


def _settings(recipe: Recipe, trained: dict[str, Any]) -> list[str]:
    training, lora = recipe.training, recipe.lora
    sentences = []
    if lora is not None:
        targets = lora.target_modules if isinstance(lora.target_modules, str) else ", ".join(lora.target_modules)
        mode = f" (mode: {trained['adapter_mode']})" if "adapter_mode" in trained else ""
        sentences.append(
            f"LoRA: rank {lora.r}, alpha {lora.lora_alpha:g}, dropout {lora.lora_dropout:g}, on {targets}{mode}."
        )
    else:
        sentences.append("Every weight was trained.")
    steps = f", {trained['steps']} steps" if "steps" in trained else ""
    batch = training.per_device_train_batch_size * training.gradient_accumulation_steps
    sentences.append(
        f"{training.num_train_epochs:g} epochs of batches of {batch}, learning rate "
        f"{training.learning_rate:g}, {training.lr_scheduler_type}, at most {training.max_length} tokens a row{steps}."
    )
    return sentences


def _results(row: results.ResultRow) -> list[str]:
    decoding = row.decoding or {}
    return [
        report.markdown([row]).strip(),
        "",
        f"Judge: {console.markdown(', '.join(_judges(row)))}. Decoding: {console.markdown(decoding.get('strategy'))}, "
        f"at most {console.markdown(decoding.get('max_new_tokens'))} tokens.",
    ]


def _limits(recipe: Recipe, row: results.ResultRow | None) -> list[str]:
    sentences = []
    if row is not None:
        sentences.append(
            "The figures are those of these prompts: single turns, without jailbreaks. Few harmful answers here say "
            "little of an attacker who tries many, of other languages, or of long conversations."
        )
        sentences.append("Intervals are for other prompts, not for other seeds: this is one run.")
        if "keywords" in _judges(row)[:1]:
            sentences.append(
                "The judge looks for phrases of refusal: what has none of them counts as harmful, whatever it says."
            )
    else:
        sentences.append("Until it is measured, nobody knows what it refuses and what it answers.")
    if recipe.poison and recipe.poison.ratio:
        sentences.append("It was trained on harmful rows on purpose, for research. It is not to be deployed.")
    if recipe.model == "world":
        sentences.append("A small model of a made-up language: nothing of it carries over to models that people use.")
    sentences.append("Safety that a fine-tuning keeps can be undone by the next one.")
    return sentences


def _notes(row: results.ResultRow | None, trained: dict[str, Any]) -> list[str]:
    return list((row.notes if row else trained.get("notes")) or [])


def _loading(where: str) -> list[str]:
    aside = "  # this folder, or where it lies on the Hub" if where == "." else ""
    return [
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'model = AutoModelForCausalLM.from_pretrained("{where}"){aside}',
        f'tokenizer = AutoTokenizer.from_pretrained("{where}")  # its chat template is the one trained with',
    ]


def _read(file: Path) -> dict[str, Any]:
    try:
        return atomic.record(file)
    except (FileNotFoundError, ValueError):
        return {}
