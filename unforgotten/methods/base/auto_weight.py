"""`weight: auto`: a weight λ that finds its own size, since a fixed one fits one model. Not a method itself.

dual    a constraint, held by a dual variable. λ is 0 until KL(θ_safe ‖ θ) on held-out safety rows nears `hold`, in nats
        per response token. It then starts where the method's gradient is as large as the user's, which is what a
        constrained optimum asks for: ∇L_user + λ ∇L_method = 0. From then on each measurement changes it:
        log λ ← log λ + ½ · clip(mean log(KL / 0.8 hold), −2, 2). KL falls as a power of λ, so the step is linear in
        logs, and no unit of the model is left in it.
ratio   λ = ratio · ‖g_user‖ / ‖g_method‖, running means of both. No constraint: `hold` is not read.
polyak  as ratio, times (KL / hold − 1)₊: it pulls only while the constraint is broken. SPARD's step is
        (L − τ)₊ / ‖g‖² in plain descent [arXiv 2605.28030]; under Adam only a ratio of gradients has a meaning.

The first is the default. What is measured is training/drift.py. A met constraint bounds no attack success rate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt

from unforgotten.errors import TrainingError
from unforgotten.methods.base.method import Method

if TYPE_CHECKING:
    from unforgotten.methods.base.run import Run

Weight = Annotated[float, Ge(0)] | Literal["auto"]
"""λ, or `auto`."""

HELD_OUT = 0.2
"""Safety rows held out, as a share of the replayed ones, where memory.held_out says nothing."""
START = 0.5
"""Share of `hold` at which λ starts: a few steps pass before it works."""
QUICK_ROWS = 8
"""Rows of a measurement after each step until then; four refusals and four look-alikes."""
BALANCE_STEPS = 4
"""Steps over which the gradients' norms are summed for the first λ: one step's norm is noise."""
AIM = 0.8
"""Share of `hold` that KL is held at: held at `hold` itself, half of all runs would end a little above it."""
RATE = 0.5
"""Step of log λ for a KL that is e times too large. KL ~ λ^-a needs a rate below 2/a to settle; a is 1 to 2."""
CLIP = 2.0
"""Largest |log(KL / hold)| that counts: a measurement changes λ by a factor e at most."""
KEEP = 0.5
"""Share of the running mean of log KL that a new measurement leaves: twenty of them allow no longer memory."""
SPAN = 1000.0
"""λ stays within its start divided by this and times this; a note says where it did not suffice."""
NORM_EVERY = 5
"""Steps between two readings of the norms, of `ratio` and `polyak`: each costs one more backward of the term."""
NORM_KEEP = 0.9
"""Share of their running means that a new reading leaves."""
FLOOR = 0.1
"""‖g_method‖ counts as this share of its largest value at least: near θ_safe it is 0."""
MOST = 10.0
"""Largest (KL / hold − 1) of `polyak`."""
LEAST = 1e-30
"""KL / hold counts as this at least: a KL of 0 has no logarithm."""
TRACE = 1e-8
"""λ while only the norms are read: of the method's gradient nothing reaches the weights."""


def dual(weight: float, excess: float, start: float) -> float:
    """λ after one measurement; excess: KL / hold. Within a factor `SPAN` of its start."""
    step = RATE * max(-CLIP, min(CLIP, math.log(max(excess / AIM, LEAST))))
    return max(start / SPAN, min(start * SPAN, weight * math.exp(step)))


def mean(before: float, excess: float) -> float:
    """The running geometric mean of KL / hold after one more measurement; before: 0 where there was none."""
    return max(before, LEAST) ** KEEP * max(excess, LEAST) ** (1 - KEEP) if before else max(excess, LEAST)


@dataclass(kw_only=True)
class AutoWeight(Method):
    """A method whose `weight` may be `auto`.

    Its `loss` multiplies by `self.present_weight(run)`, and returns None where that is 0.
    """

    remembers: ClassVar[tuple[str, ...]] = ("hold_state",)
    later: ClassVar[tuple[str, ...]] = ("auto", "hold", "ratio")

    weight: Weight = 1.0
    """λ, the weight of the method's term, or `auto`."""
    auto: Literal["dual", "ratio", "polyak"] = "dual"
    """How `weight: auto` finds λ. `dual` holds a constraint, `ratio` balances gradients, and `polyak` pulls only while
    the constraint is broken."""
    hold: Annotated[float, Gt(0)] = 0.002
    """Constraint of `weight: auto`: largest KL from θ_safe on held-out refusals and on look-alikes, in nats per
    response token. The default is ours: in the world 0.02 protected little (docs/log.md)."""
    ratio: Annotated[float, Gt(0)] = 1.0
    """Norm of the method's gradient over that of the user's, for `auto: ratio` and `auto: polyak`."""

    def __post_init__(self) -> None:
        self.hold_state = _fresh(self.auto)

    @property
    def held_out_share(self) -> float:
        return HELD_OUT if self.weight == "auto" else 0.0

    def start(self, run: Run) -> None:
        self.hold_state = _fresh(self.auto)
        if unread := [name for name in self._unread() if getattr(self, name) != _default(self, name)]:
            rule = f"auto: {self.auto}" if self.weight == "auto" else f"weight {self.weight:g}"
            run.note(f"{type(self).__name__}'s {' and '.join(unread)} had no effect, since {rule} does not read it")

    def _unread(self) -> tuple[str, ...]:
        """Fields that this rule does not go by."""
        if self.weight != "auto":
            return ("auto", "hold", "ratio")
        return {"dual": ("ratio",), "ratio": ("hold",), "polyak": ()}[self.auto]

    def present_weight(self, run: Run) -> float:
        """λ of this step; 0 where the method has nothing to do."""
        if self.weight != "auto":
            return self.weight
        return float(self.hold_state["weight"]) or (TRACE if self.reads_gradient_norms(run) else 0.0)

    def reads_gradient_norms(self, run: Run) -> bool:
        if self.weight != "auto" or self.hold_state["phase"] == "free" or run.step == 0:
            return False  # at θ_safe the method's gradient is rounding alone, and λ would be its inverse
        return self.hold_state["phase"] == "balance" or (self.auto != "dual" and run.step % NORM_EVERY == 0)

    def after_step(self, run: Run) -> None:
        if self.weight != "auto":
            return
        weight, state = self.present_weight(run), self.hold_state
        if self.reads_gradient_norms(run):
            self._read_norms(run, weight)
        elif state["phase"] == "free" and self._kl(run, QUICK_ROWS) >= START * self.hold:
            state["phase"] = "balance"
        if run.memory.measures_drift:
            self._measured(run)
        run.log(weight=weight)
        if run.step + 1 >= run.steps:
            self._conclude(run)

    def _read_norms(self, run: Run, weight: float) -> None:
        """Takes over ‖g_user‖ and ‖g_method‖ / λ of this step, and what λ follows from them."""
        if (norms := run.gradient_norms) is None:
            raise TrainingError(
                f"weight: auto of {type(self).__name__} reads the norms of gradients, and this training has none. With "
                "gradient_checkpointing set gradient_checkpointing_kwargs: {use_reentrant: false}."
            )
        user, own, state = norms[0], norms[1] / weight, self.hold_state
        if own == 0:  # still at θ_safe
            return
        state["read"] += 1
        if self.auto == "dual":
            state["user"], state["own"] = state["user"] + user, state["own"] + own
            state["weight"] = state["start"] = state["user"] / state["own"]
            state["phase"] = "held" if state["read"] >= BALANCE_STEPS else "balance"
            return
        keep = NORM_KEEP if state["read"] > 1 else 0.0
        state["user"], state["own"] = keep * state["user"] + (1 - keep) * user, keep * state["own"] + (1 - keep) * own
        state["largest"], state["phase"] = max(state["largest"], own), "held"
        state["weight"] = self._balanced()

    def _balanced(self) -> float:
        """λ of `ratio` and `polyak`."""
        state = self.hold_state
        push = 1.0 if self.auto == "ratio" else max(0.0, min(MOST, state["excess"] - 1))
        return self.ratio * push * state["user"] / max(state["own"], FLOOR * state["largest"], 1e-30)

    def _kl(self, run: Run, rows: int | None = None) -> float:
        """Held-out KL after this step. Raises TrainingError where it is no number: no constraint is met then."""
        if not math.isfinite(kl := run.memory.drift(rows).kl):
            raise TrainingError(
                f"The held-out KL of {type(self).__name__} is {kl} after step {run.step + 1}: training diverged. Lower "
                "training.learning_rate, or set training.max_grad_norm."
            )
        return kl

    def _measured(self, run: Run) -> None:
        """Takes over a measurement of the held-out rows."""
        state, excess = self.hold_state, self._kl(run) / self.hold
        run.log(kl_over_hold=excess)
        if state["phase"] != "held":
            return
        state["excess"] = mean(state["excess"], excess)
        if self.auto == "polyak":
            state["weight"] = self._balanced()
        elif self.auto == "dual":
            state["weight"] = dual(state["weight"], state["excess"], state["start"])
            state["bound"] += state["weight"] >= state["start"] * SPAN

    def _conclude(self, run: Run) -> None:
        """Says whether the constraint is met, and what to do where it is not."""
        name, state, kl = type(self).__name__, self.hold_state, self._kl(run)
        run.note(f"{name}'s weight was auto ({self.auto}): {state['weight']:.3g} at the end")
        if state["bound"]:
            run.note(
                f"{name}'s weight was at its upper bound, {SPAN:g} times its start, in {state['bound']} measurements"
            )
        if self.auto == "ratio":
            return
        if state["phase"] == "free":
            run.note(f"{name} added nothing: held-out KL stayed below half of hold ({self.hold:g} nats per token)")
        if kl > self.hold:
            run.note(
                f"constraint not met: {name}'s held-out KL is {kl:.3g}, more than hold, {self.hold:g} nats per token. "
                "Give more safety rows (memory.n_rows), train for fewer steps or at a lower learning rate, or allow "
                "more drift (hold)"
            )
        else:
            run.note(
                f"constraint met: {name}'s held-out KL is {kl:.3g}, at most hold, {self.hold:g} nats per token. This "
                "bounds no attack success rate: evaluate the run"
            )


def _default(method: AutoWeight, name: str) -> Any:
    return type(method).__dataclass_fields__[name].default


def _fresh(rule: str) -> dict[str, Any]:
    """phase: `free` while λ is 0, `balance` while the first norms are read, then `held`. All of it goes into JSON."""
    phase = "balance" if rule == "ratio" else "free"
    numbers = dict.fromkeys(("weight", "start", "user", "own", "largest", "excess"), 0.0)
    return {"phase": phase, "read": 0, "bound": 0, **numbers}
