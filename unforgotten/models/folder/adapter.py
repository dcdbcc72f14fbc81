"""adapter_config.json of a stranger: its patterns matched in linear time, its numbers held against its tensors.

PEFT takes several fields for regular expressions and matches them by backtracking against every module. Here they are
matched once, against the modules that the adapter's own tensors name, and PEFT is given the names that result.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from unforgotten.datasets.reading import files
from unforgotten.errors import ModelError
from unforgotten.models.folder.header import Shapes
from unforgotten.models.folder.linear import Linear

LITERAL = re.compile(r"[\w.-]{1,300}")
SIMPLE = re.compile(r"(?:\.\*\\?\.)?(?:[\w-]|\\?\.){1,300}")
"""A name, with its dots escaped or not, below anything or not: as PEFT itself writes keys. It cannot backtrack far."""
MOST = 1 << 20
MOST_ROUNDS, MOST_OTHER, MOST_VALUES = 64, 256, 50_000
"""Rounds of an initialisation by SVD; a number of another adapter than LoRA, where its tensors are no wider; values."""
IMPORTS = ("megatron_config", "corda_config", "eva_config", "lora_ga_config", "arrow_config", "kasa_config")
"""Fields that import modules or read files of their own, or belong to training alone."""
_FACTOR = re.compile(r"^base_model\.model\.(.+)\.(?:lora_A|lora_embedding_A)(?:\.weight)?$")


def checked(config: dict[str, Any], tensors: Shapes, called: str) -> dict[str, Any]:
    """The configuration as PEFT is to read it: the same, but for patterns. Raises ModelError for what cannot be."""
    where = f"{called}: adapter_config.json"
    for field in IMPORTS:
        if config.get(field):
            raise ModelError(f"{where}: {field} is for training by other tools. Remove it.")
    _numbers(config, where)
    _within_file(config, tensors, where)
    for field in ("modules_to_save", "target_parameters"):
        _literals(config.get(field) or [], field, where)
    modules = {match[1]: shape[0] for name, shape in tensors.items() if (match := _FACTOR.match(name))}
    for_peft = dict(config)
    if (config.get("auto_mapping") or {}) != {}:
        for_peft["auto_mapping"] = None  # it names a library that PEFT would import
    if _has_patterns(config):
        _name_modules(for_peft, modules, where)
    _targets(for_peft, tensors, where)
    for field in ("rank_pattern", "alpha_pattern"):
        if config.get(field):
            names = [*modules, *_parameters(modules, config.get("target_parameters") or [])]
            for_peft[field] = _by_module(config[field], names, field, where)
    if config.get("peft_type") == "LORA":
        _ranks(for_peft, modules, where)
    return config if for_peft == config else for_peft


def base_of(config: dict[str, Any], called: str, named: Iterable[str | None] = ()) -> str:
    """The model that an adapter lies on: a Hub id, or a folder that the operator names himself.

    named: what the operator's recipe or flags name as model or base. Raises ModelError for any other folder: an
    adapter is a stranger's, and would choose which of this machine's folders is read.
    """
    base = config.get("base_model_name_or_path")
    operator = [str(name) for name in named if name]
    if isinstance(base, str) and (len(base) > 4096 or "\0" in base or max(map(len, base.split("/"))) > 255):
        raise ModelError(f"The adapter {called} names {base[:60]!r} … as its base, which is not a model.")
    if isinstance(base, str) and base:
        for name in operator:
            if Path(name).expanduser().is_dir() and _same(base, name):
                return name
        legacy = re.fullmatch(r"[A-Za-z0-9][\w.-]*", base) is not None
        if (files.is_hub_id(base) or legacy) and not Path(base).exists():
            return base
        elsewhere = not Path(base).expanduser().exists()
    else:
        elsewhere = True
    if elsewhere and operator and Path(operator[-1]).expanduser().is_dir() and not _same(operator[-1], called):
        return operator[-1]
    what = f"the folder {base!r}" if base else "no base"
    raise ModelError(
        f"The adapter {called} names {what} as its base. Paths inside an adapter are not followed. Name that folder "
        "as `unaligned_model:` in the recipe, or put the base's config and weights into the adapter's folder."
    )


def _same(path: str, other: str) -> bool:
    return Path(path).expanduser().resolve() == Path(other).expanduser().resolve()


def _numbers(config: dict[str, Any], where: str) -> None:
    todo: list[tuple[str, Any]] = list(config.items())
    count = 0
    while todo:
        count += 1
        if count + len(todo) > MOST_VALUES:
            raise ModelError(f"{where} holds more than {MOST_VALUES:,} values.")
        field, value = todo.pop()
        if isinstance(value, dict):
            todo += [(field, v) for v in value.values()]
        elif isinstance(value, list):
            count += len(value)
            todo += [(field, v) for v in value if not isinstance(v, str)] if count <= MOST_VALUES else []
        elif type(value) in (int, float) and abs(value) > MOST:
            raise ModelError(f"{where}: {field} is {value}, more than {MOST:,}.")
    if config.get("peft_type") == "LORA":
        rank, alpha = config.get("r", 8), config.get("lora_alpha", 8)
        if type(rank) is not int or rank < 1:
            raise ModelError(f"{where}: r is {str(rank)[:60]!r}. It must be a whole number above 0.")
        if type(alpha) not in (int, float):
            raise ModelError(f"{where}: lora_alpha is {str(alpha)[:60]!r}. It must be a number.")
        for field in ("rank_pattern", "alpha_pattern"):
            values = config.get(field) or {}
            if not isinstance(values, dict) or any(type(v) not in (int, float) or v <= 0 for v in values.values()):
                raise ModelError(f"{where}: {field} must map names to numbers above 0.")


def _within_file(config: dict[str, Any], tensors: Shapes, where: str) -> None:
    """Raises ModelError where building the adapter would take far more than its file holds."""
    widest = max((n for shape in tensors.values() for n in shape), default=1)
    replicated = config.get("layer_replication") or []
    try:
        layers = sum(max(0, int(end) - int(start)) for start, end in replicated)
    except (TypeError, ValueError):
        raise ModelError(f"{where}: layer_replication is no list of pairs of layers.") from None
    if layers > len(tensors):
        raise ModelError(f"{where}: layer_replication asks for {layers} layers; its file has {len(tensors)} tensors.")
    init = re.search(r"_niter_(\d+)$", str(config.get("init_lora_weights")))
    if init and int(init[1]) > MOST_ROUNDS:
        raise ModelError(f"{where}: init_lora_weights asks for {init[1][:20]} rounds, more than {MOST_ROUNDS}.")
    if config.get("peft_type") == "LORA" and not config.get("target_parameters"):
        return  # held against each module's factors
    most = max(MOST_OTHER, 2 * widest)
    for field, value in config.items():
        if type(value) is int and value > most and not field.endswith(("_id", "seed", "alpha", "_steps", "_step")):
            raise ModelError(f"{where}: {field} is {value}; the widest tensor of its file has {widest:,} rows.")


def _literals(values: Any, field: str, where: str) -> None:
    for name in values if isinstance(values, (list, tuple)) else [values]:
        if not isinstance(name, str) or not LITERAL.fullmatch(name):
            raise ModelError(f"{where}: {field} holds {str(name)[:80]!r}, which is not the name of a module.")


def _has_patterns(config: dict[str, Any]) -> bool:
    layers = config.get("layers_pattern") or []
    return (
        (isinstance(config.get("target_modules"), str) and config["target_modules"] != "all-linear")
        or isinstance(config.get("exclude_modules"), str)
        or not all(
            isinstance(p, str) and LITERAL.fullmatch(p) for p in ([layers] if isinstance(layers, str) else layers)
        )
    )


def _name_modules(config: dict[str, Any], modules: dict[str, int], where: str) -> None:
    """Names in place of patterns: the modules whose factors the adapter holds, and no other."""
    if config.get("target_parameters") or not modules:
        raise ModelError(
            f"{where}: its modules are given as a pattern that its tensors do not confirm. Write the modules' names."
        )
    config["target_modules"] = sorted(modules)
    for field in ("exclude_modules", "layers_to_transform", "layers_pattern"):
        if config.get(field) is not None:
            config[field] = None


def _targets(config: dict[str, Any], tensors: Shapes, where: str) -> None:
    for field in ("target_modules", "exclude_modules"):
        value = config.get(field)
        if value is None or value == "all-linear":
            continue
        _literals(value, field, where)
        if len(value) > max(1000, len(tensors)):
            raise ModelError(
                f"{where}: {field} names {len(value)} modules, but its file holds only {len(tensors)} tensors."
            )


def _by_module(pattern: dict[str, Any], modules: list[str], field: str, where: str) -> dict[str, Any]:
    """The same table; keys that are patterns become the names they match, the first that matches as in PEFT."""
    if len(pattern) > 10_000:
        raise ModelError(f"{where}: {field} has {len(pattern)} keys, more than 10,000.")
    if all(SIMPLE.fullmatch(key) for key in pattern):
        return pattern
    try:
        keys = [(Linear(rf"(?:.*\.)?(?:{key})"), value) for key, value in pattern.items()]
    except ModelError as error:
        raise ModelError(f"{where}: {field}: {error}") from None
    if len(keys) * len(modules) > 200_000 or sum(len(k.edges) for k, _ in keys) * len(modules) > 5_000_000:
        raise ModelError(f"{where}: {field} has too many patterns. Write module names.")
    by_module = {}
    for module in modules:
        for key, value in keys:
            if key.fullmatch(module):
                by_module[re.escape(module)] = value
                break
    return by_module


def _parameters(modules: Iterable[str], targets: list[str]) -> list[str]:
    """Names that adapted parameters may have: PEFT wraps their module once for each."""
    inner = {module.replace(".base_layer", "") for module in modules} if targets else set()
    return sorted(f"{module}.{target.rpartition('.')[2]}" for module in inner for target in targets)


def _ranks(config: dict[str, Any], modules: dict[str, int], where: str) -> None:
    """Raises ModelError where the configuration would allocate other ranks than the file holds."""
    ranks = config.get("rank_pattern") or {}
    if config.get("target_parameters"):
        return  # factors of several experts lie in one tensor
    for module, rank in modules.items():
        wanted = next((r for key, r in ranks.items() if _ends(module, key)), config.get("r", 8))
        if wanted != rank:
            raise ModelError(f"{where}: size mismatch: {module} has rank {wanted}, and its file holds rank {rank}.")
    largest = max([config.get("r", 8), *ranks.values()])
    if modules and largest > 8 * max(modules.values()):
        raise ModelError(f"{where}: rank {largest} is asked for, and its file's largest is {max(modules.values())}.")


def _ends(module: str, key: str) -> bool:
    name = key.replace("\\", "").removeprefix(".*.")
    return module == name or module.endswith("." + name)
