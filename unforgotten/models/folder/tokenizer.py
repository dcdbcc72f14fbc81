"""A stranger's tokenizer.json, read first in a child that the parent can end: its patterns and tables are programs."""

from __future__ import annotations

import hashlib
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from unforgotten.errors import ModelError
from unforgotten.models.folder import store
from unforgotten.models.folder.config import inside
from unforgotten.models.folder.limits import limit
from unforgotten.runs import atomic

VERSION = 2
"""Of the probe: what passed an older one is asked again."""

MOST_SPECIAL, MOST_TOKEN, MOST_LINES = 5_000, 1_000, 600_000
"""Special tokens that a configuration lists, characters of one, lines of vocab.txt and merges.txt."""


def check(content: bytes, called: str) -> None:
    """Reads tokenizer.json and encodes a probe in a child. Raises ModelError; the same content is asked once."""
    bounds = [limit(f"UNFORGOTTEN_{name}") for name in ("TOKENIZER_SECONDS", "TOKENIZER_GB", "MAX_ADDED_TOKENS")]
    facts = f"{VERSION} {bounds} {hashlib.sha256(content).hexdigest()}"
    passed = store.home() / "digests" / f"tokenizer-{hashlib.sha256(facts.encode()).hexdigest()}"
    if passed.is_file():
        return
    if why := _asked(content, *bounds):
        raise ModelError(f"{called}: tokenizer.json is refused: {why}.")
    atomic.put(passed, "ok")


def _asked(content: bytes, seconds: float, gigabytes: float, most_added: float) -> str:
    import importlib.util

    with store.scratch() as part:
        part.write_bytes(content)
        spec = importlib.util.find_spec("tokenizers")
        if spec is None or not spec.submodule_search_locations:
            raise ModelError(
                "The package tokenizers is not installed, but transformers needs it. Run `pip install tokenizers`."
            )
        site = str(Path(next(iter(spec.submodule_search_locations))).parent)
        numbers = [str(math.ceil(n)) for n in (seconds, gigabytes * 1e9, most_added)]
        command = [sys.executable, "-I", "-S", probe_tokenizer_file(), site, str(part), *numbers]
        surroundings = {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "RUST_BACKTRACE": "0"}
        if "LD_LIBRARY_PATH" in os.environ:
            surroundings["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
        try:
            done = subprocess.run(
                command, env=surroundings, capture_output=True, text=True, timeout=6 * seconds, check=False
            )
        except subprocess.TimeoutExpired:
            return f"it takes more than {seconds:g} s (UNFORGOTTEN_TOKENIZER_SECONDS)"
    said = done.stdout.strip()
    if said == "ok":
        return ""
    if said:
        return said
    return (
        f"it takes more than {seconds:g} s of processor time or {gigabytes:g} GB "
        "(UNFORGOTTEN_TOKENIZER_SECONDS, UNFORGOTTEN_TOKENIZER_GB)"
    )


def probe_tokenizer_file() -> str:
    """The script that the child runs."""
    return str(Path(__file__).with_name("probe_tokenizer.py"))


def configured(config: dict[str, Any], called: str) -> dict[str, Any]:
    """tokenizer_config.json as it is to be read: without the files that it names itself. Raises ModelError."""
    tokens_of(config, "tokenizer_config.json", called)
    for index in config.get("added_tokens_decoder") or {}:
        if not re.fullmatch(r"\d{1,8}", str(index)):
            raise ModelError(f"{called}: tokenizer_config.json: {str(index)[:40]!r} is not the number of a token.")
    length = config.get("model_max_length")
    if length is not None and (type(length) not in (int, float) or length < 1):
        raise ModelError(
            f"{called}: tokenizer_config.json: model_max_length is {str(length)[:40]!r}, which is not a length."
        )
    dropped = {k for k, v in config.items() if (k.endswith("_file") and v is not None) or (k == "init_inputs" and v)}
    return {key: value for key, value in config.items() if key not in dropped} if dropped else config


def tokens_of(config: dict[str, Any], file: str, called: str) -> None:
    """Raises ModelError for more or longer tokens than Transformers adds in a few seconds; it adds them one by one."""
    most = int(limit("UNFORGOTTEN_MAX_ADDED_TOKENS"))
    if file == "added_tokens.json" and len(config) > most:
        raise ModelError(f"{called}: {file} has {len(config)} tokens, more than {most} (UNFORGOTTEN_MAX_ADDED_TOKENS).")
    for field, value in config.items():
        if field == "added_tokens_decoder" and isinstance(value, dict):
            if len(value) > most:
                raise ModelError(
                    f"{called}: {file}: {field} has {len(value)} entries, more than {most} "
                    "(UNFORGOTTEN_MAX_ADDED_TOKENS)."
                )
        elif isinstance(value, (dict, list)) and len(value) > MOST_SPECIAL and field != "chat_template":
            raise ModelError(f"{called}: {file}: {field} has {len(value)} entries, more than {MOST_SPECIAL:,}.")
        text = value.get("content") if isinstance(value, dict) else value
        if field.endswith("_token") and isinstance(text, str) and len(text) > MOST_TOKEN:
            raise ModelError(f"{called}: {file}: {field} has {len(text)} characters, more than {MOST_TOKEN:,}.")


def lines_of(content: bytes, file: str, called: str) -> None:
    """Raises ModelError for a vocabulary or merges that Transformers would read for minutes, line by line."""
    if (count := content.count(b"\n")) > MOST_LINES:
        raise ModelError(f"{called}: {file} has {count} lines, more than {MOST_LINES:,}.")


def versions(config: dict[str, Any], called: str) -> list[str]:
    """Names that tokenizer_config.json gives for tokenizer.json of other versions of Transformers."""
    named = config.get("fast_tokenizer_files") or []
    if not isinstance(named, list) or len(named) > 20:
        raise ModelError(f"{called}: tokenizer_config.json: fast_tokenizer_files is not a short list of files.")
    return [inside(name, "tokenizer_config.json", called) for name in named]
