"""`Recipe`: a YAML file, the command line's flags and a Python verb's argument are all checked as this one class.

    model: meta-llama/Llama-2-7b-hf      θ₀, or θ_safe as it is where there is no `align`
    align: {}                            θ₀ -> θ_safe on the `safety_data` rows
    safety_data: [{name: refusals, path: …}]  D_safe: refusals and answered look-alikes, or prompts alone
    data: {name: jsonl, path: …}         D_user
    poison: {data: {…}, ratio: 0.1}      a lab's share p of harmful rows in D_user, total held fixed
    method: der                          one, or a list whose turns are taken in order
    evaluate: {harm: […], refusal: […], utility: […], judge: keywords}
    compare: {method: […], poison: […]}  the grid of `unforgotten compare`
    sweep: {fields: {weight: …}}         what `unforgotten sweep` searches

Components (`data`, `safety_data`, `method`, `judge` …) are a name or `{name: …, field: …}`; their fields are checked
against the class when the recipe is read. `${UNFORGOTTEN_X:-default}` in any text is replaced from the environment; the
record keeps it as it was written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import (
    BaseModel,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)

from unforgotten import registry
from unforgotten.errors import RecipeError, UnknownName
from unforgotten.recipe import arguments, renamed
from unforgotten.recipe.base import (
    Replay,
    Spec,
    Strict,
    checked_methods,
    component,
    cut,
    replaced,
    replay_source,
    safety_component,
)
from unforgotten.recipe.compare import Grid
from unforgotten.recipe.evaluate import Evaluate
from unforgotten.recipe.repair import Repair
from unforgotten.recipe.sweep import Sweep
from unforgotten.recipe.synthesize import Synthesize
from unforgotten.recipe.training import Align, MemorySettings, Poison, Probe, Training, UserLora
from unforgotten.runs import trust as origins
from unforgotten.runs import variables


class Recipe(Strict):
    """Everything that determines a run."""

    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """First part of the run folder's name; the run's digest follows it."""
    model: str
    """The model to start from: a Hub id, a folder, or `world` for the embedded model. `smollm2` and `gemma3` are made
    from packages of PyPI on first use. With `align` it is θ₀. Without `align` it is θ_safe, such as an instruct model
    that its vendor aligned."""
    revision: str | None = None
    """Commit, branch or tag of `model` on the Hub."""
    trust_remote_code: Literal[False] = False
    """Always false: a recipe runs no code from the Hub. Load a model that needs its own code in Python, and pass it
    to MethodTrainer."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision in which the model is loaded. `auto` is the precision of the checkpoint."""
    load_in: Literal["nf4"] | None = None
    """`nf4` loads the base model in 4 bits under the adapters, for training and for evaluation. It needs `pip
    install 'unforgotten[qlora]'`. Output head, embeddings and norms are not quantised; neither are θ_safe's weights
    on disk. [QLoRA, arXiv 2305.14314]"""
    template: str | None = None
    """A Jinja chat template file. Left out, the model's own template is used, or Alpaca's if the model has none."""
    variables: dict[str, Any] = {}
    """Variables of the chat template, such as {enable_thinking: false}. The saved template has them built in."""
    date: str | None = Field(None, pattern=r"^\d{4}-\d{2}-\d{2}$")
    """Date (YYYY-MM-DD) for a chat template that prints today's date. Left out, the run stores the current date."""
    align: Align | None = None
    """Stage align. Left out, `model` is taken as θ_safe."""
    unaligned_model: str | None = None
    """θ₀ if `model` is already θ_safe, such as the base model of an instruct model. MagMax and SafeLoRA read it."""
    safety_data: list[Spec] = []
    """D_safe: harmful requests with refusals, and harmless look-alikes with answers. θ_safe answers rows without
    answers once, by greedy decoding."""
    replay: Replay = "safety_data"
    """Source of the memory's rows: `safety_data`, `synthesize` (θ_safe writes the rows), or a list of data sets."""
    memory: MemorySettings = MemorySettings()
    """Which safety rows are replayed."""
    data: Spec | None = None
    """D_user: the rows to fine-tune on."""
    poison: Poison | None = None
    """A simulated attack: harmful rows replace some of the user rows."""
    method: Spec | list[Spec] = "sft"
    """The method that preserves safety. Several methods in a list are applied in order."""
    settings: dict[str, dict[str, Any]] = {}
    """Settings for methods that are given by name only: {der: {weight: 4}}."""
    lora: UserLora | None = UserLora()
    """The adapter that stage finetune trains; null trains every weight."""
    training: Training = Training()
    """Training settings of stage finetune."""
    probe: Probe | None = None
    """Measures attack success rate (ASR), over-refusal and utility during stage finetune. The figures are in
    probe.jsonl and in the report."""
    report_to: list[str] = []
    """Trackers that stage finetune also logs to, by Transformers' names: tensorboard, trackio, wandb, mlflow …"""
    license: str | None = None
    """Licence of the tuned model for the model card, by the Hub's names. Left out, the card leaves it open."""
    evaluate: Evaluate | None = None
    """Prompts and judges of the evaluation."""
    synthesize: Synthesize | None = None
    """Settings for safety data that θ_safe writes itself; `{}` takes every default."""
    compare: Grid | None = None
    """Settings that `unforgotten compare` varies."""
    sweep: Sweep | None = None
    """Settings that `unforgotten sweep` searches; `{}` takes every default."""
    repair: Repair | None = None
    """Rungs that `unforgotten repair --ladder` tries; left out, every default."""
    rows: int | None = Field(None, gt=0)
    """Trial run: limits every data set and the memory to this many rows. A smaller set gives all that it has. Its
    results are those of a trial."""
    seed: registry.Seed = 0
    """Random seed for the alignment, the choice of rows, their order and dropout. `align.seed` sets another for the
    alignment."""
    out: str = "runs"
    """Folder in which run folders are created."""

    @field_validator("safety_data", mode="before")
    @classmethod
    def _safety(cls, specs: Any) -> Any:
        return [safety_component(s) for s in (specs if isinstance(specs, list) else [specs])]

    @field_validator("replay", mode="before")
    @classmethod
    def _replay(cls, source: Any) -> Any:
        return replay_source(source)

    @field_validator("data")
    @classmethod
    def _data(cls, spec: Spec | None) -> Spec | None:
        return None if spec is None else component("datasets", spec)

    @field_validator("method", mode="before")
    @classmethod
    def _method(cls, spec: Any) -> Any:
        return checked_methods(spec)

    @field_validator("settings")
    @classmethod
    def _settings(cls, fields: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for name, settings in fields.items():
            component("methods", {"name": name, **settings})
        return fields

    @model_validator(mode="after")
    def _in_4_bits(self) -> Recipe:
        if self.load_in is None:
            return self
        if self.lora is None:
            raise ValueError(
                "load_in: nf4 has no whole weights to train. Give `lora:`, or leave out `load_in` to train every weight"
            )
        for spec in self.methods:
            if (edit := registry.build("methods", spec)).needs_unaligned_model or edit.dense:
                name = spec if isinstance(spec, str) else spec["name"]
                raise ValueError(
                    f"{name} edits whole weights, and load_in: nf4 has them in 4 bits only. Fine-tune without {name}, "
                    f"then run `unforgotten repair --method {name}` on the run's adapter with the unquantised models"
                )
        return self

    @model_validator(mode="after")
    def _probed(self) -> Recipe:
        if self.probe is not None and self.evaluate is None:
            raise ValueError("probe asks what `evaluate:` names: give it prompts and a judge")
        return self

    @field_validator("report_to", mode="before")
    @classmethod
    def _reports(cls, names: Any) -> Any:
        return [names] if isinstance(names, str) else names

    @model_validator(mode="after")
    def _trial(self) -> Recipe:
        """`rows` is written into every data set, so that digests, records and whoever reads the rows agree on it."""
        if self.rows is None:
            return self
        places: list[tuple[BaseModel | None, str]] = [(self, "safety_data"), (self, "data"), (self.poison, "data")]
        places += [(self.evaluate, kind) for kind in ("harm", "refusal", "utility")]
        development = self.sweep.development if self.sweep else None
        places += [(development, kind) for kind in ("harm", "refusal", "utility")]
        places += [(self.compare, "data"), (self.compare, "utility"), (self.compare, "replay"), (self, "replay")]
        for owner, field in places:
            if owner is not None and (data := getattr(owner, field)):
                setattr(owner, field, cut(data, self.rows))
        if self.memory.n_rows is not None:  # else a memory larger than the safety rows that are left of it
            self.memory = self.memory.model_copy(update={"n_rows": min(self.memory.n_rows, self.rows)})
        return self

    @property
    def methods(self) -> list[Spec]:
        """The methods as a list, with the fields that `settings` has for those named without any."""
        return [self._set(m) for m in (self.method if isinstance(self.method, list) else [self.method])]

    def _set(self, spec: Spec) -> Spec:
        name = spec if isinstance(spec, str) else str(spec["name"])
        bare = isinstance(spec, str) or set(spec) == {"name"}
        return {"name": name, **self.settings[name]} if bare and name in self.settings else spec

    @property
    def safety_seed(self) -> int:
        """The seed of stage align and of its rows."""
        return self.seed if self.align is None or self.align.seed is None else self.align.seed

    _written: dict[str, str] = PrivateAttr(default_factory=dict)
    """Texts in which variables were filled in, and how they were written."""
    _origin: origins.Origin = PrivateAttr("operator")

    @property
    def origin(self) -> origins.Origin:
        """Whose it is: the operator's, or a stranger's out of a run folder (which then has passed trust.refuse)."""
        return self._origin

    def varied(self, **changes: Any) -> Recipe:
        """A copy with some fields changed, checked again."""
        copy = checked({**self.model_dump(exclude_unset=True), **changes}, "recipe")
        copy._written, copy._origin = self._written, self._origin
        return copy

    def record(self, **how: Any) -> dict[str, Any]:
        """What is written down of it: every field, and variables by their names. `how`: as of model_dump."""
        return dict(replaced(self.model_dump(**how), self._written))


def require_recipe(value: object, verb: str) -> None:
    """Raises RecipeError where a verb was called from Python with something else, such as a recipe's file."""
    if not isinstance(value, Recipe):
        raise RecipeError(
            f"{verb}() takes a Recipe, not {type(value).__name__}. Read one first: {verb}(load_recipe('my.yaml'))."
        )


def checked(tree: Mapping[str, Any], where: str) -> Recipe:
    """A recipe of a mapping. Raises RecipeError or UnknownName that names the field."""
    wrong = renamed.faults(tree)
    strange = [name for name in tree if isinstance(name, str) and name not in Recipe.model_fields]
    wrong += [said for name in strange if not renamed.is_known(name) and (said := arguments.at_top(name))]
    if wrong:
        raise RecipeError(f"{where}: {'; '.join(wrong)}.")
    for part, fields in (("training", Training.model_fields), ("align", Align.model_fields)):
        for name in tree.get(part) or () if isinstance(tree.get(part), Mapping) else ():
            if name not in fields and (error := arguments.unknown(str(name), part, fields, where)):
                raise error
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise _told(error, where) from None
    except RecipeError as error:
        if (plain := variables.hidden(str(error))) != str(error):
            raise RecipeError(plain) from None
        raise


def _told(error: ValidationError, where: str) -> RecipeError:
    wrong = []
    for e in error.errors():
        at = ".".join(str(part) for part in e["loc"])
        if e["type"] == "extra_forbidden":
            owner: Any = Recipe
            for part in e["loc"][:-1]:
                owner = _model_of(owner, str(part))
            return UnknownName(
                f"field of {where}" + (f", in {at.rpartition('.')[0]}" if "." in at else ""),
                str(e["loc"][-1]),
                owner.model_fields,
            )
        if e["type"] == "literal_error" and at == "trust_remote_code":
            wrong.append(
                "trust_remote_code: the recipe runs no remote code; load such a model yourself and use MethodTrainer"
            )
        else:
            got = "" if isinstance(e["input"], dict) else f" (got {registry.shortly(e['input'])})"
            message = e["msg"].removeprefix("Value error, ")
            wrong.append(f"{at}: {message}{got}" if at else f"{message}{got}")
    return RecipeError(variables.hidden(f"{where}: " + "; ".join(dict.fromkeys(wrong))))


def _model_of(owner: Any, field: str) -> Any:
    """The recipe model that a field holds, for "did you mean"."""
    annotation = owner.model_fields[field].annotation if field in getattr(owner, "model_fields", {}) else owner
    for part in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(part, type) and issubclass(part, BaseModel):
            return part
    return owner
