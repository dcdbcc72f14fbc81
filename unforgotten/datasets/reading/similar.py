"""Texts of the same words, and texts near each other, found without comparing all pairs. No numpy, no torch.

near  Jaccard similarity of their word 3-shingles ≥ 0.8

Shingles and their Jaccard similarity are Broder's (1997), the threshold is that of Lee et al. (arXiv 2107.06499). They
take 5-grams of web pages; a request has some ten words, so we take 3. Texts of fewer than 5 words are compared by
letters, 4 at a time.

Two sets this similar share one of their rarest few shingles (prefix filtering: Bayardo, Ma and Srikant 2007), so only
texts found through those are looked at.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

WORDS = 3
LETTERS = 4
FEW_WORDS = 5
THRESHOLD = 0.8


def alike(texts: Iterable[str], threshold: float = THRESHOLD) -> dict[str, set[str]]:
    """For each normalised text, those among them that are near it, itself included."""
    pieces = {text: shingles(text) for text in texts}
    return similar(pieces, pieces, threshold)


def groups(texts: Iterable[str], threshold: float = THRESHOLD) -> list[list[str]]:
    """Texts in groups: two that are near, by their words, are in one group, and so are those near either of them.

    A text given twice stands once. The order is that of the texts.
    """
    first: dict[str, str] = {}
    for text in texts:
        first.setdefault(normalised(text), text)
    near = alike(first, threshold)
    group_of: dict[str, list[str]] = {}
    for text in first:
        if text in group_of:
            continue
        group: list[str] = []
        todo = [text]
        while todo:
            if (one := todo.pop()) not in group_of:
                group_of[one] = group
                todo += near[one]
        group += [original for plain, original in first.items() if group_of.get(plain) is group]
    return list({id(group): group for group in group_of.values()}.values())


def normalised(text: str) -> str:
    """The words alone, in lower case, a space between; letters in one Unicode form, curly apostrophes straight.

    A text without a single word (" ?! ") is kept as it is, or all such texts would be one.
    """
    plain = unicodedata.normalize("NFKC", text).casefold().replace("’", "'")
    return " ".join(re.findall(r"\w+(?:'\w+)*", plain)) or " ".join(plain.split())


def shingles(text: str) -> frozenset[str]:
    """Runs of 3 words of a normalised text, or of 4 letters where it has fewer than 5 words."""
    words = text.split()
    if len(words) < FEW_WORDS:
        # Marked, so that a run of letters is never taken for words.
        return frozenset("·" + text[i : i + LETTERS] for i in range(max(1, len(text) - LETTERS + 1)))
    return frozenset(" ".join(words[i : i + WORDS]) for i in range(len(words) - WORDS + 1))


def similar(
    ours: Mapping[str, frozenset[str]], theirs: Mapping[str, frozenset[str]], threshold: float
) -> dict[str, set[str]]:
    """For each of our texts, those of theirs that are at least so similar."""
    seen = Counter(piece for pieces in (*ours.values(), *theirs.values()) for piece in pieces)

    def rarest(pieces: frozenset[str]) -> list[str]:
        """J(a, b) ≥ t needs |a ∩ b| ≥ t·|a|, so a shared piece is among the |a| − ⌈t·|a|⌉ + 1 rarest of a."""
        length = len(pieces) - math.ceil(threshold * len(pieces) - 1e-9) + 1
        return sorted(pieces, key=lambda piece: (seen[piece], piece))[:length]

    index: dict[str, list[str]] = defaultdict(list)
    for text, pieces in ours.items():
        for piece in rarest(pieces):
            index[piece].append(text)
    matches: dict[str, set[str]] = defaultdict(set)
    for other, pieces in theirs.items():
        for text in {t for piece in rarest(pieces) for t in index.get(piece, ())}:
            shared = len(pieces & ours[text])
            if shared >= threshold * (len(pieces) + len(ours[text]) - shared) - 1e-9:
                matches[text].add(other)
    return matches
