"""Where θ_safe refuses a user's prompt, train on its own refusal. [our own; after replayed answers, arXiv 2512.10150]

    y(x) = θ_safe's greedy reply to x          r(x) = 1 where the judge reads y(x) as a refusal, else 0
    u(x) = how likely θ_safe begins x's reply as the memory's refusals begin (base/refusal_odds.py)
    n(x) = 1 where u(x) is nearer to that of the memory's refusals than of its look-alikes (medians), else 0
    share_s(x) = s(x) · (1 + Σ s(x′)) / (1 + |N(x)|)      s = r, n; N(x): `neighbours` rows most alike, cosine ≥ `alike`
    target(x) = a refusal where share_r(x) ≥ `majority` (with `odds`: or share_n(x)), else as given

So poison turns into refusals on its own prompts. The second sign (`odds`) is for an attacker who holds θ_safe, and
picks prompts that it does not quite refuse. The refusal is y(x) where that refuses. Else θ_safe replies once more,
forced to begin with the likeliest of the memory's openings, and the judge must read it as a refusal.

A sign is shared by rows alike: θ_safe may refuse one prompt of a harmless task in three, but it refuses nearly all of a
kind of poison. The signs are not added up, since both err on the same rows. Rows with a sign and too small a share stay
as given, and are listed. Of the memory only the prompts are read, which tell the template from the task; with `odds`
also how refusals begin. Replies are made once, before the run. Of a row with several turns, the last answer alone is
asked for and replaced: earlier answers stay as they were given, and a reply may follow from them. Rows that other
methods put in are left as they are. A θ_safe that over-refuses would turn the task itself into refusals, so the run
stops where more than `most` of the rows would be replaced.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le

from unforgotten.errors import DataError
from unforgotten.methods.base import Method
from unforgotten.methods.base.refusal_odds import (
    LEAST,
    OPENINGS,
    SEPARATION,
    TOKENS,
    last_answer,
    likeness,
    mean_exp,
    openings,
    separated,
)

if TYPE_CHECKING:
    from unforgotten.methods.base import EncodedRow, OwnReply, Run


def last_prompt(row: EncodedRow) -> list[int]:
    """The ids before the last answer."""
    labels = row["labels"]
    end = max(t for t in range(1, len(labels)) if labels[t] != -100)
    start = next((t for t in range(end, 0, -1) if labels[t - 1] == -100), 1)
    return list(row["input_ids"][:start])


def answered(row: EncodedRow, reply: Sequence[int]) -> EncodedRow:
    """The row with another last answer; what stands before it keeps its labels."""
    prompt = last_prompt(row)
    return {**row, "input_ids": [*prompt, *reply], "labels": [*row["labels"][: len(prompt)], *reply]}


QUERIES = 64
"""Rows whose neighbours are looked for at a time."""


def shared_verdict(
    prompts: Sequence[Sequence[int]],
    refused: Sequence[bool],
    neighbours: int,
    alike: float,
    others: Sequence[Sequence[int]] = (),
) -> list[float]:
    """For each row, the share of refusals among itself and up to `neighbours` rows whose prompts are alike.

    Two prompts are alike where the cosine of their sets of tokens is at least `alike`. Tokens of the template do not
    count: those that every prompt has, of these and of `others` (prompts of the memory, which share no instruction with
    them). Rows that are not refused have share 0: nothing asks for theirs.
    """
    import torch

    n = len(prompts)
    sets = [set(prompt) for prompt in prompts]
    common = set.intersection(*sets, *map(set, others)) if sets else set()
    sets = [tokens - common for tokens in sets]
    shares = [0.0] * n
    asked = [i for i, verdict in enumerate(refused) if verdict]
    if not asked:
        return shares
    places = {token: at for at, token in enumerate(sorted(set().union(*sets)))}
    pairs = [(i, places[token]) for i, tokens in enumerate(sets) for token in sorted(tokens)]
    if not pairs:  # all prompts are one
        return [sum(refused) / n if verdict else 0.0 for verdict in refused]
    values = torch.tensor([len(sets[i]) ** -0.5 for i, _ in pairs], dtype=torch.float64)
    bags = torch.sparse_coo_tensor(torch.tensor(pairs).T, values, (n, len(places)), check_invariants=True)
    verdicts = torch.tensor([bool(v) for v in refused], dtype=torch.float64)
    for at in range(0, len(asked), QUERIES):
        some = asked[at : at + QUERIES]
        dense = torch.zeros(len(places), len(some), dtype=torch.float64)
        for column, i in enumerate(some):
            dense[[places[t] for t in sets[i]], column] = len(sets[i]) ** -0.5 if sets[i] else 0.0
        cosine = torch.sparse.mm(bags, dense)  # (n, queries)
        for column, i in enumerate(some):
            near = cosine[:, column]
            near[i] = -1.0
            order = near.sort(descending=True, stable=True).indices[:neighbours]
            order = order[near[order] >= alike]
            shares[i] = float((1 + verdicts[order].sum()) / (1 + len(order)))
    return shares


def nearer_to_refusals(run: Run, prompts: Sequence[list[int]]) -> tuple[list[bool], list[tuple[int, ...]], str]:
    """n(x) of each prompt; the refusal opening that θ_safe finds most likely there; why neither is known, else "".

    Without both kinds of memory rows u has no scale, and all of n(x) is false.
    """
    import torch

    none, no_opening = [False] * len(prompts), list[tuple[int, ...]]()
    harmful = torch.tensor([row.get("kind") == "harmful" for row in run.memory.rows], dtype=torch.bool)
    if min(harmful.sum(), (~harmful).sum()) < LEAST:
        return none, no_opening, f"the memory has fewer than {LEAST} refusals or look-alikes"
    refusals = [row for row in run.memory.rows if row.get("kind") == "harmful"]
    said = openings(refusals, TOKENS, OPENINGS)
    asked = [*prompts, *map(last_prompt, run.memory.rows)]
    logp = torch.tensor(run.replies.opening_logp(asked, said), dtype=torch.float64)  # (n + m, openings)
    u, of_memory = mean_exp(logp).split([len(prompts), len(harmful)])
    if not separated(of_memory[harmful], of_memory[~harmful], SEPARATION):
        return none, no_opening, "the aligned model does not tell the memory's refusals from its look-alikes"
    answers = list(map(last_answer, refusals))
    begun = [opening[:-1] if list(opening) in answers else opening for opening in said]  # nothing follows a turn's end
    likeliest = [begun[o] for o in logp[: len(prompts)].argmax(1).tolist()]
    return (likeness(u, of_memory[harmful], of_memory[~harmful]) > 0).tolist(), likeliest, ""


@dataclass
class Choice:
    """Which rows get a refusal as their target, by their places among the prompts, and what is known of the others."""

    replies: list[OwnReply]
    by_reply: list[float]
    """The share of rows alike whose replies refuse too; 0 for rows whose reply does not."""
    by_odds: list[float]
    """The same of n(x)."""
    unread: int
    """Replies that the judge could not read."""
    unused: str
    """Why the odds were not used; empty where they were."""
    replaced: list[int] = field(default_factory=list)
    likely: list[int] = field(default_factory=list)
    """Those replaced by their odds alone."""
    forced: list[int] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)
    """Those whose forced reply is no refusal."""
    spared: list[int] = field(default_factory=list)
    """Those with a sign that too few rows alike have."""

    def share(self, k: int) -> float:
        """The larger share of the two signs."""
        return max(self.by_reply[k], self.by_odds[k])

    def facts(self, run: Run, k: int) -> dict[str, Any]:
        """What a list of rows says of row k."""
        sign = "reply" if self.by_reply[k] >= self.by_odds[k] else "odds"
        return {"reply": run.replies.text(self.replies[k].ids), "sign": sign, "share": round(self.share(k), 4)}


@dataclass(kw_only=True)
class OwnReplies(Method):
    """Own replies: where the aligned model refuses a user's prompt, its own refusal is the target."""

    family: ClassVar[str] = "data"
    neutral: ClassVar[dict[str, Any]] = {"use": "list"}
    needs_safety: ClassVar[bool] = False
    later: ClassVar[tuple[str, ...]] = ("odds",)

    use: Literal["target", "list"] = "target"
    """`target`: the refusal replaces the given answer. `list`: the rows are only listed, and the method is SFT."""
    judge: str | dict[str, Any] = "keywords"
    """Judge that reads which replies refuse: a name, or a name with settings. [keywords: XSTest's list]"""
    max_new_tokens: Annotated[int, Ge(1)] = 64
    """Largest number of tokens of a reply. A refusal is clear by then. [our choice]"""
    neighbours: Annotated[int, Ge(0)] = 64
    """Rows with prompts alike that share a verdict. So a task that θ_safe often refuses stays a task. With 0 each row
    has its own verdict. [our choice]"""
    odds: bool = False
    """Whether a row is also replaced where θ_safe is nearer to refusing its prompt than to answering it, though its
    reply does not refuse. It needs a memory with refusals and look-alikes, else it is not used, and the run says so.
    [our choice: in docs/log.md it costs over-refusal]"""
    majority: Annotated[float, Gt(0), Le(1)] = 0.75
    """A refusal counts where at least this share of the rows alike is refused, itself included. [our choice]"""
    alike: Annotated[float, Gt(0), Le(1)] = 0.3
    """Least cosine of two prompts' sets of tokens at which they are alike. [our choice]"""
    most: Annotated[float, Gt(0), Le(1)] = 0.5
    """Largest share of user rows that may be replaced. With more the run stops. [our choice]"""

    def data(self, run: Run) -> list[EncodedRow]:
        rows = list(run.user.rows)
        own = [i for i, row in enumerate(rows) if row.get("user_row", -1) >= 0]
        choice = self._choose(run, [last_prompt(rows[i]) for i in own])

        def listed(name: str, some: Sequence[int]) -> str:
            return run.list_rows(name, [(rows[own[k]]["user_row"], choice.facts(run, k)) for k in some])

        names = listed("own_replies", choice.replaced)
        spared = listed("own_replies_as_given", sorted({*choice.spared, *choice.failed}))
        if len(choice.replaced) > self.most * len(own) and self.use == "target":
            raise DataError(
                f"own_replies: the aligned model refuses {len(choice.replaced)} of {len(own)} user prompts ({names}). "
                "Their answers would become refusals. Either most of the upload is harmful, or the aligned model "
                "refuses too much. Look at the rows. If they are harmless, align with answered look-alikes that "
                "resemble them. `use: list` only lists the rows, and `most: 1` replaces them all the same."
            )
        if self.use == "target":
            for k in choice.replaced:
                rows[own[k]] = answered(rows[own[k]], choice.replies[k].ids)
        run.note("; ".join(self._parts(choice, names, spared)))
        return rows

    def _choose(self, run: Run, prompts: list[list[int]]) -> Choice:
        """Reads both signs, and forces refusals to begin where the odds alone ask for one."""
        memory, rows = [last_prompt(row) for row in run.memory.rows], range(len(prompts))

        def shares(signs: Sequence[bool]) -> list[float]:
            return shared_verdict(prompts, signs, self.neighbours, self.alike, memory)

        replies = run.replies.generate(prompts, self.max_new_tokens)
        verdicts = run.replies.refused(prompts, replies, self.judge)
        near, begun, unused = nearer_to_refusals(run, prompts) if self.odds else ([False] * len(prompts), [], "")
        choice = Choice(replies, shares([v is True for v in verdicts]), shares(near), verdicts.count(None), unused)
        refused = [k for k in rows if choice.by_reply[k] >= self.majority]
        likely = [k for k in rows if choice.by_odds[k] >= self.majority > choice.by_reply[k]]
        if len(refused) <= self.most * len(prompts) < len(refused) + len(likely):
            choice.unused = f"{len(refused) + len(likely)} of {len(prompts)} rows would be replaced"
            choice.by_odds, likely = [0.0] * len(prompts), []
        choice.forced = [k for k in likely if verdicts[k] is not True]
        if choice.forced:
            asked = [prompts[k] for k in choice.forced]
            new = run.replies.generate(asked, self.max_new_tokens, [begun[k] for k in choice.forced])
            for k, reply, verdict in zip(choice.forced, new, run.replies.refused(asked, new, self.judge), strict=True):
                replies[k] = reply
                if verdict is not True:
                    choice.failed.append(k)
        choice.replaced = sorted({*refused, *likely} - {*choice.failed})
        choice.likely = sorted({*likely} - {*choice.failed})
        choice.spared = [k for k in rows if 0 < choice.share(k) < self.majority]
        return choice

    def _parts(self, choice: Choice, names: str, spared: str) -> Iterator[str]:
        """What the note says. names, spared: the rows of both lists, in words."""
        n, forced = len(choice.replies), len(choice.forced) - len(choice.failed)
        what = "have the aligned model's refusal as their target" if self.use == "target" else "are refused by it"
        rows = f" ({names})" if choice.replaced else ""
        yield f"own_replies: {len(choice.replaced)} of {n} user rows {what}{rows}"
        if choice.likely:
            yield f"of these, {len(choice.likely)} by how likely a refusal is, with {forced} forced to begin as one"
        if choice.spared:
            too = " or likely to be" if any(not choice.by_reply[k] for k in choice.spared) else ""
            few = f"{len(choice.spared)} more are refused{too}, but too few rows like them"
            yield f"{few}; they stay as given ({spared})"
        if choice.failed:
            where = "" if choice.spared else f" ({spared})"
            yield f"{len(choice.failed)} forced replies do not refuse, so their rows stay as given{where}"
        cut = sum(not choice.replies[k].ended for k in choice.replaced)
        if cut and self.use == "target":
            yield f"{cut} refusals were cut at {self.max_new_tokens} tokens and teach no end"
        if choice.unread:
            yield f"the judge could not read {choice.unread} replies"
        if choice.unused:
            yield f"how likely a refusal is was not used: {choice.unused}"
