"""The program in a reply: the named function with what it needs, found in a code block, a bare script or a completion.

After evalplus's `sanitize`: the definitions that the function reaches, without examples, prints and the script's main
part; with Python's own `ast` in place of tree-sitter. Where it differs, it loses less: a helper without `return` is
kept, the last definition of a name counts as in Python, loops and conditions that define a name are kept too, and an
import that nothing needs is left out, so that it cannot fail.
"""

from __future__ import annotations

import ast
import re
import symtable
import textwrap
import warnings
from collections.abc import Iterator

_FENCE = re.compile(r"[ \t]*(```+|~~~+)")
# Python warns of a "\d" in a string while it parses; what a model wrote is no concern of whoever runs this.
warnings.filterwarnings("ignore", module=r"<reply>")
LONGEST = 250_000
"""Characters of a reply, its thought left out, in which a program is looked for. HumanEval's longest has 3,000."""
LOOKS = 5
"""How often, on the whole, each of these characters may be parsed, so that a reply costs as its length."""
STARTS = 3
"""Lines from which a script is tried before it is tried from the function's own."""


class _Spent(Exception):
    """The reply is of a kind that no number of looks would make sense of."""


class _Parser:
    """Parses, as long as there is something left to spend."""

    def __init__(self, reply: str, prompt: str) -> None:
        self.left = LOOKS * (len(reply) + len(prompt)) + 100_000

    def parse(self, text: str) -> ast.Module:
        """Raises as ast.parse does, and _Spent."""
        self.left -= len(text) + 1
        if self.left < 0:
            raise _Spent
        return ast.parse(text, "<reply>")


def program(reply: str, entry_point: str, prompt: str) -> str | None:
    """The text that defines `entry_point`, or None where the reply has no such code.

    In this order: the first code block that defines it, with the blocks before that parse by themselves (helpers); the
    reply itself as a script with prose around it; a block, or the reply, as what comes after the prompt's last line.
    Takes time in proportion to the reply; what is longer than LONGEST, or looked at too often, has no program.
    """
    # A return by itself ends a line in Python, too: unless it is one here, lines are counted otherwise than it does.
    reply, prompt = (t.replace("\r\n", "\n").replace("\r", "\n") for t in (reply.rpartition("</think>")[2], prompt))
    reply = reply[:LONGEST]
    try:
        return _program(reply, entry_point, prompt, _Parser(reply, prompt))
    except _Spent:
        return None


def _program(reply: str, entry_point: str, prompt: str, parser: _Parser) -> str | None:
    blocks = [textwrap.dedent(t) if t.lstrip("\n")[:1].isspace() else t for t in _blocks(reply)]
    for i, block in enumerate(blocks):
        if (program := _script(block, entry_point, parser)) is not None:
            # `from __future__` must come first, so such a block stands alone.
            helpers = [b for b in blocks[:i] if _parse(b, parser) is not None and "__future__" not in program]
            return _needed("\n".join([*helpers, program]), entry_point, parser)
    if (program := _script(reply, entry_point, parser)) is not None:
        return _needed(program, entry_point, parser)
    for text in (*blocks, reply):
        if (program := _completion(text, prompt, parser)) is not None:
            return _needed(program, entry_point, parser)
    return None


def _blocks(reply: str) -> list[str]:
    """The texts of fenced blocks; one that is never closed goes on to the end. A line with its own fence alone ends it.

    Line by line: as one pattern, a line of n backticks alone takes n² steps.
    """
    blocks: list[str] = []
    fence, inside = "", list[str]()
    lines = reply.split("\n")
    for i, line in enumerate(lines):
        if not fence:
            # An opening without a line below it opens nothing.
            if (match := _FENCE.match(line)) and i < len(lines) - 1:
                fence, inside = match.group(1), []
        elif line.strip(" \t") == fence:
            blocks.append("".join(f"{text}\n" for text in inside))
            fence = ""
        else:
            inside.append(line)
    return [*blocks, "\n".join(inside)] if fence else blocks


def _parse(text: str, parser: _Parser) -> ast.Module | None:
    try:
        return parser.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # ValueError: a null byte
        return None


def _script(text: str, entry_point: str, parser: _Parser) -> str | None:
    """The longest run of whole lines that parses and defines the function, from as early a line as can be."""
    lines = text.split("\n")
    opens = re.compile(rf"(async[ \t]+)?def[ \t]+{re.escape(entry_point)}[ \t]*\(")
    at = next((i for i, line in enumerate(lines) if opens.match(line)), None)
    if at is None:
        return None
    start, tries = 0, 0
    while start <= at:
        if (tries := tries + 1) > STARTS:
            start = at
        end, bad = _parsing_end(lines, start, at + 1, parser)
        if end is not None:
            return "\n".join(lines[start:end])
        start = max(start, bad) + 1
    return None


def _parsing_end(lines: list[str], start: int, least: int, parser: _Parser) -> tuple[int | None, int]:
    """(end > least, _) of the longest prefix from `start` that parses; else None and the last line that is at fault."""
    end, bad = len(lines), start
    while end > least:
        try:
            parser.parse("\n".join(lines[start:end]))
            return end, bad
        except SyntaxError as error:
            at = start + (error.lineno or 1) - 1
        except (ValueError, RecursionError, MemoryError):
            return None, least
        if at < least - 1:  # before the function: nothing that starts at or above it can parse
            return None, at
        # No text that reaches over the line at fault parses, so it ends before.
        end, bad = min(at, end - 1), start
    return None, bad


def _completion(text: str, prompt: str, parser: _Parser) -> str | None:
    """The prompt with the reply's beginning as its body, in the indentation of which most lines can stay.

    As a base model writes it; with the first line's indentation lost; or with none at all.
    """
    text = text.strip("\n").rstrip()
    head = prompt.rstrip("\n").split("\n")
    longest: list[str] = []
    for body in (text, "    " + text, textwrap.indent(textwrap.dedent(text), "    ")) if text.strip() else ():
        lines = [*head, *body.split("\n")]
        end, _ = _parsing_end(lines, 0, len(head), parser)
        stay = _first_unindented(lines, len(head), end) if end is not None else 0
        if stay > max(len(head), len(longest)):
            longest = lines[:stay]
    return "\n".join(longest) if longest else None


def _first_unindented(lines: list[str], start: int, end: int) -> int:
    """Where the function's body is over: what follows at the margin is another matter."""
    outside = (i for i in range(start, end) if lines[i].strip() and not lines[i][0].isspace())
    return next(outside, end)


def _needed(text: str, entry_point: str, parser: _Parser) -> str:
    """The text with the lines blanked that `entry_point` does without; line numbers stay."""
    tree = _parse(text, parser)
    if tree is None:
        return text
    lines = text.split("\n")
    binds: dict[str, list[int]] = {}
    for i, statement in enumerate(tree.body):
        for name in _bound(statement):
            binds.setdefault(name, []).append(i)
    todo, reached, needed = [entry_point, "*", "annotations"], set[str](), set[int]()  # no name tells of the last two
    read: dict[range, set[str]] = {}  # statements of one line are read together
    while todo:
        if (name := todo.pop()) in reached:
            continue
        reached.add(name)
        for i in binds.get(name, ()):
            if i not in needed:
                needed.add(i)
                if (span := _span(tree.body[i])) not in read:
                    read[span] = _used("\n".join(lines[n - 1] for n in span))
                    todo += read[span]
    wanted = {line for i in needed for line in _span(tree.body[i])}
    for i, statement in enumerate(tree.body):
        if i not in needed:
            for line in _span(statement):
                if line not in wanted:  # `import a; print(a)` shares a line
                    lines[line - 1] = ""
    return "\n".join(lines).strip("\n") + "\n"


def _bound(statement: ast.stmt) -> Iterator[str]:
    """The names that a statement of the module gives a value, or whose value it changes (`table[1] = 2`, `a.sort()`).

    Other expressions and asserts give none: they are examples and tests.
    """
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield statement.name
    elif isinstance(statement, ast.Expr):
        call = statement.value
        if (
            isinstance(call, ast.Call)
            and isinstance(call.func, ast.Attribute)
            and isinstance(call.func.value, ast.Name)
        ):
            yield call.func.value.id
    elif not isinstance(statement, ast.Assert) and not _is_main_part(statement):
        for node in ast.walk(statement):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                yield node.name
            elif isinstance(node, ast.alias):  # import a.b binds a
                yield node.asname or node.name.partition(".")[0]
            elif isinstance(node, (ast.Name, ast.Subscript, ast.Attribute)) and isinstance(node.ctx, ast.Store):
                target: ast.expr = node
                while isinstance(target, (ast.Subscript, ast.Attribute)):
                    target = target.value
                if isinstance(target, ast.Name):
                    yield target.id


def _is_main_part(statement: ast.stmt) -> bool:
    named = (n for n in ast.walk(statement.test) if isinstance(n, ast.Name)) if isinstance(statement, ast.If) else ()
    return any(n.id == "__name__" for n in named)


def _used(text: str) -> set[str]:
    """The names of the module that a statement reads; those that its functions bind for themselves are not."""
    try:
        tables = [symtable.symtable(text, "<reply>", "exec")]
    except (SyntaxError, RecursionError):  # what parses but does not compile: a `return` outside, too deep a nest
        return set()
    used = set()
    for i, table in enumerate(tables):  # grows while it is walked
        tables += table.get_children()
        used |= {s.get_name() for s in table.get_symbols() if s.is_referenced() and (i == 0 or s.is_global())}
    return used


def _span(statement: ast.stmt) -> range:
    decorators = getattr(statement, "decorator_list", [])
    return range(min([statement.lineno, *(d.lineno for d in decorators)]), (statement.end_lineno or 0) + 1)
