"""Where a model's files lie: a folder, or the Hub's cache, which is filled first; and whether it is ours alone."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Literal

from unforgotten.datasets.reading import files
from unforgotten.errors import ModelError
from unforgotten.models.folder import config, reading
from unforgotten.runs import digests

CHAT = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"),
    *("chat_template.json", "vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model", "spm.model"),
    *("sentencepiece.bpe.model", "sentencepiece.model", "tiktoken.model", "tekken.json", "bpe.codes", "emoji.json"),
    *("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"),
)
"""What tokenizers and processors open [huggingface/transformers: VOCAB_FILES_NAMES, from_pretrained]."""
TEMPLATES = "additional_chat_templates"
MODEL = ("config.json", "generation_config.json")
WHOLE, INDEX, ADAPTER = "model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors"
Part = Literal["all", "base", "adapter", "chat"]


def folder_of(called: str, revision: str | None, part: Part) -> Path:
    """The folder that a path or Hub id means. Raises ModelError where there is none."""
    folder = Path(called).expanduser()
    if folder.is_dir():
        return folder.resolve()
    if called.startswith((".", "/", "~")) or called.count("/") > 1 or "\\" in called or not called:
        raise ModelError(f"There is no model folder {called}. Give a folder, or a Hub id such as owner/name.")
    folder = _downloaded(called, revision, part).resolve()
    _refuse_another(folder, called)
    return folder


def _refuse_another(snapshot: Path, called: str) -> None:
    """Raises ModelError where a link or a ref in the Hub's cache leads to another model's snapshot, or out of it."""
    wanted = f"models--{called.replace('/', '--')}"
    if snapshot.parent.name != "snapshots" or snapshot.parent.parent.name != wanted:
        raise ModelError(
            f"{called}: its snapshot in the Hub's cache points to {snapshot}, outside {wanted}. Remove {wanted} from "
            "the cache, and download the model again."
        )


def is_ours(folder: Path) -> bool:
    """Can nobody else have written this folder, so that its large files need no copy?

    The Hub's cache of this user, our own cache, and run folders of this user that no other may write.
    """
    from huggingface_hub import constants

    for ours in (Path(constants.HF_HUB_CACHE), digests.cache_folder()):
        if folder.is_relative_to(ours.expanduser().resolve()):
            return True
    above = [folder, *folder.parents[:2]]
    runs = [f for f in above if (f / "environment.json").is_file() or (f / "aligned.json").is_file()]
    return (
        bool(runs)
        and all(_is_private(f) for f in (runs[0], folder, *_content(folder)))
        and not any(_is_open_to_all(f) for f in folder.parents)
    )


def _is_open_to_all(path: Path) -> bool:
    """May others rename what lies in this folder, so that a name in it means another folder a moment later?"""
    facts = path.stat()
    return bool(facts.st_mode & 0o022) and not facts.st_mode & stat.S_ISVTX


def _content(folder: Path) -> list[Path]:
    return [f for f in folder.rglob("*") if not f.name.startswith(".")]


def _is_private(path: Path) -> bool:
    facts = path.lstat()
    return facts.st_uid == os.geteuid() and not stat.S_ISLNK(facts.st_mode) and not facts.st_mode & 0o022


def _downloaded(name: str, revision: str | None, part: Part) -> Path:
    """Where a Hub model's files lie in the Hub's cache; what is missing there is downloaded."""
    if not files.is_hub_id(name) and not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
        raise ModelError(f"There is no model folder {name}. Give a folder, or a Hub id such as owner/name.")
    from huggingface_hub import constants, snapshot_download

    ref = Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}" / "refs" / (revision or "main")
    if ref.exists() and not ref.is_file():  # it would be read, and a pipe be waited for
        raise ModelError(f"{name}: {ref} in the Hub's cache is not a file. Remove it, and download the model again.")
    wanted = [*CHAT, f"{TEMPLATES}/*.jinja", *MODEL, "adapter_config.json"]
    wanted += [] if part == "chat" else [WHOLE, INDEX, ADAPTER]
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
        if part != "chat" and (more := _shards(folder, name)):
            snapshot_download(name, revision=folder.name, allow_patterns=more)
    except ModelError:
        raise
    except Exception as error:  # the Hub fails in a dozen classes of three packages
        why = " ".join(str(error).split())[:400]
        raise ModelError(f"{name} is not a folder, and the Hub cannot provide it: {why}") from error
    return folder


def _shards(folder: Path, called: str) -> list[str]:
    """Shards that the index names and the cache lacks."""
    index = folder / INDEX
    if not index.is_file() or (folder / WHOLE).is_file():
        return []
    where = reading.parse(index.read_bytes(), INDEX, called).get("weight_map")
    named = {config.inside(f, INDEX, called) for f in where.values()} if isinstance(where, dict) else set()
    return sorted(f for f in named if not (folder / f).is_file())
