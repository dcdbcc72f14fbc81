"""Which Jinja template renders a conversation, and its date held still."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date as Date
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from unforgotten.errors import RecipeError, TemplateError, UnknownName
from unforgotten.models.chat import jinja_process

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Source = Literal["model", "file", "alpaca"]
ALPACA = Path(__file__).with_name("alpaca.jinja")
SET_BY_US = {"messages", "tools", "add_generation_prompt", "strftime_now", "raise_exception", "namespace"}
_HALF = re.compile("[\ud800-\udfff]")
MARKS = re.compile(r"\{%[-+]?\s*(?:end)?generation\s*[-+]?%\}")


@dataclass(frozen=True, slots=True)
class Template:
    """A template's text and what can be told of it without rendering."""

    text: str
    source: Source
    date: str | None
    """The ISO date that `text` prints, where it prints one that was given or is today's."""
    uses_date: bool
    """`text` reads a date from outside, so that without a pin two days could render differently."""
    marked: bool
    """`text` marks what the assistant says with {% generation %}."""
    constants: tuple[str, ...] = ()
    """The texts that `text` compares with or writes: where a row holds them, it may be written in another way."""
    with_tools: Template | None = None
    """What renders rows that declare tools, where the tokenizer names a template of its own for them (`tool_use`)."""


def load(
    tokenizer: PreTrainedTokenizerBase,
    template: str | None = None,
    date: str | None = None,
    variables: Mapping[str, bool | int | str] | None = None,
) -> Template:
    """The template asked for (Jinja text, a file of it, or "alpaca"), else the tokenizer's own, else Alpaca's."""
    text, source = _choose(tokenizer, template)
    named = tokenizer.chat_template if template is None else None
    for_tools = named.get("tool_use") if isinstance(named, dict) else None  # which one renders is transformers' rule
    texts = [text] if for_tools in (None, text) else [text, for_tools]
    read = [jinja_process.read(each) for each in texts]
    known = set[str]().union(*(names for names, _ in read))
    for name in variables or {}:
        if name not in known:
            raise UnknownName("variable of the chat template", name, known - SET_BY_US)
    if date is not None:
        try:
            Date.fromisoformat(date)
        except ValueError:
            raise RecipeError(f"The date {date!r} is not a date. Write it like 2026-11-30.") from None
    built = [
        _template(each, source, names, constants, date, variables or {})
        for each, (names, constants) in zip(texts, read, strict=True)
    ]
    return replace(built[0], with_tools=built[1]) if len(built) > 1 else built[0]


def _template(
    text: str,
    source: Source,
    names: set[str],
    constants: list[str],
    date: str | None,
    variables: Mapping[str, bool | int | str],
) -> Template:
    uses_date = bool(names & {"strftime_now", "date_string"})
    if "strftime_now" in names:
        date = date or Date.today().isoformat()
    if not uses_date:
        date = None
    formats = [each for each in constants if "%" in each and not _HALF.search(each)]
    read_here = {name: value for name, value in variables.items() if name in names}
    return Template(
        text=_pin(text, names, formats, date, read_here) if date or read_here else text,
        source=source,
        date=date,
        uses_date=uses_date,
        marked=MARKS.search(text) is not None,
        constants=tuple(constant for constant in constants if len(constant) > 1),
    )


def _choose(tokenizer: PreTrainedTokenizerBase, template: str | None) -> tuple[str, Source]:
    if template is None and tokenizer.chat_template:
        try:
            return tokenizer.get_chat_template(), "model"
        except ValueError as error:  # several named templates and none of them "default"
            raise TemplateError(f"{error} Name a file with a single template.") from None
    if template is None or template == "alpaca":
        if not tokenizer.eos_token:
            raise TemplateError(
                "The model has no chat template, and its tokenizer has no eos token to end an Alpaca answer. Set "
                "tokenizer.eos_token, or name a template file."
            )
        return _adds_bos(tokenizer) + ALPACA.read_text(encoding="utf-8"), "alpaca"
    if "{{" in template or "{%" in template:
        return template, "file"
    if not Path(template).is_file():
        raise TemplateError(f"There is no template file {template!r}. Give a Jinja file, or 'alpaca'.")
    return Path(template).read_text(encoding="utf-8"), "file"


def _adds_bos(tokenizer: PreTrainedTokenizerBase) -> str:
    """Rendered text is tokenised without special tokens, so Alpaca prints the bos that this tokenizer would add."""
    first = tokenizer("a")["input_ids"][:1]
    return "{{- bos_token -}}\n" if tokenizer.bos_token and first == [tokenizer.bos_token_id] else ""


def _pin(
    text: str, names: set[str], formats: list[str], date: str | None, variables: Mapping[str, bool | int | str]
) -> str:
    """The same template with its date and variables written into it, so that the file kept beside an adapter renders
    the same for ever, in any program that reads Jinja.

    The last newline is the one that trim_blocks takes away after a block.
    """
    lines = "".join("{%- set " + name + " = " + json.dumps(value) + " %}" for name, value in variables.items())
    day = datetime.combine(Date.fromisoformat(date), datetime.min.time()) if date else None
    if day and "strftime_now" in names:
        table = json.dumps({f: day.strftime(f) for f in formats})
        other = 'raise_exception("this template computes its date format, so its date cannot be fixed")'
        lines += "{%- macro strftime_now(format) -%}{{- " + table + "[format] or " + other + " -}}{%- endmacro %}"
    if day and "date_string" in names:
        lines += '{%- set date_string = "' + day.strftime("%d %b %Y") + '" %}'
    return lines + "\n" + text
