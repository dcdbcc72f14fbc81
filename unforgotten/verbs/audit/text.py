"""An audit in the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from unforgotten.report.table import Column, name, prose, table_of
from unforgotten.report.writers import terminal
from unforgotten.runs import safe_text as display

if TYPE_CHECKING:
    from unforgotten.verbs.audit.audit import Audit


def show_audit(audit: Audit, console: Any = None, shown: int = 50) -> None:
    """Prints the rows that are harmful or unread, the share of harmful ones and their categories."""
    console = console or display.console()
    rows = []
    for finding in audit.findings[:shown]:
        place = Path(finding.line.rpartition(":")[0]).name + ":" + finding.line.rpartition(":")[2]
        likely = "" if finding.p_harmful is None else f" {100 * finding.p_harmful:.0f} %"
        reading = "unread" if finding.harmful is None else f"harmful {finding.category}{likely}"
        words = " ".join(finding.request.split())
        words = words if len(words) <= 100 else words[:100] + " …"
        rows.append([place, str(finding.turn or "all"), reading, words])
    if audit.findings:
        columns = [name("row"), name("turn", "right"), Column("reading", align="left"), prose("request")]
        terminal.show(table_of(columns, rows), console)
    if len(audit.findings) > shown:
        terminal.show_note(f"… and {len(audit.findings) - shown} more. Write all to a file with --out FILE.", console)
    for note in audit.notes:
        terminal.show_note(f"{note}.", console, "")
    p = audit.p
    if p.unparsed == (p.n or 0):
        terminal.show_note(_nothing_read(audit), console, "")
        return
    unread = (
        f" {p.unparsed} verdicts could not be read. The interval covers both possible readings of them."
        if p.unparsed
        else ""
    )
    terminal.show_note(f"{p.hits} of {p.n} rows are judged harmful.{unread}", console, "")
    for kind, rate in audit.known.items():
        line = f"{rate.hits} of {rate.n} rows known to be {kind} are judged harmful ({rate.low:.1f}–{rate.high:.1f} %)."
        terminal.show_note(line, console, "")
    how = "corrected for the judge's errors" if audit.known else "as the judge read them, uncorrected"
    share = "cannot be estimated" if p.value is None else f"= {p.value:.1f} % ({p.low:.1f}–{p.high:.1f}, 95 %), {how}"
    terminal.show_note(f"p {share}.", console, "")
    if audit.categories:
        line = ", ".join(f"{category} {count}" for category, count in audit.categories.items())
        terminal.show_note(f"Categories: {line}.", console, "")
    if audit.decision is not None:
        terminal.show_note(audit.decision.line, console, "")


def _nothing_read(audit: Audit) -> str:
    """No figure is given where nothing was read: 0 flagged rows would be taken for 0 harmful ones."""
    note = next((finding.note for finding in audit.findings if finding.note), "")[:200]
    return (
        f"unclear: the judge could read none of {audit.p.n} rows ({note!r}). So the audit says nothing about the "
        "upload. The judge does not fit this data. Use another judge, such as llama_guard, wildguard, qwen3guard or "
        "instructed."
    )
