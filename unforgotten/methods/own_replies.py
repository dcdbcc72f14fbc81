"""Where θ_safe refuses a user's prompt, train on its own refusal. [our own; after replayed answers, arXiv 2512.10150]

    y(x) = θ_safe's greedy reply to x          r(x) = 1 where the judge reads y(x) as a refusal, else 0
    share(x) = (1 + Σ r(x′)) / (1 + |N(x)|)    over N(x): the up to `neighbours` rows most alike, of cosine ≥ `alike`
    target(x) = y(x) where r(x) = 1 and share(x) ≥ `majority`, else as given

So poison turns into refusals on its own prompts. A verdict is shared by rows alike: θ_safe may refuse one prompt of a
harmless task in three, but it refuses nearly all of a kind of poison. Refused rows with a smaller share stay as given,
and are listed. Of the memory only the prompts are read: they tell the template from the task. A reply is made once,
before the run. Of a row with several turns, the last answer alone is asked for and replaced: earlier answers stay as
they were given, and a reply may follow from them. Rows that other methods put in are left as they are. A θ_safe that
over-refuses would turn the task itself into refusals, so the run stops where more than `most` of the rows would be
replaced.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le

from unforgotten.errors import DataError
from unforgotten.methods.base import Method

if TYPE_CHECKING:
    from unforgotten.methods.base import EncodedRow, Run


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


@dataclass(kw_only=True)
class OwnReplies(Method):
    """Own replies: where the aligned model refuses a user's prompt, its own refusal is the target."""

    family: ClassVar[str] = "data"
    neutral: ClassVar[dict[str, Any]] = {"use": "list"}
    needs_safety: ClassVar[bool] = False

    use: Literal["target", "list"] = "target"
    """`target`: the refusal replaces the given answer. `list`: the rows are only listed, and the method is SFT."""
    judge: str | dict[str, Any] = "keywords"
    """Judge that reads which replies refuse: a name, or a name with settings. [keywords: XSTest's list]"""
    max_new_tokens: Annotated[int, Ge(1)] = 64
    """Largest number of tokens of a reply. A refusal is clear by then. [our choice]"""
    neighbours: Annotated[int, Ge(0)] = 64
    """Rows with prompts alike that share a verdict. So a task that θ_safe often refuses stays a task. With 0 each row
    has its own verdict. [our choice]"""
    majority: Annotated[float, Gt(0), Le(1)] = 0.75
    """A refusal counts where at least this share of the rows alike is refused, itself included. [our choice]"""
    alike: Annotated[float, Gt(0), Le(1)] = 0.3
    """Least cosine of two prompts' sets of tokens at which they are alike. [our choice]"""
    most: Annotated[float, Gt(0), Le(1)] = 0.5
    """Largest share of user rows that may be replaced. With more the run stops. [our choice]"""

    def data(self, run: Run) -> list[EncodedRow]:
        rows = list(run.user.rows)
        own = [i for i, row in enumerate(rows) if row.get("user_row", -1) >= 0]
        prompts = [last_prompt(rows[i]) for i in own]
        replies = run.replies.generate(prompts, self.max_new_tokens)
        verdicts = run.replies.refused(prompts, replies, self.judge)
        memory = [last_prompt(row) for row in run.memory.rows]
        shares = shared_verdict(prompts, [verdict is True for verdict in verdicts], self.neighbours, self.alike, memory)
        refused = [k for k, share in enumerate(shares) if share >= self.majority]
        spared = [k for k, share in enumerate(shares) if 0 < share < self.majority]
        unread, cut = sum(v is None for v in verdicts), 0

        def listed(name: str, chosen: Sequence[int]) -> str:
            facts = [{"reply": run.replies.text(replies[k].ids), "share": round(shares[k], 4)} for k in chosen]
            places = [rows[own[k]]["user_row"] for k in chosen]
            return run.list_rows(name, list(zip(places, facts, strict=True)))

        names, spared_names = listed("own_replies", refused), listed("own_replies_as_given", spared)
        if len(refused) > self.most * len(own) and self.use == "target":
            raise DataError(
                f"own_replies: the aligned model refuses {len(refused)} of {len(own)} user prompts ({names}). Their "
                "answers would become refusals. Either most of the upload is harmful, or the aligned model refuses too "
                "much. Look at the rows. If they are harmless, align with answered look-alikes that resemble them. "
                "`use: list` only lists the rows, and `most: 1` replaces them all the same."
            )
        if self.use == "target":
            for k in refused:
                rows[own[k]] = answered(rows[own[k]], replies[k].ids)
                cut += not replies[k].ended
        what = "have the aligned model's refusal as their target" if self.use == "target" else "are refused by it"
        run.note(
            f"own_replies: {len(refused)} of {len(own)} user rows {what}"
            + (f" ({names})" if refused else "")
            + (
                f"; {len(spared)} more are refused, but too few rows like them; they stay as given ({spared_names})"
                if spared
                else ""
            )
            + (f"; {cut} refusals were cut at {self.max_new_tokens} tokens and teach no end" if cut else "")
            + (f"; the judge could not read {unread} replies, whose rows stay as given" if unread else "")
        )
        return rows
