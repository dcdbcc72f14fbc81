"""`evaluate:` of a recipe."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from unforgotten.recipe.base import Spec, Strict, component
from unforgotten.runs import keys


class Served(Strict):
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


class Evaluate(Strict):
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
        return [component("datasets", s) for s in (specs if isinstance(specs, list) else [specs])]

    @field_validator("judge")
    @classmethod
    def _judge(cls, spec: Spec | list[Spec]) -> Spec | list[Spec]:
        if spec == []:
            raise ValueError("name at least one judge")
        for judge in spec if isinstance(spec, list) else [spec]:
            component("judges", judge)
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
