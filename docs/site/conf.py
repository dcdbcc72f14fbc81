"""The pages as HTML: `make site`. They are read on GitHub as they are; nothing in them is Sphinx's own.

The source folder is the checkout, so that links between README and docs/ hold in both places.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from pygments.lexers.data import JsonLexer

from unforgotten import __version__

ROOT = Path(__file__).parent.parent.parent
TOP = ("REPRODUCTION", "CONTRIBUTING", "CHANGELOG")

project, release = "unforgotten", __version__
extensions = ["myst_parser"]
root_doc = "README"
include_patterns = ["*.md", "docs/*.md", "docs/results/*.md"]
exclude_patterns = [".*", "benchmarks", "runs", "site", "tests", "unforgotten"]
myst_heading_anchors = 3  # as GitHub makes them
highlight_language = "none"
html_theme = "furo"
html_title = f"unforgotten {release}"
html_static_path, html_css_files = ["static"], ["wide.css"]
html_copy_source = html_show_sphinx = html_show_sourcelink = False
html_theme_options = {"top_of_page_buttons": []}


def read(app: Any, name: str, source: list[str]) -> None:
    """Adds the list of pages to the first one, as docs/README.md has it; a link to a folder opens its first file."""
    source[0] = source[0].replace("](examples)", "](examples/finetune_der.py)")
    if name != root_doc:
        return
    blocks = [("Pages", ["docs/README"])]
    for title, links in re.findall(
        r"^(\S[^\n]*):\n((?:- .*\n(?:  .*\n)*)+)", (ROOT / "docs" / "README.md").read_text(), re.M
    ):
        blocks.append((title, [f"docs/{page}" for page in re.findall(r"\]\(([\w/-]+)\.md\)", links)]))
    results = sorted(f"docs/results/{page.stem}" for page in (ROOT / "docs" / "results").glob("*.md"))
    blocks += [("Results", results), ("Project", list(TOP))]
    for title, pages in blocks:
        source[0] += "\n".join(["", "```{toctree}", ":hidden:", f":caption: {title}", "", *pages, "```", ""])


def finish(app: Any, error: Exception | None) -> None:
    """The first page is index.html too, and pictures lie where HTML in a page asks for them."""
    if error is None:
        shutil.copy(Path(app.outdir) / f"{root_doc}.html", Path(app.outdir) / "index.html")
        shutil.copytree(ROOT / "docs" / "figures", Path(app.outdir) / "docs" / "figures", dirs_exist_ok=True)


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.add_lexer("jsonl", JsonLexer)
    app.connect("source-read", read)
    app.connect("build-finished", finish)
