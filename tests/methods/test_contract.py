"""Every method of the package, under every policy, passes the whole contract: no skip, no xfail."""

from pathlib import Path

import pytest

from unforgotten import registry, testing


@pytest.mark.parametrize("policy", testing.POLICIES)
@pytest.mark.parametrize("method", registry.names("methods"))
@pytest.mark.parametrize("check", testing.CHECKS)
def test_contract(check: str, method: str, policy: testing.Policy, tmp_path: Path) -> None:
    testing.CHECKS[check](method, policy, tmp_path)
