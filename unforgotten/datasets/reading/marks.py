"""Marks of what must not be learnt: honoured where they say so exactly, refused by name where they do not.

Per turn: `weight` (OpenAI, Mistral, Together), `train` and `training` (axolotl), `trainable`, `loss` and `loss_scale`
(ms-swift), `masked` (torchtune). Per row: the keys of preference data (DPO, KTO), and the same marks over a whole row.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Mapping
from typing import Any

from unforgotten.runs.strict_json import kind_of

LEARNT = ("weight", "loss_weight", "loss_scale", "loss", "loss_mask", "train", "training", "trainable")
"""1 or true: the turn is learnt; 0 or false: it is context."""
HIDDEN = ("masked",)
"""The other way round."""
UNCLEAR = (
    *("mask", "masks", "train_mask", "loss_masks", "completion_mask", "assistant_mask", "assistant_masks"),
    *("train_detail", "training_detail", "weights", "train_on", "train_on_turn"),
)
"""Marks of parts, or whose sense differs between programs: they cannot be honoured for sure."""
PREFERENCE = (
    *("chosen", "rejected", "kto_tag", "chosen_response", "rejected_response", "rejected_responses"),
    *("rejected_messages", "preferred_output", "non_preferred_output"),
)
"""Keys of files that hold answers to learn and answers to avoid."""
MARKS = frozenset((*LEARNT, *HIDDEN, *UNCLEAR, *PREFERENCE, "label", "labels"))
FIX = "`unforgotten data fix` writes a file without"


class Wrong(Exception):
    """What is wrong with one row."""


_LIKE = frozenset("train training trainable trained learn learnable learnt learned loss mask masked masks".split())
_LIKE_PREFERENCE = frozenset("chosen rejected rejects dispreferred undesirable desirable kto".split())
"""Words in the names of marks, and of the keys of preference data, that other programs make up."""
_LEFT_OUT = frozenset("exclude excluded skip skipped ignore ignored deleted discard discarded drop dropped".split())
_TAKEN = frozenset("include included keep kept accept accepted approve approved".split())
"""Words that leave a row or turn out where they are true, and where they are false."""
MOST_KEYS = 1_000
"""Keys of a row, each of which is looked at for marks."""
_NESTED = 4
"""Objects in one another that are searched for marks."""
_NO_FACTS = frozenset(("function", "function_call", "arguments", "tools", "functions", "content"))
"""Objects that are no facts about a turn, but what it says."""
_PLAIN = re.compile(r"[a-z0-9]+(?:_[a-z0-9]+)*")
"""A key that is spelt as marks are here."""
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def name_of(key: Any) -> str:
    """A key as marks are spelt here: `Loss-Weight`, `lossWeight` and `loss weight` are `loss_weight`."""
    if not isinstance(key, str):
        return ""
    if _PLAIN.fullmatch(key):
        return key
    seen = "".join(c for c in unicodedata.normalize("NFKC", key) if unicodedata.category(c) not in ("Cf", "Cc", "Mn"))
    return re.sub(r"[\W_]+", "_", _CAMEL.sub("_", seen)).strip("_").lower()


def is_mark(key: str) -> bool:
    """Whether a key could say that something is not to be learnt."""
    return name_of(key) in MARKS


def check_object(record: Any) -> None:
    """Raises Wrong where a row is no object, or has more keys than are looked at."""
    if not isinstance(record, Mapping):
        raise Wrong(f"a row must be an object, not {kind_of(record)}")
    if len(record) > MOST_KEYS:
        raise Wrong(f"has {len(record):,} keys; a row may have {MOST_KEYS:,}")


def refuse_alike(given: Mapping[str, Any], where: str, marked: Collection[str] = MARKS) -> None:
    """Raises Wrong where a key that is none of the marks known here has the name and the value of one."""
    for key, value in given.items():
        parts = set((name := name_of(key)).split("_"))
        if name in marked or value in (None, "", [], {}):
            continue
        alike = parts & _LIKE_PREFERENCE or (parts & _LIKE and _says_yes_or_no(value))
        if alike or (parts & _LEFT_OUT and value is True) or (parts & _TAKEN and value is False):
            raise Wrong(
                f"{where}`{key[:60]}: {_shown(value)}` may mark text that must not be learnt, but this mark is not "
                "supported. If it is not such a mark, name it in `ignore_keys`. Else drop the row"
            )
        if isinstance(value, Mapping) and key not in _NO_FACTS and (inner := _hidden_in(value, _NESTED)):
            raise Wrong(
                f"{where}`{key[:60]}` holds `{inner}`, a mark of text that must not be learnt, but it is not "
                f"supported there. If it is not such a mark, name `{key[:60]}` in `ignore_keys`. Else drop the row"
            )


def _hidden_in(facts: Mapping[str, Any], depth: int) -> str:
    """The first mark in an object beside the turns that says not to learn, as text; empty where there is none.

    What else stands there, such as a loss that was measured, marks nothing.
    """
    for key, value in facts.items():
        name = name_of(key)
        parts = set(name.split("_"))
        no = value is False or (name in LEARNT and type(value) in (int, float) and value == 0)
        if (no and (name in (*LEARNT, "label") or parts & _TAKEN)) or (
            value is True and (name in HIDDEN or parts & _LEFT_OUT)
        ):
            return f"{str(key)[:60]}: {_shown(value)}"
        if isinstance(value, Mapping) and depth > 1 and (inner := _hidden_in(value, depth - 1)):
            return inner
    return ""


def _says_yes_or_no(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_says_yes_or_no, value))
    return isinstance(value, (bool, int, float))


def refuse_row(record: Mapping[str, Any]) -> None:
    """Raises Wrong where a key of the row says that it, or a part of it, is not to be learnt."""
    for key, value in record.items():
        name = name_of(key)
        if name not in MARKS or value in (None, ""):
            continue
        if name in PREFERENCE:
            raise Wrong(
                f"`{key}` belongs to preference data (DPO, KTO), but only answers to learn are supported. {FIX} it"
            )
        if name == "label":
            if is_verdict(value):
                raise Wrong(
                    f"`{key}: {str(value).strip().lower()}` belongs to preference data (KTO): false marks text that "
                    f"must not be learnt. Keep the rows with true and remove the key; {FIX} the others"
                )
        elif name == "labels":
            if isinstance(value, list) and any(isinstance(label, bool) for label in value):
                raise Wrong(
                    f"`{key}` marks steps as right or wrong, but only answers to learn are supported. {FIX} them"
                )
        elif learnt(name, value, f"`{key}` of the row") is False:
            raise Wrong(f"`{key}: {_shown(value)}` marks the row as not to be learnt. Drop it: {FIX} it")
    refuse_alike(record, "")


def is_verdict(label: Any) -> bool:
    """Whether a label says yes or no, as KTO's do; class names and numbers do not."""
    return isinstance(label, bool) or (isinstance(label, str) and label.strip().lower() in ("true", "false"))


def learnt(name: str, value: Any, what: str) -> bool:
    """What a mark says: learnt, or not. Raises Wrong where it says neither exactly."""
    if name not in UNCLEAR and isinstance(value, (bool, int, float)) and value in (0, 1):
        return bool(value) is not (name in HIDDEN)
    raise Wrong(
        f"{what} is {_shown(value)}, a mark that is not supported. Use only 0 and 1, or true and false, of "
        f"{', '.join((*LEARNT, *HIDDEN))} can"
    )


def of_turn(turn: Mapping[str, Any], n: int) -> tuple[bool | None, set[str]]:
    """What a turn's marks say together (None: it has none), and the keys they stand under."""
    said: dict[str, bool] = {}
    keys: set[str] = set()
    for key, value in turn.items():
        name = name_of(key)
        if value is None or name not in (*LEARNT, *HIDDEN, *UNCLEAR, "label", "kto_tag"):
            continue
        if name in ("label", "kto_tag"):
            if is_verdict(value):
                raise Wrong(
                    f"turn {n}: `{key}: {str(value).lower()}` belongs to preference data, which is not supported"
                )
            continue
        said[key] = learnt(name, value, f"turn {n}: `{key}`")
        keys.add(key)
    refuse_alike(turn, f"turn {n}: ", {*LEARNT, *HIDDEN, *UNCLEAR, "label", "kto_tag"})
    if len(set(said.values())) > 1:
        raise Wrong(f"turn {n}: its marks {', '.join(f'`{key}`' for key in said)} contradict each other")
    return next(iter(said.values()), None), keys


def _shown(value: Any) -> str:
    text = repr(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 40 else text[:40] + "…"
