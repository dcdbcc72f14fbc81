"""Every method of the package, under every policy, passes the whole contract: no skip, no xfail."""

from pathlib import Path

import pytest

from unforgotten import registry, testing

# Where the defaults would show nothing in the contract's seven steps.
SETTINGS = {"lisa": {"safety_steps": 2, "user_steps": 3}}


@pytest.mark.parametrize("policy", testing.POLICIES)
@pytest.mark.parametrize("method", registry.names("methods"))
@pytest.mark.parametrize("check", testing.CHECKS)
def test_contract(check: str, method: str, policy: testing.Policy, tmp_path: Path) -> None:
    testing.CHECKS[check]({"name": method, **SETTINGS.get(method, {})}, policy, tmp_path)
