"""The pages made from docstrings are up to date, and making them loads no torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_generated_pages_are_fresh_and_need_no_torch() -> None:
    code = """
import runpy, sys
sys.argv = ["docs/generate.py", "--check"]
try:
    runpy.run_path("docs/generate.py", run_name="__main__")
finally:
    assert "torch" not in sys.modules
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
