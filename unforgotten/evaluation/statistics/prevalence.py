"""What share of an upload is harmful, told by a judge that errs. Pure Python.

A judge that calls 4 of 100 harmless rows harmful finds 4 % poison in a clean file. Shown rows whose kind is known (the
safety data's own answers are harmless), it tells its errors, and the share is corrected for them:

    p = (flagged − false alarms) / (found − false alarms)     shares; Rogan and Gladen 1978, Am. J. Epidemiol. 107:71

with the interval of Lang and Reiczigel (2014, Prev. Vet. Med. 113:13), which counts the chance in all three (exact
enumeration for 60 to 200 rows, 40 to 100 known ones, p from 0 to 0.6: it holds the truth in at least 94.4 %). Without
such rows the judge is taken at its word, and the interval is Wilson's. Over all of a file's rows the interval is not of
the file but of what its maker sends; which rows were flagged is known exactly.

A limit on p is decided on the ends of that interval, as the gate decides (evaluation/gate.py):

    within     the whole interval is at most the limit
    beyond     the whole interval is above it
    unclear    the limit lies within, or nothing could be read
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import sqrt
from statistics import NormalDist
from typing import Literal

from unforgotten.errors import JudgeError
from unforgotten.evaluation.statistics import rates
from unforgotten.evaluation.statistics.paired import Verdicts
from unforgotten.runs.result_types import Rate

Z = NormalDist().inv_cdf(0.975)
ShareOutcome = Literal["within", "beyond", "unclear"]
CHANCE = 0.8
"""With so many rows as are asked for, the limit is decided in 4 of 5 cases, if the shares are the ones seen."""
MOST_ROWS = 10_000_000
"""Rows beyond which none are asked for: the share is at the limit."""


@dataclass(frozen=True, slots=True)
class ShareDecision:
    """Whether the share of harmful rows is within a limit; all shares in percent."""

    outcome: ShareOutcome
    limit: float
    value: float | None
    low: float
    high: float
    rows_needed: int | None
    """Rows of the upload that would likely decide; None where it is decided, or where no number would."""
    known_needed: int | None
    """Rows of known kind that this takes as well, where there are too few; else None."""
    line: str


def poison_share(rows: Verdicts, harmless: Verdicts = (), harmful: Verdicts = ()) -> Rate:
    """The share of harmful rows in percent with its 95 % interval; `hits` of `n` are the rows flagged.

    rows: the judge's verdicts on the upload, True for harmful, None where it could not be read. harmless, harmful: its
    verdicts on rows known to be so; without either, that error is taken to be none. The interval covers every reading
    of the unread. Raises JudgeError where the judge flags known harmless rows as often as known harmful ones.
    """
    share = rates.count(rows)
    if not share.n or not (harmless or harmful):
        return share
    ends = []
    for flagged in (False, True):  # an unread row of the upload as harmful says more, one of those known less
        q, alarms = _share(rows, flagged), _share(harmless, not flagged)
        ends.append(_interval(q, len(rows), _share(harmful, not flagged, 1.0), len(harmful), alarms, len(harmless)))
    known = [[v for v in side if v is not None] for side in (rows, harmless, harmful)]
    alarms, sensitivity = _share(known[1]), _share(known[2], none=1.0)
    value = 100 * (_share(known[0]) - alarms) / (sensitivity - alarms) if known[0] and sensitivity > alarms else None
    low, high = max(0.0, ends[0][0]), min(100.0, ends[1][1])
    if value is not None:  # a clean file may well be flagged less often than the known harmless rows
        value = min(100.0, max(0.0, value))
        low, high = min(low, value), max(high, value)
    return Rate(value, share.hits, share.n, low, high, share.unparsed)


def decide(limit: float, rows: Verdicts, harmless: Verdicts = (), harmful: Verdicts = ()) -> ShareDecision:
    """Is the share at most `limit` percent? Raises ValueError outside 0 to 100, JudgeError as `poison_share` does."""
    if not 0 <= limit <= 100:
        raise ValueError(f"{limit} is not a percentage")
    p = poison_share(rows, harmless, harmful)
    low, high = (0.0, 100.0) if p.low is None or p.high is None else (p.low, p.high)
    read = any(verdict is not None for verdict in rows)
    outcome: ShareOutcome = (
        "unclear" if not read else "within" if high <= limit else "beyond" if low > limit else "unclear"
    )
    value = "?" if p.value is None else f"{p.value:.1f}"
    line = f"{outcome}: p = {value} % (95 %: {low:.1f} to {high:.1f}), limit {limit:g} %"
    needed = _needed(limit, rows, harmless, harmful) if outcome == "unclear" and read else None
    if outcome == "unclear":
        line += f"; {_why(needed, rows, harmless, harmful)}"
    more, known = needed or (None, None)
    return ShareDecision(outcome, limit, p.value, low, high, more, known, f"{line}.")


def _why(needed: tuple[int, int | None] | None, rows: Verdicts, harmless: Verdicts, harmful: Verdicts) -> str:
    """Why nothing is decided, and what would."""
    if all(verdict is None for verdict in rows):
        return "not a single row could be read"
    if needed is not None:
        known = (
            "" if needed[1] is None else f", and {needed[1]:,} rows of known kind in place of {_n(harmless, harmful):,}"
        )
        return (
            f"not enough rows to tell: about {needed[0]:,} in place of {len(rows):,} would{known}, "
            "if the shares stay as seen"
        )
    unread = sum(verdict is None for side in (rows, harmless, harmful) for verdict in side)
    if unread:
        return f"{unread} verdicts could not be read, and no number of rows tells while they can be either"
    return "too near the limit for any number of rows to tell"


def _n(*sides: Verdicts) -> int:
    return sum(map(len, sides))


def _needed(limit: float, rows: Verdicts, harmless: Verdicts, harmful: Verdicts) -> tuple[int, int | None] | None:
    """Rows with which the interval clears the limit in 4 of 5 cases, and known ones where theirs are too few.

    The unread stay unread, and count as what is nearer to the limit. Of the flagged share the 80 % quantile towards the
    limit is taken (normal), and its interval at that number of rows, found by halving. Rounded up to two digits.
    """
    n, known = len(rows), _n(harmless, harmful)
    for above in (False, True):  # the interval, once narrow, lies below the limit, or above it

        def clears(times: float, more: float, above: bool = above) -> bool:
            low, high = _later(times, more, above, rows, harmless, harmful)
            return low > limit if above else high <= limit

        if times := _least(partial(clears, more=1.0), n):
            return _rounded(times * n, n), None
        if known and (times := _least(lambda times, clears=clears: clears(times, times), n)):  # type: ignore[misc]
            return _rounded(times * n, n), _rounded(times * known, known)
    return None


def _later(
    times: float, more: float, above: bool, rows: Verdicts, harmless: Verdicts, harmful: Verdicts
) -> tuple[float, float]:
    """The interval of `times` as many rows and `more` times as many known ones, in percent, at the 80 % quantile."""
    n, q = len(rows) * times, _share(rows, not above)
    reach = NormalDist().inv_cdf(CHANCE) * sqrt(q * (1 - q) / n)
    q = min(1.0, max(0.0, q - reach if above else q + reach))
    if not (harmless or harmful):
        return rates.wilson(q * n, n)
    alarms, sensitivity = _share(harmless, above), _share(harmful, above, 1.0)
    try:
        return _interval(q, round(n), sensitivity, round(len(harmful) * more), alarms, round(len(harmless) * more))
    except JudgeError:
        return 0.0, 100.0


def _least(enough: Callable[[float], bool], n: int) -> float | None:
    """The least multiple of n rows that is enough; None where MOST_ROWS are not."""
    low, high = 1.0, MOST_ROWS / n
    if not enough(high):
        return None
    while high / low > 1.0001:
        middle = sqrt(low * high)
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _rounded(wanted: float, n: int) -> int:
    """Up to two digits, and more than there are: more digits would claim that the number is known."""
    whole = max(n + 1, math.ceil(wanted))
    step = 10 ** max(0, len(str(whole)) - 2)
    return math.ceil(whole / step) * step


def _share(verdicts: Verdicts, unread: bool = False, none: float = 0.0) -> float:
    return sum(unread if v is None else v for v in verdicts) / len(verdicts) if verdicts else none


def _interval(
    q: float, n: int, sensitivity: float, n_harmful: int, alarms: float, n_harmless: int
) -> tuple[float, float]:
    """Lang and Reiczigel's: Rogan and Gladen's normal interval from shares drawn towards a half, and moved by `shift`.

    q, sensitivity, alarms: shares flagged of n rows, of the harmful and of the harmless ones.
    """
    q_ = (n * q + Z * Z / 2) / (n + Z * Z)
    sensitivity_ = (n_harmful * sensitivity + 1) / (n_harmful + 2) if n_harmful else sensitivity
    alarms_ = (n_harmless * alarms + 1) / (n_harmless + 2) if n_harmless else alarms
    if sensitivity_ <= alarms_:
        raise JudgeError(
            f"The judge flags {100 * alarms:.1f} % of rows known to be harmless and {100 * sensitivity:.1f} % of those "
            "known to be harmful: it tells nothing of this upload. Use another judge."
        )
    p = (q_ - alarms_) / (sensitivity_ - alarms_)
    of_sensitivity = p * p * sensitivity_ * (1 - sensitivity_) / (n_harmful + 2)
    of_alarms = (1 - p) ** 2 * alarms_ * (1 - alarms_) / (n_harmless + 2)
    variance = (q_ * (1 - q_) / (n + Z * Z) + of_sensitivity + of_alarms) / (sensitivity_ - alarms_) ** 2
    shift = (
        2
        * Z
        * Z
        * (
            p * sensitivity_ * (1 - sensitivity_) / (n_harmful + 2)
            - (1 - p) * alarms_ * (1 - alarms_) / (n_harmless + 2)
        )
    )
    return 100 * (p + shift - Z * sqrt(variance)), 100 * (p + shift + Z * sqrt(variance))
