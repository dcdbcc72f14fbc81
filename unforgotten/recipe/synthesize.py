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
    """A kind of harm that requests are drawn for: its name, never an example."""

    name: str = Field(min_length=1)
    """What the model is told, such as `cybercrime`; the rows' category."""
    description: str = ""
    """A few words more, for {description} in `ask` and `opening` and for the similarity to the domain."""
    opening: str | None = None
    """This domain's own opening, in place of synthesize.opening."""


class Synthesize(Strict):
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
