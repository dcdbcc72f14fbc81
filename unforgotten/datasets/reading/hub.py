"""The Hugging Face Hub: the rows of a dataset, or one file of its repository; what fails is said with the way round it.

Nothing is imported before it is asked for: `datasets` is an optional extra, `huggingface_hub` comes with transformers.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unforgotten.errors import DataError

A_FILE = "a local file"
"""Text on what `path:` takes, if a dataset does not give a more exact one."""


def rows(
    name: str, config: str | None, split: str, *, instead: str = A_FILE, builder: str = "", **options: Any
) -> Iterator[dict[str, Any]]:
    """The rows of one split, in order. With `streaming=True` only what is taken is downloaded.

    instead: what the user may give in its place. builder: reads the `data_files` among the options by themselves, for
    a repository whose loading script `datasets` no longer runs. The other options are load_dataset's.
    """
    try:
        from datasets import load_dataset
    except ImportError:
        raise DataError(
            f"{name} is not a local file. For a Hub dataset, run `pip install 'unforgotten[data]'`. Or give `path:` "
            f"{instead}."
        ) from None
    try:
        yield from map(dict, load_dataset(builder or name, config, split=split, **options))
    except Exception as error:  # the Hub fails in a dozen classes of three packages; each means that there are no rows
        raise _refused(name, f"split {split}", error, instead) from error


def file(name: str, filename: str, *, instead: str = A_FILE) -> Path:
    """One file of a dataset's repository, downloaded once."""
    try:
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(name, filename, repo_type="dataset"))
    except Exception as error:
        raise _refused(name, filename, error, instead) from error


def _refused(name: str, what: str, error: Exception, instead: str) -> DataError:
    first = (str(error).strip().splitlines() or [""])[0]
    return DataError(
        f"{name} ({what}) cannot be read from the Hub: {type(error).__name__}: {first.rstrip('.')}.\nIf it is gated, "
        f"accept its terms at https://huggingface.co/datasets/{name} and run `hf auth login`. Or give `path:` "
        f"{instead}."
    )
