"""Anyone's text, made harmless for where it is shown: a terminal, a page of Markdown, a spreadsheet, a JSON file.

Rows, keys, file names, model folders and server replies are a stranger's. Shown as they are, their control characters
move the cursor or set the clipboard, their bidirectional marks reverse a line, their mark-up becomes a link.
"""

from __future__ import annotations

import html
import json
import os
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

# C0 and C1 controls, soft hyphen, bidirectional marks, zero-width fillers, separators of lines, tags, halves of
# surrogate pairs, noncharacters. The joiners U+200C and U+200D stay: Persian, Hindi and emoji are written with them.
_INVISIBLE = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\u3164\ud800-\udfff\ufdd0-\ufdef\ufeff\uffa0\ufff9-\uffff\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e007f"
)
_VISIBLE_ANYWAY = "\ufffc\ufffd"
_IN_A_BLOCK = re.compile(f"(?![{_VISIBLE_ANYWAY}])[{_INVISIBLE}]")
_IN_A_LINE = re.compile(f"(?![{_VISIBLE_ANYWAY}])[\t\n{_INVISIBLE}]")
_MARKDOWN = re.compile(
    r"[\\`*\[\]<>&|~$]|(?<=\w):(?=//)|(?<=www)\.|@|^(\s*)([#+=-]|\d+[.)])(?=[\s#=-]|$)", re.IGNORECASE
)
_FORMULA = re.compile(r"(^|[;,\t\r\n])(\s*)([=+\-@\uff1d\uff0b\uff0d\uff20])")


def line(text: object) -> str:
    r"""Text on one line. What is invisible or acts becomes a visible escape, such as `\x1b` or `\u202e`."""
    return _IN_A_LINE.sub(_escape, str(text))


def block(text: object) -> str:
    """The same for text of several lines: newlines and tabs stay."""
    return _IN_A_BLOCK.sub(_escape, str(text).replace("\r\n", "\n"))


def markdown(text: object) -> str:
    """Text within a line of Markdown: no mark-up, HTML, address or formula comes of it, in GitHub's or the Hub's."""
    return _MARKDOWN.sub(_backslashed, line(text))


def fenced(language: str, lines: Iterable[str]) -> list[str]:
    """A block of code in Markdown, whose fence is longer than any run of backticks in it."""
    inside = [block(each) for each in lines]
    longest = max((len(run) for each in inside for run in re.findall("`+", each)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}{language}", *inside, fence]


def csv_cell(value: Any) -> Any:
    """A cell of a CSV file: a spreadsheet takes no formula from it, whatever separator it splits at. Numbers stay."""
    return _FORMULA.sub(r"\1\2'\3", block(value)) if isinstance(value, str) else value


def json_text(value: Any, indent: int | None = 2, *, nan: bool = False) -> str:
    """JSON whose strings hold no raw control or bidirectional character, so that it may be printed.

    nan: whether NaN and infinities are written, as Python reads them; otherwise they raise ValueError.
    """
    return _IN_A_BLOCK.sub(_json_escape, json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=nan))


def yaml_text(tree: Any) -> str:
    """YAML of the same kind: where its text would hold such a character, all that is not ASCII is escaped."""
    import yaml

    text: str = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    return yaml.safe_dump(tree, sort_keys=False) if _IN_A_BLOCK.search(text) else text


def console(stderr: bool = False, **more: Any) -> Console:
    """The terminal. Square brackets are no mark-up there, and every text is made visible on its way out."""
    from rich.console import Console
    from rich.segment import Segment

    class Guarded(Console):
        """Rich prints what a text holds, ESC included: each segment is looked at, whatever it was part of."""

        @property
        def room(self) -> int | None:
            return self.width if self.is_terminal or "width" in more or "COLUMNS" in os.environ else None

        def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
            for segment in super().render(renderable, options):
                if segment.control or not _IN_A_BLOCK.search(segment.text):
                    yield segment
                else:
                    yield Segment(block(segment.text), segment.style)

    return Guarded(stderr=stderr, **{"markup": False, "emoji": False, "highlight": False, **more})


def room(console: Console) -> int | None:
    """Columns that a line may take: the terminal's, or the variable COLUMNS; None in a pipe or a file."""
    width: int | None = getattr(console, "room", console.width)
    return width


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _json_escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"


def _backslashed(match: re.Match[str]) -> str:
    if match[2]:  # what begins a line: a heading, a list
        return f"{match[1]}{match[2][:-1]}\\{match[2][-1]}"
    return html.escape(match[0]) if match[0] in "&<>" else f"\\{match[0]}"
