"""Words filled into a template stay words, an unknown name is an error, and no template opens a way round."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import jinja2
import pytest
from markdown_it import MarkdownIt
from markupsafe import Markup

import unforgotten
from unforgotten.report import templates

PACKAGE = Path(unforgotten.__file__).parent
FILES = sorted(PACKAGE.rglob("*.jinja"))
NASTY = ["<script>x</script>", "\"'><img src=x onerror=y>", "{{ 7 * 7 }}", "a\x00\ud800\u202eb", "[a](http://b)", "# h"]


@pytest.mark.parametrize("words", NASTY)
def test_words_stay_words_in_html(words: str) -> None:
    tags, text = [], []

    class Read(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            tags.append(tag)

        def handle_data(self, data: str) -> None:
            text.append(data)

    Read().feed(templates.html("report/page/notes", notes=[words]))
    assert tags == ["section", "h2", "ul", "li"]
    assert text[-1].strip() == templates.shown(words) or templates.shown(words) in text


@pytest.mark.parametrize("words", NASTY)
def test_words_stay_words_in_markdown(words: str) -> None:
    env = templates._environment("md")
    text = env.from_string("- {{ words }}\n").render(words=words)
    inline = [child for token in MarkdownIt().parse(text) for child in token.children or []]
    assert {child.type for child in inline} <= {"text", "text_special"}
    assert "<" not in text and "\x00" not in text and "\u202e" not in text


def test_a_name_that_a_template_does_not_know_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError, match="notes"):
        templates.html("report/page/notes", note=[])


def test_what_is_markup_stays_and_is_never_made_from_words_by_a_template() -> None:
    assert "<b>x</b>" in templates.html("report/page/notes", notes=[Markup("<b>x</b>")])
    assert len(FILES) > 10
    for file in FILES:
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"\|\s*safe|autoescape|Markup", text), file
