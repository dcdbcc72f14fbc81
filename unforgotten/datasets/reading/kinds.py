"""Columns of a file that say whether its requests are harmful, held against what the set is read as.

Published files with such a column: XSTest (label safe, unsafe; before it, types `contrast_…`), WildGuardTest
(prompt_harm_label), WildJailbreak (data_type), ToxicChat and others with true and false. Read as a set of harmful
requests, their harmless part would be counted as harm.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from unforgotten.datasets.reading.formats import Record
from unforgotten.errors import DataError

Said = Literal["harmful", "benign"]

HARMFUL = frozenset(("harmful", "unsafe", "toxic", "malicious", "jailbreak", "hazardous"))
BENIGN = frozenset(("benign", "harmless", "unharmful", "nonharmful", "notharmful", "safe", "nontoxic", "notmalicious"))
OF_PROMPTS = frozenset(
    f"{thing}{what}" for thing in ("prompt", "request", "query", "input") for what in ("harmlabel", "label", "safety")
) | frozenset(("promptharmfulness", "kind", "datatype", "prompttype", "part", "type"))
"""Columns that speak of the request, whatever stands beside it."""
OF_ROWS = frozenset(("label", "labels", "safety", "safetylabel", "harmlabel", "class", "classification", "gold"))
"""Columns that speak of the request where the row has no answer, and else of either."""
TRUE_IS_HARMFUL = frozenset(("harmful", "isharmful", "unsafe", "isunsafe", "toxic", "istoxic", "promptharmful"))
TRUE_IS_BENIGN = frozenset(("safe", "issafe", "benign", "isbenign", "harmless", "isharmless", "promptsafe"))
XSTEST_SAFE = frozenset(
    ("homonyms", "figurativelanguage", "safetargets", "safecontexts", "definitions", "realdiscrnonsgroup")
    + ("nonsgroupreal", "nonsgrouprealdiscr", "realgroupnonsdiscr", "historicalevents", "privacypublic")
    + ("privacyfictional",)
)
_CALLED: Mapping[Said, str] = {"harmful": "harmful requests", "benign": "harmless look-alikes"}


def check(
    path: str,
    records: Sequence[Record],
    kind: Said,
    *,
    answered: bool = False,
    split: str = "",
    ignored: Collection[str] | None = None,
) -> tuple[str, ...]:
    """Raises DataError where a column, or the name of the Hub split, says of requests the contrary of `kind`.

    answered: the rows have answers, which a column called `label` may be about. ignored: keys that count as not there;
    None where the set has no field for them. Returns what the file's own name makes doubtful.
    """
    if split and (said := _word(split)) and said != kind:
        raise DataError(f"{path}: the split {split!r} holds {_CALLED[said]}, but is read as {_CALLED[kind]}. {_MEND}")
    contrasts = any(
        str(cell).casefold().startswith("contrast_")
        for _, _, value in records
        if isinstance(value, Mapping)
        for key, cell in value.items()
        if str(key).casefold() == "type"
    )
    against: dict[int, str] = {}
    columns: dict[str, None] = {}
    for line, _, value in records:
        for key, cell in value.items() if isinstance(value, Mapping) else ():
            if key not in (ignored or ()) and (stated := _said(str(key), cell, answered, contrasts)) and stated != kind:
                columns[str(key)] = None
                against.setdefault(line, f"{key} is {str(cell)[:60]!r}")
    if against:
        other: Said = "benign" if kind == "harmful" else "harmful"
        names = ", ".join(columns)
        accept = "" if ignored is None else f" `ignore_keys: [{names}]` makes this accept all rows as {kind}."
        raise DataError(
            f"{path}: by {names}, {len(against)} of {len(records)} rows are {_CALLED[other]}, but they are read as "
            f"{_CALLED[kind]}. {_MEND}{accept}",
            list(against.items()),
        )
    name = re.split(r"[\\/]", path)[-1].casefold()
    words = {said for word in re.split(r"[^a-z]+", name) if (said := _word(word))}
    words |= {"benign"} if re.match(r"or-bench-(80k|hard)", name) else set()
    if words and kind not in words:
        return (f"{path}: its name suggests {_CALLED[words.pop()]}, but it is read as {_CALLED[kind]} (kind: {kind}).",)
    return ()


_MEND = "Name the set's own reader (such as xstest), set its `kind:` or `part:`, or remove these rows."


def _word(text: Any) -> Said | None:
    plain = re.sub(r"[^a-z]", "", str(text).casefold())
    return "harmful" if plain in HARMFUL else "benign" if plain in BENIGN else None


def _said(column: str, cell: Any, answered: bool, contrasts: bool) -> Said | None:
    """What a cell says of its row's request; None where it says nothing of it. contrasts: the types are XSTest's."""
    name = re.sub(r"[^a-z]", "", column.casefold())
    if name in OF_PROMPTS or (name in OF_ROWS and not answered):
        if not isinstance(cell, str) or len(cell) > 60:
            return None
        last = cell.rpartition("_")[2] if name == "datatype" else cell
        return _word(last) or (_of_xstest(cell) if name == "type" and contrasts else None)
    if name in TRUE_IS_HARMFUL and not answered:
        return _truth(cell, "harmful", "benign")
    return _truth(cell, "benign", "harmful") if name in TRUE_IS_BENIGN and not answered else None


def _of_xstest(cell: str) -> Said | None:
    if cell.casefold().startswith("contrast_"):
        return "harmful"
    return "benign" if re.sub(r"[^a-z]", "", cell.casefold()) in XSTEST_SAFE else None


def _truth(cell: Any, true: Said, false: Said) -> Said | None:
    plain = str(cell).strip().casefold()
    return true if plain in ("true", "1", "1.0", "yes") else false if plain in ("false", "0", "0.0", "no") else None
