"""A verdict on prompts that rows alike share, for methods that read verdicts on single rows. Not a method itself."""

from __future__ import annotations

from collections.abc import Sequence

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
