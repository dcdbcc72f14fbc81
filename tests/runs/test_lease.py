"""One process at a time has a lease, on one machine or on several; dead and silent holders are followed by one taker.

Processes here are real. Another machine is a process that names another place; its clock, one that stamps files an hour
or a day off.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from unforgotten.errors import LeaseLost
from unforgotten.runs import lease as module
from unforgotten.runs.lease import Lease, alone, holder, identity

START = """
import json, os, sys, time
from pathlib import Path
from unforgotten.runs import lease
from unforgotten.runs.lease import Lease, alone
folder = Path(sys.argv[1])
"""
ELSEWHERE = "lease._place = lambda: 'another machine'\n"


@contextlib.contextmanager
def process(code: str, *words: object) -> Iterator[subprocess.Popen[str]]:
    """A Python process; it has begun when it has said so, and is killed at the end where it still lives."""
    command = [sys.executable, "-c", START + code, *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) as actual:
        try:
            yield actual
        finally:
            actual.kill()


def said(actual: subprocess.Popen[str]) -> str:
    assert actual.stdout is not None
    return actual.stdout.readline().strip()


def waited(lease: Lease, at_most_seconds: float) -> float | None:
    """Seconds until the lease was taken, or None."""
    start = time.monotonic()
    while (passed := time.monotonic() - start) < at_most_seconds:
        if lease.take():
            return passed
        time.sleep(0.02)
    return None


HOLD = """
with alone(folder, print):
    print("in", flush=True)
    time.sleep(float(sys.argv[2]))
    Path(folder, "done").touch()
"""


def test_the_second_process_waits_says_so_and_finds_the_work_done(tmp_path: Path) -> None:
    folder, messages = tmp_path / "run", list[str]()
    folder.mkdir()
    with process(HOLD, folder, 0.7) as first:
        assert said(first) == "in" and holder(folder)
        with alone(folder, messages.append):
            assert (folder / "done").exists()
        assert first.wait() == 0
        assert len(messages) == 1 and f"at work on {folder}" in messages[0] and f"process {first.pid}" in messages[0]
    assert not holder(folder) and os.listdir(folder) == ["done"], "nothing of it lies in the folder itself"


def test_a_killed_process_holds_nobody_up(tmp_path: Path) -> None:
    lines: list[str] = []
    with process(HOLD, tmp_path / "run", 60) as first:
        assert said(first) == "in"
        first.kill()  # and nobody has asked for its exit status yet: it is still in the table of processes
        start = time.monotonic()
        with alone(tmp_path / "run", lines.append):
            assert time.monotonic() - start < 2
    [file] = (tmp_path / ".leases" / "run").iterdir()
    assert file.name == "2", "the dead one's lease is gone, and one file stays"


def test_whoever_has_a_lease_may_enter_again_and_another_thread_may_not(tmp_path: Path) -> None:
    from threading import Thread

    with alone(tmp_path / "run", print) as outer:
        with alone(tmp_path / "run", print) as inner:
            assert inner is outer
        outer.check()
        taken: list[bool] = []
        thread = Thread(target=lambda: taken.append(Lease(tmp_path / "run").take()))
        thread.start()
        thread.join()
        assert taken == [False]
    assert Lease(tmp_path / "run").take()


RACE = """
while not (folder / "go").exists():
    time.sleep(0.001)
leases, won = [Lease(folder / f"run-{i}") for i in range(200)], []
open_ = set(range(200))
while open_:
    for i in sorted(open_):
        if leases[i].take():
            won.append(i)
            open_.remove(i)
        elif leases[i].alive:
            open_.remove(i)
print(json.dumps(won), flush=True)
sys.stdin.read()
"""


def race(folder: Path, before: str = "") -> list[set[int]]:
    """What each of three processes won of 200 leases that they try in the same order at the same time."""
    go = folder / "go"
    with process(before + RACE, folder) as a, process(before + RACE, folder) as b, process(before + RACE, folder) as c:
        time.sleep(0.4)
        go.touch()
        won = [set(json.loads(said(each))) for each in (a, b, c)]
        go.unlink()
        for each in (a, b, c):  # without a word: they hold what they won until they die
            each.kill()
            each.wait()
        return won


def test_three_processes_race_for_200_leases_and_each_is_won_once(tmp_path: Path) -> None:
    for _ in range(2):  # the second time all 200 are a dead process's
        won = race(tmp_path)
        assert sum(map(len, won)) == 200 and set.union(*won) == set(range(200))


def test_three_processes_race_for_what_a_silent_machine_left(tmp_path: Path) -> None:
    quick = "lease.BEAT_SECONDS, Lease.__init__.__defaults__ = 9, (9, 0.5)\n"
    race(tmp_path, quick + ELSEWHERE)
    start = time.monotonic()
    won = race(tmp_path, quick)
    assert sum(map(len, won)) == 200 and set.union(*won) == set(range(200))
    assert time.monotonic() - start > 0.5, "silence was waited for"


TURNS = """
lease, inside = Lease(folder / "run"), folder / "inside"
for _ in range(100):
    while not lease.take():
        pass
    os.close(os.open(inside, os.O_CREAT | os.O_EXCL))  # fails where another is in here
    inside.unlink()
    lease.release()
print("ended", flush=True)
"""


def test_300_turns_of_three_processes_never_overlap(tmp_path: Path) -> None:
    with process(TURNS, tmp_path) as a, process(TURNS, tmp_path) as b, process(TURNS, tmp_path) as c:
        assert [said(each) for each in (a, b, c)] == ["ended"] * 3
    [last] = (tmp_path / ".leases" / "run").iterdir()
    assert int(last.name) >= 300


WITNESSED = """
import fcntl
lease, count = Lease(folder / "run"), 0
witness = open(folder / "witness", "a")
while True:
    if lease.take():
        fcntl.flock(witness, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system's own lock, which a dead process never has
        fcntl.flock(witness, fcntl.LOCK_UN)
        lease.release()
        print(count := count + 1, flush=True)
"""


def test_holders_killed_at_random_moments_are_followed_by_one(tmp_path: Path) -> None:
    chance = random.Random(0)
    for _ in range(8):
        with process(WITNESSED, tmp_path) as a, process(WITNESSED, tmp_path) as b, process(WITNESSED, tmp_path) as c:
            three = [a, b, c]
            for each in three:
                said(each)
            while len(three) > 1:
                time.sleep(chance.random() / 50)
                three.pop(chance.randrange(len(three))).kill()
            end = three[0].stdout.fileno()  # type: ignore[union-attr]
            os.set_blocking(end, False)
            with contextlib.suppress(BlockingIOError):
                while os.read(end, 1 << 16):
                    pass
            os.set_blocking(end, True)
            assert os.read(end, 1), "whoever is left goes on, and no flock was ever refused"


def test_without_hard_links_a_lease_is_won_once_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(1, "no hard links here")

    monkeypatch.setattr(os, "link", refused)
    first, second = Lease(tmp_path / "run"), Lease(tmp_path / "run")
    assert first.take() and not second.take()
    first.release()
    assert second.take() and not [f for f in second.folder.iterdir() if f.name.startswith(".")]
    second.release()


BEATS = """
shift, utime = float(sys.argv[2]), os.utime
os.utime = lambda file: utime(file, (time.time() + shift,) * 2)
lease = Lease(folder, 0.1, 0.6)
assert lease.take()
os.utime(lease._file(lease._mine))
print("in", flush=True)
try:
    while True:
        time.sleep(0.05)
        lease.check()
except Exception as error:
    print(type(error).__name__, flush=True)
"""


@pytest.mark.parametrize("hours", [0, -1, 24])
def test_another_machine_is_followed_when_it_falls_silent_whatever_its_clock_says(tmp_path: Path, hours: int) -> None:
    lease = Lease(tmp_path / "run", 0.1, 0.6)
    with process(ELSEWHERE + BEATS, tmp_path / "run", 3600 * hours) as far:
        assert said(far) == "in"
        assert waited(lease, 1.5) is None and lease.holder.endswith(str(far.pid))
        os.kill(far.pid, signal.SIGSTOP)
        passed = waited(lease, 5)
        assert passed is not None and passed > 0.4
        os.kill(far.pid, signal.SIGCONT)
        assert said(far) == "LeaseLost", "it finds out, and stops"
        lease.check()
        lease.release()


def test_a_sign_of_life_is_one_that_was_seen(tmp_path: Path) -> None:
    lease = Lease(tmp_path / "run", 0.1, 0.6)
    with process(ELSEWHERE + BEATS, tmp_path / "run", 0) as far:
        assert said(far) == "in"
        assert not lease.take() and not lease.alive, "nothing is known at the first look"
        seen = False
        for _ in range(20):
            time.sleep(0.05)
            assert not lease.take()
            seen = seen or lease.alive
        assert seen
        far.kill()
        time.sleep(0.2)
        lease.take()
        assert not lease.take() and not lease.alive


def test_a_lease_that_a_kill_cut_off_is_followed_after_a_while(tmp_path: Path) -> None:
    (tmp_path / ".leases" / "run").mkdir(parents=True)
    (tmp_path / ".leases" / "run" / "3").touch()
    lease = Lease(tmp_path / "run", 0.1, 0.3)
    assert not lease.take() and "unknown" in lease.holder
    passed = waited(lease, 5)
    assert passed is not None and passed > 0.2
    assert os.listdir(tmp_path / ".leases" / "run") == ["4"]


def test_a_number_that_was_used_before_is_given_back(tmp_path: Path) -> None:
    """A taker whose look at the folder is old creates a number below the highest, and sees that when it looks again."""
    first, late = Lease(tmp_path / "run"), Lease(tmp_path / "run")
    for _ in range(3):
        assert first.take()
        first.release()
    looks = iter([1])
    late._top = lambda: next(looks, Lease._top(late))  # type: ignore[method-assign]
    (tmp_path / ".leases" / "run" / "1").write_text("{}\nfree\n")
    assert not late.take()
    assert "2" not in os.listdir(tmp_path / ".leases" / "run")


def test_a_process_number_that_is_another_process_now_is_dead(tmp_path: Path) -> None:
    lease = Lease(tmp_path / "run")
    with process(HOLD, tmp_path / "run", 60) as first:
        assert said(first) == "in"
        [file] = (tmp_path / ".leases" / "run").iterdir()
        facts = json.loads(file.read_text())
        if not facts["started"]:
            pytest.skip("this system does not tell when a process began")
        assert not lease.take() and lease.alive
        file.write_text(json.dumps(facts | {"started": "1"}) + "\n")
        assert lease.take()
        lease.release()


def test_what_is_lost_is_not_released(tmp_path: Path) -> None:
    lease = Lease(tmp_path / "run")
    assert lease.take()
    (tmp_path / ".leases" / "run" / "2").write_text("{}\n")  # someone went on
    with pytest.raises(LeaseLost, match=r"took over .*run.* this process stops"):
        lease.check()
    lease.release()
    assert holder(tmp_path / "run") == "unknown"


CLONE = """
import socket
socket.gethostname = lambda: "a clone"
"""


def test_machines_cloned_from_a_running_one_do_not_take_each_others_leases(tmp_path: Path) -> None:
    """One boot id, one table of processes by its number, and no such process here; the name alone differs."""
    lease = Lease(tmp_path / "run", 0.1, 0.6)
    with process(CLONE + BEATS, tmp_path / "run", 0) as far:
        assert said(far) == "in"
        assert waited(lease, 1.5) is None, "its holder lives"
        far.kill()
        passed = waited(lease, 5)
        assert passed is not None and passed > 0.4, "and is followed once it is silent"
        lease.release()


def test_what_process_1_held_before_the_container_began_again_is_not_our_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the system does not tell when a process began: the number is this one's, and the token is not."""
    monkeypatch.setattr(module, "_facts_of", lambda pid: ("", ""))
    lease = Lease(tmp_path / "run")
    lease.folder.mkdir(parents=True)
    (lease.folder / "1").write_text(json.dumps(identity() | {"token": "0" * 32, "stale_seconds": 180}) + "\n")
    assert lease.take()
    lease.release()


def test_a_forked_child_does_not_enter_by_its_parents_lease(tmp_path: Path) -> None:
    code = """
with alone(folder, print) as outer:
    pid = os.fork()
    if not pid:
        lease.time.sleep = lambda seconds: os._exit(7)  # it waits for its turn
        with alone(folder, lambda text: None):
            os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""
    with process(code, tmp_path / "run") as first:
        assert said(first) == "7"
