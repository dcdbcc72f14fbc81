"""Stage judge: other judges read replies that are there. Nothing is generated, and each judge is loaded once.

Of a run folder results.json and the files of replies are enough: neither its model nor its data need be here. Utility
stays as it was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from unforgotten.errors import DataError, RecipeError
from unforgotten.evaluation import probe
from unforgotten.evaluation.ask import read_asked
from unforgotten.evaluation.judging import Panel
from unforgotten.evaluation.measurement import judged
from unforgotten.evaluation.reply_files import restore
from unforgotten.evaluation.sealed import forget_comparisons, sealed
from unforgotten.evaluation.suite_stages import Checked, Judged, Suite
from unforgotten.runs import atomic, results, strict_read, trust
from unforgotten.runs.lease import alone
from unforgotten.runs.progress import Say, quiet

if TYPE_CHECKING:
    from unforgotten.recipe.base import Spec


def judge(runs: Sequence[str], judges: Sequence[Spec], say: Say = quiet) -> list[results.ResultRow]:
    """The rows of runs, or of all runs of a comparison, as these judges see them; results.json is written anew.

    runs: folders that `evaluate` or `compare` left. Raises DataError where one holds no measured replies, before any
    judge is loaded; JudgeError where a judge is missing. Of what a killed judging had read nothing is read again.
    """
    from unforgotten.runs.bars import progress_bar

    panel = Panel(judges)
    folders = {folder.resolve(): folder for run in runs for folder in _runs(Path(run).expanduser(), say)}
    if not folders:
        raise DataError(f"None of {', '.join(runs)} holds replies. Make them with `unforgotten evaluate`.")
    opened = [_opened(folder) for folder in folders.values()]
    for _, _, suites in opened:
        panel.check(suite.kind for suite in suites)
    panel.prepare([row for _, _, suites in opened for suite in suites for row in suite.rows])
    rows = []
    try:
        with progress_bar() as tick:
            for folder, row, suites in opened:
                say(f"Judging {sum(len(s.rows) for s in suites)} replies of {folder.name}.")
                with alone(folder, say) as lease, sealed(folder):
                    judged_suites = [panel.judge(suite, folder, tick) for suite in suites]
                    lease.check()
                    rows.append(_written(folder, row, judged_suites, panel, say))
    finally:
        panel.close()
    for run in runs:
        _write_comparison(Path(run).expanduser())
    return rows


def _runs(folder: Path, say: Say) -> list[Path]:
    """The folder itself, those of a comparison, or those that lie in it; what holds no results is said and left out."""
    if (folder / "replies").is_dir():
        return [folder]
    if (folder / "results.json").is_file():
        return [folder.parent / str(row.run) for row in results.read(folder / "results.json")]
    if not folder.exists():
        raise DataError(f"There is no {folder}.")
    inside = [path.parent for path in sorted(folder.glob("*/results.json")) if (path.parent / "replies").is_dir()]
    if not inside:
        say(f"{folder} holds no results. It is left out.")
    return inside


def _opened(folder: Path) -> tuple[Path, results.ResultRow, list[Checked]]:
    """A run's row and its suites, filled from their files."""
    strict_read.no_links(folder)
    rows = results.read(folder / "results.json")
    if len(rows) != 1:
        raise DataError(f"{folder / 'results.json'} has {len(rows)} rows; a run has one row. Evaluate the run again.")
    row = rows[0]
    try:
        facts = read_asked(folder, row.digests.settings or "") if row.digests else {}
        known = {*row.rates("asr"), *row.rates("refusal")}
        asked = [
            (Suite(entry["kind"], entry["label"], None, [], entry["condition"], tuple(entry["also"])), entry["key"])
            for entry in facts["suites"]
            if entry["label"] in known
        ]
    except (KeyError, TypeError):
        raise DataError(
            f"{folder} has no record of its prompts (replies/asked-….json). Run `unforgotten evaluate` to write it."
        ) from None
    if not asked:
        raise DataError(f"{folder} has no replies to harmful requests or look-alikes. There is nothing to judge.")
    suites = []
    for suite, key in asked:
        checked = restore(folder, suite)
        if checked.key != key:
            raise DataError(f"{folder}: the replies to {suite.file} changed after the evaluation. Evaluate again.")
        suites.append(checked)
    return folder, row, suites


def _written(folder: Path, row: results.ResultRow, suites: list[Judged], panel: Panel, say: Say) -> results.ResultRow:
    changed = judged(row, suites, panel, folder, known=row.overlap is not None)
    changed = replace(  # of the tasks, which no judge reads, all stays
        changed,
        flags={**(row.flags or {}), **(changed.flags or {})} or None,
        overlap={**(row.overlap or {}), **(changed.overlap or {})} or None,
        thinking={**(row.thinking or {}), **(changed.thinking or {})} or None,
        utility=row.utility,
        probe=probe.read_again(folder, panel),
    )
    if (folder / "recipe.yaml").is_file():
        from unforgotten.recipe.read import load_recipe
        from unforgotten.report import model_card
        from unforgotten.verbs.finetune.job import method_specs

        try:
            recipe = load_recipe(folder / "recipe.yaml", origin=trust.of_run(folder), opens=False)
        except RecipeError as error:
            say(f"README.md of {folder.name} was not changed. {error}")
        else:
            model_card.write(folder, recipe, method_specs(recipe), changed)
    forget_comparisons(folder)
    results.write(folder / "results.json", [changed])
    return changed


def _write_comparison(folder: Path) -> None:
    """The comparison's own table and results, of its runs as they are now."""
    if (folder / "replies").is_dir() or not (folder / "results.json").is_file():
        return
    from unforgotten.report import text as report

    before = results.read(folder / "results.json")
    rows: list[results.ResultRow] = []
    for old in before:
        [new] = results.read(folder.parent / str(old.run) / "results.json")
        rows.append(replace(new, task=old.task))
    results.write(folder / "results.json", rows)
    atomic.put(folder / "README.md", report.markdown(rows, folder.name))
