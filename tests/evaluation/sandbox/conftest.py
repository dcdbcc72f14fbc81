"""Every sandbox that holds on this machine."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from unforgotten.evaluation.sandbox.base import Sandbox
from unforgotten.evaluation.sandbox.probe import SANDBOXES, _fault


@pytest.fixture(params=SANDBOXES, ids=lambda kind: kind.name)
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    """Each in turn; one that does not hold here is skipped, and the reason said."""
    if why := _fault(request.param):
        assert not re.search(r"set up: (?!OSError)\w+Error", why), f"a fault of ours, not of this machine: {why}"
        pytest.skip(f"{request.param.name} does not hold here: {why}")
    return request.param()


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A folder outside the sandbox that its modes leave open to every user, with a secret in it."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and not folder.stat().st_mode & 0o001 and folder != Path.home():
            folder.chmod(folder.stat().st_mode | 0o011)
    tmp_path.chmod(0o777)
    (tmp_path / "secret").write_text("the secret")
    (tmp_path / "secret").chmod(0o666)
    yield tmp_path
    assert sorted(p.name for p in tmp_path.iterdir()) == ["secret"], "nothing was written outside"
    assert (tmp_path / "secret").read_text() == "the secret"
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o666
