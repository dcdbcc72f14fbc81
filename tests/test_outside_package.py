"""A package from outside, installed by pip: its method and judge are listed, named in recipes, and owe the contract."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent / "outside_package"

CONTRACT = """
import sys
from pathlib import Path
from unforgotten import testing
if __name__ == "__main__":
    for check in testing.CHECKS:
        testing.CHECKS[check]({"name": "l2sp", "weight": 0.5}, sys.argv[2], Path(sys.argv[1]) / check)
        print(check)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, built into a wheel and installed by pip into a folder of its own."""
    target = tmp_path_factory.mktemp("site")
    flags = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "install", *flags, "--target", target, PACKAGE], check=True)
    return target


def run(site: Path, *command: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.run([sys.executable, *command], env=env, text=True, capture_output=True, check=False)


def test_it_is_listed_with_what_its_class_says(site: Path) -> None:
    methods = run(site, "-m", "unforgotten", "list", "methods").stdout
    line = methods[methods.index("l2sp") :].partition("magmax")[0]
    for item in ("regularization", "gradients", "3 F", "1802.01483", "Pull the weights back"):
        assert item in line
    assert "Refused where a reply opens" in run(site, "-m", "unforgotten", "list", "judges").stdout


def test_a_recipe_names_it_and_a_typo_is_told(site: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("model: world\nmethod: {name: l2sp, weight: 0.3}\nevaluate: {harm: advbench, judge: opening}\n")
    code = f"from unforgotten.recipe.read import load_recipe; print(load_recipe({str(recipe)!r}).methods)"
    assert "l2sp" in run(site, "-c", code).stdout
    recipe.write_text("model: world\nmethod: l2ps\n")
    assert "Did you mean 'l2sp'" in run(site, "-c", code).stderr
    recipe.write_text("model: world\nmethod: {name: l2sp, weight: -1}\n")
    assert "weight" in run(site, "-c", code).stderr


@pytest.mark.parametrize("adapter_mode", ["merge"])
def test_it_passes_the_contract(adapter_mode: str, site: Path, tmp_path: Path) -> None:
    script = tmp_path / "contract.py"
    script.write_text(CONTRACT)
    done = run(site, str(script), str(tmp_path), adapter_mode)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "state"
