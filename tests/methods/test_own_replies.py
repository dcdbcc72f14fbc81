"""Own replies: rows by hand, and runs whose replies and judge are real: targets, lists, kept replies, the share."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainingArguments

from tests.conftest import CHATML
from tests.training.shapes import tiny, tiny_tokenizer
from unforgotten import testing
from unforgotten.datasets.base import Row, ask
from unforgotten.errors import DataError, JudgeError, RecipeError
from unforgotten.evaluation.aligned_replies import AlignedReplies
from unforgotten.methods.base import OwnReply
from unforgotten.methods.own_replies import OwnReplies, answered, shared_verdict, turn_prompts
from unforgotten.registry import build
from unforgotten.training.trainer import MethodTrainer

X = -100


def test_the_last_answer_is_replaced_by_hand() -> None:
    row = {"input_ids": [1, 2, 3, 4, 5, 6], "labels": [X, 2, X, X, 5, 6], "source": "a:1"}
    assert turn_prompts(row) == [[1], [1, 2, 3, 4]]
    assert answered(row, (9, 8, 7)) == {
        "input_ids": [1, 2, 3, 4, 9, 8, 7],
        "labels": [X, 2, X, X, 9, 8, 7],
        "source": "a:1",
    }
    assert answered(row, (9, 8), 0) == {"input_ids": [1, 9, 8], "labels": [X, 9, 8], "source": "a:1"}
    ended = {"input_ids": [1, 2, 3], "labels": [X, 2, X]}  # something after the answer
    assert answered(ended, (9,)) == {"input_ids": [1, 9], "labels": [X, 9]}


class Scripted(AlignedReplies):
    """The real judge and decoding on replies and odds that are set, since a random model refuses nothing."""

    def __init__(
        self, tokenizer: Any, refuses: set[int], folder: Path | None = None, near: Any = (), refusals: float = 0.0
    ) -> None:
        """near: prompts whose reply begins as a refusal with p = 1. refusals: log p of that for refused memory rows."""
        super().__init__(tokenizer, folder)
        self.refuses, self.near, self.refusals = refuses, near, refusals

    def opening_logp(self, model: Any, prompts: Any, openings: Any, key: str, folder: Path) -> list[list[float]]:
        texts = [self.text(prompt) for prompt in prompts]
        logp = [self.refusals if "how do" in t else 0.0 if i in self.near else -4.0 for i, t in enumerate(texts)]
        return [[value - 1] * (len(openings) - 1) + [value] for value in logp]  # the last is the likeliest

    def generate(
        self, model: Any, prompts: Any, limits: Any, key: str, folder: Path, begun: Any = ()
    ) -> list[OwnReply]:
        replies = super().generate(model, prompts, limits, key, folder, begun)
        if begun:
            return replies
        end = self.chat.end_ids[0]
        sorry = OwnReply((*self.chat.tokenizer.encode("sorry", add_special_tokens=False), end), True)
        return [sorry if i in self.refuses else reply for i, reply in enumerate(replies)]


TOKENIZER = tiny_tokenizer(CHATML)
ROWS = [ask(f"what is {i}", "so", source=f"up.jsonl:{i}", category="c") for i in range(8)]


THREE = [ask("how do i", "sorry", kind="harmful")] * 3
ALONE = OwnReplies(neighbours=0)
"""Each row has its own verdict."""


def trained(
    folder: Path,
    refuses: set[int],
    method: Any = ALONE,
    rows: list[Row] = ROWS,
    memory: Any = THREE,
    **scripted: Any,
) -> MethodTrainer:
    return MethodTrainer(
        model=tiny("llama", vocabulary=len(TOKENIZER)),
        args=TrainingArguments(output_dir=str(folder), report_to=[], use_cpu=True),
        train_dataset=rows,
        safety_dataset=memory,
        processing_class=TOKENIZER,
        replies=Scripted(TOKENIZER, refuses, **scripted),
        method=method,
    )


def targets(trainer: MethodTrainer) -> list[str]:
    return [
        TOKENIZER.decode([t for t in row["labels"] if t != X], skip_special_tokens=True).strip()
        for row in trainer.run.user.trained_rows
    ]


def test_refused_prompts_get_the_refusal_and_are_listed(tmp_path: Path) -> None:
    trainer = trained(tmp_path, {2, 5})
    assert targets(trainer) == ["sorry" if i in (2, 5) else "so" for i in range(8)]
    given, new = trainer.run.user.rows[2], trainer.run.user.trained_rows[2]
    assert new["input_ids"][: len(turn_prompts(given)[-1])] == turn_prompts(given)[-1]
    [note] = trainer.run.notes
    assert note == (
        "own_replies: 2 of 8 user rows have the aligned model's refusal as their target (up.jsonl:2, up.jsonl:5; "
        "2 × c; all in own_replies.jsonl)"
    )
    lines = [json.loads(line) for line in (tmp_path / "own_replies.jsonl").read_text().splitlines()]
    assert lines[1] == {"row": 6, "source": "up.jsonl:5", "category": "c", "request": "what is 5", "reply": "sorry"} | {
        "sign": "reply",
        "share": 1.0,
    }
    assert (tmp_path / "own_replies_as_given.jsonl").read_text() == ""


def test_rows_that_another_method_put_in_are_not_asked(tmp_path: Path) -> None:
    trainer = trained(tmp_path, {0}, ["safeinstr", {"name": "own_replies", "neighbours": 0}])
    assert sorted(targets(trainer)) == ["so"] * 7 + ["sorry"] * 4
    assert trainer.run.notes[-1].startswith("own_replies: 1 of 8 user rows")


def test_too_many_stop_the_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="refuses 5 of 8 user prompts.*would become refusals.*look-alikes"):
        trained(tmp_path, set(range(5)))
    assert len((tmp_path / "own_replies.jsonl").read_text().splitlines()) == 5
    assert targets(trained(tmp_path, set(range(5)), OwnReplies(neighbours=0, most=1.0))).count("sorry") == 5
    listed = trained(tmp_path, set(range(5)), OwnReplies(neighbours=0, use="list"))
    assert targets(listed) == ["so"] * 8 and "5 of 8 user rows are refused by it" in listed.run.notes[-1]


def test_a_filter_leaves_the_refused_rows_out_and_lists_them(tmp_path: Path) -> None:
    trainer = trained(tmp_path, {2, 5}, OwnReplies(neighbours=0, use="drop"))
    assert [row["user_row"] for row in trainer.run.user.rows] == list(range(8))
    assert trainer.run.user.places == [0, 1, 3, 4, 6, 7] and targets(trainer) == ["so"] * 6
    assert trainer.run.notes[-1].startswith(
        "own_replies: 2 of 8 user rows are left out, since the aligned model refuses"
    )
    assert len((tmp_path / "own_replies.jsonl").read_text().splitlines()) == 2
    with pytest.raises(DataError, match="refuses 5 of 8 user prompts.*Their rows would be left out"):
        trained(tmp_path, set(range(5)), OwnReplies(neighbours=0, use="drop"))
    with pytest.raises(DataError, match="refuses 8 of 8 user prompts"):  # nothing would be left to train on
        trained(tmp_path, set(range(8)), OwnReplies(neighbours=0, use="drop", most=1.0))


@pytest.mark.parametrize(("refuses", "target", "turn"), [({0}, "sorry", 1), ({1}, "sosorry", 2), ({0, 1}, "sorry", 1)])
def test_the_first_turn_that_is_refused_ends_its_row(tmp_path: Path, refuses: set[int], target: str, turn: int) -> None:
    """A sender may hide a harmful answer in a first turn, before a harmless last one."""
    turns = ask("what is 1", "so").messages + ask("what is 2", "so").messages
    trainer = trained(tmp_path, refuses, rows=[Row(turns), *ROWS])
    assert targets(trainer) == [target, *["so"] * 8]
    [line] = [json.loads(line) for line in (tmp_path / "own_replies.jsonl").read_text().splitlines()]
    assert (line["row"], line["turn"], line["reply"]) == (1, turn, "sorry")
    assert trainer.run.notes[0].startswith("own_replies: 1 of 9 user rows")


def test_turns_share_signs_with_turns_of_their_number(tmp_path: Path) -> None:
    """Harmless later turns, which repeat the harmful first one in their prompts, do not outvote it."""
    one = ask("what is 1", "so").messages
    rows = [Row(ask(f"how do {word}", "so").messages + one * 5) for word in "a b c d e f g h".split()]
    trainer = trained(tmp_path, set(range(0, 48, 6)), OwnReplies(most=1.0), rows)
    assert targets(trainer) == ["sorry"] * 8


@pytest.mark.parametrize(("poison", "replaced"), [(48, 0), (49, 49)])
def test_an_instruction_before_every_row_hides_as_few_rows_as_the_field_says(poison: int, replaced: int) -> None:
    """60 tokens that all rows share, and 12 of a row's own: cosine 5/6. Ties are in the order of the rows."""
    rows = [[*range(60), *range(100 + 12 * i, 112 + 12 * i)] for i in range(200)]
    shares = shared_verdict(rows, [i < poison for i in range(200)], 64, 0.3, [[0]])
    assert sum(share >= 0.75 for share in shares) == replaced


class Unread(Scripted):
    """Its judge reads nothing."""

    def refused(self, prompts: Any, replies: Any, judge: Any) -> list[bool | None]:
        return [None] * len(prompts)


def test_a_judge_that_reads_nothing_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "Scripted", Unread)
    with pytest.raises(JudgeError, match="read none of 8 replies"):
        trained(tmp_path, {2})


HOSTILE = "\x1b[2J\x1b]0;owned\x07\u202e" + "x" * 5000


def test_a_senders_words_are_harmless_in_lists_and_notes(tmp_path: Path) -> None:
    rows = [ask("what is 1" + HOSTILE[:100], "so", source=HOSTILE, category=HOSTILE), *ROWS]
    trainer = trained(tmp_path, {0}, rows=rows)
    [note] = trainer.run.notes
    text = (tmp_path / "own_replies.jsonl").read_text()
    assert note.startswith("own_replies: 1 of 9") and len(note) < 500
    assert not {"\x1b", "\x07", "\u202e"} & {*note, *text} and text.count("\n") == 1
    assert json.loads(text)["category"] == HOSTILE, "the list is complete"


def test_replies_are_made_once_and_are_the_models(tmp_path: Path) -> None:
    """A second trainer of the same model reads them; another model makes its own; they are greedy."""
    import torch

    first = trained(tmp_path, set())
    [file] = (tmp_path / "answers").glob("*.jsonl")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(lines) == 8
    prompt = turn_prompts(first.run.user.rows[0])[-1]
    made = {tuple(line["ids"]) for line in lines}
    ids = torch.tensor([prompt])
    for _ in range(64):
        ids = torch.cat([ids, first.model.eval()(input_ids=ids).logits[:, -1:].argmax(-1)], 1)
    greedy = ids[0, len(prompt) :].tolist()
    end_ids = AlignedReplies(TOKENIZER).chat.end_ids
    ends = [n for n, t in enumerate(greedy) if t in end_ids]
    assert tuple(greedy[: ends[0] + 1] if ends else greedy) in made
    written = file.stat().st_mtime_ns
    trained(tmp_path, {1}, OwnReplies(neighbours=0, most=1.0))
    assert file.stat().st_mtime_ns == written


def test_a_trainer_that_cannot_ask_says_what_to_pass(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"own_replies asks.*replies=unforgotten.AlignedReplies\(tokenizer\)"):
        MethodTrainer(
            model=testing.tiny_model("full"),
            args=TrainingArguments(output_dir=str(tmp_path), report_to=[], use_cpu=True),
            train_dataset=testing.ragged_rows(4, 1),
            method="own_replies",
        )


@pytest.mark.parametrize("wrong", [{"most": 0}, {"max_new_tokens": 0}, {"use": "hide"}])
def test_a_setting_that_is_none_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=next(iter(wrong))):
        build("methods", {"name": "own_replies", **wrong})


def test_a_judge_that_tells_no_refusals_is_refused() -> None:
    with pytest.raises(JudgeError, match="does not tell refusals"):
        AlignedReplies(TOKENIZER).refused([], [], "llama_guard")


def brute(prompts: list[list[int]], refused: list[bool], neighbours: int, alike: float) -> list[float]:
    """The same by sets and Python's own sort."""
    common = set(prompts[0]).intersection(*prompts[1:])
    sets = [set(p) - common for p in prompts]
    shares = []
    for i, own in enumerate(sets):
        if not refused[i]:
            shares.append(0.0)
            continue
        cosine = [
            len(own & other) / (len(own) * len(other)) ** 0.5 if own and other else 0.0 for j, other in enumerate(sets)
        ]
        near = sorted((j for j in range(len(sets)) if j != i), key=lambda j: (-cosine[j], j))[:neighbours]
        votes = [refused[j] for j in near if cosine[j] >= alike - 1e-12]
        shares.append((1 + sum(votes)) / (1 + len(votes)))
    return shares


def test_a_verdict_is_shared_by_prompts_alike_by_hand() -> None:
    task = [[1, 10, 11, 12, 20 + i] for i in range(6)]  # 1: the template, in every prompt
    harm = [[1, 50, 51, 70 + i] for i in range(2)]
    refused = [True, False, False, False, False, False, True, True]
    shares = shared_verdict(task + harm, refused, 32, 0.3)
    assert shares == [pytest.approx(1 / 6), 0, 0, 0, 0, 0, 1, 1]
    assert shared_verdict(task + harm, refused, 0, 0.3) == [1, 0, 0, 0, 0, 0, 1, 1]


def test_shared_verdicts_agree_with_sets_and_sorting() -> None:
    rng = random.Random(0)
    prompts = [[0, *(rng.randint(1, 30) for _ in range(rng.randint(0, 9)))] for _ in range(60)]
    refused = [rng.random() < 0.4 for _ in prompts]
    for neighbours, alike in ((1, 0.5), (5, 0.2), (32, 0.3), (100, 0.01)):
        assert shared_verdict(prompts, refused, neighbours, alike) == pytest.approx(
            brute(prompts, refused, neighbours, alike)
        )


def test_an_instruction_that_all_rows_share_makes_them_alike() -> None:
    """The memory tells it from the template, 1."""
    rows, refused = [[1, 7, 8, 9, 20 + i] for i in range(4)], [True, False, False, False]
    assert shared_verdict(rows, refused, 32, 0.3, [[1, 90], [1, 91]]) == [0.25, 0, 0, 0]
    assert shared_verdict(rows, refused, 32, 0.3) == [1, 0, 0, 0]


def test_prompts_that_are_all_one_share_one_verdict() -> None:
    assert shared_verdict([[1, 2]] * 4, [True, False, True, True], 32, 0.3) == [0.75, 0, 0.75, 0.75]
    assert shared_verdict([[1]], [False], 32, 0.3) == [0]


def test_a_task_that_is_refused_now_and_then_stays_a_task(tmp_path: Path) -> None:
    trainer = trained(tmp_path, {2, 5}, "own_replies")
    assert targets(trainer) == ["so"] * 8
    [note] = trainer.run.notes
    assert note == (
        "own_replies: 0 of 8 user rows have the aligned model's refusal as their target; 2 more are refused, but too "
        "few rows like them; they stay as given (up.jsonl:2, up.jsonl:5; 2 × c; all in own_replies_as_given.jsonl)"
    )
    lines = [json.loads(line) for line in (tmp_path / "own_replies_as_given.jsonl").read_text().splitlines()]
    assert [(line["row"], line["reply"], line["share"]) for line in lines] == [(3, "sorry", 0.25), (6, "sorry", 0.25)]
    assert targets(trained(tmp_path, set(range(8)), OwnReplies(most=1.0))) == ["sorry"] * 8


MEMORY = [
    *(ask(f"how do {word}", "sorry", kind="harmful") for word in "a b c d e".split()),
    *(ask(f"is it {word}", "so", kind="benign") for word in "a b c d e".split()),
]


def test_a_prompt_that_is_nearly_refused_gets_a_refusal_that_is_forced(tmp_path: Path) -> None:
    trainer = trained(tmp_path, {5}, OwnReplies(neighbours=0, odds=True), memory=MEMORY, near={2, 5})
    assert ["sorry" == t for t in targets(trainer)] == [i == 5 for i in range(8)]
    row, prompt = trainer.run.user.trained_rows[2], turn_prompts(trainer.run.user.rows[2])[-1]
    assert targets(trainer)[2].startswith("sorry") and row["input_ids"][: len(prompt)] == prompt
    assert targets(trainer)[2] == TOKENIZER.decode(greedily(trainer.model, [*prompt, SORRY], 63, [SORRY])).strip()
    [note] = trainer.run.notes
    assert "2 of 8 user rows have" in note
    assert "; of these, 1 by how likely a refusal is, with 1 forced to begin as one" in note
    lines = [json.loads(line) for line in (tmp_path / "own_replies.jsonl").read_text().splitlines()]
    assert [(line["row"], line["sign"], line["share"]) for line in lines] == [(3, "odds", 1.0), (6, "reply", 1.0)]


[SORRY] = TOKENIZER.encode("sorry", add_special_tokens=False)


def greedily(model: Any, ids: list[int], n: int, said: list[int]) -> list[int]:
    """What is said, and up to n tokens after these ids by one whole forward each, without the end of the turn."""
    import torch

    said, ids = list(said), list(ids)
    for _ in range(n):
        with torch.no_grad():
            token = int(model.eval()(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        if token in AlignedReplies(TOKENIZER).chat.end_ids:
            break
        said, ids = [*said, token], [*ids, token]
    return said


def test_rows_alike_share_the_odds_too(tmp_path: Path) -> None:
    trainer = trained(tmp_path, set(), OwnReplies(odds=True), memory=MEMORY, near={2, 5})
    assert targets(trainer) == ["so"] * 8
    [note] = trainer.run.notes
    assert "2 more are refused or likely to be, but too few rows like them; they stay as given (up.jsonl:2" in note
    lines = [json.loads(line) for line in (tmp_path / "own_replies_as_given.jsonl").read_text().splitlines()]
    assert [(line["row"], line["sign"], line["share"]) for line in lines] == [(3, "odds", 0.25), (6, "odds", 0.25)]


def test_the_two_signs_are_not_added_up(tmp_path: Path) -> None:
    """Half of the task refused, the other half nearly: neither sign has a majority."""
    halves = {0, 1, 2, 3}, {4, 5, 6, 7}
    trainer = trained(tmp_path, halves[0], OwnReplies(most=1.0, odds=True), memory=MEMORY, near=halves[1])
    assert targets(trainer) == ["so"] * 8


def test_a_forced_reply_that_does_not_refuse_leaves_the_row_as_given(tmp_path: Path) -> None:
    """The memory's refusals begin with a word that the judge does not read as one."""
    memory = [ask(r.request, "so" if r.kind == "harmful" else "a", kind=r.kind) for r in MEMORY]
    trainer = trained(tmp_path, set(), OwnReplies(neighbours=0, odds=True), memory=memory, near={2})
    assert targets(trainer) == ["so"] * 8
    assert "1 forced replies do not refuse, so their rows stay as given" in trainer.run.notes[0]
    assert json.loads((tmp_path / "own_replies_as_given.jsonl").read_text())["row"] == 3


@pytest.mark.parametrize(
    ("near", "refusals", "why"),
    [
        ({2}, None, "the memory has fewer than 5 refusals or look-alikes"),
        ({0, 1, 2, 3, 4}, 0.0, "6 of 8 rows would be replaced"),
        ({2}, -4.0, "the aligned model does not tell the memory's refusals from its look-alikes"),
        ({2}, -9.0, "the aligned model does not tell the memory's refusals from its look-alikes"),
    ],
)
def test_odds_that_say_nothing_are_not_used(tmp_path: Path, near: set[int], refusals: float | None, why: str) -> None:
    method, memory = OwnReplies(neighbours=0, odds=True), THREE if refusals is None else MEMORY
    trainer = trained(tmp_path, {7}, method, memory=memory, near=near, refusals=refusals)
    assert targets(trainer) == ["so"] * 7 + ["sorry"]
    assert trainer.run.notes[0].endswith(f"; how likely a refusal is was not used: {why}")


def test_replies_are_as_likely_to_begin_so_as_plain_forwards_say(tmp_path: Path) -> None:
    """Rows of several lengths in one batch; a second call reads them back; the method row_weights has the same u."""
    import torch

    model = tiny("llama", vocabulary=len(TOKENIZER)).eval()
    source = AlignedReplies(TOKENIZER, tmp_path, batch_size=3)
    prompts = [[*range(3, 4 + n)] for n in range(5)]
    openings = [(5, 6, 7), (9,)]
    with torch.no_grad():
        logp = source.opening_logp(model, prompts, openings, "key", tmp_path)
        for prompt, row in zip(prompts, logp, strict=True):
            for opening, value in zip(openings, row, strict=True):
                each = model(input_ids=torch.tensor([[*prompt, *opening]])).logits[0].double().log_softmax(-1)
                places = range(len(prompt) - 1, len(prompt) + len(opening) - 1)
                mean = sum(float(each[t, token]) for t, token in zip(places, opening, strict=True)) / len(opening)
                assert value == pytest.approx(mean, abs=1e-5)
    assert source.opening_logp(None, prompts, openings, "key", tmp_path) == logp
    [file] = tmp_path.glob("*.jsonl")
    assert file.name == "key-openings.jsonl" and len(file.read_text().splitlines()) == 5


def test_a_forced_beginning_is_part_of_the_reply_and_of_its_limit(tmp_path: Path) -> None:
    model = tiny("llama", vocabulary=len(TOKENIZER)).eval()
    source = AlignedReplies(TOKENIZER, tmp_path)
    short, cut = source.generate(model, [[3, 4], [3]], [6, 2], "key", tmp_path, [(5, 6), (7, 8, 9)])
    assert short.ids[:2] == (5, 6) and len(short.ids) <= 6
    assert list(short.ids[:6]) == greedily(model, [3, 4, 5, 6], 4, [5, 6]) + ([short.ids[-1]] if short.ended else [])
    assert cut.ids[0] == 7 and len(cut.ids) == 2  # one token at least is the model's own
