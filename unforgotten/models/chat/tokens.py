"""Text becomes ids and character spans; control tokens that a conversation's author wrote stay plain text.

A special token in uploaded text would let it close its own turn and speak as somebody else. Such text is parted after
its first character by BREAK, a Unicode noncharacter, before the template sees it. A copy of the tokenizer knows BREAK
as an added token, hence as a wall that no token crosses, and its id is dropped: the text keeps every character, and
decodes to what its author wrote, but the control token's id cannot appear. The same wall parts a prompt from its answer
where a token would join them. (transformers has `sanitize_control_tokens` in its newest versions, for ids without
offsets; this needs no version and no private function.)
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from unforgotten.errors import DataError, TemplateError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

BREAK = "\ufdd0"
FEW_PREFIXES = 32
"""So many prefixes of a text are encoded whole in any case."""


@dataclass(frozen=True, slots=True)
class Tokenised:
    """A text's ids, their characters, how many ids each prefix has, and how many boundaries were parted."""

    ids: list[int]
    spans: list[tuple[int, int]]
    heads: list[int]
    merges: int


class Tokens:
    """A fast tokenizer in which BREAK parts tokens and leaves no trace."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str) -> None:
        if not getattr(tokenizer, "is_fast", False) or not hasattr(tokenizer, "backend_tokenizer"):
            raise TemplateError(
                f"{type(tokenizer).__name__} is a slow tokenizer. It gives no character offsets, so the trained "
                "tokens cannot be found. Use the model's fast tokenizer (a tokenizer.json)."
            )
        self.plain: Tokenizer = cast(Any, tokenizer).backend_tokenizer
        added = {str(token): (id, token.special) for id, token in tokenizer.added_tokens_decoder.items()}
        for token in tokenizer.all_special_tokens:
            added[token] = (cast(int, tokenizer.convert_tokens_to_ids(token)), True)
        self.added = {token: id for token, (id, _) in added.items() if not token.isspace()}
        self.special = {token: self.added[token] for token in self.added if added[token][1]}
        self._names = {id: token.strip() for token, id in self.special.items() if id != tokenizer.unk_token_id}
        self.ends: dict[str, int] = {}
        """Tokens that end a turn; `end_turns` names them."""
        self._template = template

    def end_turns(self, end: str | None) -> None:
        """Takes note of the template's end of turn; then what may be written in a turn is known.

        A model's reasoning and tool calls are often wrapped in added tokens that are not special (<think>), which
        rightly stand in an assistant's own text; in anybody else's they are neutralised where the template writes them.
        """
        self.ends = self.special | ({end: self.added[end]} if end else {})
        self._in_assistant = _pattern(self.ends)
        self._in_others = _pattern({t for t in self.added if t in self.ends or t in self._template})

    @cached_property
    def _parted(self) -> tuple[Tokenizer, int]:
        from tokenizers import AddedToken, Tokenizer

        copy = Tokenizer.from_str(self.plain.to_str())
        copy.add_special_tokens([AddedToken(BREAK, normalized=False, special=True)])
        return copy, cast(int, copy.token_to_id(BREAK))

    def encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids, and the characters of `text` that each stands for. Nothing is added (templates print their own bos),
        nothing is padded or cut."""
        backend, wall = self._parted if BREAK in text else (self.plain, -1)
        backend.no_padding()  # an earlier call of the tokenizer may have left these on
        backend.no_truncation()
        encoding = backend.encode(text, add_special_tokens=False)
        if BREAK not in text:
            return encoding.ids, encoding.offsets
        tokens = [(id, span) for id, span in zip(encoding.ids, encoding.offsets, strict=True) if id != wall]
        return [id for id, _ in tokens], [span for _, span in tokens]

    def encode_after(self, text: str, prefixes: Sequence[int], name: str, ends: Sequence[int] = ()) -> Tokenised:
        """Ids of a text in which every prefix has the ids that generation would give it.

        prefixes: how many characters of `text` each has, shortest first. ends: where turns end in `text`, each with a
        token of its own; then a prefix is compared from the end of the turn before it on, so that the cost is linear.

        Where a token would join the end of a prefix and what comes after, they are parted: the model is then trained
        on an answer's tokens as it would have to generate them.
        """
        if len(prefixes) > FEW_PREFIXES and (tokenised := self._in_windows(text, prefixes, ends, name)) is not None:
            return tokenised
        cuts: list[int] = []
        heads: list[int] = []
        ids, spans = plain, _ = self.encode(text)
        for prefix in prefixes:
            head = self.encode(_parted(text[:prefix], cuts))[0]
            if ids[: len(head)] != head:
                cuts.append(prefix)
                ids, spans = self.encode(_parted(text, cuts))
            heads.append(len(head))
        return self._checked(text, ids, spans, plain, heads, cuts, name)

    def _in_windows(self, text: str, prefixes: Sequence[int], ends: Sequence[int], name: str) -> Tokenised | None:
        """The same, each prefix encoded from the last turn's end on; None where that is not what it is as a whole.

        An added token is a wall: what stands before it does not change what comes after.
        """
        cuts: list[int] = []
        ids, spans = plain, _ = self.encode(text)
        for final in (False, True):
            heads: list[int] = []
            joined: list[int] = []
            starts = [a for a, _ in spans]
            walls = [cut + n for n, cut in enumerate(cuts)]
            for prefix in prefixes:
                begin = self._wall_before(text, prefix, ends)
                place = begin + bisect_left(walls, begin)  # in the parted text
                at = bisect_left(starts, place)
                if begin and (at >= len(ids) or starts[at] != place):
                    return None
                head = self.encode(_parted(text[begin:prefix], [cut - begin for cut in cuts if cut > begin]))[0]
                if ids[at : at + len(head)] != head:
                    joined.append(prefix)
                heads.append(at + len(head))
            if final and joined or self.encode(_parted(text[: prefixes[-1]], cuts))[0] != ids[: heads[-1]] and final:
                return None
            if not final:
                cuts = joined
                ids, spans = self.encode(_parted(text, cuts))
        return self._checked(text, ids, spans, plain, heads, cuts, name)

    def _wall_before(self, text: str, prefix: int, ends: Sequence[int]) -> int:
        """Where the end-of-turn token of the turn before this prefix begins; 0 where there is none."""
        place = bisect_right(ends, prefix) - 1
        if place < 0:
            return 0
        end = ends[place]
        return end - max((len(token) for token in self.ends if text.endswith(token, 0, end)), default=end)

    def _checked(
        self,
        text: str,
        ids: list[int],
        spans: list[tuple[int, int]],
        plain: list[int],
        heads: list[int],
        cuts: list[int],
        name: str,
    ) -> Tokenised:
        if cuts and self._decode(ids) != self._decode(plain):
            raise TemplateError(
                f"{name}: a token joins the prompt's end {text[: cuts[0]][-20:]!r} and its answer, and this tokenizer "
                "changes the text when they are split. Let the template end its prompt where a token ends."
            )
        if disguised := self._disguised(_parted(text, cuts), ids, spans):
            raise DataError(f"{name}: the tokenizer reads {disguised!r} as a control token.")
        if cuts:  # spans are counted in the parted text: take the walls out again
            walls = [cut + n for n, cut in enumerate(cuts)]
            spans = [(a - bisect_left(walls, a), b - bisect_left(walls, b)) for a, b in spans]
        return Tokenised(ids, spans, heads, len(cuts))

    def _decode(self, ids: list[int]) -> str:
        return self.plain.decode(ids, skip_special_tokens=False)

    def _disguised(self, text: str, ids: list[int], spans: list[tuple[int, int]]) -> str:
        """Characters that a normalizer turned into a control token, though they do not read so; mostly empty."""
        names = self._names
        pieces = ((names[id], text[a:b].strip()) for id, (a, b) in zip(ids, spans, strict=True) if id in names)
        return next((piece for token, piece in pieces if piece != token), "")

    def neutralise(self, value: Any, *, assistant: bool) -> tuple[Any, int]:
        """`value` (text, or lists and dicts of it, keys too) with its control tokens parted, and their number."""
        pattern = self._in_assistant if assistant else self._in_others
        if isinstance(value, str):
            if any(len(token) == 1 and token in value for token in self.ends):
                raise DataError("The text holds a character that is itself a control token of this tokenizer.")
            return pattern.subn(lambda match: match[0] + BREAK, value)
        if isinstance(value, dict):
            pairs = [self.neutralise([key, item], assistant=assistant) for key, item in value.items()]
            return {key: item for (key, item), _ in pairs}, sum(n for _, n in pairs)
        if isinstance(value, (list, tuple)):
            items = [self.neutralise(item, assistant=assistant) for item in value]
            return [item for item, _ in items], sum(n for _, n in items)
        return value, 0


def _parted(text: str, cuts: list[int]) -> str:
    """`text` with a wall at each cut that lies inside it."""
    cuts = [cut for cut in cuts if cut < len(text)]
    return BREAK.join(text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True))


def _pattern(tokens: Iterable[str]) -> re.Pattern[str]:
    """The first character of every control token, overlapping ones too."""
    rests = "|".join(f"{re.escape(t[0])}(?={re.escape(t[1:])})" for t in tokens if len(t) > 1)
    return re.compile(rests or "(?!)", re.DOTALL)
