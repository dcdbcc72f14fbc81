"""What is to be known of a file as a whole: keys that nothing reads, turns that are context, nulls left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from unforgotten.datasets.reading import marks
from unforgotten.datasets.reading.conversation import Conversation
from unforgotten.datasets.reading.nulls import Nulls
from unforgotten.errors import RecipeError
from unforgotten.runs import safe_text

SHOWN = 20
_MOST_NAMES = 1_000
_STRUCTURE = frozenset(("role", "content", "from", "value", "messages", "conversations"))


def check_ignored(keys: Collection[str]) -> None:
    """Raises RecipeError where `ignore_keys` names what carries the turns, or marks what must not be learnt."""
    for key in keys:
        if marks.is_mark(key):
            raise RecipeError(
                f"ignore_keys cannot take {key!r}: it can mark text that must not be learnt. Run `unforgotten data "
                "fix` to write a file without it."
            )
        if key in _STRUCTURE:
            raise RecipeError(f"ignore_keys cannot take {key!r}: it holds the turns.")


class Notes:
    """Counts over the rows of one file."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._unread: Counter[str] = Counter()
        self._of_turns: Counter[str] = Counter()
        self._doubtful: Counter[str] = Counter()
        self._further = self._opened = self._nulls = self._context = 0

    def arrow(self, nulls: Nulls) -> bool:
        """Takes note of the nulls of all calls; returns whether they are Arrow's, and to be left out."""
        if nulls.filled():
            self._nulls += nulls.absent.total()
            return True
        self._doubtful = nulls.doubtful()
        return False

    def add(self, talk: Conversation) -> None:
        """Counts one row."""
        for key in talk.unread:
            if key in self._unread or len(self._unread) < _MOST_NAMES:
                self._unread[key] += 1
            else:
                self._further += 1
        for key in talk.further:
            if key in self._of_turns or len(self._of_turns) < _MOST_NAMES:
                self._of_turns[key] += 1
        self._opened += talk.opened
        self._nulls += talk.nulls
        self._context += len(talk.context_turns)

    def sentences(self) -> tuple[str, ...]:
        """One for each thing that is to be known; none for most files."""
        said = []
        if self._unread:
            keys = [f"`{shown(key)}` ({_rows(n)})" for key, n in self._unread.most_common(SHOWN)]
            n = len(self._unread)
            more = f" and {n - SHOWN:,} more" if n > SHOWN else ""
            more += f", and others {self._further:,} times" if self._further else ""
            are = "1 key" if n == 1 else f"{n:,} keys" if not self._further else f"more than {n:,} keys"
            said.append(
                f"{are} of {self.name} {'is' if n == 1 else 'are'} not used: {', '.join(keys)}{more}. To accept this, "
                "name them in `ignore_keys`."
            )
        if self._of_turns:
            keys = [
                f"`{shown(key)}` ({n:,} {'turn' if n == 1 else 'turns'})"
                for key, n in self._of_turns.most_common(SHOWN)
            ]
            n = len(self._of_turns)
            more = f" and {n - SHOWN:,} more" if n > SHOWN else ""
            said.append(
                f"{'1 key' if n == 1 else f'{n:,} keys'} of turns in {self.name} hold no text: "
                f"{', '.join(keys)}{more}. Only a template that asks for them can use them. To accept this, name them "
                "in `ignore_keys`."
            )
        if self._context:
            turns = "1 assistant turn" if self._context == 1 else f"{self._context:,} assistant turns"
            opened = f" ({_rows(self._opened)} open with such a turn)" if self._opened else ""
            said.append(f"{self.name}: {turns} are context, outside the loss{opened}.")
        if self._nulls:
            said.append(
                f"{self.name}: {self._nulls:,} arguments of tool calls are null and unknown to the called tool. They "
                "are left out."
            )
        if self._doubtful:
            n = self._doubtful.total()
            keys = [f"`{shown(key)}`" for key, _ in self._doubtful.most_common(SHOWN)]
            said.append(
                f"{self.name}: {n:,} arguments of tool calls are null ({', '.join(keys)}) and will be trained on as "
                "null. If they come from a datasets.Dataset, pass that object itself, or write the rows without them."
            )
        return tuple(said)


def shown(key: str) -> str:
    """A key of a stranger's, short and on one line, with nothing in it that a terminal would act on."""
    return safe_text.line(key[:60]) + ("…" if len(key) > 60 else "")


def _rows(n: int) -> str:
    return "1 row" if n == 1 else f"{n:,} rows"
