"""Every relative link and anchor of the pages leads somewhere, the index names every page, and no row names a ghost."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from unforgotten import registry

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"(?<!\\)\]\(([^)\s]+)\)|(?:src|href|srcset)=\"([^\"]+)\"")


def links(text: str) -> list[str]:
    """Targets of a page, those within code left out."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return [one or other for one, other in LINK.findall(re.sub(r"`[^`\n]*`", "", prose))]


def anchors(text: str) -> set[str]:
    """Of the headings, as GitHub makes them: lower case, no punctuation, a hyphen for each space."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    actual: set[str] = set()
    for title in re.findall(r"^#{1,6} (.+)$", prose, flags=re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).strip().lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        n = 0
        while (one := f"{slug}-{n}" if n else slug) in actual:
            n += 1
        actual.add(one)
    return actual


def broken(page: Path, text: str) -> list[str]:
    """Targets that are not there."""
    missing = []
    for target in links(text):
        if re.match(r"[a-z]+:", target):
            continue  # an address; the network is not for tests
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        inside = file.resolve().is_relative_to(ROOT)
        if not inside or not (file == page or file.exists()):
            missing.append(target)
        elif anchor and file.suffix == ".md" and anchor not in anchors(text if file == page else file.read_text()):
            missing.append(target)
    return missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page: Path) -> None:
    assert broken(page, page.read_text(encoding="utf-8")) == []


def test_a_broken_link_is_found() -> None:
    text = (
        '# A page\n## It\'s `this` one\n[x](nowhere.md) [y](#it-s) [z](#its-this-one) <img src="no.svg"> `[w](code.md)`'
    )
    assert broken(ROOT / "docs" / "made-up.md", text) == ["nowhere.md", "#it-s", "no.svg"]
    assert anchors("# A\n# A\n## Safe & sound") == {"a", "a-1", "safe--sound"}


def test_the_index_names_every_page() -> None:
    named = set(links((ROOT / "docs" / "README.md").read_text(encoding="utf-8")))
    assert {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"} <= named


@pytest.mark.parametrize("page", ["README.md", "REPRODUCTION.md"])
def test_a_first_page_is_read_in_a_minute(page: str) -> None:
    assert len((ROOT / page).read_bytes()) < 6_144


def test_what_we_say_we_have_beside_peers_is_there() -> None:
    text = (ROOT / "docs" / "peers.md").read_text(encoding="utf-8")
    rows = [line.split("|") for line in text.splitlines()]
    table = [[cell.strip() for cell in row[1:-1]] for row in rows if len(row) > 3]
    known = {name for room in registry.ROOMS for name in registry.names(room)}
    wide = {len(row) for row in table}
    assert len(wide) == 1 and len(table) > 10
    for what, ours, *_ in table[2:]:
        assert ours in ("●", "◐", "–")
        assert set(re.findall(r"`(\w+)`", what)) <= known, what
    assert sum(ours == "–" for _, ours, *_ in table[2:]) >= 3, "a table in which we lack nothing is not to be believed"
