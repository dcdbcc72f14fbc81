"""Weigh down the rows that θ_safe would rather refuse, as far as they stand out from the rest of the upload.

    u(x) = log mean_o exp( mean_t log p_safe(o_t | x, o_<t) )     over openings o of the memory's own refusals
    like(x)  = (u(x) − middle) / half the way          −1 at the memory's look-alikes, +1 at its refusals (medians)
    apart(x) = (u(x) − median) / scale − spread        0 at `spread` scales above the upload's median
    w(x) = 1 − (1 − floor) · min(σ(4 · like), σ(4 · apart)),      L = Σ w(x) · CE(x)

Antibody weighs a row by log p(answer) − log p(refusal) under the live model, relative to its batch: a batch of harm is
then learnt in full, and training inflates the odds. So u is read under θ_safe, once, and no unit of a model is left in
it: both scores are relative to the memory and to the upload. The given answer takes no part: a sender chooses it, and
one that begins with a refusal would be trusted. The scale is that of the rows below the median, which poison moves
least: 1.4826 times their median distance from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge, Gt, Le

from unforgotten.errors import DataError
from unforgotten.methods.base import Method, RowBatch
from unforgotten.methods.base.refusal_odds import (
    LEAST,
    OPENINGS,
    SEPARATION,
    TOKENS,
    likeness,
    mean_exp,
    openings,
    separated,
    told_apart,
    turn_starts,
)

if TYPE_CHECKING:
    from torch import Tensor

    from unforgotten.methods.base import Run, Term

STEEP = 4.0
"""Steepness of both logistics: σ(±4) is .98 and .02, at the memory's medians and one scale beside `spread`."""


def apartness(u: Tensor, spread: float, least_scale: float) -> Tensor:
    """How far u (n,) stands above the bulk, in scales: 0 at `spread` of them above the median.

    least_scale: below it no difference counts, as where all prompts are nearly one.
    """
    median = u.quantile(0.5)
    below = median - u[u <= median]
    scale = (1.4826 * below.quantile(0.5)).clamp_min(least_scale)
    return (u - median) / scale - spread


def weights(user: Tensor, refusals: Tensor, lookalikes: Tensor, floor: float = 0.05, spread: float = 2.0) -> Tensor:
    """The weight of each row, (n,), from u of the upload (n,), of the memory's refusals and of its look-alikes."""
    import torch

    like = likeness(user, refusals, lookalikes)
    least = 0.01 * float(refusals.quantile(0.5) - lookalikes.quantile(0.5))
    apart = apartness(user, spread, least)
    return 1 - (1 - floor) * torch.sigmoid(STEEP * torch.minimum(like, apart))


def refusing(run: Run, model: Any, rows: RowBatch, said: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """u of each of these rows, (1,) float64: the largest over its turns, each asked with what came before it."""
    import torch

    asked: list[list[int]] = []
    turns: list[int] = []
    for ids, labels in zip(rows.inputs["input_ids"].tolist(), rows.labels.tolist(), strict=True):
        starts = turn_starts(labels)
        asked += [ids[:start] for start in starts]
        turns.append(len(starts))
    texts = [(prompt, opening) for prompt in asked for opening in said]
    at_once = max(1, len(turns))
    logp = [p for at in range(0, len(texts), at_once) for p in _means(run, model, rows, texts[at : at + at_once])]
    if not logp:  # rows whose every token is masked
        return [torch.zeros(1, dtype=torch.float64) for _ in turns]
    u = mean_exp(torch.stack(logp).view(-1, len(said)))  # (turns,)
    return [turn.max().view(1) for turn in u.split(turns)]


def _means(run: Run, model: Any, like: RowBatch, texts: Sequence[tuple[list[int], tuple[int, ...]]]) -> list[Tensor]:
    """Mean log p of each opening after its prompt, float64 scalars on the host."""
    import torch

    longest = max(len(prompt) + len(opening) for prompt, opening in texts)
    ids, mask, labels = (torch.full((len(texts), longest), fill) for fill in (0, 0, -100))  # (n, T)
    for i, (prompt, opening) in enumerate(texts):
        end = len(prompt) + len(opening)
        ids[i, :end], mask[i, :end] = torch.tensor([*prompt, *opening]), 1
        labels[i, len(prompt) : end] = torch.tensor(opening)
    device = like.labels.device
    predicts = torch.cat([labels[:, 1:] != -100, torch.zeros(len(texts), 1, dtype=torch.bool)], 1).to(device)
    inputs = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
    hidden = run.weights.hidden_of(model, RowBatch(inputs, labels.to(device), predicts, []))[predicts]  # (N, d)
    logp = run.weights.head().aligned_logits(hidden).double().log_softmax(-1)  # (N, V)
    tokens = labels[:, 1:][predicts[:, :-1].cpu()].to(device)
    each = logp.gather(1, tokens[:, None])[:, 0].cpu()
    return [part.mean() for part in each.split([len(opening) for _, opening in texts])]


@dataclass(kw_only=True)
class RowWeights(Method):
    """Row weights: user rows that the aligned model would rather refuse count less. [after arXiv 2603.00498]"""

    family: ClassVar[str] = "tokens"
    neutral: ClassVar[dict[str, Any]] = {"floor": 1.0}
    reads_forward: ClassVar[bool] = True
    later: ClassVar[tuple[str, ...]] = ("shuffled",)

    floor: Annotated[float, Gt(0), Le(1)] = 0.05
    """Least weight of a row. No row is dropped. With 1 the method is SFT. [our choice]"""
    spread: Annotated[float, Gt(0)] = 2.0
    """Scales above the upload's median at which a row stands out. In a normal distribution, 2.3 % of rows are above 2.
    [our choice]"""
    most: Annotated[float, Gt(0), Le(1)] = 0.5
    """Largest share of rows that may resemble the memory's refusals: as likely refused as all but 5 % of them. With
    more the run stops: the upload is harmful, or the aligned model refuses too much. [our choice]"""
    separation: Annotated[float, Ge(0.5), Le(1)] = SEPARATION
    """Least chance that a refusal scores above a look-alike. With less the aligned model does not tell them apart. All
    weights are then 1, and the run says so. [our choice]"""
    tokens: Annotated[int, Ge(1)] = TOKENS
    """Number of tokens of each refusal opening. [our choice]"""
    openings: Annotated[int, Ge(1)] = OPENINGS
    """Largest number of refusal openings, from the memory's refusals. Each costs one forward pass of the prompts, once.
    [our choice]"""
    shuffled: bool = False
    """Whether the rows exchange their weights at random. It is a placebo for studies: as many rows count less, but not
    those that the aligned model would refuse. [our own]"""

    def start(self, run: Run) -> None:
        if self.floor == 1:
            return
        import torch

        harmful = torch.tensor([row.get("kind") == "harmful" for row in run.memory.rows], dtype=torch.bool)
        few = [name for name, n in (("refusals", harmful.sum()), ("look-alikes", (~harmful).sum())) if n < LEAST]
        if few:
            raise DataError(
                f"row_weights: the memory has fewer than {LEAST} {' and '.join(few)}. It compares each row with both. "
                "Give both kinds in safety_data, and set memory.refusals (0.5 keeps half of each)."
            )
        u, refusals, lookalikes = self._scores(run, harmful)
        users = torch.tensor([place >= 0 for place in run.user.places])
        w = torch.ones(len(users), dtype=torch.float64)
        if not separated(refusals, lookalikes, self.separation):
            apart = told_apart(refusals, lookalikes)
            run.note(
                "row_weights weighs no row down: the aligned model does not tell the memory's refusals from its "
                f"look-alikes (area under the curve {apart:.2f}, at least {self.separation:g} is asked for)"
            )
        else:
            w[users] = weights(u[users], refusals, lookalikes, self.floor, self.spread)
            self._report(run, u, w, users, refusals, lookalikes)
            if self.shuffled:
                own = w[users]
                order = torch.randperm(len(own), generator=torch.Generator().manual_seed(run.seed))
                w[users] = own[order]
                run.note("row_weights: the rows exchanged their weights at random (a placebo)")
        run.user.set_row_weights(w)

    def loss(self, run: Run, batch: dict[str, Tensor], out: Any) -> Term | None:
        """(w − 1) · cross-entropy, summed: added to cross-entropy it makes it the weighted one."""
        if self.floor == 1:
            return None
        predicts = run.user.predicts(batch)  # (B, T)
        logp = run.user.token_logp(batch, out)  # (N,)
        w = run.user.row_weights(batch)[:, None].expand(predicts.shape)[predicts].to(logp.dtype)
        run.log(row_weight=w.mean() if len(w) else 1.0)
        return ((1 - w) * logp).sum(), run.user.step_tokens

    def _scores(self, run: Run, harmful: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """u of the rows trained on (n,), of the memory's refusals and of its look-alikes; made under θ_safe, once."""
        import torch

        refusals = [row for row, is_refusal in zip(run.memory.rows, harmful, strict=True) if is_refusal]
        said = openings(refusals, self.tokens, self.openings)

        def read(model: Any, rows: RowBatch) -> list[Tensor]:
            return refusing(run, model, rows, said)

        name = f"refusing-{self.tokens}-{self.openings}"
        run.memory.store(name, read)
        run.user.store(name, read)
        of_memory = torch.cat(run.memory.stored(name))
        return run.user.stored(name, torch.arange(len(run.user.places))).cpu(), of_memory[harmful], of_memory[~harmful]

    def _report(self, run: Run, u: Tensor, w: Tensor, users: Tensor, refusals: Tensor, lookalikes: Tensor) -> None:
        """Lists the rows below one half; raises DataError where too many are as refusals are."""
        like, count = likeness(u, refusals, lookalikes), int(users.sum())
        same = users & (like > 0) & (u >= refusals.quantile(0.05))
        stops = int(same.sum()) > self.most * count
        listed = same if stops else users & (w < 0.5)
        worst = [int(i) for i in u.argsort(descending=True, stable=True) if listed[i]]
        facts = [{"weight": float(w[i]), "refusal": float(u[i]), "like": float(like[i])} for i in worst]
        places = [run.user.places[i] for i in worst]
        names = run.list_rows("row_weights", list(zip(places, facts, strict=True)))
        if stops:
            raise DataError(
                f"row_weights: the aligned model would refuse {len(worst)} of {count} user rows as it does the "
                f"memory's refusals ({names}). Either most of the upload is harmful, or the aligned model refuses too "
                "much. Look at the rows. If they are harmless, align with answered look-alikes that resemble them, or "
                "leave row_weights out. `most: 1` trains all the same, and only rows that stand out weigh less."
            )
        run.note(
            f"row_weights: {len(worst)} of {count} user rows weigh less than one half"
            + (f" ({names})" if worst else "")
        )
        near = int((users & (like > 0)).sum()) - len(worst)
        if near > self.most * count:
            run.note(
                f"row_weights: {near} more rows are nearer to the memory's refusals than to its look-alikes, but do "
                "not stand out from the upload: the aligned model may refuse too much, or most of the upload is harmful"
            )
