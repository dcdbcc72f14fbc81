"""Every method of the package, under every adapter mode, passes the whole contract: no skip, no xfail.

`make test` starts other processes (ranks, kills) under one adapter mode; `make test-all` under all of them.
"""

from pathlib import Path

import pytest

from tests.methods import safety_adapter
from unforgotten import registry, testing

# Where the defaults would show nothing in the contract's seven steps.
SETTINGS = {
    "lisa": {"safety_steps": 2, "user_steps": 3},
    "own_replies": {"most": 1.0, "neighbours": 0},  # a random model gives many prompts one reply
    # A random model does not refuse: what tells its refusals apart is chance.
    "guarded": {"most": 1.0, "neighbours": 0},
    "row_weights": {"separation": 0.5, "most": 1.0, "tokens": 3, "openings": 4, "spread": 0.5},
}
# Other settings of a method that run other code. The constraint is so tight that λ starts within the seven steps.
VARIANTS = {
    "der-dual": {"name": "der", "weight": "auto", "hold": 1e-6},
    "der-ratio": {"name": "der", "weight": "auto", "auto": "ratio"},
    "der-polyak": {"name": "der", "weight": "auto", "auto": "polyak", "hold": 1e-6},
    "derpp-dual": {"name": "derpp", "weight": "auto", "hold": 1e-6},
    "guarded-dual": {"name": "guarded", **SETTINGS["guarded"], "weight": "auto", "hold": 1e-6},
    "kl-dual": {"name": "kl", "weight": "auto", "hold": 1e-6},
    "anchor-dual": {"name": "anchor", "weight": "auto", "hold": 1e-6},
    "lwf-dual": {"name": "lwf", "weight": "auto", "hold": 1e-6},
    "lwf-relative": {"name": "lwf", "weight": 30.0, "unit": "relative", "positions": "response"},
}
# Memories that are chosen or measured: a method, and settings of the memory. The checkpoint that a run is resumed from
# lies between two measurements.
MEMORIES = {
    "relevance": ("der", {"n_rows": 6, "choose": "relevance"}),
    "held-out": ("sft", {"n_rows": 7, "held_out": 0.5, "held_out_every_steps": 2}),
    "held-out-dual": (VARIANTS["der-dual"], {"n_rows": 7, "held_out": 0.5, "held_out_every_steps": 2}),
}
STARTS_PROCESSES = ("ranks", "resume")
DEFAULT = "merge"


def _marks(check: str, adapter_mode: str) -> list[pytest.MarkDecorator]:
    return [pytest.mark.slow] if check in STARTS_PROCESSES and adapter_mode != DEFAULT else []


@pytest.mark.parametrize("method", registry.names("methods"))
@pytest.mark.parametrize(
    ("check", "adapter_mode"),
    [pytest.param(c, p, marks=_marks(c, p)) for c in testing.CHECKS for p in testing.ADAPTER_MODES],
)
def test_contract(check: str, method: str, adapter_mode: testing.AdapterMode, tmp_path: Path) -> None:
    settings = SETTINGS.get(method, {})
    if method == "safemerge":
        settings = {"safety_adapter": str(safety_adapter.write(adapter_mode, tmp_path / "safety"))}
    testing.CHECKS[check]({"name": method, **settings}, adapter_mode, tmp_path)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    ("check", "adapter_mode"),
    [
        pytest.param(c, p, marks=_marks(c, p))
        for c in ("split", "ranks", "resume", "effect", "state")
        for p in testing.ADAPTER_MODES
    ],
)
def test_contract_of_other_settings(
    check: str, variant: str, adapter_mode: testing.AdapterMode, tmp_path: Path
) -> None:
    testing.CHECKS[check](VARIANTS[variant], adapter_mode, tmp_path)


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize(
    ("check", "adapter_mode"),
    [pytest.param(c, p, marks=_marks(c, p)) for c in ("split", "ranks", "resume") for p in testing.ADAPTER_MODES],
)
def test_contract_of_memories(check: str, memory: str, adapter_mode: testing.AdapterMode, tmp_path: Path) -> None:
    method, settings = MEMORIES[memory]
    testing.CHECKS[check](method, adapter_mode, tmp_path, memory=settings)
