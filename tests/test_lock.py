"""Two processes in one folder: the second waits for the first, and a killed one holds nobody up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from unforgotten.lock import alone

HOLD = """
import sys, time
from pathlib import Path
from unforgotten.lock import alone
with alone(Path(sys.argv[1]), print):
    print("in", flush=True)
    time.sleep(float(sys.argv[2]))
    Path(sys.argv[1], "done").touch()
"""


def held(folder: Path, seconds: float) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), str(seconds)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "in\n"
    return process


def test_the_second_process_waits_says_so_and_finds_the_work_done(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    process, said = held(folder, 1.0), list[str]()
    with alone(folder, said.append):
        assert (folder / "done").exists()
    assert process.wait() == 0
    assert said == [f"Another process is at work on {folder}; waiting until it is done."]


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    process, said = held(tmp_path / "run", 60.0), list[str]()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    start = time.monotonic()
    with alone(tmp_path / "run", said.append):
        assert not said and time.monotonic() - start < 5
