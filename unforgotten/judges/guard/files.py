"""What is known of a guard without loading its weights."""

from __future__ import annotations

from pathlib import Path

from unforgotten.errors import ModelError
from unforgotten.models import fingerprint
from unforgotten.models.folder import pretrained
from unforgotten.models.folder.open import opened
from unforgotten.runs import digests


def check_model(name: str, *, revision: str | None = None) -> None:
    """Raises ModelError where a guard's configuration, or a folder's weights, are not there; loads no weights."""
    folder = Path(name).expanduser()
    place = opened(name, revision, "all" if folder.is_dir() else "chat")
    if place.config is None:
        raise ModelError("it has no config.json.")


def configured_context(name: str, *, revision: str | None = None) -> int | None:
    """The longest prompt with its answer that a model's configuration allows, in tokens; None where it says nothing."""
    config = pretrained.configuration(opened(name, revision, "chat"))
    return getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)


def weights_digest_of(name: str, revision: str | None) -> str:
    """A digest of a guard's files; of a Hub id or an address, of its name."""
    folder = Path(name).expanduser()
    return fingerprint.model_digest(name, revision) if folder.is_dir() else digests.digest(name, revision)
