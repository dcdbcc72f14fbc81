"""A sweep's README on a terminal: its tables are folded, and no figure of them is cropped or broken."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from unforgotten.report.table import Column, name, table_of
from unforgotten.report.writers import markdown
from unforgotten.verbs.sweep.text import show

FRONT = table_of(
    [name("model"), *map(Column, ("weight", "ASR", "utility sums_of_two", "refusals")), Column("limits", align="left")],
    [
        ["sft", "", "62.0 (45.7 to 78.3)", "100 (98.1 to 100)", "1.5 (0.2 to 2.9)", ""],
        ["trial_3", "3.2", "1.9 (0.0 to 4.4)", "97.7 (94.4 to 99.2)", "11.2 (0.1 to 22.3)", "meets, chosen"],
    ],
)
README = "\n".join(
    [
        *("# Sweep of a\\|b", "", "Of 2 settings, trial 3 has the lowest ASR.", "", "## The front", "", "Percent.", ""),
        *(*markdown.lines(FRONT), "", "![What safety costs](front.svg)", "", "## The choice", "", "```yaml"),
        *("method: {name: der, weight: 3.2}", "```", "", "## Held-out prompts", "", "not shown"),
    ]
)


@pytest.mark.parametrize("width", [40, 60, 79, 80, 200])
def test_every_figure_stands_whole_once(width: int) -> None:
    out = Console(file=io.StringIO(), width=width)
    show(README, out)
    text = out.file.getvalue()  # type: ignore[attr-defined]
    for row in FRONT.rows:
        for cell in row[1:]:
            assert not cell.value or text.count(cell.value) >= 1, cell
    assert text.count("62.0 (45.7 to 78.3)") == text.count("meets, chosen") == 1
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width and "…" not in text
    assert "Sweep of a|b" in text and "weight: 3.2" in text
    assert "front.svg" not in text and "not shown" not in text
