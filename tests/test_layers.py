"""The house: twelve rooms, imports that run down the list, and no circle.

    __main__ → cli, testing → verbs → report → evaluation → judges → training | generation → models → recipe
    → methods | datasets → world → registry → runs → errors

Read from the syntax tree: imports inside functions and for the type checker alone count like all others. What
`registry` loads by its name, and the facade's lazy names, do not. The checker is tested on trees made to break a rule.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "unforgotten"

HALL = {"__init__", "__main__", "cli", "errors", "registry", "testing"}
"""What stands in the package's root."""
ROWS = (
    *(("__main__",), ("cli", "testing", "service"), ("verbs",), ("report",), ("evaluation",), ("judges",)),
    *(("training", "generation"), ("models",), ("recipe",), ("methods", "datasets"), ("world",)),
    *(("registry",), ("runs",), ("errors",)),
)
"""A row may import the rows below it; rooms in one row do not know each other."""
ROW = {name: n for n, names in enumerate(ROWS) for name in names}
SHUT = {"report": {"models", "training", "generation", "judges"}}
"""A report reads what was recorded: it opens no model."""
HEAVY = {"torch", "transformers", "peft", "accelerate"}
MAY_BE_HEAVY = (
    *("training", "generation", "testing", "models.load", "models.adapters", "models.lora", "models.nf4"),
    *("models.saved_adapter", "models.join", "models.check_saved", "models.weights", "judges.guard.model"),
)
"""Torch at a module's top. Elsewhere it is imported inside functions, so that listing and checking stay quick."""
NEVER_TORCH = {"errors", "registry", "runs", "datasets", "recipe"}
LINES = 300


@dataclass
class Module:
    """One file. Names are dotted and without the package: `methods.der`; the facade is the empty name."""

    name: str
    path: Path
    top: set[str] = field(default_factory=set)
    """Imported when the module is."""
    inner: set[str] = field(default_factory=set)
    """Imported inside functions."""
    types: set[str] = field(default_factory=set)
    """Imported for the type checker."""
    extends: set[str] = field(default_factory=set)
    """Modules whose classes it subclasses."""

    @property
    def room(self) -> str:
        return self.name.partition(".")[0]

    @property
    def imports(self) -> set[str]:
        return self.top | self.inner | self.types


def read(package: Path) -> dict[str, Module]:
    paths = {_name(package, path): path for path in sorted(package.rglob("*.py"))}
    modules = {}
    for name, path in paths.items():
        module = modules[name] = Module(name, path)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        bound: dict[str, str] = {}
        for where, imported, alias in _imports(tree, package.name, name, path.name == "__init__.py"):
            target = bound[alias] = _resolve(imported, package.name, paths)
            getattr(module, where).add(target)
        bases = [base for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for base in node.bases]
        module.extends = {bound[b.id] for b in bases if isinstance(b, ast.Name) and b.id in bound}
    return modules


def _name(package: Path, path: Path) -> str:
    parts = path.relative_to(package).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(tree: ast.AST, package: str, module: str, is_package: bool) -> Iterator[tuple[str, str, str]]:
    """(where, absolute dotted name, the name it is bound to) of each import; `from a import b` gives a.b."""
    todo: list[tuple[ast.AST, str]] = [(tree, "top")]
    while todo:
        node, where = todo.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            where = "inner"
        if isinstance(node, ast.Import):
            yield from ((where, alias.name, alias.asname or alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                here = [package, *module.split(".")] if module else [package]
                above = here[: len(here) - node.level + (1 if is_package else 0)]
                source = ".".join([*above, source] if source else above)
            yield from ((where, f"{source}.{alias.name}", alias.asname or alias.name) for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            todo += [(child, "types") for child in node.body] + [(child, where) for child in node.orelse]
        else:
            todo += [(child, where) for child in ast.iter_child_nodes(node)]


def _resolve(imported: str, package: str, paths: Mapping[str, Path]) -> str:
    """`unforgotten.registry.load` → `:registry`; a facade name → `:`; anything from outside → its first part."""
    first, _, rest = imported.partition(".")
    if first != package:
        return first
    while rest and rest not in paths:
        if "." not in rest:
            return ":" if not rest.startswith("__") else ":errors"  # `__version__` may be read anywhere
        rest = rest.rpartition(".")[0]
    return f":{rest}"


def broken(package: Path) -> list[str]:
    """Every rule that the tree breaks, one sentence each."""
    modules = read(package)
    complaints = []
    for module in modules.values():
        file = module.path.relative_to(package)
        if "util" in module.path.stem:
            complaints.append(f"{file}: no file is called utils; name it after what it holds")
        lines = module.path.read_text(encoding="utf-8").splitlines()
        if len(lines) > LINES and not any(line.startswith("# Long because") for line in lines):
            complaints.append(f"{file}: {len(lines)} lines; above {LINES} it must say why (`# Long because …`)")
        if "." not in module.name and file.name != "__init__.py" and module.name not in HALL:
            complaints.append(f"{file} stands in the root, which holds {', '.join(sorted(HALL))}: give it a room")
        if not module.name:
            continue
        if module.room not in ROW:
            complaints.append(f"{file}: {module.room!r} is no room of the house; see tests/test_layers.py")
            continue
        for target in sorted(i[1:] for i in module.imports if i.startswith(":")):
            if why := _wrong_way(module, target):
                complaints.append(f"{file} imports {target or package.name}: {why}")
        if not _may_be_heavy(module.name) and (chain := _heavy(module, modules)):
            complaints.append(f"{file} loads {chain[-1]} when imported ({' → '.join(chain)}): move it into a function")
        if module.room in NEVER_TORCH and "torch" in module.inner:
            complaints.append(f"{file} imports torch: this room does without")
    return complaints + [f"{first}: a circle of imports ({' → '.join(circle)})" for first, circle in _circles(modules)]


def _wrong_way(module: Module, target: str) -> str | None:
    room = target.partition(".")[0]
    if room == module.room:
        if module.room == "methods" and not _is_base(target) and f":{target}" not in module.extends:
            return "a method knows methods.base, and another method only where it extends its class"
        return None
    if room not in ROW:
        return None if room else "imports run downward"  # a room of no row is complained of at its own file
    if ROW[room] <= ROW[module.room]:
        return "imports run downward"
    if room in SHUT.get(module.room, ()):
        return "a report reads what was recorded, and opens no model"
    if module.room == "methods" and not _is_base(module.name) and room != "errors":
        return "a method imports methods.base and errors only"
    return None


def _is_base(name: str) -> bool:
    """Is it what all methods know: the base class, or the Protocols of a run?"""
    return name == "methods.base" or name.startswith("methods.base.")


def _may_be_heavy(name: str) -> bool:
    return any(name == place or name.startswith(f"{place}.") for place in MAY_BE_HEAVY)


def _heavy(module: Module, modules: dict[str, Module]) -> list[str] | None:
    """The chain of imports by which importing the module loads torch; light modules on it answer for themselves."""
    seen, todo = {module.name}, [[module.name]]
    while todo:
        chain = todo.pop(0)
        for target in sorted(modules[chain[-1]].top):
            if target in HEAVY:
                return [*chain, target]
            for inside in _opened(target, modules):
                if inside not in seen and _may_be_heavy(inside):
                    seen.add(inside)
                    todo.append([*chain, inside])
    return None


def _opened(target: str, modules: dict[str, Module]) -> list[str]:
    """Importing a.b also runs a/__init__.py, and the facade."""
    if not target.startswith(":"):
        return []
    parts = target[1:].split(".")
    return [name for name in ["", *(".".join(parts[: i + 1]) for i in range(len(parts)))] if name in modules]


def _circles(modules: dict[str, Module]) -> list[tuple[str, list[str]]]:
    """One circle through each module that lies on any, by its first file; the facade, which names all, is left out."""
    graph = {
        name: {i[1:] for i in module.imports if i.startswith(":") and i[1:] not in ("", name)}
        for name, module in modules.items()
        if name
    }
    actual: dict[frozenset[str], tuple[str, list[str]]] = {}
    for name in graph:
        before: dict[str, str] = {}
        todo = [name]
        while todo:
            here = todo.pop(0)
            for target in sorted(graph.get(here, ())):
                if target == name:
                    circle = [here]
                    while circle[-1] != name:
                        circle.append(before[circle[-1]])
                    circle.reverse()
                    key = frozenset(circle)
                    actual.setdefault(key, (str(modules[min(circle)].path.name), [*circle, name]))
                    todo = []
                    break
                if target not in before and target in graph:
                    before[target] = here
                    todo.append(target)
    return list(actual.values())


def test_the_house_stands() -> None:
    assert broken(PACKAGE) == []


def test_the_checker_reads_the_real_house() -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms == set(ROW) - HALL - {"service"} or rooms == set(ROW) - HALL
    assert {path.stem for path in PACKAGE.glob("*.py")} == HALL


BAD = {
    # file, its text, what the checker must say of it
    "upward": ("errors.py", "from unforgotten.verbs import finetune", "imports verbs.finetune: imports run downward"),
    "upward in a function": (
        "recipe/recipe.py",
        "def f():\n    import unforgotten.models.load",
        "imports run downward",
    ),
    "upward in a type": (
        "models/load.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from unforgotten.training.run import Run",
        "imports training.run: imports run downward",
    ),
    "relative": ("world/harm.py", "from ..datasets.base import Row", "imports datasets.base: imports run downward"),
    "neighbour": ("generation/local.py", "from unforgotten.training.run import x", "imports run downward"),
    "report to model": ("report/text.py", "from unforgotten.models.chat.rows import Row", "opens no model"),
    "method to method": (
        "methods/ema.py",
        "from unforgotten.methods.der import DER",
        "only where it extends its class",
    ),
    "method to registry": ("methods/ema.py", "from unforgotten.registry import load", "methods.base and errors only"),
    "method to run": ("methods/ema.py", "def f():\n    import unforgotten.training.run", "imports run downward"),
    "judge to verb": ("judges/keywords.py", "def f():\n    import unforgotten.verbs.finetune", "imports run downward"),
    "facade": ("verbs/finetune.py", "from unforgotten import DER", "imports unforgotten: imports run downward"),
    "torch on top": ("methods/ema.py", "import torch", "loads torch when imported"),
    "torch in a try": (
        "verbs/compare.py",
        "try:\n    from torch import nn\nexcept ImportError:\n    nn = 1",
        "loads torch",
    ),
    "torch by the back door": (
        "verbs/align.py",
        "from unforgotten.training.run import Run",
        "(verbs.align → training.run → torch)",
    ),
    "torch by the room's init": (
        "verbs/export.py",
        "from unforgotten.models.weights.roles import x",
        "(verbs.export → models.weights → peft)",
    ),
    "torch in a dataset": ("datasets/gsm8k.py", "def f():\n    import torch", "this room does without"),
    "circle": ("verbs/finetune.py", "def f():\n    from unforgotten.verbs import compare", "a circle of imports"),
    "circle of types": (
        "models/chat/render.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from unforgotten.models.chat.rows import Row",
        "a circle of imports (models.chat.render → models.chat.rows → models.chat.render)",
    ),
    "utils": ("training/utils.py", "", "no file is called utils"),
    "long": ("runs/files.py", "\n" * 301, "must say why"),
    "in the hall": ("align.py", "", "stands in the root"),
    "no room": ("shed/saw.py", "", "'shed' is no room of the house"),
}

GOOD = {
    "__init__.py": "__version__ = '0'\ndef __getattr__(name):\n    from unforgotten.methods.der import DER",
    "errors.py": "",
    "registry.py": "from unforgotten import errors",
    "methods/base/__init__.py": "from unforgotten.methods.base.run import Run",
    "methods/base/run.py": "import typing\nif typing.TYPE_CHECKING:\n    import torch",
    "methods/der.py": "from unforgotten.methods.base import Method\ndef loss():\n    import torch",
    "methods/derpp.py": "from unforgotten.methods.der import DER\nclass DERpp(DER):\n    pass",
    "datasets/base.py": "",
    "datasets/jsonl.py": "import datasets\nfrom .base import Row",
    "datasets/world.py": "from unforgotten.world import harm",
    "judges/base.py": "from unforgotten.datasets.base import Row",
    "judges/guard.py": "def f():\n    from unforgotten.generation.local import generate",
    "generation/local.py": "import torch\nfrom unforgotten.models.chat.render import x",
    "models/chat/render.py": "from unforgotten.datasets.base import Row",
    "models/chat/rows.py": "from unforgotten.models.chat.render import Row",
    "world/harm.py": "",
    "models/weights/__init__.py": "import peft",
    "models/weights/roles.py": "x = 1",
    "training/run.py": "# Long because of the test.\nimport torch\nfrom unforgotten.models.chat import render\n"
    + "\n" * 300,
    "verbs/finetune.py": "from unforgotten import __version__, registry\ndef f():\n    import unforgotten.training.run",
    "verbs/compare.py": "from unforgotten.verbs import finetune",
    "report/text.py": "from unforgotten.runs import results",
    "runs/results.py": "",
    "cli.py": "from unforgotten.errors import x\nfrom unforgotten.verbs import compare",
}


def build(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / "unforgotten" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root / "unforgotten"


def test_a_good_tree_passes(tmp_path: Path) -> None:
    assert broken(build(tmp_path, GOOD)) == []


@pytest.mark.parametrize("case", BAD)
def test_a_bad_tree_is_caught(tmp_path: Path, case: str) -> None:
    name, text, complaint = BAD[case]
    actual = broken(build(tmp_path, {**GOOD, name: text}))
    assert any(complaint in line for line in actual), actual
    if "circle" not in case:
        assert all(line.startswith(name) for line in actual), "a fault is laid at the door of the file that has it"
