"""`Shelf` holds the last base model in memory, so that several adapters are put on it one after another."""

from __future__ import annotations

import gc
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unforgotten.datasets.reading import files
from unforgotten.errors import DataError, ModelError
from unforgotten.models import fingerprint
from unforgotten.models.folder.adapter import base_of
from unforgotten.models.folder.open import opened
from unforgotten.recipe.aligned import Aligned
from unforgotten.runs import digests, variables

if TYPE_CHECKING:
    from unforgotten.models.chat import Chat
    from unforgotten.recipe.recipe import Recipe


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
        from unforgotten.models import load
        from unforgotten.runs import bars

        bars.hush()
        if isinstance(target, Aligned):
            if target.full:
                revision = None if target.by_align_stage else target.revision
                return self._plain(target.full, revision, recipe.dtype, recipe.load_in, merge=True)
            return self._put(str(target.adapter), target.base, target.revision, recipe)
        name = str(part_of(target)) if isinstance(target, Path) else target
        if load.is_adapter(name):
            config = _config(name)
            base = base_of(config, name, (recipe.model, recipe.unaligned_model))
            return self._put(name, base, config.get("revision"), recipe)
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

        from unforgotten.models import load

        bundled = load.is_bundled(name) and load_in is None
        key = (str(Path(name).expanduser()), revision, dtype, load_in, merge and bundled)
        if key != self._key:
            self.clear()
            model = load.load_model(name, revision=revision, dtype=dtype, merge=merge, load_in=load_in)
            self.loads += 1
            if load_in is None:  # quantised weights are made where they stay
                model = model.to("cuda" if torch.cuda.is_available() else "cpu")
            self._base, self._key = model, key
        elif self._adapted is not None:
            self._base = self._adapted.unload()
        self._adapted = None
        model = self._base
        if bundled and not merge:
            self.clear()  # an adapter that transformers put on itself cannot be taken off
        return model

    def _put(self, adapter: str, base: str, revision: str | None, recipe: Recipe) -> Any:
        from unforgotten.models import load

        below = self._plain(base, revision, recipe.dtype, recipe.load_in)
        adapted = load.put_adapter(below, adapter, "default", trainable=False, keeps_base=False)
        if _changes_base(_config(adapter)):
            self.clear()
        else:
            self._adapted = adapted
        return adapted


def chat_of(target: Path | str | Aligned, recipe: Recipe) -> Chat:
    """Tokenizer and template of the same, without any weights."""
    from unforgotten.models import load
    from unforgotten.models.locate_aligned import aligned_chat
    from unforgotten.runs import bars

    bars.hush()
    if isinstance(target, Aligned):
        return aligned_chat(recipe, target)
    if isinstance(target, Path):
        return load.load_chat(str(part_of(target)))
    return load.load_chat(
        target, revision=recipe.revision, template=recipe.template, date=recipe.date, variables=recipe.variables
    )


def part_of(run: Path) -> Path:
    """Where a run's weights are."""
    part = run / ("adapter" if (run / "adapter").is_dir() else "model")
    if part.is_symlink():
        raise ModelError(f"{part} is a link. Links out of a run folder are not followed. Put the folder itself there.")
    return part


def weights_digest_of(model: str, recipe: Recipe) -> str:
    """A digest of what a model's weights hang on: its files, those of the base below an adapter, the precision."""
    inside = Path(model).expanduser().is_dir()
    parts = [fingerprint.model_digest(model, None if inside else recipe.revision)]
    if not inside and digests.reads_in_full():  # a gate judges bytes, not what a name means today
        parts.append(opened(model, recipe.revision).digest)
    if inside and (Path(model).expanduser() / "adapter_config.json").is_file():
        parts.append(_below(model, recipe))
    parts += [recipe.dtype] if recipe.dtype != "auto" else []
    parts += [recipe.load_in] if recipe.load_in else []
    return parts[0] if len(parts) == 1 else digests.digest(parts)


def _below(model: str, recipe: Recipe) -> str:
    """What stands for the base of an adapter: the name of what is bundled with it, else the base's own digest."""
    place = opened(model)
    config = place.adapter or {}
    if place.is_bundled:  # its bytes are in the folder's digest
        return str(config.get("base_model_name_or_path"))
    base = base_of(config, model, (recipe.model, recipe.unaligned_model))
    if _is_gone(base):
        return base
    digest = fingerprint.model_digest(base, config.get("revision"))
    if digests.reads_in_full() and not Path(base).expanduser().is_dir():  # of a Hub id that is a name alone
        digest = digests.digest([digest, opened(base, config.get("revision"), part="base").digest])
    return digest


def _is_gone(model: str) -> bool:
    """A folder that is no longer there: figures that were measured can still be read."""
    return not Path(model).expanduser().is_dir() and (model.startswith((".", "/", "~")) or model.count("/") > 1)


def aligned_of_record(recorded: dict[str, Any], folder: Path, recipe: Recipe) -> Aligned:
    """Where a run's record says that θ_safe is. Raises ModelError for a folder that neither its recipe nor we name."""
    from unforgotten.models.locate_aligned import unaligned

    try:
        where = Aligned.of_json({key: _filled(key, value) for key, value in recorded.items()})
    except TypeError as error:
        raise DataError(f"{folder / 'environment.json'}: aligned is not as we write it ({error}).") from None
    named = [recipe.model, recipe.unaligned_model, unaligned(recipe)]
    if where.by_align_stage:
        if re.fullmatch(r"[0-9a-f]{12}", where.digest) is None:
            raise ModelError(f"{folder}: environment.json gives the aligned model the digest {where.digest[:40]!r}.")
        aligned_folder = Path(recipe.out) / "aligned" / where.digest
        named += [str(aligned_folder), str(aligned_folder / "adapter")]
    allowed = {Path(name).expanduser().resolve() for name in named if name}
    for path in (where.base, where.full, where.adapter, where.chat):
        local = path and (Path(path).expanduser().exists() or not files.is_hub_id(path))
        if path and local and Path(path).expanduser().resolve() not in allowed and not _elsewhere(where, path):
            raise ModelError(
                f"{folder}: environment.json names {path!r}, but its recipe does not. The path is not followed."
            )
    return where


def _filled(key: str, value: Any) -> Any:
    """A field of the record, with the variables that `--allow-env` kept out of it. Raises TypeError for other types."""
    if key == "made" and isinstance(value, bool):
        return value
    if not isinstance(value, str) and not (value is None and key not in ("made", "base", "digest", "chat")):
        raise TypeError(f"{key} is {value!r:.40}")
    return value if value is None else variables.expand(value)


def _elsewhere(where: Aligned, path: str) -> bool:
    """A place that was the aligned model's before the run was moved: it is not there any more, so nothing is read."""
    return where.by_align_stage and not Path(path).expanduser().exists()


def _config(adapter: str) -> dict[str, Any]:
    return dict(opened(adapter, part="adapter").adapter or {})


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
