"""Mix safety rows that the aligned model made itself into the user's data. [arXiv 2603.10243]

    n = ratio · user rows       n hard = min(hard rows, hard_ratio · n)       n easy = n − n hard

`unforgotten synthesize` makes the rows and calls each easy (the model refused it by itself) or hard (it did when told
to). Any safety rows will do: those of unknown difficulty count as easy.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le

from unforgotten.errors import RecipeError
from unforgotten.methods.base import Method

if TYPE_CHECKING:
    from unforgotten.methods.base import EncodedRow, Run


def shares(wanted: int, hard: int, easy: int, hard_ratio: float) -> tuple[int, int]:
    """How many hard and easy rows make `wanted`, of so many that there are: what one kind lacks the other gives."""
    n_hard = min(hard, int(wanted * hard_ratio))
    n_easy = min(easy, wanted - n_hard)
    return min(hard, wanted - n_easy), n_easy


@dataclass(kw_only=True)
class GRSAP(Method):
    """Generative replay (GR-SAP): mix in safety rows that the aligned model wrote itself. [arXiv 2603.10243]"""

    family: ClassVar[str] = "data"
    neutral: ClassVar[dict[str, Any]] = {"ratio": 0.0}

    ratio: Annotated[float, Ge(0)] | None = None
    """Safety rows as a share of the user rows. None uses every memory row once, so that all methods have the same
    budget, as in 2512.10150 (m = 5 %). The official code's own default is 0."""
    hard_ratio: Annotated[float, Ge(0), Le(1)] = 0.5
    """Share of hard rows among the safety rows, as far as there are enough. With `ratio` None all rows are used in
    any mix. [chili-lab/gr-sap: 0.5]"""
    control: Literal["total", "downstream"] = "total"
    """`total`: safety rows replace the same number of user rows. `downstream`: safety rows are added to the user
    rows. [chili-lab/gr-sap: total]"""

    def data(self, run: Run) -> list[EncodedRow]:
        user = run.user.rows
        wanted = len(run.memory.rows) if self.ratio is None else int(self.ratio * len(user))
        if wanted == 0:
            return user
        chosen = self._chosen(run, wanted)
        if self.control == "downstream":
            return user + chosen
        left = len(user) - len(chosen)
        if left < 1:
            raise RecipeError(
                f"grsap with control: total would replace all {len(user)} user rows by {len(chosen)} safety rows. "
                "Lower ratio (or memory.n_rows), or set control: downstream."
            )
        run.note(f"grsap: {len(chosen)} of {len(user)} user rows were replaced by safety rows")
        user_rows = random.Random(f"grsap {run.seed}").sample(range(len(user)), left)
        return [user[i] for i in sorted(user_rows)] + chosen

    def _chosen(self, run: Run, wanted: int) -> list[EncodedRow]:
        rows = run.memory.sample()  # the whole memory, in an order that the seed fixes
        if self.ratio is None:
            return rows
        hard = [row for row in rows if row.get("difficulty") == "hard"]
        easy = [row for row in rows if row.get("difficulty") != "hard"]
        n_hard, n_easy = shares(wanted, len(hard), len(easy), self.hard_ratio)
        if n_hard != int(wanted * self.hard_ratio):
            run.note(
                f"grsap: hard_ratio {self.hard_ratio:g} of {wanted} rows wants {int(wanted * self.hard_ratio)} hard "
                f"ones; the memory has {len(hard)} hard and {len(easy)} others, and {n_hard} hard ones were taken"
            )
        chosen = hard[:n_hard] + easy[:n_easy]
        if len(chosen) < wanted:
            raise RecipeError(
                f"grsap.ratio {self.ratio:g} of {len(run.user.rows)} user rows needs {wanted} safety rows, and the "
                f"memory has {len(rows)}. Raise memory.n_rows (or give more safety rows), or lower ratio."
            )
        return chosen
