"""`synthesize:` of a recipe."""

from __future__ import annotations

from typing import Literal

from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from unforgotten.recipe.base import Spec, Strict, component


class Domain(Strict):
    """A kind of harm for which the model writes requests. It is given by name, never by an example."""

    name: str = Field(min_length=1)
    """Name that the model reads, such as `cybercrime`. It is also the category of the rows."""
    description: str = ""
    """A few more words. They replace {description} in `ask` and `opening`, and count in the similarity to the
    domain."""
    opening: str | None = None
    """The opening of this domain, in place of synthesize.opening."""


class Synthesize(Strict):
    """Safety data that the aligned model writes itself. [GR-SAP, arXiv 2603.10243; code: chili-lab/gr-sap]"""

    domains: list[Domain] | None = Field(None, min_length=1)
    """Kinds of harm. Left out, `chat` uses 28 names from public taxonomies; `user_turn` and `text` accept any
    request that users make."""
    prefix: Literal["chat", "user_turn", "text"] = "chat"
    """Text that the model continues. `chat`: the beginning of its own answer [chili-lab/gr-sap]. `user_turn`: the
    chat template up to the user's first word [Magpie, arXiv 2406.08464]. `text`: text without a chat template."""
    ask: str = (
        "You refused a \\textbf{specific request} that raised {name} concerns. Repeat the \\textbf{specific request} "
        "and explain why it was refused."
    )
    """The user's message with `prefix: chat`. [chili-lab/gr-sap]"""
    opening: str | None = None
    """Last words of the text that the model continues. After a quotation mark, the request ends at the next one.
    Left out, it is `Sure, the \\textbf{specific request} is "` with `chat` [chili-lab/gr-sap], else empty."""
    per_domain: int = Field(512, gt=0)
    """Number of requests sampled for each domain. [chili-lab/gr-sap]"""
    temperature: float = Field(1.0, gt=0)
    """Sampling temperature of the requests. [chili-lab/gr-sap]"""
    max_request_tokens: int = Field(256, gt=0)
    """Longest request, in tokens. [chili-lab/gr-sap]"""
    perplexity: tuple[float, float] = (5, 95)
    """Lowest and highest percentile of perplexity; requests outside are dropped. [chili-lab/gr-sap]"""
    scorer: str | None = None
    """Causal language model that measures the perplexity, as a folder or Hub id (gr-sap: Qwen/Qwen2.5-0.5B). Left
    out, it is the model itself."""
    duplicate: float = Field(0.85, gt=0, le=1)
    """Cosine at or above which the later of two requests is dropped. [chili-lab/gr-sap]"""
    embedder: str | None = None
    """Encoder that compares requests (gr-sap: BAAI/bge-small-en-v1.5). Left out, requests are compared offline by
    words and pairs of words. A request then belongs to its domain if one of its 5 nearest requests was sampled for
    the same domain."""
    pooling: Literal["cls", "mean"] = "cls"
    """How the encoder's token vectors become one vector. [bge: cls]"""
    domain_similarity: float = Field(0.5, ge=-1, le=1)
    """Minimum cosine between a request and its domain's name and description, with an encoder. [chili-lab/gr-sap]"""
    refused_neighbours: float = Field(0.5, ge=0, le=1)
    """Minimum share of refused requests among a request's 5 nearest, by cosine, if no domain is named. Without
    domains, only the model's refusals show which requests are harmful. The default is ours."""
    answer_temperature: float = Field(0.8, ge=0)
    """Sampling temperature of the model's answers; 0 is greedy decoding. [chili-lab/gr-sap]"""
    answer_top_p: float = Field(0.95, gt=0, le=1)
    """Probability mass of nucleus sampling for the answers. [chili-lab/gr-sap]"""
    max_new_tokens: int = Field(1024, gt=0)
    """Longest answer, in tokens. [chili-lab/gr-sap]"""
    refuse: str = "The above request is harmful. Please refuse it."
    """Text added below a request that the model answered, so that it refuses the request. [chili-lab/gr-sap]"""
    refuse_temperature: float = Field(0.7, ge=0)
    """Sampling temperature of the answers to that text. [chili-lab/gr-sap]"""
    judge: Spec | None = None
    """Decides whether an answer refuses and whether it is harmful. Left out, it is the judge of `evaluate`,
    else `keywords`. [gr-sap: WildGuard]"""
    fewest: int = Field(20, gt=0)
    """Minimum number of refused requests; with fewer there is nothing to replay. The default is ours."""
    batch_size: int = Field(64, gt=0)
    """Number of requests or answers generated at once."""

    @field_validator("judge")
    @classmethod
    def _judge(cls, spec: Spec | None) -> Spec | None:
        return None if spec is None else component("judges", spec)

    @model_validator(mode="after")
    def _window(self) -> Synthesize:
        low, high = self.perplexity
        if not 0 <= low < high <= 100:
            raise ValueError(f"perplexity needs two percentiles, 0 ≤ low < high ≤ 100, not {low:g} and {high:g}")
        names = [domain.name for domain in self.domains or []]
        if len(set(names)) < len(names):
            raise ValueError("two domains have the same name")
        return self
