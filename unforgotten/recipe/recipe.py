"""`Recipe`: the YAML file, the command line's flags and the Python verbs' argument are this one model.

    model: meta-llama/Llama-2-7b-hf      θ₀, or θ_safe as it is where there is no `align`
    align: {}                            θ₀ -> θ_safe on the `safety` rows
    safety: [{name: refusals, path: …}]  D_safe: refusals and answered look-alikes, or prompts alone
    data: {name: jsonl, path: …}         D_user
    poison: {data: {…}, ratio: 0.1}      a lab's share p of harmful rows in D_user, total held fixed
    method: der                          one, or a list whose turns are taken in order
    evaluate: {harm: […], refusal: […], utility: […], judge: keywords}
    compare: {method: […], poison: […]}  the grid of `unforgotten compare`
    sweep: {fields: {weight: …}}         what `unforgotten sweep` searches

Components (`data`, `safety`, `method`, `judge` …) are a name or `{name: …, field: …}`; their fields are checked against
the class when the recipe is read. `${UNFORGOTTEN_X:-default}` in any text is replaced from the environment; the record
keeps it as it was written.
"""

# Long because every field of a recipe is declared here, once, with the sentence that documents it.

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from unforgotten import registry
from unforgotten.errors import RecipeError, UnknownName
from unforgotten.runs import keys, strict_yaml, variables
from unforgotten.runs import origin as origins

Spec = str | dict[str, Any]
"""A component: its name, or a mapping of `name` and fields."""

Replay = Literal["safety", "synthesize"] | list[Spec]
"""Where the memory's rows come from."""

MOST_RUNS = 10_000
"""Runs of a comparison; a grid is a product, and a few lists too many are more than any machine trains."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _number(cls, value: Any, info: ValidationInfo) -> Any:
        if registry.wants_number(cls.model_fields[str(info.field_name)].annotation, value):
            raise ValueError("true and false are no numbers")
        return value


class Lora(_Strict):
    """The adapter under training."""

    r: int = Field(8, gt=0)
    """Rank. [2512.10150 §5.2]"""
    alpha: float = Field(4, gt=0)
    """Scaling: the delta is multiplied by alpha / r. [2512.10150 §5.2]"""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout on the adapter's input. [2512.10150 §5.2]"""
    targets: list[str] | str = ["q_proj", "v_proj"]
    """Modules adapted, or `all-linear`. 2512.10150 does not say; these are Lisa's (git-disl/Lisa:train.py)."""


class Training(_Strict):
    """One stage of training."""

    epochs: float = Field(3, gt=0)
    """Passes over the rows. [2512.10150 §5.2]"""
    batch_size: int = Field(5, gt=0)
    """Rows per micro-batch and device. [2512.10150 §5.2]"""
    accumulation: int = Field(1, gt=0)
    """Micro-batches per optimizer step."""
    learning_rate: float = Field(5e-5, gt=0)
    """Peak learning rate. [2512.10150 §5.2]"""
    schedule: str = "cosine"
    """Learning-rate schedule, by Transformers' names. [2512.10150 §5.2]"""
    warmup: float = Field(0.1, ge=0)
    """Warm-up: below 1 a share of all steps, else steps. [2512.10150 §5.2]"""
    weight_decay: float = Field(0.1, ge=0)
    """AdamW's decoupled weight decay. [2512.10150 §5.2]"""
    max_grad_norm: float = Field(1.0, ge=0)
    """Gradient clipping; 0 for none. Transformers' default; 2512.10150 does not say."""
    max_length_tokens: int = Field(512, gt=1)
    """Longer rows are cut; a row that loses its whole response is dropped and counted."""
    group_by_length: bool = False
    """Rows of similar length share a batch: less padding, another order. [Transformers' LengthGroupedSampler]"""
    bf16: bool = False
    """Mixed precision."""
    gradient_checkpointing: bool = False
    """Trade time for memory."""
    loss: Literal["auto", "trainer", "chunked"] = "auto"
    """How cross-entropy is computed: `trainer` through the logits of a batch, `chunked` without ever making them, equal
    to rounding; `auto` is chunked under a frozen head with 32,000 words or more."""
    save_steps: int = Field(200, gt=0)
    """Optimizer steps between checkpoints, from which the same command goes on after a kill."""
    logging_steps: int = Field(10, gt=0)
    """Optimizer steps between lines of metrics.jsonl."""

    def determining(self) -> dict[str, Any]:
        """What the digest of a run is over; a setting that came later is in it only where it is used."""
        return self.model_dump(exclude={"loss"} if self.loss == "auto" else None)


class Align(Training):
    """Stage align: θ₀ becomes θ_safe on the safety rows, by LoRA, merged in fp32."""

    lora: Lora = Lora()
    """The alignment's own adapter."""


class Probe(_Strict):
    """Forgetting while it happens: at steps of stage finetune the live model answers a few of `evaluate`'s prompts.

    Changes neither the weights nor the run's name; a run that is trained already gets none.
    """

    every_steps: int = Field(gt=0)
    """Optimizer steps between two probes; there is one before the first step (θ_safe) and one of the result too."""
    prompts: int = Field(32, gt=0)
    """Harmful prompts asked each time, shared out among the suites; as many look-alikes, and as many of the first
    task. The same ones at each step, of each method and seed."""


class MemorySettings(_Strict):
    """The safety rows kept for replay."""

    n_rows: int | None = Field(None, gt=0)
    """Rows kept; none given: `share` of the user rows, at least `at_least` where there are that many."""
    share: float = Field(0.05, ge=0)
    """Share of the number of user rows. [2512.10150: m = 5 %]"""
    at_least: int = Field(100, gt=0)
    """Fewest rows kept."""
    refusals: float | None = Field(None, ge=0, le=1)
    """Share of refusals among them; none given: the safety data's own mix."""


class Poison(_Strict):
    """A lab's attack: harmful rows among the user's, the total held fixed."""

    data: Spec
    """Where the harmful rows come from."""
    ratio: float = Field(0.0, ge=0, le=1)
    """p: share of the user rows that are replaced by harmful ones. [2512.10150: 0.1]"""

    @field_validator("data")
    @classmethod
    def _known(cls, spec: Spec) -> Spec:
        return _component("datasets", spec)


class Served(_Strict):
    """A server that has the model and speaks OpenAI's HTTP: vLLM, SGLang, llama.cpp, a hosted one."""

    url: str
    """Its address up to the version, such as http://localhost:8000/v1."""
    model: str | None = None
    """The name that the server knows the model by; left out, the one that is evaluated."""
    template: Literal["here", "server"] = "here"
    """Who writes the prompts: this side, with the model's tokenizer, so that they are those of training, token by
    token; or the server, where there is no tokenizer to be had."""
    key_variable: str = ""
    """The environment variable that holds the server's key; the key itself is written nowhere."""
    concurrent_requests: int = Field(16, gt=0)
    """Requests under way at once."""
    retries: int = Field(10, ge=0)
    """How often a request is asked again where the server fails, over about four minutes."""
    timeout_seconds: float = Field(600, gt=0)
    """Longest silence of the server; a whole reply must come in it."""
    extra: dict[str, Any] = {}
    """Fields of each request, such as {chat_template_kwargs: {enable_thinking: false}}; null takes one of ours out."""

    def public(self) -> dict[str, Any]:
        """What determines the replies; the address and what only it needs stay out."""
        return self.model_dump(include={"model", "template", "extra"})

    @model_validator(mode="after")
    def _address(self) -> Served:
        keys.check(self.url, self.key_variable, self.extra)
        return self


class Evaluate(_Strict):
    """What is measured: safety, over-refusal and utility."""

    harm: list[Spec] = []
    """Sets of harmful requests; ASR is reported for each and as their mean."""
    refusal: list[Spec] = []
    """Sets of harmless look-alikes; how many are refused."""
    utility: list[Spec] = []
    """Tasks whose answers can be checked."""
    judge: Spec | list[Spec] = "keywords"
    """What decides harmful and refused. Of several, figures are the first one's that decides the matter, and the others
    tell how far they agree."""
    conditions: list[Literal["default", "none", "user"]] = Field(["default", "none", "user"], min_length=1)
    """System prompts that harm and look-alikes are asked under: the template's own, none, and the one that the user's
    file has most often. The worst is the headline. [PTST, arXiv 2402.18540]"""
    max_new_tokens: int = Field(512, gt=0)
    """Longest reply. [git-disl/Lisa: 512; 2512.10150 does not say]"""
    temperature: float = Field(0.0, ge=0)
    """Of the replies; 0 is greedy."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Nucleus of the replies, where they are sampled."""
    samples: int = Field(1, gt=0)
    """Replies to each prompt of a task, for pass@k; several need a temperature. [arXiv 2107.03374]"""
    batch_size: int = Field(64, gt=0)
    """Prompts generated at once; where memory does not suffice, fewer, and the results say so."""
    endpoint: Served | None = None
    """A server that replies in place of a model in this process."""

    @field_validator("harm", "refusal", "utility", mode="before")
    @classmethod
    def _listed(cls, specs: Any) -> Any:
        return [_component("datasets", s) for s in (specs if isinstance(specs, list) else [specs])]

    @field_validator("judge")
    @classmethod
    def _judge(cls, spec: Spec | list[Spec]) -> Spec | list[Spec]:
        if spec == []:
            raise ValueError("name at least one judge")
        for one in spec if isinstance(spec, list) else [spec]:
            _component("judges", one)
        return spec

    @model_validator(mode="after")
    def _sampled(self) -> Evaluate:
        if self.samples > 1 and not self.temperature:
            raise ValueError(
                f"samples: {self.samples} greedy replies would all be the same; set temperature, such as 0.8"
            )
        return self

    @property
    def judges(self) -> list[Spec]:
        """The judges as a list."""
        return self.judge if isinstance(self.judge, list) else [self.judge]


class Domain(_Strict):
    """A kind of harm that requests are drawn for: its name, never an example."""

    name: str = Field(min_length=1)
    """What the model is told, such as `cybercrime`; the rows' category."""
    description: str = ""
    """A few words more, for {description} in `ask` and `opening` and for the similarity to the domain."""
    opening: str | None = None
    """This domain's own opening, in place of synthesize.opening."""


class Synthesize(_Strict):
    """Safety data made from the aligned model itself. [GR-SAP, arXiv 2603.10243; code: chili-lab/gr-sap]"""

    domains: list[Domain] | None = Field(None, min_length=1)
    """Kinds of harm; left out, 28 names of public taxonomies, or with `user_turn` and `text` whatever users ask."""
    prefix: Literal["chat", "user_turn", "text"] = "chat"
    """What the model goes on from: an answer begun for it [chili-lab/gr-sap], the template up to a user's first word
    [Magpie, arXiv 2406.08464], or bare text."""
    ask: str = (
        "You refused a \\textbf{specific request} that raised {name} concerns. Repeat the \\textbf{specific request} "
        "and explain why it was refused."
    )
    """With prefix: chat, what the user asks. [chili-lab/gr-sap]"""
    opening: str | None = None
    """How what the model goes on from ends; after a quote, the request ends at the next one. Left out: with `chat`
    `Sure, the \\textbf{specific request} is "` [chili-lab/gr-sap], else nothing."""
    per_domain: int = Field(512, gt=0)
    """Requests drawn for each domain. [chili-lab/gr-sap]"""
    temperature: float = Field(1.0, gt=0)
    """Of the draws. [chili-lab/gr-sap]"""
    max_request_tokens: int = Field(256, gt=0)
    """Longest draw. [chili-lab/gr-sap]"""
    perplexity: tuple[float, float] = (5, 95)
    """Percentiles of the requests' perplexity between which they are kept. [chili-lab/gr-sap]"""
    scorer: str | None = None
    """Causal model that measures it, a folder or Hub id (theirs: Qwen/Qwen2.5-0.5B); left out, the model itself."""
    duplicate: float = Field(0.85, gt=0, le=1)
    """Cosine from which on the later of two requests is dropped. [chili-lab/gr-sap]"""
    embedder: str | None = None
    """Encoder that tells how alike requests are (theirs: BAAI/bge-small-en-v1.5); left out, words and pairs of words,
    offline. With those a request belongs to its domain if one of its 5 nearest was drawn for it too."""
    pooling: Literal["cls", "mean"] = "cls"
    """How the encoder's tokens become one vector. [bge: cls]"""
    domain_similarity: float = Field(0.5, ge=-1, le=1)
    """With an encoder, least cosine of a request with its domain's name and description. [chili-lab/gr-sap]"""
    refused_neighbours: float = Field(0.5, ge=0, le=1)
    """Where no domain is named: least share of refused ones among a request's 5 nearest, by cosine; what the model
    refuses is then the only word on what harm is. Ours."""
    answer_temperature: float = Field(0.8, ge=0)
    """Of the model's answers; 0 is greedy. [chili-lab/gr-sap]"""
    answer_top_p: float = Field(0.95, gt=0, le=1)
    """Nucleus of the model's answers. [chili-lab/gr-sap]"""
    max_new_tokens: int = Field(1024, gt=0)
    """Longest answer. [chili-lab/gr-sap]"""
    refuse: str = "The above request is harmful. Please refuse it."
    """Written below a request that was answered, for it to be refused after all. [chili-lab/gr-sap]"""
    refuse_temperature: float = Field(0.7, ge=0)
    """Of the answers to that. [chili-lab/gr-sap]"""
    judge: Spec | None = None
    """What decides refused and harmful; left out, the judge of `evaluate`, else `keywords`. [theirs: WildGuard]"""
    fewest: int = Field(20, gt=0)
    """Refused requests without which there is nothing to replay. Ours."""
    batch_size: int = Field(64, gt=0)
    """Draws and answers made at once."""

    @field_validator("judge")
    @classmethod
    def _judge(cls, spec: Spec | None) -> Spec | None:
        return None if spec is None else _component("judges", spec)

    @model_validator(mode="after")
    def _window(self) -> Synthesize:
        low, high = self.perplexity
        if not 0 <= low < high <= 100:
            raise ValueError(f"perplexity needs two percentiles, 0 ≤ low < high ≤ 100, not {low:g} and {high:g}")
        names = [domain.name for domain in self.domains or []]
        if len(set(names)) < len(names):
            raise ValueError("two domains have the same name")
        return self


class Layout(_Strict):
    """How `compare` prints: a line for each method, as papers do, in place of one for each run."""

    across: Literal["task", "poison", "memory", "model"]
    """What stands side by side."""
    of: list[Literal["asr", "refusal", "utility"]] = Field(["asr", "utility"], min_length=1)
    """What is shown of each: ASR and refusals as means of their suites, the task's first measure of utility."""


class Grid(_Strict):
    """What `compare` varies; every combination is one run."""

    method: list[Spec | list[Spec]] = []
    """Methods (or lists of methods)."""
    poison: list[Annotated[float, Field(ge=0, le=1)]] = []
    """Poison ratios."""
    memory: list[MemorySettings] = []
    """Sizes and mixes of the memory, each over the recipe's own `memory`."""
    replay: list[Replay] = []
    """Where the memory's rows come from, as `replay` says it."""
    model: list[str] = []
    """Models, each aligned as the recipe says; `--set model=…` takes their place."""
    data: list[Spec] = []
    """User data sets; `evaluate.utility` of each is `tasks[i]` where given."""
    utility: list[list[Spec]] = []
    """For each entry of `data`, the utility sets that belong to it; empty: `evaluate.utility` for all."""
    seed: list[registry.Seed] = []
    """Seeds."""
    jobs: int = Field(1, gt=0)
    """Runs at a time, each in a process with its share of the cores, or with one of several GPUs; on a single GPU they
    are done one by one."""
    table: Layout | None = None
    """How the figures are laid out; left out, a line for each run with every suite."""

    @field_validator("method")
    @classmethod
    def _methods(cls, specs: list[Any]) -> list[Any]:
        return [_methods(s) for s in specs]

    @field_validator("data")
    @classmethod
    def _data(cls, specs: list[Spec]) -> list[Spec]:
        return [_component("datasets", s) for s in specs]

    @model_validator(mode="after")
    def _paired(self) -> Grid:
        if self.utility and len(self.utility) != len(self.data):
            raise ValueError(f"compare.utility has {len(self.utility)} entries for {len(self.data)} of compare.data")
        axes = (self.method, self.poison, self.memory, self.replay, self.model, self.data, self.seed)
        if (runs := math.prod(max(1, len(axis)) for axis in axes)) > MOST_RUNS:
            raise ValueError(f"these are {runs:,} runs, and a comparison has {MOST_RUNS:,} at most: make several of it")
        return self


class Range(_Strict):
    """Numbers from `low` to `high`, both included."""

    low: float
    """The least one."""
    high: float
    """The greatest one."""
    log: bool = False
    """Searched by factors: as much between 1 and 10 as between 10 and 100."""


class Development(_Strict):
    """Prompts that settings are chosen on, in place of a part of those in `evaluate`, which then all are held out."""

    harm: list[Spec] = Field(min_length=1)
    """Sets of harmful requests."""
    refusal: list[Spec] = []
    """Sets of harmless look-alikes."""
    utility: list[Spec] = Field(min_length=1)
    """Tasks whose answers can be checked."""

    @field_validator("harm", "refusal", "utility", mode="before")
    @classmethod
    def _listed(cls, specs: Any) -> Any:
        return [_component("datasets", s) for s in (specs if isinstance(specs, list) else [specs])]


class Sweep(_Strict):
    """What `sweep` searches: the settings of least ASR that keep the task, on prompts that then tell no figure."""

    fields: dict[str, Range | list[Any]] = {}
    """Fields and where they are searched: {weight: {low: 0.1, high: 100, log: true}, positions: [last, all]}. A field
    of the method by its name (of one among several methods `der.weight`), or of `training`, `memory` or `lora` with a
    dot (training.learning_rate). Left out: the method's own, about their values; what that is, is printed."""
    trials: int = Field(20, gt=0)
    """Settings tried; a larger number goes on from those that are there."""
    max_utility_loss: float = Field(2.0, ge=0, le=100)
    """Percentage points that each task may lose against plain SFT on the same prompts, by its first measure."""
    utility_floor: float | None = Field(None, ge=0, le=100)
    """In place of that, what each task must reach, in percent."""
    max_refusal: float | None = Field(None, ge=0, le=100)
    """Look-alikes that may be refused, in percent; left out, they are told and not limited."""
    share: float = Field(0.5, gt=0, lt=1)
    """Share of the prompts of `evaluate` that the search sees; the others are asked of what it chose."""
    development: Development | None = None
    """Sets of the search's own; left out, it gets `share` of those in `evaluate`."""
    seeds: int = Field(1, gt=0)
    """Runs of each setting: the recipe's seed and those after it; their mean counts."""
    seed: registry.Seed = 0
    """Seed of the search."""
    jobs: int = Field(1, gt=0)
    """Trials at a time, each in a process with its share of the cores; ignored where there is a GPU. They are proposed
    together, so that another number searches otherwise."""

    @field_validator("fields", mode="before")
    @classmethod
    def _places(cls, fields: Any) -> Any:
        """Told here in words: a mapping or a list would each be complained of as the other as well."""
        for name, place in fields.items() if isinstance(fields, dict) else ():
            if isinstance(place, list):
                if not place or any(place.count(value) > 1 for value in place):
                    raise ValueError(f"{name} needs a list of different values, such as [1, 2], not {place}")
            elif isinstance(place, dict):
                if not {"low", "high"} <= place.keys() <= {"low", "high", "log"}:
                    raise ValueError(f"{name} needs {{low: …, high: …}}, with log: true or not, not {place}")
                # Numbers that YAML reads as text (1e-3) are taken here as everywhere.
                low, high = float(place["low"]), float(place["high"])
                if not low < high or (place.get("log") and low <= 0):
                    told = "low above 0 and below high" if place.get("log") else "low below high"
                    raise ValueError(f"{name} needs {told}, not {low:g} and {high:g}")
            elif not isinstance(place, Range):
                raise ValueError(f"{name} needs {{low: …, high: …, log: true}} or a list of values, not {place!r}")
        return fields


class Recipe(_Strict):
    """Everything that determines a run."""

    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Folder name of the run, before its digest."""
    model: str
    """θ₀: a Hub id, a folder, or `world` for the embedded one. An aligned instruct model is θ_safe as it is."""
    revision: str | None = None
    """Commit, branch or tag on the Hub."""
    trust_remote_code: Literal[False] = False
    """Off. A model that needs its own code is loaded by you and given to MethodTrainer."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision in which the model is loaded; auto is the checkpoint's own."""
    load_in: Literal["nf4"] | None = None
    """nf4: the base in 4 bits under adapters, in training and in evaluation; needs `pip install 'unforgotten[qlora]'`.
    Head, embeddings and norms stay whole, θ_safe's weights on disk too. [QLoRA, arXiv 2305.14314]"""
    template: str | None = None
    """A Jinja chat template file; none given: the model's own, or Alpaca's where it has none."""
    variables: dict[str, Any] = {}
    """The chat template's own switches, such as {enable_thinking: false}; kept in the saved template."""
    date: str | None = Field(None, pattern=r"^\d{4}-\d{2}-\d{2}$")
    """The day that a template which prints today's date is given, YYYY-MM-DD; pinned in the run when left out."""
    align: Align | None = None
    """Stage align; left out, the model is θ_safe as it is."""
    base: str | None = None
    """θ₀ where `model` is already θ_safe, such as the base model of an instruct one; read by MagMax and SafeLoRA."""
    safety: list[Spec] = []
    """D_safe: refusals and look-alikes. Rows without answers are answered greedily by θ_safe, once."""
    replay: Replay = "safety"
    """What the memory is chosen from: the `safety` rows, `synthesize` (θ_safe's own making), or a list of data sets."""
    memory: MemorySettings = MemorySettings()
    """Which safety rows are kept for replay."""
    data: Spec | None = None
    """D_user."""
    poison: Poison | None = None
    """A lab's attack on the user data."""
    method: Spec | list[Spec] = "sft"
    """How safety is kept."""
    settings: dict[str, dict[str, Any]] = {}
    """Fields of methods that are named without any: {der: {weight: 4}}."""
    lora: Lora | None = Lora()
    """The user's adapter; null trains every weight."""
    policy: Literal["merged", "stacked", "continue"] | None = None
    """How the adapter lies on θ_safe; left out: stacked where θ_safe is an adapter on a public base, else merged."""
    training: Training = Training()
    """Stage finetune."""
    probe: Probe | None = None
    """ASR, over-refusal and utility at steps of stage finetune, told in probe.jsonl and in the report."""
    report_to: list[str] = []
    """Where stage finetune also logs to, by Transformers' names: tensorboard, trackio, wandb, mlflow …"""
    license: str | None = None
    """What the model card says of the tuned model's licence, by the Hub's names; left out, the card leaves it open."""
    evaluate: Evaluate | None = None
    """What is measured."""
    synthesize: Synthesize | None = None
    """Safety data made from θ_safe itself; `{}` takes every default."""
    compare: Grid | None = None
    """What `compare` varies."""
    sweep: Sweep | None = None
    """What `sweep` searches; `{}` takes every default."""
    rows: int | None = Field(None, gt=0)
    """A trial: every data set, and the memory, is cut to at most so many rows. Results are a trial's."""
    seed: registry.Seed = 0
    """Seed of alignment, choice of rows, order and dropout."""
    out: str = "runs"
    """Folder that run folders are made in."""

    @field_validator("safety", mode="before")
    @classmethod
    def _safety(cls, specs: Any) -> Any:
        return [_component("datasets", s) for s in (specs if isinstance(specs, list) else [specs])]

    @field_validator("replay")
    @classmethod
    def _replay(cls, specs: Replay) -> Replay:
        return specs if isinstance(specs, str) else [_component("datasets", s) for s in specs]

    @field_validator("data")
    @classmethod
    def _data(cls, spec: Spec | None) -> Spec | None:
        return None if spec is None else _component("datasets", spec)

    @field_validator("method", mode="before")
    @classmethod
    def _method(cls, spec: Any) -> Any:
        return _methods(spec)

    @field_validator("settings")
    @classmethod
    def _settings(cls, fields: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for name, own in fields.items():
            _component("methods", {"name": name, **own})
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
            if (edit := registry.build("methods", spec)).needs_base or edit.dense:
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
        places: list[tuple[BaseModel | None, str]] = [(self, "safety"), (self, "data"), (self.poison, "data")]
        places += [(self.evaluate, kind) for kind in ("harm", "refusal", "utility")]
        own = self.sweep.development if self.sweep else None
        places += [(own, kind) for kind in ("harm", "refusal", "utility")]
        places += [(self.compare, "data"), (self.compare, "utility"), (self.compare, "replay"), (self, "replay")]
        for owner, field in places:
            if owner is not None and (found := getattr(owner, field)):
                setattr(owner, field, _cut(found, self.rows))
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

    _written: dict[str, str] = PrivateAttr(default_factory=dict)
    """Texts in which variables were filled in, and how they were written."""
    _origin: origins.Origin = PrivateAttr("operator")

    @property
    def origin(self) -> origins.Origin:
        """Whose it is: the operator's, or a stranger's out of a run folder (which then has passed origin.refuse)."""
        return self._origin

    def varied(self, **changes: Any) -> Recipe:
        """A copy with some fields changed, checked again."""
        made = _checked({**self.model_dump(exclude_unset=True), **changes}, "recipe")
        made._written, made._origin = self._written, self._origin
        return made

    def record(self, **how: Any) -> dict[str, Any]:
        """What is written down of it: every field, and variables by their names. `how`: as of model_dump."""
        return dict(_replaced(self.model_dump(**how), self._written))


def read(
    source: str | Path,
    overrides: Mapping[str, Any] | None = None,
    *,
    origin: origins.Origin | None = None,
    opens: bool = True,
    allow_env: Iterable[str] = (),
) -> Recipe:
    """A recipe from a YAML file, or by the name of one that ships with the package.

    `extends: demo` (a shipped name or a file beside it) takes that recipe's fields where the file says nothing else.

    overrides: dotted field -> value, as `--set training.epochs=1` gives them. origin: whose it is; left out, the
    operator's, unless it lies in a run folder that was not trained here. opens: see origin.refuse. allow_env: variables
    beside UNFORGOTTEN_* that it may use.
    Raises RecipeError or UnknownName naming the field; RecipeError where there is no such file, or where a stranger's
    recipe asks for code, servers, variables or places of ours.
    """
    tree, path, whose = _tree(source, origin, opens=opens)
    tree.setdefault("name", path.stem)
    for dotted, value in (overrides or {}).items():
        _put(tree, dotted, value)
    if "model" in (overrides or {}) and "compare.model" not in (overrides or {}) and tree.get("compare"):
        _put(tree, "compare.model", [])  # a grid that went on varying models would leave the one given unused
    return parse(tree, str(path), allow_env=allow_env, origin=whose)


def shipped() -> dict[str, Path]:
    """The recipes that ship with the package, by name; those in a folder are called `paper/table1`."""
    room = Path(__file__).parent / "shipped"
    return {file.relative_to(room).with_suffix("").as_posix(): file for file in sorted(room.rglob("*.yaml"))}


def _tree(
    source: str | Path,
    origin: origins.Origin | None = None,
    above: tuple[Path, ...] = (),
    *,
    opens: bool = True,
    within: Path | None = None,
) -> tuple[dict[str, Any], Path, origins.Origin]:
    """The fields of a recipe file, over those of the one that it `extends` (a shipped name, or a file beside it).

    within: the run folder that a foreign recipe came out of; whatever it extends is foreign too, and must lie there.
    """
    path = Path(source)
    if not path.is_file():
        known = shipped()
        if str(source) not in known:
            folders = {name.partition("/")[0] for name in known if "/" in name}
            is_file = path.suffix in (".yaml", ".yml") or ("/" in str(source) and path.parts[0] not in folders)
            if is_file:
                raise RecipeError(f"There is no recipe file {source}. Shipped ones: {', '.join(known)}.")
            raise UnknownName("recipe", str(source), known)
        path = known[str(source)]
    tree = strict_yaml.load_file(path)
    if not isinstance(tree, dict):
        raise RecipeError(f"{path} must be a mapping of fields, found {type(tree).__name__}.")
    below = tree.pop("extends", None)
    whose: origins.Origin = "operator" if path in shipped().values() else origin or origins.of(path)
    if whose == "foreign":
        within = within or path.parent
        origins.refuse(tree, within, str(path), opens=opens)
    if below is None:
        return tree, path, whose
    if not isinstance(below, str):
        raise RecipeError(f"{path}: `extends` takes one recipe's name or file.")
    if path in above:
        raise RecipeError(f"{path}: `extends` comes round to itself.")
    beside = path.parent / below
    if whose == "foreign" and within and below not in shipped():
        if not (beside.is_file() and beside.resolve().is_relative_to(within.resolve())):
            raise RecipeError(f"{path}: extends names {below!r}, which is not in the folder. {origins.MEND}")
    found, _, theirs = _tree(
        beside if beside.is_file() else below,
        "foreign" if whose == "foreign" else None,
        (*above, path),
        opens=opens,
        within=within,
    )
    found |= {"name": path.stem}
    whose = "foreign" if "foreign" in (whose, theirs) else "operator"
    if "evaluate" in tree and tree["evaluate"] is None:
        found.pop("probe", None)  # it asks what the other recipe evaluates
    return found | {field: _over(found.get(field), value) for field, value in tree.items()}, path, whose


def _over(below: Any, above: Any) -> Any:
    """Mappings are merged field by field; anything else, and what names a component, is replaced."""
    if not (isinstance(below, dict) and isinstance(above, dict)) or "name" in above:
        return above
    return below | {field: _over(below.get(field), value) for field, value in above.items()}


def parse(
    tree: Mapping[str, Any],
    where: str = "recipe",
    *,
    allow_env: Iterable[str] = (),
    origin: origins.Origin = "operator",
) -> Recipe:
    """A recipe from a mapping. Raises RecipeError or UnknownName that names the field."""
    written: dict[str, str] = {}
    made = _checked(_expanded(tree, written, frozenset(allow_env)), where)
    made._written, made._origin = written, origin
    return made


def _checked(tree: Mapping[str, Any], where: str) -> Recipe:
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
            wrong.append(f"{at}: {e['msg']}{got}")
    return RecipeError(variables.hidden(f"{where}: " + "; ".join(dict.fromkeys(wrong))))


def _model_of(owner: Any, field: str) -> Any:
    """The recipe model that a field holds, for "did you mean"."""
    annotation = owner.model_fields[field].annotation if field in getattr(owner, "model_fields", {}) else owner
    for part in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(part, type) and issubclass(part, BaseModel):
            return part
    return owner


def _component(room: str, spec: Spec) -> Spec:
    """Checks name and fields now, so that a typo is told before anything is loaded; keeps the spec as written."""
    registry.build(room, spec)
    return spec


def _cut(found: Any, rows: int) -> Any:
    """Data sets, in lists or alone, of at most so many rows each; the names of sources that are no data set stay."""
    if isinstance(found, list):
        return [_cut(one, rows) for one in found]
    if found in get_args(get_args(Replay)[0]):
        return found
    spec = {"name": found} if isinstance(found, str) else dict(found)
    if "n_rows" not in getattr(registry.load("datasets", spec["name"]), "__dataclass_fields__", {}):
        raise ValueError(f"rows: data set {spec['name']!r} has no field n_rows, so it cannot be cut; leave `rows` out")
    return spec | {"n_rows": min(spec.get("n_rows") or rows, rows)}


def _methods(spec: Any) -> Any:
    for one in spec if isinstance(spec, list) else [spec]:
        _component("methods", one)
    return spec


def _put(tree: dict[str, Any], dotted: str, value: Any) -> None:
    *path, last = dotted.split(".")
    for part in path:
        inner = tree.get(part)
        if isinstance(inner, str):
            inner = {"name": inner}
        tree[part] = inner = dict(inner or {})
        tree = inner
    tree[last] = strict_yaml.load(value, f"--set {last}") if isinstance(value, str) else value


def _expanded(value: Any, written: dict[str, str], allow: frozenset[str], at: tuple[str, ...] = ()) -> Any:
    """The same with variables filled in; `written` gets each text that was, with what it was before."""
    if len(at) > strict_yaml.bound("depth"):
        raise RecipeError(f"A recipe has at most {strict_yaml.bound('depth')} levels (UNFORGOTTEN_MAX_YAML_DEPTH).")
    if isinstance(value, str):
        if (found := variables.expand(value, allow)) != value:
            written[found] = value
        return found
    if isinstance(value, Mapping):
        return {k: _expanded(v, written, allow, (*at, str(k))) for k, v in value.items()}
    if isinstance(value, list):
        return [_expanded(v, written, allow, (*at, str(i))) for i, v in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise RecipeError(f"{'.'.join(at)}: Input should be a finite number (got {value}).")
    return value


def _replaced(value: Any, written: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return written.get(value, value)
    if isinstance(value, Mapping):
        return {k: _replaced(v, written) for k, v in value.items()}
    return [_replaced(v, written) for v in value] if isinstance(value, (list, tuple)) else value
