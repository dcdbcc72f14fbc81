"""The generated pages hold every key, every public name and every error; the site has no broken link, offline."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import unforgotten
from unforgotten import errors, registry
from unforgotten.recipe.recipe import Recipe

ROOT = Path(__file__).parent.parent.parent
VERBS = ("align", "compare", "evaluate", "export", "finetune", "judge", "plan", "repair", "sweep", "synthesize")


def sections(page: str, level: int) -> dict[str, str]:
    """The text below each heading of a level, by its words."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    parts = re.split(rf"^{'#' * level} (.+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def keys(text: str) -> list[str]:
    return re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE)


def test_the_recipe_page_has_every_key_with_a_sentence() -> None:
    page = sections("recipe.md", 2)
    assert keys(page["Keys at the top"]) == list(Recipe.model_fields)
    for name in ("training", "lora", "memory", "poison", "probe", "evaluate", "synthesize", "compare", "sweep"):
        [model] = [m for m in _models(Recipe.model_fields[name].annotation) if hasattr(m, "model_fields")]
        assert keys(page[name]) == list(model.model_fields), name
    rows = [line for text in page.values() for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) > 100 and all(line.split(" | ")[-1].strip(" |") for line in rows), "a sentence for each"
    assert "| `method` | [method](methods.md) or list of [method](methods.md) | `sft` |" in page["Keys at the top"]
    assert "| `learning_rate` | number > 0 | `5.0e-05` |" in page["training"]
    assert keys(page["align"]) == ["lora", "answer_tokens", "seed"] and "[training](#training)" in page["align"]


def _models(hint: object) -> list[type]:
    return [part for each in getattr(hint, "__args__", [hint]) for part in ([each] if isinstance(each, type) else [])]


def test_the_api_page_has_every_public_name() -> None:
    page = sections("api.md", 3)
    assert set(page) == set(unforgotten.__all__)
    for name in registry.names("methods"):
        [public] = [n for n in page if getattr(unforgotten, n).__module__ == f"unforgotten.methods.{name}"]
        assert f"(methods.md#{name})" in page[public]
    assert "method: Named | Sequence[Named] = 'sft'" in page["MethodTrainer"]
    assert "finetune(recipe: Recipe, say: Say = quiet, *, audited: str | None = None) -> Path" in page["finetune"]
    assert "| `refused` | `bool \\| None` | required | The reply refuses. |" in page["Verdict"]
    assert "- `safety_dataset`: safety rows, in any format" in page["MethodMixin"]


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_says_which_errors_it_raises(verb: str) -> None:
    text = sections("api.md", 3)[verb]
    named = re.findall(r"\[(\w+)\]\(#", text)
    assert "Raises" in text and all(issubclass(getattr(errors, name), errors.UnforgottenError) for name in named)


class Links(HTMLParser):
    """What one HTML page links to and loads, and its anchors."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.loads: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if "id" in given:
            self.anchors.add(given["id"])
        if tag == "a" and "href" in given:
            self.links.add(given["href"])
        elif target := given.get("src") or (given.get("href") if tag == "link" else None):
            self.loads.add(target)


def test_the_site_is_built_without_a_warning_and_is_whole_offline(tmp_path: Path) -> None:
    pytest.importorskip("sphinx", reason="unforgotten[docs] is not installed")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-E", "-b", "html"]
    folders = ["-d", tmp_path / "trees", "-c", ROOT / "docs" / "site", ROOT, tmp_path / "site"]
    done = subprocess.run([*command, *folders], cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    pages = {path: Links(path.read_text(encoding="utf-8")) for path in (tmp_path / "site").rglob("*.html")}
    assert len(pages) > 25 and tmp_path / "site" / "index.html" in pages
    broken = []
    for path, page in pages.items():
        assert not [target for target in page.loads if urlsplit(target).netloc], "nothing is loaded from elsewhere"
        for target in page.links | page.loads:
            where = urlsplit(target)
            if where.scheme or not (where.path or where.fragment):
                continue
            file = (path.parent / unquote(where.path)).resolve() if where.path else path
            known = pages[file].anchors if file in pages else {unquote(where.fragment)}
            if not file.exists() or (where.fragment and unquote(where.fragment) not in known):
                broken.append(f"{path.name}: {target}")
    assert broken == []
