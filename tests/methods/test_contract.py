"""Every method of the package, under every policy, passes the whole contract: no skip, no xfail.

`make test` starts other processes (ranks, kills) under one policy; `make test-all` under all of them.
"""

from pathlib import Path

import pytest

from unforgotten import registry, testing

# Where the defaults would show nothing in the contract's seven steps.
SETTINGS = {"lisa": {"safety_steps": 2, "user_steps": 3}}
STARTS_PROCESSES = ("ranks", "resume")
DEFAULT = "merged"


def _marks(check: str, policy: str) -> list[pytest.MarkDecorator]:
    return [pytest.mark.slow] if check in STARTS_PROCESSES and policy != DEFAULT else []


@pytest.mark.parametrize("method", registry.names("methods"))
@pytest.mark.parametrize(
    ("check", "policy"), [pytest.param(c, p, marks=_marks(c, p)) for c in testing.CHECKS for p in testing.POLICIES]
)
def test_contract(check: str, method: str, policy: testing.Policy, tmp_path: Path) -> None:
    testing.CHECKS[check]({"name": method, **SETTINGS.get(method, {})}, policy, tmp_path)
