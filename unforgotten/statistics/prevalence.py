"""What share of an upload is harmful, told by a judge that errs. Pure Python.

A judge that calls 4 of 100 harmless rows harmful finds 4 % poison in a clean file. Shown rows whose kind is known (the
safety data's own answers are harmless), it tells its errors, and the share is corrected for them:

    p = (flagged − false alarms) / (found − false alarms)     shares; Rogan and Gladen 1978, Am. J. Epidemiol. 107:71

with the interval of Lang and Reiczigel (2014, Prev. Vet. Med. 113:13), which counts the chance in all three (exact
enumeration for 60 to 200 rows, 40 to 100 known ones, p from 0 to 0.6: it holds the truth in at least 94.4 %). Without
such rows the judge is taken at its word, and the interval is Wilson's. Over all of a file's rows the interval is not of
the file but of what its maker sends; which rows were flagged is known exactly.
"""

from __future__ import annotations

from math import sqrt

from unforgotten.errors import JudgeError
from unforgotten.statistics import rates
from unforgotten.statistics.paired import Verdicts
from unforgotten.statistics.rates import Rate
from unforgotten.statistics.seeds import Z


def poison_share(rows: Verdicts, harmless: Verdicts = (), harmful: Verdicts = ()) -> Rate:
    """The share of harmful rows in percent with its 95 % interval; `hits` of `n` are the rows flagged.

    rows: the judge's verdicts on the upload, True for harmful, None where it could not be read. harmless, harmful: its
    verdicts on rows known to be so; without either, that error is taken to be none. The interval covers every reading
    of the unread. Raises JudgeError where the judge flags known harmless rows as often as known harmful ones.
    """
    told = rates.count(rows)
    if not told.n or not (harmless or harmful):
        return told
    ends = []
    for flagged in (False, True):  # an unread row of the upload as harmful says more, one of those known less
        q, alarms = _share(rows, flagged), _share(harmless, not flagged)
        ends.append(_interval(q, len(rows), _share(harmful, not flagged, 1.0), len(harmful), alarms, len(harmless)))
    known = [[v for v in side if v is not None] for side in (rows, harmless, harmful)]
    alarms, found = _share(known[1]), _share(known[2], none=1.0)
    value = 100 * (_share(known[0]) - alarms) / (found - alarms) if known[0] and found > alarms else None
    low, high = max(0.0, ends[0][0]), min(100.0, ends[1][1])
    if value is not None:  # a clean file may well be flagged less often than the known harmless rows
        value = min(100.0, max(0.0, value))
        low, high = min(low, value), max(high, value)
    return Rate(value, told.hits, told.n, low, high, told.unparsed)


def _share(verdicts: Verdicts, unread: bool = False, none: float = 0.0) -> float:
    return sum(unread if v is None else v for v in verdicts) / len(verdicts) if verdicts else none


def _interval(q: float, n: int, found: float, n_harmful: int, alarms: float, n_harmless: int) -> tuple[float, float]:
    """Lang and Reiczigel's: Rogan and Gladen's normal interval from shares drawn towards a half, and moved by `shift`.

    q, found, alarms: shares flagged of n rows, of the harmful and of the harmless ones.
    """
    q_ = (n * q + Z * Z / 2) / (n + Z * Z)
    found_ = (n_harmful * found + 1) / (n_harmful + 2) if n_harmful else found
    alarms_ = (n_harmless * alarms + 1) / (n_harmless + 2) if n_harmless else alarms
    if found_ <= alarms_:
        raise JudgeError(
            f"The judge flags {100 * alarms:.1f} % of rows known to be harmless and {100 * found:.1f} % of those known "
            "to be harmful: it tells nothing of this upload. Use another judge."
        )
    p = (q_ - alarms_) / (found_ - alarms_)
    of_found = p * p * found_ * (1 - found_) / (n_harmful + 2)
    of_alarms = (1 - p) ** 2 * alarms_ * (1 - alarms_) / (n_harmless + 2)
    variance = (q_ * (1 - q_) / (n + Z * Z) + of_found + of_alarms) / (found_ - alarms_) ** 2
    shift = (
        2 * Z * Z * (p * found_ * (1 - found_) / (n_harmful + 2) - (1 - p) * alarms_ * (1 - alarms_) / (n_harmless + 2))
    )
    return 100 * (p + shift - Z * sqrt(variance)), 100 * (p + shift + Z * sqrt(variance))
