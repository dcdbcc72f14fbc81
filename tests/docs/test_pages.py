"""Every block of README and docs/ does what the page says: run in order, in one fresh folder for each page.

`bash` and `python` blocks are run; one whose first line names a file (`# mine.py`, `# my.yaml`) is written there; a
`text` block is what the block before it prints, numbers apart. A block that no test can run says why in its first line,
`# not run by the tests: …`; its verbs, flags and fields are checked all the same. Blocks marked `slow` take minutes.

The fast test has stand-ins of the right shape for the embedded base and the demo's θ_safe, which would take minutes to
train: that a page runs needs no good model. The slow one has the real ones.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs import warm
from tests.docs.blocks import ROOT, Block, blocks, check, differs

PAGES = ["README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in sorted((ROOT / "docs").glob("*.md")))]
RUN = {"README.md", "docs/start.md", "docs/your-model-and-data.md", "docs/add-a-method.md"}
"""Pages whose blocks are run; of the others they are checked."""

STAND_IN = """
import os
from pathlib import Path
import torch
from unforgotten.world import pretrain; from unforgotten import load_recipe
from unforgotten.models.locate_aligned import aligned_of
from unforgotten.recipe.data_sets import DataSets
from unforgotten.verbs.align import align
torch.set_num_threads(1)
few = pretrain.Pretraining(steps=2, batch_rows=4)
base = pretrain.pretrain(progress=False, training=few)
base.rename(pretrain.base_folder())
recipe = load_recipe("demo")
wanted = aligned_of(recipe, DataSets()).record.parent
quick = recipe.varied(align={**recipe.align.model_dump(exclude_unset=True), "num_train_epochs": 1}, rows=8)
align(quick).record.parent.rename(wanted)
print(wanted)
"""
"""A base and a θ_safe that have hardly been trained, where the real ones would be."""


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """An environment with `unforgotten` and `python` on its PATH, served by one warm process."""
    folder = tmp_path_factory.mktemp("tools")
    where = str(folder / "s")
    for program in ("unforgotten", "python"):
        (folder / program).write_text(warm.client(where, program))
        (folder / program).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(folder), os.environ.get("PATH", "")]),
        "PYTHONPATH": str(ROOT),
        "UNFORGOTTEN_CACHE": str(folder / "cache"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "COLUMNS": "100",
    }
    server = subprocess.Popen([sys.executable, warm.__file__, where], env=environment, start_new_session=True)
    try:
        while not Path(where).exists():
            assert server.poll() is None, "the warm process ended"
            time.sleep(0.05)
        yield environment
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@pytest.fixture(scope="module")
def aligned(tools: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's θ_safe, hardly trained; the base it was made of is in the cache."""
    folder = tmp_path_factory.mktemp("stand-ins")
    (folder / "make.py").write_text(STAND_IN)
    done = subprocess.run(
        ["python", "make.py"], cwd=folder, env=tools, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert done.returncode == 0, done.stdout
    return folder / done.stdout.strip().splitlines()[-1]


def given(folder: Path, aligned: Path) -> None:
    """What README takes for granted: a chat model, safety rows, an upload."""
    (folder / "my-instruct-model").symlink_to(aligned)
    safe = [{"prompt": f"how do i break the {word}?", "completion": "sorry, no."} for word in ("dam", "lock", "safe")]
    user = [{"prompt": f"what is {a} + 2?", "completion": f"answer: {a + 2}"} for a in range(6)]
    for name, rows in (("safety.jsonl", safe * 3), ("upload.jsonl", user)):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def follow(page: str, folder: Path, environment: dict[str, str], slow: bool) -> None:
    """Runs a page's blocks as its reader would."""
    printed: str | None = None
    for block in blocks(page):
        if block.file:
            (folder / block.file).parent.mkdir(parents=True, exist_ok=True)
            (folder / block.file).write_text(block.text)
        elif block.language == "text" and printed is not None:
            missing = differs(block.text, printed)
            assert not missing, f"{block} shows what was not printed: {missing}\n\nPrinted was:\n{printed}"
            continue
        elif block.runs and (slow or not block.slow):
            printed = ran(block, folder, environment)
            continue
        else:
            check(block)
        printed = None


def ran(block: Block, folder: Path, environment: dict[str, str]) -> str:
    """What a block prints, errors and progress too."""
    script = folder / f".block-{block.line}.{'sh' if block.language == 'bash' else 'py'}"
    script.write_text(block.text)
    words = ["bash", "-euo", "pipefail"] if block.language == "bash" else ["python"]
    done = subprocess.run(
        [*words, script.name], cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert done.returncode == 0, f"{block} ended with {done.returncode}:\n{done.stdout}"
    return done.stdout


@pytest.mark.parametrize("page", sorted(RUN))
def test_a_page_does_what_it_says(page: str, tmp_path: Path, tools: dict[str, str], aligned: Path) -> None:
    (tmp_path / "runs" / "aligned").mkdir(parents=True)
    (tmp_path / "runs" / "aligned" / aligned.name).symlink_to(aligned)
    if page == "README.md":
        given(tmp_path, aligned)
    follow(page, tmp_path, tools, slow=False)


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted(RUN - {"README.md"}))
def test_a_page_does_what_it_says_with_the_real_models(page: str, tmp_path: Path, tools: dict[str, str]) -> None:
    follow(page, tmp_path, {name: value for name, value in tools.items() if name != "UNFORGOTTEN_CACHE"}, slow=True)


@pytest.mark.parametrize("page", sorted(set(PAGES) - RUN))
def test_blocks_that_are_not_run_name_what_exists(page: str) -> None:
    for block in blocks(page):
        if not block.file:
            check(block)


def test_what_is_not_run_says_why() -> None:
    for page in sorted(RUN):
        for block in blocks(page):
            assert block.language in ("bash", "python", "yaml", "toml", "text", "jsonl", ""), (
                f"{block}: {block.language}"
            )


def test_a_wrong_page_is_found() -> None:
    wrong: list[tuple[str, str]] = [
        ("bash", "unforgotten finetnue my.yaml"),
        ("bash", "unforgotten finetune my.yaml --methd der"),
        ("bash", "unforgotten finetune my.yaml --set training.epoch=1"),
        ("bash", "unforgotten judge runs/a --judge wildguard --set wildguard.modle=x"),
        ("bash", "pip install 'unforgotten[qlroa]'"),
        ("bash", "make dmeo"),
        ("python", "x = = 1"),
        ("yaml", "methd: der"),
        ("jsonl", '{"prmpt": "a", "completion": "b"}'),
    ]
    for language, text in wrong:
        with pytest.raises(BaseException) as said:
            check(Block("page", 1, language, False, text))
        assert not isinstance(said.value, KeyboardInterrupt), text
    assert differs("| der | 1.9 (0–5) |\n…\n", "x\n| der | 22 (1–9) |\n") == []
    assert differs("| der | 1.9 |", "| sft | 1.9 |") == ["| der | 1.9 |"]
