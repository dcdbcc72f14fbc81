"""The one way to open a model's folder or Hub id: what Transformers would read of it, from within its own store.

The store is the folder itself; of a Hub snapshot (`models--owner--name/snapshots/<revision>`, whose files are links)
the `models--…` folder. What is listed is bounded, checked and gathered in a private folder, from which the model is
loaded, served and bundled: large files of a stranger are copied there, so that what was checked cannot be exchanged.
Large files of the Hub's cache, of our own cache and of run folders that nobody else can write are linked to instead,
but for a gate and the export after it (digests.in_full), which read, load and release the copy.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unforgotten.errors import ModelError
from unforgotten.models.folder import adapter as adapters
from unforgotten.models.folder import beneath, header, reading, store, tokenizer
from unforgotten.models.folder import config as configs
from unforgotten.models.folder.limits import limit
from unforgotten.models.folder.place import ADAPTER, CHAT, INDEX, TEMPLATES, WHOLE, Part, folder_of, is_ours
from unforgotten.runs import digests

WORDS = (".txt", ".model", ".codes")


@dataclass(frozen=True)
class Opened:
    """A model's files, listed, checked and gathered."""

    path: Path
    """A private folder with these files and no others: what Transformers, PEFT and safetensors are given."""
    called: str
    """The name that the user gave."""
    digest: str
    """12 hex digits over names and contents of its files."""
    files: tuple[str, ...]
    tensors: header.Shapes = field(repr=False)
    """Files of whole weights, not of an adapter."""
    config: dict[str, Any] | None = field(repr=False)
    adapter: dict[str, Any] | None = field(repr=False)

    @property
    def is_adapter(self) -> bool:
        """An adapter on another model?"""
        return self.adapter is not None and self.config is None

    @property
    def is_bundled(self) -> bool:
        """A base and an adapter together?"""
        return self.adapter is not None and self.config is not None

    @property
    def weights(self) -> list[str]:
        """Files of whole weights, with the index where there is one."""
        return [f for f in self.files if _is_weights(f) and f != ADAPTER]


_pins: ContextVar[dict[tuple[str, str], Any] | None] = ContextVar("pins", default=None)


@contextmanager
def pinned() -> Iterator[None]:
    """Within it each file is read once: what is opened again is what was opened first, whatever happened to it since.

    So that the digest, the model that replies and what is exported are of the same bytes.
    """
    if _pins.get() is not None:
        yield
        return
    before = _pins.set({})
    try:
        yield
    finally:
        _pins.reset(before)


def opened(model: str | Path, revision: str | None = None, part: Part = "all") -> Opened:
    """Opens a model. part: `base` leaves out an adapter that lies beside it, `adapter` the base, `chat` all weights.

    Raises ModelError for what leads out of the folder, is beyond a bound, or is no model.
    """
    called, pins = str(model), _pins.get()
    folder = folder_of(called, revision, part)
    if pins is not None:  # the place is pinned too: a link put where it was, or another ref, would lead elsewhere
        folder = pins.setdefault((f"place {revision}", os.path.abspath(Path(called).expanduser())), folder)
    return _Opening(folder, called, part).opened()


class _Opening:
    def __init__(self, folder: Path, called: str, part: Part) -> None:
        self.folder, self.called, self.part = folder, called, part
        snapshot = folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--")
        self.store = folder.parent.parent if snapshot else folder
        self.prefix = f"snapshots/{folder.name}/" if snapshot else ""
        self.ours = folder.parent == store.home() / "folders"
        """Gathered by us before, with links into the store."""
        self.trusted = self.ours or is_ours(folder)
        self.items: dict[str, store.Item] = {}
        self.copied = [0, 0]
        self.room = limit("UNFORGOTTEN_MAX_MODEL_GB") * 1e9

    def opened(self) -> Opened:
        with beneath.root(self.store) as self.top:
            wanted = self.part
            config = adapter = None
            tensors: header.Shapes = {}
            if wanted in ("all", "base", "chat"):
                config = self._json("config.json")
            if wanted in ("all", "adapter"):
                adapter = self._json("adapter_config.json")
            if wanted == "base" and config is None:
                raise ModelError(f"{self.called} has no config.json, so it is not a whole model.")
            if config is not None:
                configs.check(config, self.called)
            if wanted == "adapter" and adapter is None:
                raise ModelError(f"{self.called} has no adapter_config.json, so it is not an adapter.")
            if wanted in ("all", "base") and (config is not None or adapter is None):
                tensors = self._weights(config or {})
                configs.check(config or {}, self.called, tensors)
            if adapter is not None:
                self._adapter(adapter)
            self._json("generation_config.json")
            if wanted in ("all", "chat"):
                self._chat()
        if self.copied[1] >= store.TOLD:
            count, gigabytes = self.copied[0], self.copied[1] / 1e9
            print(f"Copied {count} files, {gigabytes:.1f} GB, into the private store {store.home()}.", file=sys.stderr)
        items = sorted(self.items.values(), key=lambda item: item.name)
        path = store.folder(items)
        digest = digests.digest([(item.name, item.sha256) for item in items])
        return Opened(path, self.called, digest, tuple(i.name for i in items), tensors, config, adapter)

    def _open(self, name: str, most_bytes: float) -> int | None:
        if self.ours:
            file = self.folder / name
            descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC) if file.is_file() else None
        else:
            descriptor = beneath.open_file(self.top, self.prefix + name, self.called)
        if descriptor is None:
            return None
        size = os.fstat(descriptor).st_size
        self.room -= size
        if size > most_bytes or self.room < 0:
            os.close(descriptor)
            raise ModelError(f"{self.called}: {name} has {size / 1e6:.0f} MB, more than the limit for a model's file.")
        return descriptor

    def _small(self, name: str, megabytes: float | None = None) -> bytes | None:
        """A small file's bytes, listed as they are."""
        pins, key = _pins.get(), (str(self.store), self.prefix + name)
        if pins is not None and key in pins:
            content = pins[key]
        else:
            descriptor = self._open(name, (megabytes or limit("UNFORGOTTEN_MAX_JSON_MB")) * 1e6)
            content = None if descriptor is None else store.small(descriptor)
        if pins is not None:
            pins[key] = content
        if content is not None:
            self.items[name] = store.Item(name, store.hashed(content), content=content)
        return content

    def _json(self, name: str) -> dict[str, Any] | None:
        content = self._small(name)
        return None if content is None else reading.parse(content, name, self.called)

    def _rewrite(self, name: str, facts: dict[str, Any]) -> None:
        content = (json.dumps(facts, indent=2, ensure_ascii=False) + "\n").encode()
        self.items[name] = store.Item(name, self.items[name].sha256, content=content)

    def _large(self, name: str) -> header.Shapes | None:
        pins, key = _pins.get(), (str(self.store), self.prefix + name)
        if pins is None or key not in pins:
            gathered = self._gathered(name)
            if pins is not None:
                pins[key] = gathered
        else:
            gathered = pins[key]
        if gathered is None:
            return None
        self.items[name], tensors = gathered
        return tensors

    def _gathered(self, name: str) -> tuple[store.Item, header.Shapes] | None:
        descriptor = self._open(name, float("inf"))
        if descriptor is None:
            return None
        try:
            again = digests.reads_in_full()
            link = (self.store / self.prefix / name).resolve()
            # A gate and an export answer for bytes, so that even what is ours is copied: its folder may change later.
            if link.is_relative_to(store.home() / "blobs") if again else self.trusted:
                sha256 = store.sha256(descriptor, again=again)
            else:
                sha256, link, size = store.blob(descriptor, again=again)
                self.copied = [self.copied[0] + bool(size), self.copied[1] + size]
        finally:
            os.close(descriptor)
        with link.open("rb") as source:
            return store.Item(name, sha256, link=link), header.shapes(source.fileno(), name, self.called)

    def _weights(self, config: dict[str, Any]) -> header.Shapes:
        explicit = configs.weights_file(config, self.called)
        single = explicit or WHOLE
        if not single.endswith(".index.json"):
            shapes = self._large(single)
            if shapes is not None:
                return shapes
        index_name = explicit if explicit and explicit.endswith(".index.json") else INDEX
        index = self._json(index_name) if explicit in (None, index_name) else None
        if index is None:
            raise ModelError(f"{self.called} has no model weights in safetensors (pickled .bin files are not read).")
        where = index.get("weight_map")
        if not isinstance(where, dict) or not where or not isinstance(index.get("metadata", {}), dict):
            raise ModelError(f"{self.called}: {index_name} has no weight_map with each tensor's file.")
        tensors: header.Shapes = {}
        base = index_name.rpartition("/")[0]
        for shard in sorted({configs.inside(f, index_name, self.called) for f in where.values()}):
            name = f"{base}/{shard}" if base else shard
            if not name.endswith(".safetensors") or name.rpartition("/")[2].startswith("adapter_"):
                raise ModelError(f"{self.called}: {index_name} names {shard!r}, which is not a file of whole weights.")
            inside = self._large(name)
            if inside is None:
                raise ModelError(
                    f"{self.called}: {index_name} names {shard!r}, but that file is missing. Download it again."
                )
            if twice := sorted(set(inside) & set(tensors)):
                raise ModelError(f"{self.called}: {twice[0]!r} is in two files of weights. Remove one of them.")
            if lost := sorted(t for t, f in where.items() if f == shard and t not in inside):
                raise ModelError(f"{self.called}: {shard} lacks {lost[0]!r}, which {index_name} places there.")
            tensors |= inside
        return tensors

    def _adapter(self, adapter: dict[str, Any]) -> None:
        tensors = self._large(ADAPTER)
        if tensors is None:
            raise ModelError(f"{self.called} has no {ADAPTER} (pickled adapters are not read).")
        right = adapters.checked(adapter, tensors, self.called)
        if right is not adapter:
            self._rewrite("adapter_config.json", right)
            adapter |= right

    def _chat(self) -> None:
        for name in CHAT:
            if name == "tokenizer.json":
                content = self._small(name, limit("UNFORGOTTEN_MAX_TOKENIZER_MB"))
                if content is not None:
                    tokenizer.check(content, self.called)
            elif name.endswith(".json"):
                facts = self._json(name)
                if name == "tokenizer_config.json" and facts is not None:
                    self._tokenizer_config(facts)
                elif name in ("special_tokens_map.json", "added_tokens.json") and facts is not None:
                    tokenizer.tokens_of(facts, name, self.called)
                elif name == "vocab.json" and len(facts or ()) > tokenizer.MOST_LINES:
                    raise ModelError(f"{self.called}: {name} has more than {tokenizer.MOST_LINES:,} tokens.")
            elif (content := self._small(name)) is not None and name.endswith(".txt"):
                tokenizer.lines_of(content, name, self.called)
        for name in self._templates():
            if name.endswith(".jinja"):
                self._small(f"{TEMPLATES}/{name}")

    def _templates(self) -> list[str]:
        pins, key = _pins.get(), (str(self.store), f"{self.prefix}{TEMPLATES}/")
        if pins is None:
            return beneath.names(self.top, self.prefix + TEMPLATES, self.called)
        if key not in pins:
            pins[key] = beneath.names(self.top, self.prefix + TEMPLATES, self.called)
        return list(pins[key])

    def _tokenizer_config(self, facts: dict[str, Any]) -> None:
        for name in tokenizer.versions(facts, self.called):
            content = self._small(name, limit("UNFORGOTTEN_MAX_TOKENIZER_MB"))
            if content is not None:
                tokenizer.check(content, self.called)
        right = tokenizer.configured(facts, self.called)
        if right is not facts:
            self._rewrite("tokenizer_config.json", right)


def _is_weights(name: str) -> bool:
    return name.endswith((".safetensors", ".safetensors.index.json"))
