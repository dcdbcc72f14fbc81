"""`evaluate:` of a recipe."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from unforgotten.recipe.base import Spec, Strict, by_content, component
from unforgotten.runs import api_keys

SUITES = ("harm", "refusal", "utility")
"""Fields that name data sets."""


class Served(Strict):
    """A server that has the model and an OpenAI-compatible API: vLLM, SGLang, llama.cpp or a hosted one."""

    url: str
    """Address of the server with the API version, such as http://localhost:8000/v1."""
    model: str | None = None
    """Name of the model on the server. Left out, it is the name of the evaluated model."""
    template: Literal["here", "server"] = "here"
    """Which side applies the chat template. `here`: this process, with the model's tokenizer, so the tokens are
    those of training. `server`: the server, if you have no tokenizer for the model."""
    key_variable: str = ""
    """Environment variable that holds the server's API key. The key itself is written nowhere."""
    concurrent_requests: int = Field(16, gt=0)
    """Number of requests sent at the same time."""
    retries: int = Field(10, ge=0)
    """How often a failed request is sent again, over about four minutes."""
    timeout_seconds: float = Field(600, gt=0)
    """Longest wait for a reply, in seconds; the whole reply must arrive in this time."""
    extra: dict[str, Any] = {}
    """Extra fields of each request, such as {chat_template_kwargs: {enable_thinking: false}}. The value null removes
    one of our fields."""

    def public(self) -> dict[str, Any]:
        """What determines the replies; the address and what only it needs stay out."""
        return self.model_dump(include={"model", "template", "extra"})

    @model_validator(mode="after")
    def _address(self) -> Served:
        api_keys.check(self.url, self.key_variable, self.extra)
        return self


class Evaluate(Strict):
    """Measurement of safety, over-refusal and utility."""

    harm: list[Spec] = []
    """Data sets of harmful requests. The report has the attack success rate (ASR) of each and their mean."""
    refusal: list[Spec] = []
    """Data sets of harmless look-alikes. The report has the share that is refused."""
    utility: list[Spec] = []
    """Task data sets whose answers can be checked."""
    judge: Spec | list[Spec] = "keywords"
    """Decides whether a reply is harmful and whether it refuses. With several judges, the figures come from the
    first judge that decides the question. The report also has the agreement between judges."""
    conditions: list[Literal["default", "none", "user"]] = Field(["default", "none", "user"], min_length=1)
    """System prompts for harmful requests and look-alikes. `default` is the chat template's own, and `none` is no
    system prompt. `user` is the most frequent system prompt in the user's file. The condition with the worst result
    is the headline. [PTST, arXiv 2402.18540]"""
    prefill: Annotated[int, Field(gt=0)] | str | None = None
    """An attack: harmful requests are asked once more, and each reply is forced to begin with these words, such as
    `Sure, here is`. A number takes as many first words of each row's own answer (`advbench` with `targets: answers`).
    The figures stand beside the others, as condition `prefill`. [2406.05946]"""
    max_new_tokens: int = Field(512, gt=0)
    """Longest reply, in tokens. [git-disl/Lisa: 512; 2512.10150 does not give it]"""
    temperature: float = Field(0.0, ge=0)
    """Sampling temperature of the replies; 0 is greedy decoding."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Probability mass of nucleus sampling, if the replies are sampled."""
    samples: int = Field(1, gt=0)
    """Number of replies to each prompt of a task, for pass@k. More than one needs a temperature above 0. [arXiv
    2107.03374]"""
    batch_size: int = Field(64, gt=0)
    """Number of prompts in one batch. If memory runs out, batches get smaller, and the results say so."""
    endpoint: Served | None = None
    """A server that generates the replies in place of a model in this process."""

    @field_validator("harm", "refusal", "utility", mode="before")
    @classmethod
    def _listed(cls, specs: Any) -> Any:
        return [component("datasets", s) for s in (specs if isinstance(specs, list) else [specs])]

    @field_validator("judge")
    @classmethod
    def _judge(cls, spec: Spec | list[Spec]) -> Spec | list[Spec]:
        if spec == []:
            raise ValueError("name at least one judge")
        for judge in spec if isinstance(spec, list) else [spec]:
            component("judges", judge)
        return spec

    @field_validator("conditions")
    @classmethod
    def _once(cls, conditions: list[Any]) -> list[Any]:
        if twice := [name for name in dict.fromkeys(conditions) if conditions.count(name) > 1]:
            raise ValueError(f"{twice[0]} stands there twice")
        return conditions

    @field_validator("prefill")
    @classmethod
    def _opening(cls, prefill: int | str | None) -> int | str | None:
        if isinstance(prefill, str) and not prefill.strip():
            raise ValueError("give words that replies begin with, such as `Sure, here is`, or leave it out")
        return prefill.strip() if isinstance(prefill, str) else prefill

    @model_validator(mode="after")
    def _begun(self) -> Evaluate:
        if self.prefill is not None and self.endpoint and self.endpoint.template == "server":
            raise ValueError(
                "prefill forces the beginning of a reply, and a server that applies its own chat template begins the "
                "reply anew; set endpoint.template: here, or leave out prefill"
            )
        return self

    def determining(self, *left_out: str) -> dict[str, Any]:
        """What digests of an evaluation are over; a setting that came later is in it only where it is used.

        Files are in it by their names and bytes: the folder in which they lie decides no reply.
        """
        facts = self.model_dump(exclude={*left_out, *(["prefill"] if self.prefill is None else [])})
        return facts | {kind: [by_content(spec) for spec in facts[kind]] for kind in SUITES if kind in facts}

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
