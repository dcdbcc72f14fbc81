"""docs/api.md: every public name with its signature, docstring, fields and errors, read from the source."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from markup import GENERATED, cell, code, prose, table

from unforgotten import registry

PACKAGE = Path(__file__).parent.parent / "unforgotten"
INTRO = """# Python API

Every name is imported from the top: `from unforgotten import finetune, load_recipe`. `help(name)` shows the same text.
Every error is an `UnforgottenError`, and its message says what to do. [Start](start.md) and
[the examples](../examples/finetune_der.py) show the names at work."""
GROUPS = {
    "Verbs": "What the [commands](commands.md) do, as functions. Most take a [recipe](recipe.md).",
    "Recipes": "",
    "Training": "",
    "Methods": "Each is a dataclass; its settings are checked when it is made.",
    "Data, replies and judges": "",
    "Errors": "",
}
ROOM_GROUPS = {
    "verbs": "Verbs",
    "recipe": "Recipes",
    "training": "Training",
    "models": "Training",
    "methods": "Methods",
    "datasets": "Data, replies and judges",
    "generation": "Data, replies and judges",
    "judges": "Data, replies and judges",
    "evaluation": "Data, replies and judges",
    "errors": "Errors",
}


def page() -> str:
    """The page, by group; within a group by name."""
    homes = dict(sorted(public().items()))
    lines = [INTRO, "", GENERATED]
    for group, intro in GROUPS.items():
        names = [name for name, home in homes.items() if ROOM_GROUPS[home.partition(".")[0]] == group]
        lines += ["", f"## {group}", *(["", intro] if intro else [])]
        for name in sorted(names, key=lambda name: (name not in ("Method", "UnforgottenError"), name)):
            lines += ["", f"### {name}", "", *entry(name, homes[name])]
    return "\n".join(lines) + "\n"


@cache
def public() -> dict[str, str]:
    """Each public name -> its module, within the package."""
    stub = ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8"))
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: node.module or "" for node in imports for alias in node.names}


def entry(name: str, home: str) -> list[str]:
    """What the page says of one name."""
    module = _module(home)
    node = module[name]
    room, _, file = home.partition(".")
    listed = room in registry.ROOMS and file in registry.names(room)
    settings = f"Settings: [{file}]({room}.md#{file})." if listed else ""
    if room == "methods" and listed:
        return [*_text(node, [], name), "", settings]
    init = _method(node, module, "__init__") if isinstance(node, ast.ClassDef) else node
    fields = [] if room == "recipe" or not isinstance(node, ast.ClassDef) else _fields(node)
    lines = [] if room == "errors" else ["```py", _signature(name, init, [f for f, *_ in fields]), "```", ""]
    lines += _text(node, _parameters(init), name)
    if not isinstance(node, ast.ClassDef):
        return lines
    if room == "errors":
        return (
            [*lines, "", f"A subclass of [{base}](#{base.lower()})."]
            if (base := ast.unparse(node.bases[0])) in public()
            else lines
        )
    if name == "MethodTrainer":
        return [*lines, "", "Its arguments are those of [MethodMixin](#methodmixin)."]
    if init is not None and ast.get_docstring(init):
        lines += ["", *_text(init, _parameters(init), name)]
    if settings or name == "Recipe":
        lines += ["", settings or "Fields: [every key of a recipe](recipe.md)."]
    elif fields:
        lines += ["", *table(("field", "type", "default", "meaning"), fields)]
    if room != "recipe" and name != "MethodMixin":  # its turns are the Trainer's own
        lines += ["", *table(("member", "what it gives or does"), _members(node))]
    return lines


@cache
def _module(home: str) -> dict[str, Any]:
    """The classes and functions of a module, by name."""
    path = PACKAGE / f"{home.replace('.', '/')}.py"
    return {getattr(node, "name", ""): node for node in ast.parse(path.read_text(encoding="utf-8")).body}


def _bases(node: ast.ClassDef, module: dict[str, Any]) -> list[ast.ClassDef]:
    """The classes of its own module that a class extends."""
    named = [module.get(ast.unparse(base)) for base in node.bases]
    return [base for base in named if isinstance(base, ast.ClassDef)]


def _method(node: ast.ClassDef, module: dict[str, Any], name: str) -> ast.FunctionDef | None:
    """A method of the class, or of one that it extends in the same module."""
    for each in (node, *_bases(node, module)):
        for member in each.body:
            if isinstance(member, ast.FunctionDef) and member.name == name:
                return member
    return None


def _parameters(node: ast.FunctionDef | None) -> list[str]:
    return (
        []
        if node is None
        else [a.arg for a in (*node.args.args, *node.args.kwonlyargs) if a.arg not in ("self", "cls")]
    )


def _signature(name: str, node: ast.FunctionDef | None, fields: list[str]) -> str:
    """As Python writes it; an argument a line where one line is too long."""
    if node is None:
        return f"{name}({', '.join(field.strip('`') for field in fields)})"
    given = node.args
    defaults: list[ast.expr | None] = [None] * (len(given.args) - len(given.defaults))
    words = [_argument(a, d) for a, d in zip(given.args, [*defaults, *given.defaults], strict=True) if a.arg != "self"]
    words += ["*"] * bool(given.kwonlyargs)
    words += [_argument(a, d) for a, d in zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    words += [f"**{_argument(given.kwarg, None)}"] if given.kwarg else []
    gives = f" -> {ast.unparse(node.returns)}" if node.returns and node.name != "__init__" else ""
    line = f"{name}({', '.join(words)}){gives}"
    return line if len(line) <= 100 else "\n".join([f"{name}(", *(f"    {word}," for word in words), f"){gives}"])


def _argument(argument: ast.arg, default: ast.expr | None) -> str:
    hint = f": {ast.unparse(argument.annotation)}" if argument.annotation else ""
    return argument.arg + hint + (f" = {ast.unparse(default)}" if default is not None else "")


def _text(node: Any, parameters: list[str], name: str) -> list[str]:
    """A docstring as Markdown: a list item for each parameter that it describes, a link for each error."""
    text = ast.get_docstring(node) or ""
    parameters = [*parameters, *re.findall(r"^([a-z_]+): ", text, re.MULTILINE)]
    lines = []
    for paragraph in text.split("\n\n"):
        if paragraph.startswith((" ", ">>>")):  # a drawing or an example
            lines += ["```text", *textwrap.dedent(paragraph).splitlines(), "```", ""]
        else:
            lines += [*_prose(" ".join(paragraph.split()), parameters, name), ""]
    return lines[:-1]


def _prose(text: str, parameters: list[str], name: str) -> list[str]:
    names = "|".join(sorted(parameters, key=len, reverse=True)) or "(?!)"
    starts = rf"(?:(?<=^)|(?<=[.;] ))(?=`?(?:{names})`?(?:, `?(?:{names})`?)*: )|(?<=\. )(?=Raises )"
    lines = []
    for part in filter(None, map(str.strip, re.split(starts, text))):
        linked = re.sub(r"(?<![\w.`\[])([A-Z]\w+)(?![\w`\]])", lambda word: _link(word[1], name), prose(part))
        if described := re.match(rf"`?((?:{names})`?(?:, `?(?:{names}))*)`?: ", part):
            words = described[1].replace("`", "").replace(", ", "`, `")
            linked = f"- `{words}`: {linked[described.end() :].rstrip(';')}"
        lines.append(linked)
    return [line for i, line in enumerate(lines) for line in _spaced(line, lines[i - 1] if i else "")]


def _spaced(line: str, before: str) -> list[str]:
    """A blank line where a list begins or ends."""
    return ["", line] if before and line.startswith("- ") != before.startswith("- ") else [line]


def _link(word: str, name: str) -> str:
    is_error = word != name and public().get(word) == "errors"
    return f"[{word}](#{word.lower()})" if is_error else word


def _fields(node: ast.ClassDef) -> list[tuple[str, str, str, str]]:
    """Name, type, default and sentence of a dataclass's fields."""
    rows = []
    for field, below in pairwise([*node.body, ast.Pass()]):
        match field:
            case ast.AnnAssign(target=ast.Name(id=name)) if not name.startswith("_"):
                hint = ast.unparse(field.annotation)
            case _:
                continue
        match below:
            case ast.Expr(value=ast.Constant(value=str(sentence))):
                pass
            case _:
                sentence = ""
        if not hint.startswith("ClassVar"):
            default = code(ast.unparse(field.value)) if field.value else "required"
            rows.append((code(name), code(hint), default, cell(sentence)))
    return rows


def _members(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    """The public methods and properties that have a docstring, with its first paragraph."""
    for member in node.body:
        if not isinstance(member, ast.FunctionDef) or member.name.startswith("_") or not ast.get_docstring(member):
            continue
        kinds = {ast.unparse(decorator) for decorator in member.decorator_list}
        if any(kind.endswith(".setter") for kind in kinds):
            continue
        is_value = bool(kinds & {"property", "cached_property"})
        call = member.name if is_value else f"{member.name}({', '.join(_parameters(member))})"
        yield code(call), cell((ast.get_docstring(member) or "").partition("\n\n")[0])
