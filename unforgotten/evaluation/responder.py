"""Who replies: a model in this process, or one behind a server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from unforgotten.datasets.base import Row
from unforgotten.errors import RecipeError
from unforgotten.generation.reply import Reply
from unforgotten.runs import digests

if TYPE_CHECKING:
    from unforgotten.models.chat import Chat
    from unforgotten.recipe.evaluate import Evaluate

Progress = Callable[[int, int], None]
Say = Callable[[str], None]


class Model(Protocol):
    """What is asked: a model in this process, or one behind a server."""

    notes: list[str]
    """What happened that a reader of the figures should know."""

    @property
    def chat(self) -> Chat | None:
        """None where a server writes the prompts."""
        ...

    @property
    def weights_digest(self) -> str:
        """A digest, so that replies of other weights in the same folder are not taken for these."""
        ...

    def decoding(self) -> dict[str, Any]:
        """How replies are drawn, for results.json."""
        ...

    def loaded(self) -> str | None:
        """A digest of the weights that really reply; None where a server has them."""
        ...

    def generate(
        self, rows: Sequence[Row], resume_file: Path, progress: Progress, openings: Sequence[str] = ()
    ) -> list[Reply]:
        """One reply for each row; what is finished is written to `resume_file` as it comes.

        openings: for each row, words that its reply is forced to begin with.
        """
        ...


class LocalModel:
    """A model in this process, loaded when it is first asked something."""

    def __init__(
        self, load: Callable[[], Any], chat: Chat, weights_digest: str, settings: Evaluate, say: Say = lambda text: None
    ) -> None:
        self.notes: list[str] = []
        self._chat, self._weights_digest, self._load, self._settings, self._say = (
            chat,
            weights_digest,
            load,
            settings,
            say,
        )
        self._model: Any = None

    @property
    def chat(self) -> Chat:
        return self._chat

    @property
    def weights_digest(self) -> str:
        return self._weights_digest

    def decoding(self) -> dict[str, Any]:
        from unforgotten.generation.local import decoding

        return decoding(self.chat, max_new_tokens=self._settings.max_new_tokens, **self._drawn())

    def loaded(self) -> str | None:
        from unforgotten.models.fingerprint import loaded_digest

        return loaded_digest(self._here())

    def generate(
        self, rows: Sequence[Row], resume_file: Path, progress: Progress, openings: Sequence[str] = ()
    ) -> list[Reply]:
        from unforgotten.generation.local import generate

        return generate(
            self._here(),
            self.chat,
            rows,
            max_new_tokens=self._settings.max_new_tokens,
            batch_size=self._settings.batch_size,
            resume_file=resume_file,
            progress=progress,
            note=self._note,
            openings=openings,
            **self._drawn(),
        )

    def _drawn(self) -> dict[str, Any]:
        return {"temperature": self._settings.temperature, "top_p": self._settings.top_p}

    def _here(self) -> Any:
        if self._model is None:
            self._model = self._load()
        return self._model

    def _note(self, text: str) -> None:
        self.notes.append(text)
        self._say(f"Note: {text}")


class ServedModel:
    """A model behind an OpenAI-compatible server; prompts are written here, unless the server's own template is
    wanted."""

    def __init__(self, name: str, chat: Chat | None, settings: Evaluate) -> None:
        """name: what the server calls the model, where the recipe does not say."""
        from unforgotten.generation.endpoint import Endpoint

        assert settings.endpoint is not None
        self._chat, self._settings = chat, settings
        served = settings.endpoint
        fields = served.model_dump(exclude={"template", "model"})
        self._endpoint = Endpoint(model=served_name(settings, name), **fields)
        self.notes = [
            f"A server replied under the name {self._endpoint.model!r}; which weights it has is not known here."
        ]

    @property
    def chat(self) -> Chat | None:
        return self._chat

    @property
    def weights_digest(self) -> str:
        return served_digest(self._settings, self._endpoint.model)

    def decoding(self) -> dict[str, Any]:
        from unforgotten.generation.endpoint import decoding

        return decoding(self._endpoint, max_new_tokens=self._settings.max_new_tokens, **self._drawn())

    def loaded(self) -> str | None:
        return None

    def generate(
        self, rows: Sequence[Row], resume_file: Path, progress: Progress, openings: Sequence[str] = ()
    ) -> list[Reply]:
        from unforgotten.generation.endpoint import generate

        return generate(
            self._endpoint,
            rows,
            max_new_tokens=self._settings.max_new_tokens,
            chat=self.chat,
            resume_file=resume_file,
            progress=progress,
            openings=openings,
            **self._drawn(),
        )

    def _drawn(self) -> dict[str, Any]:
        return {"temperature": self._settings.temperature, "top_p": self._settings.top_p}


def served_digest(settings: Evaluate, name: str) -> str:
    """What stands for the weights of a served model, whose bytes nobody sees: its server and its name. Empty where the
    recipe has no server."""
    return digests.digest("served", settings.endpoint.url, served_name(settings, name)) if settings.endpoint else ""


def served_as(settings: Evaluate, name: str) -> str | None:
    """The name under which a server replied in the model's place; None where none did."""
    return served_name(settings, name) if settings.endpoint else None


def served_folder(run: Path, settings: Evaluate, weights_digest: str) -> Path:
    """Where figures are kept: the run's own folder, and one in it of what a server has under some name."""
    if settings.endpoint is None:
        return run
    return run / f"served-{digests.digest(weights_digest, settings.endpoint.public())}"


def served_name(settings: Evaluate, name: str) -> str:
    """What the server calls the model. Raises RecipeError where nothing says it: a folder is no name to a server."""
    assert settings.endpoint is not None
    if settings.endpoint.model is None and (Path(name).expanduser().is_dir() or not name):
        raise RecipeError(
            "evaluate.endpoint has no `model:`, the name by which the server knows this model; a folder is not one."
        )
    return settings.endpoint.model or name
