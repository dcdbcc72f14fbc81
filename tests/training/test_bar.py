"""The bar of a training is hidden while another thing moves on the terminal, and is back afterwards."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from unforgotten.runs import safe_text as display
from unforgotten.training.callbacks import Bar
from unforgotten.verbs.compare import live_table


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    written = io.StringIO()
    monkeypatch.setattr(
        display, "console", lambda stderr=False: Console(file=written, force_terminal=True, width=80, height=24)
    )
    return written


def _shown(bar: Bar) -> bool:
    state: Any = SimpleNamespace(is_world_process_zero=True, max_steps=4, global_step=0)
    bar.on_train_begin(None, state, None)
    try:
        return bar.bar is not None
    finally:
        bar.close()


def test_a_training_within_the_live_table_draws_no_bar(terminal: io.StringIO) -> None:
    assert _shown(Bar("before"))
    with live_table.board([], lambda text: None):
        assert not _shown(Bar("within"))
    assert _shown(Bar("after"))
    assert "0 of 0 runs done" in terminal.getvalue() and "within" not in terminal.getvalue()
