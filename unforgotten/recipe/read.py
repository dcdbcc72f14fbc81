"""A recipe from YAML: a file or a shipped name, what it extends, and what `--set` changes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from unforgotten.errors import RecipeError, UnknownName
from unforgotten.recipe.recipe import Recipe, checked
from unforgotten.runs import strict_yaml, variables
from unforgotten.runs import trust as origins


def load_recipe(
    source: str | Path,
    overrides: Mapping[str, Any] | None = None,
    *,
    origin: origins.Origin | None = None,
    opens: bool = True,
    allow_env: Iterable[str] = (),
) -> Recipe:
    """A recipe from a YAML file, or by the name of one that ships with the package.

    `extends: demo` (a shipped name or a file beside it) takes that recipe's fields where the file says nothing else.

    overrides: dotted field -> value, as `--set training.num_train_epochs=1` gives them.
    origin: whose it is; left out, the operator's, unless it lies in a run folder that was not trained here.
    opens: see trust.refuse. allow_env: variables beside UNFORGOTTEN_* that it may use.
    Raises RecipeError or UnknownName naming the field; RecipeError where there is no such file, or where a stranger's
    recipe asks for code, servers, variables or places of ours.
    """
    if not isinstance(source, (str, Path)):
        raise RecipeError(f"load_recipe() takes a file or a shipped name, not {type(source).__name__}.")
    tree, path, whose = _tree(source, origin, opens=opens)
    tree.setdefault("name", path.stem)
    for dotted, value in (overrides or {}).items():
        _put(tree, dotted, value)
    if "model" in (overrides or {}) and "compare.model" not in (overrides or {}) and tree.get("compare"):
        _put(tree, "compare.model", [])  # a grid that went on varying models would leave the one given unused
    return parse(tree, str(path), allow_env=allow_env, origin=whose)


def shipped() -> dict[str, Path]:
    """The recipes that ship with the package, by name; those in a folder are called `paper/table1`."""
    room = Path(__file__).parent / "shipped"
    return {file.relative_to(room).with_suffix("").as_posix(): file for file in sorted(room.rglob("*.yaml"))}


def _tree(
    source: str | Path,
    origin: origins.Origin | None = None,
    above: tuple[Path, ...] = (),
    *,
    opens: bool = True,
    within: Path | None = None,
) -> tuple[dict[str, Any], Path, origins.Origin]:
    """The fields of a recipe file, over those of the one that it `extends` (a shipped name, or a file beside it).

    within: the run folder that a foreign recipe came out of; whatever it extends is foreign too, and must lie there.
    """
    path = Path(source)
    if not path.is_file():
        known = shipped()
        if str(source) not in known:
            folders = {name.partition("/")[0] for name in known if "/" in name}
            is_file = path.suffix in (".yaml", ".yml") or ("/" in str(source) and path.parts[0] not in folders)
            if is_file:
                raise RecipeError(f"There is no recipe file {source}. Shipped ones: {', '.join(known)}.")
            raise UnknownName("recipe", str(source), known)
        path = known[str(source)]
    tree = strict_yaml.load_file(path)
    if not isinstance(tree, dict):
        raise RecipeError(f"{path} must be a mapping of fields, found {type(tree).__name__}.")
    below = tree.pop("extends", None)
    whose: origins.Origin = "operator" if path in shipped().values() else origin or origins.of(path)
    if whose == "foreign":
        within = within or path.parent
        origins.refuse(tree, within, str(path), opens=opens)
    if below is None:
        return tree, path, whose
    if not isinstance(below, str):
        raise RecipeError(f"{path}: `extends` takes one recipe's name or file.")
    if path in above:
        raise RecipeError(f"{path}: `extends` comes round to itself.")
    beside = path.parent / below
    if whose == "foreign" and within and below not in shipped():
        if not (beside.is_file() and beside.resolve().is_relative_to(within.resolve())):
            raise RecipeError(f"{path}: extends names {below!r}, which is not in the folder. {origins.MEND}")
    fields, _, theirs = _tree(
        beside if beside.is_file() else below,
        "foreign" if whose == "foreign" else None,
        (*above, path),
        opens=opens,
        within=within,
    )
    fields |= {"name": path.stem}
    whose = "foreign" if "foreign" in (whose, theirs) else "operator"
    if "evaluate" in tree and tree["evaluate"] is None:
        fields.pop("probe", None)  # it asks what the other recipe evaluates
    return fields | {field: _over(fields.get(field), value) for field, value in tree.items()}, path, whose


def _over(below: Any, above: Any) -> Any:
    """Mappings are merged field by field; anything else, and what names a component, is replaced."""
    if not (isinstance(below, dict) and isinstance(above, dict)) or "name" in above:
        return above
    return below | {field: _over(below.get(field), value) for field, value in above.items()}


def parse(
    tree: Mapping[str, Any],
    where: str = "recipe",
    *,
    allow_env: Iterable[str] = (),
    origin: origins.Origin = "operator",
) -> Recipe:
    """A recipe from a mapping. Raises RecipeError or UnknownName that names the field."""
    written: dict[str, str] = {}
    recipe = checked(_expanded(tree, written, frozenset(allow_env)), where)
    recipe._written, recipe._origin = written, origin
    return recipe


def _put(tree: dict[str, Any], dotted: str, value: Any) -> None:
    *path, last = dotted.split(".")
    for part in path:
        inner = tree.get(part)
        if isinstance(inner, str):
            inner = {"name": inner}
        tree[part] = inner = dict(inner or {})
        tree = inner
    tree[last] = strict_yaml.load(value, f"--set {last}") if isinstance(value, str) else value


def _expanded(value: Any, written: dict[str, str], allow: frozenset[str], at: tuple[str, ...] = ()) -> Any:
    """The same with variables filled in; `written` gets each text that was, with what it was before."""
    if len(at) > strict_yaml.bound("depth"):
        raise RecipeError(f"A recipe has at most {strict_yaml.bound('depth')} levels (UNFORGOTTEN_MAX_YAML_DEPTH).")
    if isinstance(value, str):
        if (filled := variables.expand(value, allow)) != value:
            written[filled] = value
        return filled
    if isinstance(value, Mapping):
        return {k: _expanded(v, written, allow, (*at, str(k))) for k, v in value.items()}
    if isinstance(value, list):
        return [_expanded(v, written, allow, (*at, str(i))) for i, v in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise RecipeError(f"{'.'.join(at)}: Input should be a finite number (got {value}).")
    return value
