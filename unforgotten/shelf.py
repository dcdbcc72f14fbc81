"""Models to be evaluated, with the last base kept: several adapters of one base are put on it one after another."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unforgotten import files
from unforgotten.align import Aligned

if TYPE_CHECKING:
    from unforgotten.chat import Chat
    from unforgotten.recipe import Recipe


class Shelf:
    """Holds one base at a time, and takes the adapter off it that it had before."""

    def __init__(self) -> None:
        self._key: tuple[Any, ...] | None = None
        self._base: Any = None
        self._adapted: Any = None
        self.loads = 0
        """How often weights of a whole model were read."""

    def model(self, target: Path | str | Aligned, recipe: Recipe) -> Any:
        """θ_safe, the model of a run folder, or that of a model folder or Hub id; on the GPU where there is one."""
        from unforgotten.training import load, watch

        watch.hush()
        if isinstance(target, Aligned):
            if target.full:
                revision = None if target.made else target.revision
                return self._plain(target.full, revision, recipe.dtype, recipe.load_in, merge=True)
            return self._put(str(target.adapter), target.base, target.revision, recipe)
        name = str(part_of(target)) if isinstance(target, Path) else target
        if load.is_adapter(name):
            config = _config(name)
            return self._put(name, str(config["base_model_name_or_path"]), config.get("revision"), recipe)
        if recipe.load_in and load.is_bundled(name):
            return self._put(name, name, None, recipe)
        inside = Path(name).expanduser().is_dir()
        return self._plain(name, None if inside else recipe.revision, recipe.dtype, recipe.load_in)

    def clear(self) -> None:
        """Gives the memory back."""
        self._key = self._base = self._adapted = None
        gc.collect()
        import torch

        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _plain(
        self, name: str, revision: str | None, dtype: str, load_in: str | None = None, merge: bool = False
    ) -> Any:
        """A whole model, without any adapter that lay on it."""
        import torch

        from unforgotten.training import load

        bundled = load.is_bundled(name) and load_in is None
        key = (str(Path(name).expanduser()), revision, dtype, load_in, merge and bundled)
        if key != self._key:
            self.clear()
            found = load.load_model(name, revision=revision, dtype=dtype, merge=merge, load_in=load_in)
            self.loads += 1
            if load_in is None:  # quantised weights are made where they stay
                found = found.to("cuda" if torch.cuda.is_available() else "cpu")
            self._base, self._key = found, key
        elif self._adapted is not None:
            self._base = self._adapted.unload()
        self._adapted = None
        found = self._base
        if bundled and not merge:
            self.clear()  # an adapter that transformers put on itself cannot be taken off
        return found

    def _put(self, adapter: str, base: str, revision: str | None, recipe: Recipe) -> Any:
        from unforgotten.training import load

        below = self._plain(base, revision, recipe.dtype, recipe.load_in)
        made = load.put_adapter(below, adapter, "default", trainable=False, keeps_base=False)
        if _changes_base(_config(adapter)):
            self.clear()
        else:
            self._adapted = made
        return made


def chat_of(target: Path | str | Aligned, recipe: Recipe) -> Chat:
    """Tokenizer and template of the same, without any weights."""
    from unforgotten.finetune import aligned_chat
    from unforgotten.training import load, watch

    watch.hush()
    if isinstance(target, Aligned):
        return aligned_chat(recipe, target)
    if isinstance(target, Path):
        return load.load_chat(str(part_of(target)))
    return load.load_chat(
        target, revision=recipe.revision, template=recipe.template, date=recipe.date, variables=recipe.variables
    )


def part_of(run: Path) -> Path:
    """Where a run's weights are."""
    return run / ("adapter" if (run / "adapter").is_dir() else "model")


def _config(adapter: str) -> dict[str, Any]:
    folder = Path(adapter).expanduser()
    if folder.is_dir():
        return files.record(folder / "adapter_config.json")
    from peft import PeftConfig

    return dict(PeftConfig.from_pretrained(adapter).to_dict())


def _changes_base(config: dict[str, Any]) -> bool:
    """Does taking the adapter off leave something behind? PEFT's `unload` keeps whole modules and biases, and inits
    such as PiSSA's change the base itself."""
    return (
        config.get("peft_type") != "LORA"
        or config.get("init_lora_weights", True) not in (True, False, "gaussian")
        or bool(config.get("modules_to_save"))
        or bool(config.get("trainable_token_indices"))
        or config.get("bias", "none") != "none"
    )
