"""Imports run one way: each module may import what is drawn below it, and light modules load no torch.

    cli → verbs → training, weights, generation, sandbox → methods, datasets, judges, world, chat → the bottom files

Read from the syntax tree, so that a line that runs only sometimes is seen too. What stands under TYPE_CHECKING is for
the type checker alone and is free. The checker is itself tested, on a tree made to break each rule.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "unforgotten"

FLOORS = (
    (
        *("bounds", "unpack", "strict_json", "strict_read", "keys"),
        *("errors", "formats", "columns", "hub", "files", "statistics", "overlap", "flags", "results", "summary"),
        *("table",),
        *("registry", "recipe", "strict_yaml", "variables", "origin", "lease", "terminate", "partial", "solution"),
        *("costs", "published", "display", "result_shape", "identity", "models"),
    ),
    ("methods", "datasets", "judges", "world", "chat"),
    ("training", "weights", "generation", "synthesis", "sandbox"),
    (
        *("pretrain", "align", "finetune", "repair", "synthesize", "measure", "shelf", "evaluate", "against"),
        *("judge", "audit", "data_fix", "compare", "at_hand", "plan", "plan_lines", "sweep", "export", "report"),
        *("page", "grid", "workers", "board", "side_by_side", "demo", "card", "model_card", "parity", "push"),
        *("serving", "auditing"),
    ),
    ("cli", "testing"),
    ("__main__", ""),  # "" is unforgotten/__init__.py, the facade: it names what is public
)
FLOOR = {name: level for level, names in enumerate(FLOORS) for name in names}
FILES_SHARE_A_FLOOR = {0, 3, 5}
"""Floors of single files, which may import one another. Rooms on one floor know of each other only the `base`."""
NEIGHBOURS = {"datasets.world": "world", "judges.world": "world"}
"""The embedded world is offered as a dataset and as a judge."""
REACHES = {"judges": "generation"}
"""The one way up: a judge may be a model, and generation is what asks models. Inside functions alone, so that a judge's
file stays light and generation, which replies as judges.base says, may import that."""
METHODS_MAY = ("methods.base", "errors")
EXTENDS = {"methods.derpp": "methods.der"}
"""A method that is another one and a term more."""
HEAVY = {"torch", "transformers", "peft", "accelerate"}
MAY_BE_HEAVY = {"training", "weights", "generation", "synthesis", "sandbox", "testing"}
NEVER_TORCH = {*FLOORS[0], "datasets"} - {"models"}
"""models/ builds models, inside functions."""
LINES = 300


@dataclass
class Module:
    """One file. Names are dotted and without the package: `methods.der`; the facade is the empty name."""

    name: str
    path: Path
    top: set[str] = field(default_factory=set)  # imported when the module is
    inner: set[str] = field(default_factory=set)  # imported inside functions

    @property
    def room(self) -> str:
        return self.name.partition(".")[0]


def read(package: Path) -> dict[str, Module]:
    paths = {_name(package, path): path for path in sorted(package.rglob("*.py"))}
    modules = {}
    for name, path in paths.items():
        module = modules[name] = Module(name, path)
        is_package = path.name == "__init__.py"
        for where, imported in _imports(ast.parse(path.read_text(encoding="utf-8")), package.name, name, is_package):
            (module.inner if where == "inner" else module.top).add(_resolve(imported, package.name, paths))
    return modules


def _name(package: Path, path: Path) -> str:
    parts = path.relative_to(package).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(tree: ast.AST, package: str, module: str, is_package: bool) -> Iterator[tuple[str, str]]:
    """(`top` or `inner`, absolute dotted name) of each import; `from a import b` gives a.b."""
    todo: list[tuple[ast.AST, str]] = [(tree, "top")]
    while todo:
        node, where = todo.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            where = "inner"
        if isinstance(node, ast.Import):
            yield from ((where, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                here = [package, *module.split(".")] if module else [package]
                above = here[: len(here) - node.level + (1 if is_package else 0)]
                source = ".".join([*above, source] if source else above)
            yield from ((where, f"{source}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            todo += [(child, where) for child in node.orelse]
        else:
            todo += [(child, where) for child in ast.iter_child_nodes(node)]


def _resolve(imported: str, package: str, paths: dict[str, Path]) -> str:
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
        if module.room not in FLOOR:
            complaints.append(f"{file}: {module.room!r} has no floor; give it one in tests/test_layers.py")
            continue
        for target in sorted(i[1:] for i in module.top | module.inner if i.startswith(":")):
            if REACHES.get(module.room) == target.partition(".")[0] and f":{target}" not in module.top:
                continue
            if why := _wrong_way(module, target):
                complaints.append(f"{file} imports {target or package.name}: {why}")
        if module.room not in MAY_BE_HEAVY and (chain := _heavy(module, modules)):
            complaints.append(f"{file} loads {chain[-1]} when imported ({' → '.join(chain)}): move it into a function")
        if module.room in NEVER_TORCH and "torch" in module.inner:
            complaints.append(f"{file} imports torch: this floor does without")
    return complaints


def _wrong_way(module: Module, target: str) -> str | None:
    room = target.partition(".")[0]
    if module.room == "methods":
        if module.name == "methods.base" and target == "registry":
            return None  # where a component's fields are checked
        if target in METHODS_MAY or module.name == "methods" or EXTENDS.get(module.name) == target:
            return None
        return "a method imports methods.base and errors only"
    if room == module.room:
        return None
    if room not in FLOOR:
        return None  # complained of at its own file
    here, there = FLOOR[module.room], FLOOR[room]
    if there > here:
        return "imports run downward"
    if there < here or here in FILES_SHARE_A_FLOOR:
        return None
    if target == f"{room}.base" or NEIGHBOURS.get(module.name) == room:
        return None
    return "rooms on one floor know only each other's base"


def _heavy(module: Module, modules: dict[str, Module]) -> list[str] | None:
    """The chain of imports by which importing the module loads torch; light modules on it answer for themselves."""
    seen, todo = {module.name}, [[module.name]]
    while todo:
        chain = todo.pop(0)
        for target in sorted(modules[chain[-1]].top):
            if target in HEAVY:
                return [*chain, target]
            for inside in _opened(target, modules):
                if inside not in seen and modules[inside].room in MAY_BE_HEAVY:
                    seen.add(inside)
                    todo.append([*chain, inside])
    return None


def _opened(target: str, modules: dict[str, Module]) -> list[str]:
    """Importing a.b also runs a/__init__.py, and the facade."""
    if not target.startswith(":"):
        return []
    parts = target[1:].split(".")
    return [name for name in ["", *(".".join(parts[: i + 1]) for i in range(len(parts)))] if name in modules]


def test_the_house_stands() -> None:
    assert broken(PACKAGE) == []


def test_the_checker_reads_the_real_house() -> None:
    assert {"cli", "registry", "errors", "methods", "datasets", "judges"} <= {m.room for m in read(PACKAGE).values()}


BAD = {
    # file, its text, what the checker must say of it
    "upward": (
        "errors.py",
        "from unforgotten.verbs.finetune import finetune",
        "imports finetune: imports run downward",
    ),
    "upward in a function": ("recipe.py", "def f():\n    import unforgotten.methods.der", "imports run downward"),
    "relative": ("chat/render.py", "from ..training.run import Run", "imports training.run: imports run downward"),
    "neighbour": ("judges/keywords.py", "from unforgotten.datasets.jsonl import x", "only each other's base"),
    "world's neighbour": ("datasets/advbench.py", "from unforgotten.world import harm", "only each other's base"),
    "method to method": ("methods/ema.py", "from unforgotten.methods.der import DER", "methods.base and errors only"),
    "method to registry": ("methods/ema.py", "from unforgotten.registry import load", "methods.base and errors only"),
    "judge to generation, at the top": ("judges/guard.py", "from unforgotten.generation.local import x", "downward"),
    "judge to training": ("judges/guard.py", "def f():\n    import unforgotten.training.run", "imports run downward"),
    "facade": ("finetune.py", "from unforgotten import DER", "imports unforgotten: imports run downward"),
    "torch on top": ("methods/ema.py", "import torch", "loads torch when imported"),
    "torch in a try": (
        "compare.py",
        "try:\n    from torch import nn\nexcept ImportError:\n    nn = None",
        "loads torch",
    ),
    "torch by the back door": (
        "align.py",
        "from unforgotten.training.run import Run",
        "(align → training.run → torch)",
    ),
    "torch by the room's init": (
        "export.py",
        "from unforgotten.models.weights.roles import x",
        "(export → weights → peft)",
    ),
    "torch in a dataset": ("datasets/gsm8k.py", "def f():\n    import torch", "this floor does without"),
    "utils": ("training/utils.py", "", "no file is called utils"),
    "long": ("files.py", "\n" * 301, "must say why"),
    "no floor": ("shed/saw.py", "", "'shed' has no floor"),
}

GOOD = {
    "__init__.py": "__version__ = '0'\ndef __getattr__(name):\n    from unforgotten.methods.der import DER",
    "errors.py": "",
    "registry.py": "from unforgotten import errors",
    "methods/base.py": "import typing\nif typing.TYPE_CHECKING:\n    import torch\n    import unforgotten.training.run",
    "methods/der.py": "from unforgotten.methods.base import Method\ndef loss():\n    import torch",
    "datasets/base.py": "",
    "datasets/jsonl.py": "import datasets\nfrom .base import Row",
    "datasets/world.py": "from unforgotten.world import harm",
    "judges/base.py": "from unforgotten.datasets.base import Row",
    "judges/guard.py": "def f():\n    from unforgotten.generation.local import generate",
    "generation/local.py": "import torch\nfrom unforgotten.judges.base import Reply",
    "chat/render.py": "from unforgotten.datasets.base import Row",
    "world/harm.py": "",
    "weights/__init__.py": "import peft",
    "weights/roles.py": "x = 1",
    "training/run.py": "# Long because of the test.\nimport torch\nfrom unforgotten.models.chat import render\n"
    + "\n" * 300,
    "finetune.py": "from unforgotten import __version__, registry\ndef f():\n    import unforgotten.training.run",
    "compare.py": "from unforgotten.verbs.finetune import finetune",
    "cli.py": "from unforgotten.errors import x\nfrom unforgotten.verbs.compare import compare",
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
    found = broken(build(tmp_path, {**GOOD, name: text}))
    assert any(complaint in line for line in found), found
    assert all(line.startswith(name) for line in found), "a fault is laid at the door of the file that has it"
