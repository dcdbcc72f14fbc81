"""The model makes up requests: what it is given to go on from, and how a request is read off what it writes.

chat        the user asks for the request that was refused in a domain, and the answer is begun for the model:
            Sure, the \\textbf{specific request} is "  …  up to the closing quote            [chili-lab/gr-sap]
user_turn   the template up to where the user's words begin; the model goes on as the user      [Magpie, 2406.08464]
text        an opening without any template

An opening that ends in a quote is closed by the next one, and the request is what lies between; any other opening of a
user turn or text is the request's own beginning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unforgotten.errors import RecipeError
from unforgotten.models.chat import Chat
from unforgotten.verbs.synthesize.domains import DOMAINS

if TYPE_CHECKING:
    from unforgotten.recipe.synthesize import Domain, Synthesize

OPENING = 'Sure, the \\textbf{specific request} is "'
SHORTEST = 8
"""Minimum number of letters in a request."""


@dataclass(frozen=True)
class Prompt:
    """What the model goes on from, for one domain."""

    name: str
    """The domain. Empty if the model is not given one."""
    topic: str
    """The domain's seed text, with which requests are compared."""
    ids: list[int]
    stop_ids: tuple[int, ...]
    """Tokens that end a draw, besides the model's own end tokens."""
    own: int
    """Number of ids at the prompt's end that are the beginning of the request itself."""
    quoted: bool
    mark: str
    """Text that ends the user's turn, if no single token does."""

    @property
    def directed(self) -> bool:
        """The model is told which harm the request is to be of; otherwise it asks for whatever users ask."""
        return bool(self.name)


@dataclass(frozen=True)
class DrawnRequest:
    """What the model made up, and what it went on from."""

    text: str
    prompt: Prompt


def prompts(chat: Chat, settings: Synthesize) -> list[Prompt]:
    """One for each domain. Raises RecipeError where domains would not differ."""
    if settings.prefix != "chat" and settings.domains is None and "{" not in (settings.opening or ""):
        return [_prompt(chat, settings, "", "", settings.opening or "")]
    from unforgotten.recipe.synthesize import Domain

    domains = settings.domains or [Domain(name=name, description=about) for name, about in DOMAINS]
    return [_prompt(chat, settings, domain.name, domain.description, _opening(settings, domain)) for domain in domains]


def read(chat: Chat, prompt: Prompt, ids: Sequence[int]) -> str | None:
    """The request in a draw; None where it came to no end, holds control tokens, or is too short."""
    ended = bool(ids) and ids[-1] in {*chat.end_ids, *prompt.stop_ids}
    body = list(ids[:-1] if ended else ids)
    if not prompt.quoted and set(body) & set(chat.tokenizer.all_special_ids):
        return None
    text = chat.decode([*prompt.ids[len(prompt.ids) - prompt.own :], *body])
    if prompt.quoted:
        text, quote, _ = text.partition('"')
        ended = bool(quote)
    elif prompt.mark and prompt.mark in text:
        text, ended = text.partition(prompt.mark)[0], True
    text = text.strip().strip('"“”').strip()
    return text if ended and sum(letter.isalnum() for letter in text) >= SHORTEST else None


def _opening(settings: Synthesize, domain: Domain) -> str:
    given = settings.opening if domain.opening is None else domain.opening
    if settings.prefix == "chat":
        given = OPENING if given is None else given
    elif given is None or (domain.opening is None and "{" not in given and len(settings.domains or []) > 1):
        raise RecipeError(
            f"synthesize: with prefix: {settings.prefix} the prompt does not name the domain {domain.name!r}. Give it "
            "an `opening`, write {name} or {description} into synthesize.opening, or leave out `domains`."
        )
    return filled(given, domain.name, domain.description)


def _prompt(chat: Chat, settings: Synthesize, name: str, about: str, opening: str) -> Prompt:
    before, after = chat.around_user()
    if settings.prefix == "chat":
        before = chat.text([{"role": "user", "content": filled(settings.ask, name, about)}])
        after = ""
    elif settings.prefix == "text":
        before, after = chat.tokenizer.bos_token or "", "\n"
    ids = chat.ids(before + opening)
    if not ids:
        raise RecipeError("synthesize: prefix: text needs an `opening`: this tokenizer has no token to begin with.")
    quoted = opening.endswith('"')
    first = chat.ids(after)[:1]
    marked = bool(first) and first[0] not in chat.tokenizer.added_tokens_decoder
    return Prompt(
        name=name,
        topic=f"{name}: {about}" if about else name,
        ids=ids,
        stop_ids=() if marked or quoted else tuple(first),
        own=0 if quoted or settings.prefix == "chat" else len(ids) - len(chat.ids(before)),
        quoted=quoted,
        mark=(after.strip().partition("\n")[0] or "\n") if marked else "\n" if settings.prefix == "chat" else "",
    )


def filled(text: str, name: str, description: str) -> str:
    """{name} and {description} put in; other braces, such as those of \\textbf, stay."""
    return text.replace("{name}", name).replace("{description}", description or name)
