"""Folders are made whole or not at all, by many processes at once, also where each of them is number 1."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from unforgotten.errors import RecipeError
from unforgotten.runs import atomic_folder, lease

WORK = """
import os, sys, time
from pathlib import Path
if sys.argv[3:]:
    os.getpid = lambda: 1  # as in a container
from unforgotten.runs import atomic_folder
with atomic_folder.folder(Path(sys.argv[1])) as part:
    for i in range(20):
        (part / str(i)).write_text(sys.argv[2])
        time.sleep(0.02)
    print("made", flush=True)
    sys.stdin.readline()
    atomic_folder.publish(part, Path(sys.argv[1]))
"""


def begun(target: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORK, str(target), *words]
    return subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1, text=True)


def test_two_at_once_leave_each_other_alone_and_one_comes_second(tmp_path: Path) -> None:
    target = tmp_path / "out"
    both = [begun(target, word, "1") for word in "ab"]
    for each in both:
        assert each.stdout is not None and each.stdout.readline() == "made\n"
    ends = [each.communicate("\n") for each in both]
    assert sorted(each.returncode for each in both) == [0, 1]
    assert any("Another process made it in the meantime" in said for _, said in ends)
    assert len({(target / str(i)).read_text() for i in range(20)}) == 1, "all of it is of one process"
    assert sorted(f.name for f in tmp_path.iterdir()) == ["out"] and len(list(target.iterdir())) == 20


def test_what_a_killed_process_left_is_in_nobodys_way_and_removed(tmp_path: Path) -> None:
    target = tmp_path / "out"
    first = begun(target, "a")
    assert first.stdout is not None and first.stdout.readline() == "made\n"
    first.kill()
    first.communicate()
    [left] = tmp_path.iterdir()
    with atomic_folder.folder(target) as part:
        (part / "file").touch()
        assert not left.exists()
        atomic_folder.publish(part, target)
    assert [f.name for f in target.iterdir()] == ["file"]


def test_what_was_left_under_this_processs_own_number_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / f".out.{os.getpid()}").mkdir()
    with atomic_folder.folder(tmp_path / "out") as part:
        atomic_folder.publish(part, tmp_path / "out")
    assert (tmp_path / "out").is_dir()


def test_a_folder_of_an_unknown_place_is_left_for_a_week(tmp_path: Path) -> None:
    for name in (".out.far", ".out.old", ".out.users", ".outer.far", ".out.half"):
        (tmp_path / name).mkdir()
        if name != ".out.users":
            (tmp_path / name / atomic_folder.OWNER).write_text(json.dumps(lease.identity() | {"place": "far"}))
    (tmp_path / ".out.half" / atomic_folder.OWNER).write_text('{"pid')
    old = time.time() - 8 * 86400
    os.utime(tmp_path / ".out.old" / atomic_folder.OWNER, (old, old))
    with pytest.raises(ZeroDivisionError), atomic_folder.folder(tmp_path / "out"):
        raise ZeroDivisionError
    assert sorted(f.name for f in tmp_path.iterdir()) == [".out.far", ".out.half", ".out.users", ".outer.far"]
    with atomic_folder.folder(tmp_path / "out", alone=True):
        pass
    assert [f.name for f in tmp_path.iterdir()] == [".outer.far"], "whoever holds the lease clears all"


def test_a_folder_that_is_there_is_not_changed(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "theirs").touch()
    with pytest.raises(RecipeError, match="exists already"), atomic_folder.folder(tmp_path / "out") as part:
        atomic_folder.publish(part, tmp_path / "out")
    assert [f.name for f in tmp_path.rglob("*")] == ["out", "theirs"]
