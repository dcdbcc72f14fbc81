"""Take turns between safety and user data, each pulled to where the other left off. [Lisa, arXiv 2405.18641]

`safety_steps` steps on safety rows, `user_steps` steps on user rows, again and again, safety first; every step adds
(ρ/2)‖w − w′‖², w′ being where the other state ended. The pull is written as its gradient, ρ(w − w′). One optimizer
serves both states.

mode: paper        the pull always on; safety steps come on top, and every user row is served as often as without Lisa
                   (up to the last cycle, which ends where the run does)
mode: reference    as git-disl/Lisa (trainer.py): no pull before more than a tenth of the steps are done, since "it will
                   downgrade benign accuracy"; the user rows of a safety step are thrown away (a tenth at 100 / 900)

2512.10150 does not say which. Defaults are the script's: 100 and 900 steps, ρ = 1.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt

from unforgotten.methods.base import Method

if TYPE_CHECKING:
    from torch import Tensor

    from unforgotten.methods.base import EncodedRow, Run


def pull_gradient(weights: Tensor, other: Tensor, pull: float) -> Tensor:
    """The gradient of (ρ/2)‖w − w′‖²: ρ (w − w′)."""
    return pull * (weights - other)


def early(step: int, steps: int) -> bool:
    """Is it too early for the pull, as the code has it? It pulls where `steps > 0.1 * all`, counted from 0."""
    return 10 * step <= steps


def on_safety(step: int, safety_steps: int, user_steps: int) -> bool:
    """Does this step belong to the safety state? A cycle begins with it."""
    return step % (safety_steps + user_steps) < safety_steps


@dataclass(kw_only=True)
class Lisa(Method):
    """Lazy safety alignment: alternate safety and user steps, each pulled to the other's last weights. [2405.18641]"""

    family: ClassVar[str] = "data"
    fsdp2: ClassVar[bool] = True
    remembers: ClassVar[tuple[str, ...]] = ("other", "served")
    neutral: ClassVar[dict[str, Any]] = {"pull": 0.0, "safety_steps": 0}
    faint: ClassVar[dict[str, Any]] = {"pull": 1e-30, "safety_steps": 0}

    mode: Literal["paper", "reference"] = "paper"
    """`paper`: the pull is always on, and every user row is used. `reference`: the official code, which has no pull
    at first and discards the user rows of safety steps."""
    safety_steps: Annotated[int, Ge(0)] = 100
    """Number of steps on safety rows in a cycle; 0 is none."""
    user_steps: Annotated[int, Gt(0)] = 900
    """Number of steps on user rows in a cycle."""
    pull: Annotated[float, Ge(0)] = 1.0
    """ρ, the strength of the pull towards the other phase's last weights."""

    @property
    def _keeps_rows(self) -> bool:
        return self.mode == "paper" and self.safety_steps > 0

    def data(self, run: Run) -> list[EncodedRow]:
        """In mode paper the run is made longer by the safety steps: the rows that come then only count steps.

        Rows that methods before it put in are served like the user's; a method that adds rows belongs before it.
        """
        rows = run.user.rows
        self._user = len(rows)
        if not self._keeps_rows:
            return rows
        steps = math.ceil(len(rows) * self.safety_steps / self.user_steps / run.user.batch_size)
        more = steps * run.user.batch_size
        return rows + [rows[i % len(rows)] for i in range(more)]

    def start(self, run: Run) -> None:
        self.other = run.weights.snapshot()
        self.served = 0

    def before_step(self, run: Run, batches: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
        cycle = self.safety_steps + self.user_steps
        run.log(safety_step=float(on_safety(run.step, self.safety_steps, self.user_steps)))
        if self.safety_steps and run.step and run.step % cycle in (0, self.safety_steps):
            self.other = run.weights.snapshot()
        if on_safety(run.step, self.safety_steps, self.user_steps):
            return run.user.micro_batches(run.memory.drawn_rows(run.user.step_rows), batches)
        if not self._keeps_rows:
            return batches
        n = run.user.step_rows
        rows = [run.user.trained_rows[self._row(run.seed, self.served + i)] for i in range(n)]
        self.served += n
        return run.user.micro_batches(rows, batches)

    def gradients(self, run: Run) -> None:
        if self.pull == 0 or (self.mode == "reference" and early(run.step, run.steps)):
            return
        squares = []
        for name, p in run.weights.params().items():
            if p.grad is not None:
                slope = pull_gradient(p.detach(), self.other[name].to(p.dtype), self.pull)
                p.grad += slope
                squares += [slope.double().square().sum()] if run.logs_this_step else []
        if squares:
            run.log(pull_norm=sum(squares[1:], squares[0]).sqrt())

    def _row(self, seed: int, at: int) -> int:
        """The user row served in place `at`: each once, in an order of its own, before any comes again."""
        round_, place = divmod(at, self._user)
        if getattr(self, "_order_of", None) != (seed, round_):
            self._order_of, self._order = (seed, round_), list(range(self._user))
            random.Random(f"lisa {seed} {round_}").shuffle(self._order)
        return self._order[place]
