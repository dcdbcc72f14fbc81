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
also how refusals begin. Replies are made once, before the run. Each turn of a row is asked with what was given before
it, and shares its signs with turns of its number. The first refusal in a row replaces its answer and ends the row: what
follows would go on from words that are gone. Rows that other methods put in are left as they are. A θ_safe that
over-refuses would turn the task itself into refusals, so the run stops where more than `most` of the rows would be
replaced.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le

from unforgotten.errors import DataError, JudgeError
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
    turn_starts,
)
from unforgotten.methods.base.shared_verdict import shared_verdict

if TYPE_CHECKING:
    from unforgotten.methods.base import EncodedRow, OwnReply, Run


def turn_prompts(row: EncodedRow) -> list[list[int]]:
    """The ids before each answer."""
    return [list(row["input_ids"][:start]) for start in turn_starts(row["labels"])]


def answered(row: EncodedRow, reply: Sequence[int], turn: int = -1) -> EncodedRow:
    """The row with another answer at this turn, which is its last then; what stands before it keeps its labels."""
    prompt = turn_prompts(row)[turn]
    return {**row, "input_ids": [*prompt, *reply], "labels": [*row["labels"][: len(prompt)], *reply]}


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
    asked = [*prompts, *(turn_prompts(row)[-1] for row in run.memory.rows)]
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
    """Which turns get a refusal as their target, by their places among the prompts, and what is known of the others.

    `by_row` makes each list one place a row.
    """

    rows: list[int]
    """The row of each prompt."""
    turns: list[int]
    """Which turn of the row each prompt asks for, from 0."""
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
    signs: dict[int, str] = field(default_factory=dict)
    """Which sign decided on a prompt that is listed."""
    spared: list[int] = field(default_factory=list)
    """Those with a sign that too few rows alike have."""

    def count(self, places: Iterable[int]) -> int:
        """Rows of these prompts."""
        return len({self.rows[k] for k in places})

    def by_row(self) -> None:
        """Keeps of each row the first prompt that is replaced; of other rows the first one that is forced or spared."""
        replaced = {self.rows[k] for k in self.replaced}

        def first(places: Sequence[int], without: set[int]) -> list[int]:
            of_row = {self.rows[k]: k for k in sorted(places, reverse=True) if self.rows[k] not in without}
            return sorted(of_row.values())

        self.replaced = first(self.replaced, set())
        kept = set(self.replaced)
        self.likely, self.forced = ([k for k in some if k in kept] for some in (self.likely, self.forced))
        self.failed, self.spared = first(self.failed, replaced), first(self.spared, replaced)
        by_odds = {*self.likely, *self.failed}
        self.signs = {k: "odds" if k in by_odds else "reply" for k in (*self.replaced, *self.failed)}
        for k in self.spared:
            self.signs.setdefault(k, "reply" if self.by_reply[k] >= self.by_odds[k] else "odds")

    def share(self, k: int) -> float:
        """The larger share of the two signs."""
        return max(self.by_reply[k], self.by_odds[k])

    def facts(self, run: Run, k: int) -> dict[str, Any]:
        """What a list of rows says of prompt k, and which turn of its row it is where there are several."""
        share = (self.by_odds if self.signs[k] == "odds" else self.by_reply)[k]
        facts = {"reply": run.replies.text(self.replies[k].ids), "sign": self.signs[k], "share": round(share, 4)}
        several = self.rows[k] in (
            *self.rows[max(0, k - 1) : k],
            *self.rows[k + 1 : k + 2],
        )  # a row's turns are together
        return {"turn": self.turns[k] + 1, **facts} if several else facts


@dataclass(kw_only=True)
class OwnReplies(Method):
    """Own replies: where the aligned model refuses a user's prompt, its own refusal is the target."""

    family: ClassVar[str] = "data"
    neutral: ClassVar[dict[str, Any]] = {"use": "list"}
    needs_safety: ClassVar[bool] = False
    later: ClassVar[tuple[str, ...]] = ("odds",)

    use: Literal["target", "drop", "list"] = "target"
    """`target`: the refusal replaces the given answer. `drop`: the rows are left out, which is a filter, a baseline for
    studies. `list`: the rows are only listed, and the method is SFT."""
    judge: str | dict[str, Any] = "keywords"
    """Judge that reads which replies refuse: a name, or a name with settings. [keywords: XSTest's list]"""
    max_new_tokens: Annotated[int, Ge(1)] = 64
    """Largest number of tokens of a reply. A refusal is clear by then. [our choice]"""
    neighbours: Annotated[int, Ge(0)] = 64
    """Rows with prompts alike that share a verdict. So a task that θ_safe often refuses stays a task. With 0 each row
    has its own verdict. A sender who writes one instruction before every row makes all rows alike. Fewer than
    `majority` · (`neighbours` + 1) refused rows, 48 by default, then stay as given; they are listed. [our choice]"""
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
        choice = self._choose(run, {i: turn_prompts(rows[i]) for i in own})

        def listed(name: str, some: Sequence[int]) -> str:
            return run.list_rows(name, [(rows[choice.rows[k]]["user_row"], choice.facts(run, k)) for k in some])

        names = listed("own_replies", choice.replaced)
        spared = listed("own_replies_as_given", sorted({*choice.spared, *choice.failed}))
        most = self.most * len(own) if self.use == "target" else min(self.most * len(own), len(rows) - 1)
        if len(choice.replaced) > most and self.use != "list":
            would = "Their answers would become refusals" if self.use == "target" else "Their rows would be left out"
            raise DataError(
                f"own_replies: the aligned model refuses {len(choice.replaced)} of {len(own)} user prompts ({names}). "
                f"{would}. Either most of the upload is harmful, or the aligned model "
                "refuses too much. Look at the rows. If they are harmless, align with answered look-alikes that "
                "resemble them. `use: list` only lists the rows, and `most: 1` goes on all the same."
            )
        if self.use == "target":
            for k in choice.replaced:
                rows[choice.rows[k]] = answered(rows[choice.rows[k]], choice.replies[k].ids, choice.turns[k])
        elif self.use == "drop":
            left_out = {choice.rows[k] for k in choice.replaced}
            rows = [row for i, row in enumerate(rows) if i not in left_out]
        run.note("; ".join(self._parts(choice, len(own), names, spared)))
        return rows

    def _choose(self, run: Run, turns_of: Mapping[int, list[list[int]]]) -> Choice:
        """Reads both signs, and forces refusals to begin where the odds alone ask for one."""
        memory = [turn_prompts(row)[-1] for row in run.memory.rows]
        prompts = [prompt for turns in turns_of.values() for prompt in turns]
        row_of = [i for i, turns in turns_of.items() for _ in turns]
        turn_of = [turn for turns in turns_of.values() for turn in range(len(turns))]
        all_prompts, n = range(len(prompts)), len(turns_of)

        def shares(signs: Sequence[bool]) -> list[float]:
            by_prompt = [0.0] * len(prompts)
            for turn in sorted(set(turn_of)):
                at = [k for k in all_prompts if turn_of[k] == turn]
                same = [prompts[k] for k in at], [signs[k] for k in at]
                for k, share in zip(at, shared_verdict(*same, self.neighbours, self.alike, memory), strict=True):
                    by_prompt[k] = share
            return by_prompt

        replies = run.replies.generate(prompts, self.max_new_tokens)
        verdicts = run.replies.refused(prompts, replies, self.judge)
        if verdicts and all(verdict is None for verdict in verdicts):
            raise JudgeError(
                f"own_replies: the judge read none of {len(verdicts)} replies of the aligned model, so no refusal can "
                "be found. Name another `judge`, or leave own_replies out."
            )
        near, begun, unused = nearer_to_refusals(run, prompts) if self.odds else ([False] * len(prompts), [], "")
        by_reply = shares([v is True for v in verdicts])
        choice = Choice(row_of, turn_of, replies, by_reply, shares(near), verdicts.count(None), unused)
        refused = [k for k in all_prompts if choice.by_reply[k] >= self.majority]
        likely = [k for k in all_prompts if choice.by_odds[k] >= self.majority > choice.by_reply[k]]
        if choice.count(refused) <= self.most * n < choice.count([*refused, *likely]):
            choice.unused = f"{choice.count([*refused, *likely])} of {n} rows would be replaced"
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
        choice.spared = [k for k in all_prompts if 0 < choice.share(k) < self.majority]
        choice.by_row()
        return choice

    def _parts(self, choice: Choice, n: int, names: str, spared: str) -> Iterator[str]:
        """What the note says. n: user rows. names, spared: the rows of both lists, in words."""
        forced = len(choice.forced)
        what = {
            "target": "have the aligned model's refusal as their target",
            "drop": "are left out, since the aligned model refuses them",
            "list": "are refused by it",
        }[self.use]
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
