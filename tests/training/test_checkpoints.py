"""A checkpoint that is not what was written is named, and the newest whole one is taken instead."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainingArguments

from unforgotten import testing
from unforgotten.errors import TrainingError
from unforgotten.training import checkpoint
from unforgotten.training.replay_memory import Memory
from unforgotten.training.trainer import MethodTrainer

ROOT = Path(__file__).parents[2]


def trainer(folder: Path, method: Any = "der", **more: Any) -> MethodTrainer:
    settings: dict[str, Any] = {
        "per_device_train_batch_size": 2,
        "max_steps": 6,
        "save_strategy": "steps",
        "save_steps": 2,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
    }
    return MethodTrainer(
        model=testing.tiny_model("merge"),
        args=TrainingArguments(str(folder), **{**settings, **more}),
        train_dataset=testing.ragged_rows(12, 1),
        safety_dataset=testing.ragged_rows(9, 2),
        memory=Memory(n_rows=9),
        method=method,
    )


@pytest.fixture(scope="module")
def through(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    """A folder with the checkpoints of steps 2, 4 and 6, and the weights that the run ended at."""
    folder = tmp_path_factory.mktemp("through")
    made = trainer(folder)
    made.train()
    return folder, made.run.weights.snapshot()


@pytest.fixture
def copy(through: tuple[Path, Any], tmp_path: Path) -> Path:
    return Path(shutil.copytree(through[0], tmp_path / "run"))


def flip(file: Path) -> None:
    """One bit in the middle."""
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(bytes(raw))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def swap(file: Path) -> None:
    """The same file of the checkpoint before."""
    shutil.copyfile(file.parents[1] / "checkpoint-4" / file.name, file)


def empty(file: Path) -> None:
    file.write_bytes(b"")


def nested(file: Path) -> None:
    file.write_text("[" * 100_000)


def undigested(file: Path) -> None:
    """A mark that lost its list of files, as though it were an older one."""
    facts = json.loads(file.read_text())
    file.write_text(json.dumps({k: v for k, v in facts.items() if k != "files"}))


def renamed(file: Path) -> None:
    shutil.rmtree(file.parent)
    shutil.copytree(file.parent.with_name("checkpoint-4"), file.parent)


def stepped(file: Path) -> None:
    """Another step, and all digests made anew."""
    file.write_text(json.dumps(json.loads(file.read_text()) | {"global_step": 2}))
    mark = file.parent / "unforgotten" / "complete.json"
    facts = {name: value for name, value in json.loads(mark.read_text()).items() if name != "digest"}
    facts["files"][file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    mark.write_text(json.dumps(facts | {"digest": digest}))


@pytest.mark.parametrize(
    ("harm", "name", "says"),
    [
        (flip, "adapter_model.safetensors", "adapter_model.safetensors changed after it was written"),
        (flip, "optimizer.pt", "optimizer.pt changed after it was written"),
        (cut, "rng_state.pth", "rng_state.pth changed after it was written"),
        (empty, "trainer_state.json", "trainer_state.json changed after it was written"),
        (nested, "trainer_state.json", "trainer_state.json changed after it was written"),
        (nested, "unforgotten/complete.json", "unforgotten/complete.json cannot be read"),
        (swap, "adapter_model.safetensors", "adapter_model.safetensors changed after it was written"),
        (Path.unlink, "scheduler.pt", "scheduler.pt is missing"),
        (Path.touch, "pytorch_model.bin", "pytorch_model.bin does not belong to it"),
        (flip, "unforgotten/complete.json", "unforgotten/complete.json"),
        (empty, "unforgotten/complete.json", "unforgotten/complete.json cannot be read"),
        (undigested, "unforgotten/complete.json", "unforgotten/complete.json changed after it was written"),
        (renamed, "config.json", "it is the checkpoint of step 4, under another name"),
        (stepped, "trainer_state.json", "its trainer_state.json is at step 2, and it was written at step 6"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_newest_whole_one_is_taken(
    harm: Callable[[Path], None], name: str, says: str, copy: Path, through: Any, caplog: pytest.LogCaptureFixture
) -> None:
    harm(copy / "checkpoint-6" / name)
    again = trainer(copy)
    with caplog.at_level(logging.WARNING):
        again.train(resume_from_checkpoint=True)
    assert again.resumed_from == copy / "checkpoint-4"
    assert testing.distance(through[1], again.run.weights.snapshot()) == 0.0, "and the run ends where it would have"
    skipped, goes_on = [note for note in again.run.notes if "checkpoint" in note]
    assert says in skipped and "checkpoint-6 is damaged and was skipped" in skipped and "checkpoint-4" in goes_on
    assert says in caplog.text, "said at once, not only in the record"
    assert (copy / "damaged-checkpoint-6").is_dir() and checkpoint.fault(copy / "checkpoint-6") is None


def test_where_none_is_whole_the_training_starts_again_and_says_so(copy: Path, through: Any) -> None:
    for step in (2, 4, 6):
        flip(copy / f"checkpoint-{step}" / "optimizer.pt")
    again = trainer(copy)
    again.train(resume_from_checkpoint=True)
    assert again.resumed_from is None and any("starts again from step 0" in note for note in again.run.notes)
    assert testing.distance(through[1], again.run.weights.snapshot()) == 0.0


def test_a_damaged_checkpoint_that_is_named_is_refused(copy: Path) -> None:
    flip(copy / "checkpoint-4" / "optimizer.pt")
    with pytest.raises(
        TrainingError, match=r"checkpoint-4 is damaged: optimizer.pt changed after .*newest complete one"
    ):
        trainer(copy).train(resume_from_checkpoint=str(copy / "checkpoint-4"))
    (copy / "checkpoint-2" / "unforgotten" / "complete.json").unlink()
    with pytest.raises(TrainingError, match=r"complete.json cannot be read"):
        trainer(copy).train(resume_from_checkpoint=str(copy / "checkpoint-2"))
    assert (copy / "checkpoint-2").is_dir() and (copy / "checkpoint-4").is_dir(), "what is named is left where it is"


def test_a_checkpoint_without_digests_is_taken_with_a_note(copy: Path, through: Any) -> None:
    for step in (2, 4, 6):
        (copy / f"checkpoint-{step}" / "unforgotten" / "complete.json").write_text('{"methods": ["der"]}')
    shutil.rmtree(copy / "checkpoint-6")
    again = trainer(copy)
    again.train(resume_from_checkpoint=True)
    assert again.resumed_from == copy / "checkpoint-4" and "without a check" in again.run.notes[0]
    assert testing.distance(through[1], again.run.weights.snapshot()) == 0.0


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "trainer_state.json", "adapter_model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"\x93garbage" * 100], ids=["empty", "garbage"])
def test_a_file_that_nothing_reads_damages_a_checkpoint_without_digests(name: str, content: bytes, copy: Path) -> None:
    for step in (2, 4, 6):
        (copy / f"checkpoint-{step}" / "unforgotten" / "complete.json").write_text('{"methods": ["der"]}')
    (copy / "checkpoint-6" / name).write_bytes(content)
    actual, damaged = checkpoint.newest_whole(copy)
    assert actual == copy / "checkpoint-4" and [d.folder.name for d in damaged] == ["checkpoint-6"]
    assert name in damaged[0].why


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("optimizer.pt", {"state": {0: {"step": torch.zeros(3)}}, "param_groups": []}),
        ("optimizer.pt", {"state": Path("x")}),
        ("scheduler.pt", {"base_lrs": ["x"]}),
        ("scheduler.pt", {"last_epoch": "four"}),
        ("rng_state.pth", {"python": None, "numpy": None, "cpu": None}),
        ("rng_state.pth", b""),
        ("trainer_state.json", b"[]"),
        ("trainer_state.json", b"[" * 100_000),
    ],
)
def test_a_checkpoint_whose_digests_were_all_made_anew_is_an_error_or_skipped(
    name: str, content: Any, copy: Path
) -> None:
    folder = copy / "checkpoint-4"
    shutil.rmtree(copy / "checkpoint-6")
    if isinstance(content, bytes):
        (folder / name).write_bytes(content)
    else:
        torch.save(content, folder / name)
    facts = {key: value for key, value in checkpoint.mark(folder).items() if key != "digest"}
    facts["files"] = checkpoint._digests(folder)
    (folder / "unforgotten" / "complete.json").write_text(json.dumps(facts | {"digest": checkpoint._digest(facts)}))
    again = trainer(copy)
    if name == "trainer_state.json":
        again.train(resume_from_checkpoint=True)
        assert again.resumed_from == copy / "checkpoint-2"
        return
    with pytest.raises(TrainingError, match="checkpoint-4 cannot be resumed") as said:
        again.train(resume_from_checkpoint=True)
    assert "weights_only" not in str(said.value)


def test_other_rows_a_step_are_refused(copy: Path) -> None:
    shutil.rmtree(copy / "checkpoint-6")
    with pytest.raises(TrainingError, match="trained with 2 rows a step, but this run has 4"):
        trainer(copy, gradient_accumulation_steps=2).train(resume_from_checkpoint=True)
    same = trainer(copy, per_device_train_batch_size=1, gradient_accumulation_steps=2)
    same.train(resume_from_checkpoint=True)
    assert same.resumed_from == copy / "checkpoint-4"


@pytest.mark.parametrize(("owner", "goes_on"), [("b" * 12, False), ("a" * 12, True)])
def test_a_checkpoint_of_another_run_is_refused(owner: str, goes_on: bool, tmp_path: Path) -> None:
    """Same method, same batch, other rows: nothing else in it would tell."""
    first = trainer(tmp_path / "run", method="sft", max_steps=2)
    first.run.digest = "a" * 12
    first.train()
    second = trainer(tmp_path / "run", method="sft", max_steps=2)
    second.run.digest = owner
    if goes_on:
        second.train(resume_from_checkpoint=True)
        assert second.resumed_from == tmp_path / "run" / "checkpoint-2"
    else:
        with pytest.raises(TrainingError, match=f"is of another run .{'a' * 12}, this is {owner}"):
            second.train(resume_from_checkpoint=True)


@pytest.mark.parametrize(("key", "value"), [("ratios", ["x"]), ("notes", 5), ("methods", "der")])
def test_a_mark_of_other_types_is_damaged(key: str, value: object, copy: Path) -> None:
    """Its digest is right, so that only the types tell."""
    file = copy / "checkpoint-6" / "unforgotten" / "complete.json"
    facts = {**json.loads(file.read_text()), key: value}
    del facts["digest"]
    file.write_text(json.dumps(facts | {"digest": checkpoint._digest(facts)}))
    actual, damaged = checkpoint.newest_whole(copy)
    assert actual == copy / "checkpoint-4" and "changed after it was written" in damaged[0].why


@pytest.mark.parametrize("harm", [flip, cut, swap])
def test_a_damaged_store_is_made_again_or_named(harm: Callable[[Path], None], copy: Path, through: Any) -> None:
    [states] = (copy / "aligned-states").glob("states-*")
    shard, other = sorted(states.iterdir())
    before = shard.read_bytes()
    (copy / "checkpoint-4").rename(copy / "kept")
    if harm is swap:
        shutil.copyfile(other, shard)
    else:
        harm(shard)
    for step in ("2", "6"):
        shutil.rmtree(copy / f"checkpoint-{step}")
    (copy / "kept").rename(copy / "checkpoint-4")
    with pytest.raises(TrainingError, match=rf"{shard.name} is damaged: .*Put the file back"):
        trainer(copy).train(resume_from_checkpoint=True)
    anew = trainer(copy)
    anew.train()
    assert shard.read_bytes() == before and "is computed again" in anew.run.notes[0]
    assert testing.distance(through[1], anew.run.weights.snapshot()) == 0.0


RANKS = """
import sys, torch
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import os
from tests.training.test_checkpoints import trainer
out = Path(sys.argv[2]) / (os.environ["RANK"] if sys.argv[3] == "apart" else "")
made = trainer(out, sys.argv[4], per_device_train_batch_size=1, max_steps=int(sys.argv[5]), ddp_backend="gloo",
               ddp_find_unused_parameters=False)
try:
    made.train(resume_from_checkpoint=sys.argv[6] == "resume")
except Exception as error:
    print(f"{type(error).__name__}: {error}", flush=True)
    os._exit(3)
if os.environ["RANK"] == "0":
    print("notes", made.run.notes, "from", made.resumed_from, flush=True)
    torch.save(made.run.weights.snapshot(), Path(sys.argv[2]) / "end.pt")
"""


def two_ranks(folder: Path, *words: str) -> str:
    (folder / "ranks.py").write_text(RANKS)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0",
               "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]  # fmt: skip
    ended = subprocess.run(
        [*command, str(folder / "ranks.py"), str(ROOT), str(folder / "out"), *words],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    return ended.stdout + ended.stderr


@pytest.mark.slow
def test_ranks_without_a_common_disk_are_told_at_the_first_save_and_refused_at_a_resume(tmp_path: Path) -> None:
    assert "no disk in common" in two_ranks(tmp_path, "apart", "der", "4", "anew")
    said = two_ranks(tmp_path, "apart", "der", "6", "resume")
    assert said.count("TrainingError: The ranks do not see the same checkpoints") == 2, said
    assert "rank 0 sees checkpoint-2, checkpoint-4, rank 1 sees none" in said
    assert not (tmp_path / "out" / "0" / "checkpoint-6").exists(), "nothing was trained"


@pytest.mark.slow
def test_a_run_of_two_ranks_goes_on_with_one(tmp_path: Path) -> None:
    """EWC's Fisher is one file, whatever the number of ranks that made it."""
    assert "from None" in two_ranks(tmp_path, "shared", "ewc", "4", "anew")
    folder = tmp_path / "out"
    assert [f.name[:14] for f in (folder / "aligned-states").iterdir() if f.name.startswith("fisher")] == [
        "fisher-weights"
    ]
    one = trainer(folder, "ewc")
    one.train(resume_from_checkpoint=True)
    assert one.resumed_from == folder / "checkpoint-4"
    through = trainer(tmp_path / "through", "ewc")
    through.train()
    assert testing.distance(through.run.weights.snapshot(), one.run.weights.snapshot()) < 1e-4


def test_two_ranks_that_see_other_checkpoints_are_refused(copy: Path) -> None:
    """The comparison itself, with what the ranks would have gathered."""
    from unforgotten.training.resume import Seen, _refuse_different

    here = checkpoint.seen(checkpoint.marked(copy))
    _refuse_different([Seen(here), Seen(dict(here))], copy)
    for other in ({}, {**here, "checkpoint-6": "f" * 64}, {k: v for k, v in here.items() if k != "checkpoint-6"}):
        with pytest.raises(TrainingError, match="do not see the same checkpoints .*on a disk that all"):
            _refuse_different([Seen(here), Seen(other)], copy)
