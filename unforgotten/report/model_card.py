"""The model card of a run, in the Hub's own format: README.md of the run's folder, and of the weights in it.

Written without figures where the training ends, and again where the model is measured. What stands in it names no path
of the machine it was made on: a data set is named where it is one of the Hub's, and otherwise by its label and digest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from markupsafe import Markup

from unforgotten import __version__
from unforgotten.datasets.reading import files
from unforgotten.recipe.data_sets import dataset
from unforgotten.report import templates
from unforgotten.report import text as report
from unforgotten.runs import atomic, digests, results, safe_text, variables
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
NOT_YET = Markup("Nothing was measured yet. `unforgotten evaluate` of the run writes the figures here.")


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
    return written("report/model_card", data, content_of(recipe, methods, row, facts), recipe, code=_loading(where))


def written(template: str, data: ModelCardData, content: Content, recipe: Recipe, **more: object) -> str:
    """A card as a file: front matter, and a template filled with what every card holds and `more`."""
    front = Markup(data.to_yaml(line_break="\n"))
    text = templates.markdown(template, front=front, card=content, version=__version__, **more)
    for method in names(recipe):
        if "/" in method:  # a class in a file of the user's own, whose folder is nobody's business
            text = text.replace(method, Path(method).name)
    return safe_text.block(text)


def code(language: str, lines: Sequence[str]) -> Markup:
    """A block of code, whose fence no line of it ends."""
    return Markup("\n".join(safe_text.fenced(language, lines)))


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


@dataclass(frozen=True, slots=True)
class Content:
    """What every card says of a run."""

    model: str
    seed: int
    methods: Sequence[str]
    """Names, and beside each in `plainly` its fields too."""
    plainly: Sequence[str]
    data: Sequence[str]
    """Sentences on what it was trained on."""
    settings: Sequence[str]
    results: Markup | None
    """The table; None where nothing was measured, and `otherwise` is said in its place."""
    otherwise: str
    judges: Sequence[str]
    decoding: Mapping[str, object]
    poisoned: bool
    notes: Sequence[str]


def content_of(
    recipe: Recipe, methods: Methods, row: results.ResultRow | None, facts: dict[str, Any], otherwise: str = NOT_YET
) -> Content:
    """What it was trained on, how, and what came of it. otherwise: said without a row."""
    trained = facts.get("trained") or {}
    return Content(
        model=str(digests.public_name(recipe.model)),
        seed=recipe.seed,
        methods=[str(m["name"]) for m in methods],
        plainly=[", ".join([m["name"], *(f"{k} = {v}" for k, v in m.items() if k != "name")]) for m in methods],
        data=_data(recipe, facts),
        settings=_settings(recipe, trained),
        results=Markup(report.markdown([row]).strip()) if row else None,
        otherwise=otherwise,
        judges=_judges(row) if row else (),
        decoding={"strategy": None, "max_new_tokens": None} | dict((row.decoding if row else None) or {}),
        poisoned=bool(recipe.poison and recipe.poison.ratio),
        notes=list((row.notes if row else trained.get("notes")) or []),
    )


def _data(recipe: Recipe, facts: dict[str, Any]) -> list[str]:
    environment, trained = facts.get("environment") or {}, facts.get("trained") or {}
    counts, of_rows = environment.get("rows") or {}, environment.get("digests") or {}
    label = dataset(recipe.data).label if recipe.data else "none"
    sentences = [f"User data: {label}{_counted(counts.get('user'), of_rows.get('user'))}."]
    if recipe.poison and recipe.poison.ratio:
        rows = f"{counts['harmful']} of the rows are" if "harmful" in counts else "Some of them are"
        attack = recipe.poison.attack
        what = "harmful" if attack == "plain" else f"a simulated attack (`{attack}`)"
        share = "" if attack == "identity" else f" (p = {recipe.poison.ratio:g})"
        sentences.append(f"{rows} {what}. They were added on purpose, to test the method{share}.")
    sentences.append(f"Safety data{_counted(counts.get('safety'), of_rows.get('safety'))}.")
    if "memory_rows" in trained:
        source = "written by the aligned model" if recipe.replay == "synthesize" else "chosen from the safety data"
        sentences.append(f"Replay memory: {trained['memory_rows']} safety rows, {source}.")
    how = "was first aligned on the safety data" if recipe.align else "was taken as already aligned"
    return [*sentences, f"It started from {digests.public_name(recipe.model)}, which {how}."]


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
    by_steps = training.max_steps > 0  # replaces the epochs
    until = f"{training.max_steps} steps" if by_steps else f"{training.num_train_epochs:g} epochs"
    steps = f", {trained['steps']} steps" if "steps" in trained and not by_steps else ""
    batch = training.per_device_train_batch_size * training.gradient_accumulation_steps
    sentences.append(
        f"{until}, {batch} rows a step, learning rate {training.learning_rate:g} "
        f"({training.lr_scheduler_type}), at most {training.max_length} tokens a row{steps}."
    )
    if passed := training.model_extra:
        sentences.append(f"Other training arguments: {', '.join(f'{name} {value}' for name, value in passed.items())}.")
    return sentences


def _loading(where: str) -> Markup:
    aside = "  # this folder, or its name on the Hub" if where == "." else ""
    lines = [
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'model = AutoModelForCausalLM.from_pretrained("{where}"){aside}',
        f'tokenizer = AutoTokenizer.from_pretrained("{where}")  # its chat template is the one trained with',
    ]
    return code("python", lines)


def _read(file: Path) -> dict[str, Any]:
    try:
        return atomic.read_object(file)
    except (FileNotFoundError, ValueError):
        return {}
