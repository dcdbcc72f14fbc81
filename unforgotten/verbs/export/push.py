"""An export on the Hugging Face Hub, with what another form left there gone.

The Hub's client cuts a large folder into several commits; what is deleted is so in the first of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unforgotten.datasets.reading import files
from unforgotten.errors import RecipeError

STALE = ("*.safetensors", "*.json", "*.jinja")
"""What is deleted there where the new export has no such file: old shards beside a new adapter would be loaded."""


def ready(repository: str, api: Any = None) -> Any:
    """The Hub's client, signed in. Raises RecipeError for a name that is none, and where nobody is signed in.

    Asked before anything is loaded: an export takes long, and a token that is missing is told at once.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import LocalTokenNotFoundError

    if not files.is_hub_id(repository):
        raise RecipeError(f"--push takes OWNER/NAME, not {repository!r}.")
    api = api or HfApi()
    try:
        api.whoami()
    except LocalTokenNotFoundError:
        raise RecipeError(
            f"--push {repository} needs a token with write access. Run `hf auth login`, or set HF_TOKEN. Make a token "
            "at https://huggingface.co/settings/tokens."
        ) from None
    except Exception as error:  # the Hub fails in classes of several packages; each means that nothing can be pushed
        raise RecipeError(f"--push {repository}: the Hub rejects this token: {_first(error)}") from error
    return api


def push(api: Any, folder: Path, repository: str, private: bool, called: str) -> str:
    """Uploads the export and returns its address. Raises RecipeError; what lies in `folder` stays.

    private: a repository that is public already is refused, since making it anew would not hide it. called: the
    export's name in the commit's message.
    """
    try:
        address = str(api.create_repo(repository, private=private, exist_ok=True, repo_type="model"))
        hidden = bool(api.repo_info(repository, repo_type="model").private)
    except Exception as error:
        raise _failed(repository, folder, error) from error
    if private and not hidden:
        raise RecipeError(
            f"--private: {repository} is already public, so nothing was pushed. Make it private in its settings, or "
            f"name another repository. The export is in {folder}."
        )
    try:
        api.upload_folder(
            repo_id=repository, folder_path=folder, delete_patterns=list(STALE), commit_message=f"Export of {called}"
        )
    except Exception as error:
        raise _failed(repository, folder, error) from error
    return address


def _failed(repository: str, folder: Path, error: Exception) -> RecipeError:
    return RecipeError(
        f"--push {repository} failed: {_first(error)} The export is complete in {folder}: `hf upload {repository} "
        f"{folder}` tries again."
    )


def _first(error: Exception) -> str:
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first.rstrip('.')}."
