"""Digests of settings, the record of the environment, and facts without the paths of this machine. No torch here."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import metadata
from pathlib import Path
from typing import Any

from unforgotten.runs.trust import cache_folder as cache_folder

RECORDED = (
    "unforgotten",
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "tokenizers",
    "safetensors",
    "bitsandbytes",
    "trl",
    "datasets",
)


def digest(*facts: Any) -> str:
    """12 hex digits over JSON-like facts; enough to tell runs apart, short enough for a folder name."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str, ensure_ascii=False).encode()).hexdigest()[:12]


_full: ContextVar[bool] = ContextVar("full", default=False)


@contextmanager
def in_full() -> Iterator[None]:
    """Within it every byte of a model is read for its digest, whatever is remembered of its files: for a gate."""
    before = _full.set(True)
    try:
        yield
    finally:
        _full.reset(before)


def reads_in_full() -> bool:
    """Whether digests are of bytes read now."""
    return _full.get()


def environment() -> dict[str, Any]:
    """Versions, hardware and, in a checkout, the commit: what environment.json starts from."""
    versions = {}
    for name in RECORDED:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    facts = {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "versions": versions,
    }
    here = Path(__file__).parents[1]
    if (here.parent / ".git").exists():
        asked = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False)
        if asked.returncode == 0:
            facts["commit"] = asked.stdout.strip()
    return facts


def public_name(model: str | None) -> str | None:
    """A Hub id as it is; of a folder its last name, so that no path of this machine travels."""
    return Path(model).expanduser().name if model and Path(model).expanduser().is_dir() else model


def public(value: Any) -> Any:
    """The same without paths of this machine: of an absolute one its last name is kept."""
    if isinstance(value, dict):
        return {key: public(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [public(inner) for inner in value]
    if isinstance(value, str) and (value.startswith(("/", "~")) or value[1:3] in (":\\", ":/")):
        return "…/" + value.replace("\\", "/").rstrip("/").rpartition("/")[2]
    return value
