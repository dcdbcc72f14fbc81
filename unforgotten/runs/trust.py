"""Whether a recipe or a result was made by this user, and what a stranger's recipe may not do.

A stranger's recipe runs no code, asks no server, names no variable and opens nothing outside its folder. Runs that were
trained here are known by a ledger outside of them: the digest of each run's recipe.yaml, in the user's cache. So are
the replies, figures and decisions that a gate may go by.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from unforgotten.errors import RecipeError
from unforgotten.runs import strict_read, strict_yaml

Origin = Literal["operator", "foreign"]

TRUST = "UNFORGOTTEN_TRUST_RECIPE"
MARKS = ("environment.json", "trained.json", "results.json", "metrics.jsonl", "replies", "adapter", "checkpoints")
"""By one of these a folder with a recipe.yaml is a run's; by one of the first two any recipe in it is."""
PLACES = {"path", "model", "base", "unaligned_model", "template", "tokenizer", "scorer", "embedder", "base_path"}
"""Fields whose bare names may be files here."""
PROSE = {"ask", "opening", "refuse", "description", "license"}
"""Fields that hold sentences."""
REACHES = {"endpoint": "a server", "url": "a server", "key_variable": "a variable's name", "report_to": "a tracker"}
NEVER_READ = {"out"}
"""Fields that the verbs put their own place for."""
MEND = (
    "It is in a run folder that was not trained here. Give your own recipe with --recipe FILE. Or add --trust-recipe "
    "if you fully trust the folder's author."
)


def cache_folder() -> Path:
    """The user's cache: $UNFORGOTTEN_CACHE, else $XDG_CACHE_HOME/unforgotten, else ~/.cache/unforgotten."""
    if given := os.environ.get("UNFORGOTTEN_CACHE"):
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "unforgotten"


def of(path: Path) -> Origin:
    """Whose a recipe file is: one that a run left is foreign where this user trained no such run."""
    real = path.resolve()
    marks = MARKS if real.name == "recipe.yaml" else MARKS[:2]
    if not any((real.parent / mark).exists() for mark in marks):
        return "operator"
    return "operator" if os.environ.get(TRUST) == "1" or _entry(real).is_file() else "foreign"


def of_run(folder: Path) -> Origin:
    """Whose the recipe of a run folder is."""
    return "operator" if os.environ.get(TRUST) == "1" or _entry(folder / "recipe.yaml").is_file() else "foreign"


def own(folder: Path) -> None:
    """Enters a run that was trained here in the ledger."""
    from unforgotten.runs import atomic

    atomic.put(_entry(folder / "recipe.yaml"), "")


def seal(place: Path, *names: str) -> None:
    """Enters files of a folder, as they are now, in the ledger: this user wrote them. Folders are taken whole."""
    from unforgotten.runs import atomic

    if (entry := _state(place, names)) is not None:
        atomic.put(entry, "")


def is_sealed(place: Path, *names: str) -> bool:
    """Did this user write these files last, as they are now? Also true if none of them is there."""
    if os.environ.get(TRUST) == "1" or not any((place / name).exists() for name in names):
        return True
    entry = _state(place, names)
    return entry is not None and entry.is_file()


def _state(place: Path, names: tuple[str, ...]) -> Path | None:
    """The ledger's entry for files by name and content; None where one of them is no regular file."""
    digests = []
    for name in names:
        top = place / name
        for file in (top, *sorted(top.rglob("*"))) if top.is_dir() else (top,):
            if file.is_symlink() or (file.exists() and not (file.is_file() or file.is_dir())):
                return None
            if file.is_file():
                with file.open("rb") as content:
                    digests.append((str(file.relative_to(place)), hashlib.file_digest(content, "sha256").hexdigest()))
    return cache_folder() / "ours" / hashlib.sha256(repr(digests).encode()).hexdigest()


def _entry(recipe: Path) -> Path:
    head = strict_read.content(recipe, strict_yaml.bound("bytes") + 1)  # a longer one is no recipe of ours
    return cache_folder() / "ours" / hashlib.sha256(head).hexdigest()


def refuse(tree: Mapping[str, Any], folder: Path, where: str, *, opens: bool = True) -> None:
    """Raises RecipeError that names each field in which a foreign recipe asks for more than its own folder.

    opens: whether data and servers that it names will be opened at all; its models are checked anyway.
    """
    wrong = [f"{field} {why}" for field, why in _faults(tree, folder.resolve(), opens)]
    if wrong:
        more = f", and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise RecipeError(f"{where}: {'; '.join(wrong[:5])}{more}. {MEND}")


def _faults(tree: Mapping[str, Any], folder: Path, opens: bool) -> Iterator[tuple[str, str]]:
    for field, value in _leaves({k: v for k, v in tree.items() if k not in NEVER_READ}):
        keys = field.split(".")
        if opens and value not in (None, "") and (reached := [REACHES[k] for k in keys if k in REACHES]):
            yield field, f"names {reached[0]}"
        elif not isinstance(value, str):
            continue
        elif "${" in value:
            yield field, "asks for an environment variable"
        elif keys[-1] in PROSE:
            continue
        elif is_code(value):
            yield field, f"names code, {value[:80]!r}"
        elif (
            (opens or keys[-1] in ("model", "base", "unaligned_model"))
            and _is_place(value, keys)
            and not _inside(value, folder)
        ):
            yield field, f"names {value[:80]!r}, which is not in the folder"


def is_code(name: str) -> bool:
    """Whether a component's name would be a class in a file, as the registry reads names."""
    path, colon, wanted = name.rpartition(":")
    return bool(path and colon) and wanted.strip().isidentifier()


def _is_place(value: str, keys: list[str]) -> bool:
    if value == "world" or (keys[-1] == "name" and "/" not in value):
        return False
    if "$" in value or re.match(r"[/~\\.]|[A-Za-z]:[\\/]|file:", value) or ".." in re.split(r"[\\/]", value):
        return not re.fullmatch(r"\.\d+|\.+", value) or ".." in value
    try:
        return ("/" in value or "." in value or keys[-1] in PLACES) and Path(value).exists()
    except (OSError, ValueError):  # a name that no file system takes
        return True


def _inside(value: str, folder: Path) -> bool:
    return "$" not in value and Path(value).expanduser().resolve().is_relative_to(folder)


def _leaves(value: Any, field: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that is no mapping and no list, with the dotted field that it stands in; keys are texts, too."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            below = f"{field}.{key}" if field else str(key)
            if is_code(str(key)) or "${" in str(key):
                yield below, str(key)
            yield from _leaves(inner, below)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _leaves(inner, field)
    else:
        yield field, value
