"""An audit in the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from unforgotten.report.text import PLAIN
from unforgotten.runs import console as display

if TYPE_CHECKING:
    from unforgotten.verbs.audit.audit import Audit


def show_audit(found: Audit, console: Any = None, shown: int = 50) -> None:
    """Prints the rows that are harmful or unread, the share of harmful ones and their categories."""
    from rich.table import Table
    from rich.text import Text

    console = console or display.console()
    drawn = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for title in ("row", "turn", "reading", "request"):
        drawn.add_column(title, no_wrap=title != "request")
    for one in found.found[:shown]:
        place = Path(one.line.rpartition(":")[0]).name + ":" + one.line.rpartition(":")[2]
        likely = "" if one.p_harmful is None else f" {100 * one.p_harmful:.0f} %"
        harmful = display.line(f"harmful {one.category}{likely}")
        reading = Text("unread", "yellow") if one.harmful is None else Text(harmful, "red")
        words = display.line(" ".join(one.request.split()))
        words = words if len(words) <= 100 else words[:100] + " …"
        drawn.add_row(Text(display.line(place)), str(one.turn or "all"), reading, Text(words))
    if found.found:
        console.print(drawn)
    if len(found.found) > shown:
        console.print(f"… and {len(found.found) - shown} more; --out FILE writes all.", style="dim", markup=False)
    for note in found.notes:
        console.print(display.line(f"{note}."), **PLAIN)
    p = found.p
    if p.unparsed == (p.n or 0):
        console.print(display.line(_nothing_read(found)), **PLAIN)
        return
    unread = f" {p.unparsed} could not be read; the interval covers both readings." if p.unparsed else ""
    console.print(f"{p.hits} of {p.n} rows are judged harmful.{unread}", **PLAIN)
    for name, rate in found.known.items():
        told = f"{rate.hits} of {rate.n} rows known to be {name} are judged harmful ({rate.low:.1f}–{rate.high:.1f} %)."
        console.print(told, **PLAIN)
    how = "corrected for the judge's errors" if found.known else "by the judge's own reading, errors and all"
    share = "cannot be told" if p.value is None else f"= {p.value:.1f} % ({p.low:.1f}–{p.high:.1f}, 95 %), {how}"
    console.print(f"p {share}.", **PLAIN)
    if found.categories:
        told = ", ".join(f"{name} {count}" for name, count in found.categories.items())
        console.print(f"Categories: {told}.", **PLAIN)
    if found.decision is not None:
        console.print(found.decision.line, **PLAIN)


def _nothing_read(found: Audit) -> str:
    """No figure is given where nothing was read: 0 flagged rows would be taken for 0 harmful ones."""
    note = next((one.note for one in found.found if one.note), "")[:200]
    return (
        f"unclear: the judge could not read one of {found.p.n} rows ({note!r}). This says nothing of the upload. The "
        "judge is not for this data: use another one, such as llama_guard, wildguard, qwen3guard or instructed."
    )
