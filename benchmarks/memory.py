"""The largest anonymous memory of a process, watched from outside: what it allocates, not what it maps from files.

    python -m benchmarks.memory MODULE FUNCTION JSON

runs `benchmarks.MODULE.FUNCTION(**JSON)` after reporting that imports are done; `peak` starts that and watches it.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

READY = "imports are done"
POLL_SECONDS = 0.002


def peak(module: str, function: str, **given: Any) -> int:
    """Bytes of anonymous memory at the highest, less what the process held when the work began. Linux alone tells."""
    command = [sys.executable, "-m", "benchmarks.memory", module, function, json.dumps(given)]
    # A freed block goes back to the system at once, so that what is held is what is needed.
    environment = os.environ | {"MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_MMAP_THRESHOLD_": str(1 << 16)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if line.strip() == READY:
                break
        start = highest = anonymous(child.pid)
        while child.poll() is None:
            highest = max(highest, anonymous(child.pid))
            time.sleep(POLL_SECONDS)
    if child.returncode:
        raise RuntimeError(f"{module}.{function} ended with {child.returncode}")
    return highest - start


def anonymous(pid: int) -> int:
    """Bytes of memory that belong to no file."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    actual = [line.split()[1] for line in text.splitlines() if line.startswith("RssAnon")]
    return int(actual[0]) * 1024 if actual else 0


def main() -> None:
    """The watched process."""
    import torch

    torch.set_num_threads(1)
    module, function, given = sys.argv[1:]
    work = getattr(importlib.import_module(f"benchmarks.{module}"), function)
    print(READY, flush=True)
    work(**json.loads(given))


if __name__ == "__main__":
    main()
