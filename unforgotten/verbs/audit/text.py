"""An audit in the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from unforgotten.report.text import PLAIN
from unforgotten.runs import console as display

if TYPE_CHECKING:
    from unforgotten.verbs.audit.audit import Audit


def show_audit(audit: Audit, console: Any = None, shown: int = 50) -> None:
    """Prints the rows that are harmful or unread, the share of harmful ones and their categories."""
    from rich.table import Table
    from rich.text import Text

    console = console or display.console()
    drawn = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for title in ("row", "turn", "reading", "request"):
        drawn.add_column(title, no_wrap=title != "request")
    for finding in audit.findings[:shown]:
        place = Path(finding.line.rpartition(":")[0]).name + ":" + finding.line.rpartition(":")[2]
        likely = "" if finding.p_harmful is None else f" {100 * finding.p_harmful:.0f} %"
        harmful = display.line(f"harmful {finding.category}{likely}")
        reading = Text("unread", "yellow") if finding.harmful is None else Text(harmful, "red")
        words = display.line(" ".join(finding.request.split()))
        words = words if len(words) <= 100 else words[:100] + " …"
        drawn.add_row(Text(display.line(place)), str(finding.turn or "all"), reading, Text(words))
    if audit.findings:
        console.print(drawn)
    if len(audit.findings) > shown:
        console.print(f"… and {len(audit.findings) - shown} more; --out FILE writes all.", style="dim", markup=False)
    for note in audit.notes:
        console.print(display.line(f"{note}."), **PLAIN)
    p = audit.p
    if p.unparsed == (p.n or 0):
        console.print(display.line(_nothing_read(audit)), **PLAIN)
        return
    unread = f" {p.unparsed} could not be read; the interval covers both readings." if p.unparsed else ""
    console.print(f"{p.hits} of {p.n} rows are judged harmful.{unread}", **PLAIN)
    for name, rate in audit.known.items():
        line = f"{rate.hits} of {rate.n} rows known to be {name} are judged harmful ({rate.low:.1f}–{rate.high:.1f} %)."
        console.print(line, **PLAIN)
    how = "corrected for the judge's errors" if audit.known else "by the judge's own reading, errors and all"
    share = "cannot be told" if p.value is None else f"= {p.value:.1f} % ({p.low:.1f}–{p.high:.1f}, 95 %), {how}"
    console.print(f"p {share}.", **PLAIN)
    if audit.categories:
        line = ", ".join(f"{name} {count}" for name, count in audit.categories.items())
        console.print(f"Categories: {line}.", **PLAIN)
    if audit.decision is not None:
        console.print(audit.decision.line, **PLAIN)


def _nothing_read(audit: Audit) -> str:
    """No figure is given where nothing was read: 0 flagged rows would be taken for 0 harmful ones."""
    note = next((finding.note for finding in audit.findings if finding.note), "")[:200]
    return (
        f"unclear: the judge could not read one of {audit.p.n} rows ({note!r}). This says nothing of the upload. The "
        "judge is not for this data: use another one, such as llama_guard, wildguard, qwen3guard or instructed."
    )
