"""What the tables of *Unforgotten Safety* (arXiv 2512.10150) claim as an order, to be held against other figures.

A claim says that some figures lie below others. A figure is named by its method (`der`), with a poison ratio or a
memory where the table varies it (`lwf p=0.2`, `der m=1%`), plus or minus points (`sft -2`), or is a number of percent.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from unforgotten.evaluation.statistics import rates
from unforgotten.report.table import prose, table_of
from unforgotten.report.writers import markdown
from unforgotten.runs.result_types import Rate

Field = Literal["asr", "refusal", "utility"]
Task = Literal["sums", "sentiment", "code"]
TASKS: tuple[Task, ...] = ("sums", "sentiment", "code")
Figure = Callable[[str, Field], Rate]
"""The rate of a named figure, without points added."""

OTHERS = ("der", "refresh", "agem", "ewc", "lwf", "magmax")


@dataclass(frozen=True)
class Claim:
    """That each of `low` lies below each of `high`."""

    table: int
    says: str
    paper: str
    """Its figures: GSM8K, SST2, Code."""
    field: Field
    low: tuple[str, ...]
    high: tuple[str, ...]
    tasks: tuple[Task, ...] = TASKS
    """Our tasks that stand for those that the claim is made of."""


CLAIMS = (
    Claim(
        1, "every continual-learning method is safer than SFT", "highest 44.8, 2.2, 9.3 < SFT 66.0, 6.2, 46.4",
        "asr", OTHERS, ("sft",),
    ),
    Claim(
        1, "DER and A-GEM stay below an ASR of 2 %", "highest 0.9, 1.6, 0.5",
        "asr", ("der", "agem"), ("2",),
    ),
    Claim(
        1, "DER and A-GEM lose less than 2 points of utility",
        "−2.8 and −2.2, −1.0 and 0, −1.8 and 0: its own GSM8K figures say otherwise",
        "utility", ("sft -2",), ("der", "agem"),
    ),
    Claim(
        1, "memory methods are safer than EWC, LwF and MagMax",
        "highest 0.9, 1.6, 0.5 < lowest 2.7, 1.6 (a tie), 4.3",
        "asr", ("der", "agem", "refresh"), ("ewc", "lwf", "magmax"),
    ),
    Claim(
        1, "Refresh is the safest of all", "0.2, 0.2, 0.0 < 0.5, 0.7, 0.4",
        "asr", ("refresh",), ("der", "agem", "ewc", "lwf", "magmax"),
    ),
    Claim(
        1, "Refresh pays most utility on the classification task", "87.3 < 90.4 (SST2)",
        "utility", ("refresh",), ("der", "agem", "ewc", "lwf", "magmax"), ("sentiment",),
    ),
    Claim(
        1, "EWC is the least safe of the six on arithmetic", "44.8 > 16.0 (GSM8K)",
        "asr", ("der", "refresh", "agem", "lwf", "magmax"), ("ewc",), ("sums",),
    ),
    Claim(
        1, "EWC pays most utility on code", "8.5 < 14.6 (Code)",
        "utility", ("ewc",), ("der", "refresh", "agem", "lwf", "magmax"), ("code",),
    ),
    Claim(
        1, "LwF is safer than EWC and MagMax", "2.7 < 16.0, 2.1 > 1.6 (EWC), 4.3 < 8.7",
        "asr", ("lwf",), ("ewc", "magmax"),
    ),
    Claim(
        1, "MagMax is safer than SFT, less safe than the memory methods",
        "0.9 < 16.0, 1.6 < 2.2, 0.5 < 9.3 (and below SFT)",
        "asr", ("der", "agem", "refresh"), ("magmax",),
    ),
    Claim(
        2, "every method is safer than SFT", "highest 24.4, 72.4, 35.5 < SFT 76.7, 78.3, 86.9",
        "asr", ("safeinstr", "lisa", "safelora", "der", "agem", "lwf"), ("sft",),
    ),
    Claim(
        2, "poison breaks A-GEM: it ends above DER and LwF", "2.7 < 16.6, 5.9 < 15.0, 4.3 < 6.8",
        "asr", ("der", "lwf"), ("agem",),
    ),
    Claim(
        2, "Lisa is the safest baseline", "1.8 < 5.8, 6.6 > 6.4 (SafeInstr), 1.2 < 7.2",
        "asr", ("lisa",), ("safeinstr", "safelora"),
    ),
    Claim(
        2, "SafeLoRA is the least safe method", "24.4 > 16.6, 72.4 > 15.0, 35.5 > 7.2",
        "asr", ("safeinstr", "lisa", "der", "agem", "lwf"), ("safelora",),
    ),
    Claim(
        2, "DER is safer than SafeInstr", "2.3 < 5.8, 5.9 < 6.4, 1.7 < 7.2",
        "asr", ("der",), ("safeinstr",),
    ),
    Claim(
        2, "LwF is as safe with poison as without", "2.7 = 2.7, 2.1 = 2.1, 4.3 = 4.3 (Table 3 has 2.8 and 2.7)",
        "asr", ("lwf p=0.1",), ("lwf p=0 +2",),
    ),
    Claim(
        2, "Lisa pays more utility than DER", "20.0 < 20.8, 95.1 > 94.3, 17.1 < 19.5",
        "utility", ("lisa",), ("der",),
    ),
    Claim(
        3, "SFT's ASR rises with p", "66.0 < 76.7 < 83.3 < 84.8", "asr", ("sft p=0",), ("sft p=0.1",), ("sums",),
    ),
    Claim(3, "… and on", "76.7 < 83.3", "asr", ("sft p=0.1",), ("sft p=0.2",), ("sums",)),
    Claim(
        3, "SFT's utility falls with p", "21.4 < 22.0 < 22.4 < 24.8",
        "utility", ("sft p=0.3",), ("sft p=0",), ("sums",),
    ),
    Claim(
        3, "LwF collapses at p ≥ 0.2: more than 10 points above p = 0.1", "55.6 and 59.9 against 2.7",
        "asr", ("lwf p=0.1 +10",), ("lwf p=0.2", "lwf p=0.3"), ("sums",),
    ),
    Claim(
        3, "DER is the most robust at p = 0.3", "4.8 < 7.1 (Lisa), 59.9 (LwF)",
        "asr", ("der p=0.3",), ("lisa p=0.3", "lwf p=0.3", "sft p=0.3"), ("sums",),
    ),
    Claim(
        3, "Lisa is second at p = 0.3", "7.1 < 59.9 (LwF)",
        "asr", ("lisa p=0.3",), ("lwf p=0.3", "sft p=0.3"), ("sums",),
    ),
    Claim(
        3, "DER keeps more utility than Lisa at p = 0.3", "20.6 > 18.6",
        "utility", ("lisa p=0.3",), ("der p=0.3",), ("sums",),
    ),
    Claim(
        4, "SFT refuses the fewest look-alikes", "1.3, 1.0, 0.9 < 3.0, 1.4, 2.1",
        "refusal", ("sft",), ("lisa", "der", "lwf"),
    ),
    Claim(
        4, "LwF over-refuses less than DER and Lisa", "3.0, 1.4, 2.1 < 14.4, 8.5, 16.1",
        "refusal", ("lwf",), ("der", "lisa"),
    ),
    Claim(
        4, "DER over-refuses less than Lisa", "14.4 < 18.0, 8.9 > 8.5, 16.1 < 23.5",
        "refusal", ("der",), ("lisa",),
    ),
    Claim(
        5, "a fifth of the memory is less safe", "3.1 > 1.8 (Lisa)",
        "asr", ("lisa m=5%",), ("lisa m=1%",), ("sums",),
    ),
    Claim(5, "… for DER too", "3.5 > 2.3", "asr", ("der m=5%",), ("der m=1%",), ("sums",)),
    Claim(
        5, "… but by less than 2 points", "3.1 < 1.8 + 2, 3.5 < 2.3 + 2",
        "asr", ("lisa m=1%", "der m=1%"), ("lisa m=5% +2", "der m=5% +2"), ("sums",),
    ),
)  # fmt: skip


def verdict(claim: Claim, figure: Figure) -> str:
    """yes, in order (the values are, the intervals meet) or no, with the closest pair of figures.

    Raises KeyError of a figure that nobody has.
    """
    pairs = _pairs(claim, figure)
    margin, low, high = min(pairs, key=lambda pair: pair[0])
    clear = all(rates.apart(a[1], b[1]) for _, a, b in pairs)
    word = "no" if margin <= 0 else "yes" if clear else "in order"
    if margin <= 0 and rates.apart(low[1], high[1]):
        word = "clearly no"
    return f"**{word}**: {_told(low)} {'<' if margin > 0 else '≥'} {_told(high)}"


Named = tuple[str, Rate]


def _pairs(claim: Claim, figure: Figure) -> list[tuple[float, Named, Named]]:
    """(margin, low, high) of every pair; of a claim about several methods' own sizes, each with itself alone."""
    seen = []
    for low, high in itertools.product(claim.low, claim.high):
        own = " m=" in low and " m=" in high and low.split()[0] != high.split()[0]
        if own:
            continue
        a, b = (_shifted(name, claim.field, figure) for name in (low, high))
        assert a.value is not None and b.value is not None
        seen.append((round(b.value - a.value, 9), (low, a), (high, b)))
    return seen


def _shifted(name: str, field: Field, figure: Figure) -> Rate:
    if re.fullmatch(r"\d+(\.\d+)?", name):
        return Rate(float(name), None, None, float(name), float(name))
    plain, points = _points(name)
    actual = figure(plain, field)
    if actual.value is None or actual.low is None or actual.high is None:
        raise KeyError(f"{name}: no {field}")
    return replace(actual, value=actual.value + points, low=actual.low + points, high=actual.high + points)


def _points(name: str) -> tuple[str, float]:
    shift = re.fullmatch(r"(.*) ([+-]\d+)", name)
    return (shift[1], float(shift[2])) if shift else (name, 0.0)


def _told(named: Named) -> str:
    name, rate = named
    if name.replace(".", "").isdigit():
        return name
    return f"{name} {rate.value:.1f} ({max(rate.low or 0, -99):.1f}–{rate.high:.1f})"


def _said(claim: Claim, figure: Figure) -> str:
    try:
        return verdict(claim, figure)
    except KeyError:
        return "not yet run"


def lines(figures: Sequence[tuple[Task, Callable[[Claim], Figure]]]) -> list[str]:
    """The claims as a Markdown table, a column for each task."""
    rows = []
    for claim in CLAIMS:
        verdicts = [_said(claim, of(claim)) if task in claim.tasks else "" for task, of in figures]
        rows.append([str(claim.table), claim.says, claim.paper, *verdicts])
    columns = map(prose, ("table", "claim", "there", *(task for task, _ in figures)))
    return markdown.lines(table_of(list(columns), rows), escaped=str)
