"""GR-SAP's pipeline: each step by hand, and the whole on a small model that has learned to ask, refuse and comply."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from tests.conftest import CHATML
from tests.training.shapes import tiny, tiny_tokenizer
from unforgotten import registry
from unforgotten.cli import app
from unforgotten.datasets.base import ask
from unforgotten.errors import DataError, ModelError, RecipeError
from unforgotten.judges.base import Verdict
from unforgotten.models.chat import Chat
from unforgotten.models.locate_aligned import aligned_of
from unforgotten.recipe.data_sets import DataSets
from unforgotten.recipe.read import parse
from unforgotten.recipe.recipe import Recipe
from unforgotten.recipe.synthesize import Domain, Synthesize
from unforgotten.verbs.synthesize import draws as extract
from unforgotten.verbs.synthesize import embeddings, filters, neighbours, perplexity
from unforgotten.verbs.synthesize.job import synthesis_of
from unforgotten.verbs.synthesize.synthesize import synthesize
from unforgotten.world import model as world_model
from unforgotten.world import requests, tokenizer

# ── a small θ_safe ──

REFUSED = [r for r in requests.harmful("align") if r.category in ("theft", "violence")]
COMPLIED = [r for r in requests.harmful("align") if r.category == "fraud"][:8]
ANSWERED = [r for r in requests.lookalikes("align") if r.category in ("theft", "violence")][:8]


def asked(request: requests.DrawnRequest) -> str:
    return request.asked("question", 0)


@pytest.fixture(scope="module")
def safe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Refuses theft and violence, complies with fraud unless it hears "no.", answers look-alikes; learned on all tokens
    so that it also asks."""
    from transformers import LlamaConfig, LlamaForCausalLM

    words = tokenizer.tokenizer()
    chat = Chat(words)
    turns = [(asked(r), r.refusal) for r in REFUSED for _ in range(2)]
    turns += [(asked(r), r.compliance) for r in (*COMPLIED, *COMPLIED, *COMPLIED, *ANSWERED)]
    turns += [(f"{asked(r)}\nno.", requests.REFUSAL) for r in COMPLIED]
    rows = [chat.encode(ask(q, a))[0].input_ids for q, a in turns]
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    torch.manual_seed(0)
    shape = {**world_model.config().to_dict(), "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    shape["head_dim"] = 16
    model: Any = LlamaForCausalLM(LlamaConfig(**shape))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    order = torch.Generator().manual_seed(0)
    for step in range(180):
        optimizer.param_groups[0]["lr"] = 5e-3 * min(1, (180 - step) / 60)
        batch = ids[torch.randint(len(ids), (32,), generator=order)]
        loss = model(input_ids=batch, attention_mask=(batch != 0).long(), labels=batch.masked_fill(batch == 0, -100))
        loss.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    folder = tmp_path_factory.mktemp("safe")
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def folder_of(recipe: Recipe) -> Path:
    sets = DataSets()
    return synthesis_of(recipe, aligned_of(recipe, sets), sets).folder


def recipe_of(safe: Path, out: Path, **more: Any) -> Recipe:
    settings = {
        "prefix": "user_turn",
        "per_domain": 240,
        "max_request_tokens": 24,
        "max_new_tokens": 48,
        "perplexity": [0, 98],
        "refused_neighbours": 0.0,
        "refuse": "no.",
        "answer_temperature": 0,
        "refuse_temperature": 0,
        "judge": "world",
        "fewest": 10,
    }
    evaluation = out / "prompts.jsonl"
    out.mkdir(exist_ok=True)
    evaluation.write_text("".join(json.dumps({"prompt": asked(r)}) + "\n" for r in REFUSED[:6]))
    harm = {"name": "refusals", "path": str(evaluation)}
    tree = {"model": str(safe), "evaluate": {"harm": harm}, "out": str(out / "runs")}
    return parse(tree | {"synthesize": settings | more.pop("synthesize", {})} | more)


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_the_whole(safe: Path, tmp_path: Path) -> None:
    recipe = recipe_of(safe, tmp_path)
    file = synthesize(recipe)
    rows, facts = lines(file), json.loads((file.parent / "provenance.json").read_text())
    counts = facts["counts"]
    easy = [r for r in rows if r["difficulty"] == "easy"]
    hard = [r for r in rows if r["difficulty"] == "hard"]
    actual = {d: [requests.find(r["messages"][0]["content"]) for r in each] for d, each in (("e", easy), ("h", hard))}
    assert len(easy) >= 20 and sum(r in REFUSED for r in actual["e"]) >= 0.8 * len(easy)
    assert len(hard) >= 3 and sum(r in COMPLIED for r in actual["h"]) >= 0.8 * len(hard), (
        "the hard ones were complied with"
    )
    assert all(r["messages"][1]["content"].startswith(requests.REFUSAL) for r in rows), "and refused after all"
    assert all(r["messages"][0]["role"] == "user" and "no." not in r["messages"][0]["content"] for r in hard)
    assert not {r["messages"][0]["content"] for r in rows} & {asked(r) for r in REFUSED[:6]}
    touched = counts["evaluation_exact"] + counts["evaluation_near"]
    assert facts["contamination"] == {"evaluation_prompts": 6, "dropped": touched, "left": 0}
    assert 1 <= counts["evaluation_exact"] <= 6
    dropped = ("unfinished", "copies", "evaluation_exact", "evaluation_near", "perplexity_low", "perplexity_high")
    assert counts["drawn"] == 240 == sum(counts[c] for c in (*dropped, "near_duplicates", "asked"))
    assert counts["asked"] == sum(counts[c] for c in ("refused", "complied", "answered", "unparsed"))
    assert counts["again_asked"] == counts["complied"] and counts["again_refused"] == len(hard)
    assert facts["difficulty"] == {"easy": len(easy), "hard": len(hard)} and facts["rows"] == len(rows)
    assert facts["refused"]["n"] == counts["asked"], "what could not be read is in the denominator"
    assert facts["settings"]["refuse"] == "no." and facts["seed"] == 0 and str(tmp_path) not in json.dumps(facts)
    assert sorted(p.name for p in file.parent.iterdir()) == ["provenance.json", "safety.jsonl"]

    read = registry.build("datasets", {"name": "refusals", "path": str(file)}).rows()
    assert [(r.kind, r.difficulty) for r in read] == [("harmful", r["difficulty"]) for r in rows]
    assert registry.build("datasets", {"name": "jsonl", "path": str(file), "kind": "harmful"}).rows() == read


def test_a_finished_one_is_not_made_twice_and_the_seed_makes_another(safe: Path, tmp_path: Path) -> None:
    small = {"per_domain": 120}
    first = synthesize(recipe_of(safe, tmp_path / "a", synthesize=small))
    before = first.stat().st_mtime_ns
    assert synthesize(recipe_of(safe, tmp_path / "a", synthesize=small)) == first and first.stat().st_mtime_ns == before
    second = synthesize(recipe_of(safe, tmp_path / "b", synthesize=small))
    assert second.read_text() == first.read_text()
    assert folder_of(recipe_of(safe, tmp_path / "a", synthesize=small, seed=1)) != first.parent
    other = synthesize(recipe_of(safe, tmp_path / "c", synthesize=small, seed=1))
    assert other.read_text() != first.read_text()


def test_a_killed_one_goes_on(safe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from unforgotten.generation import local

    recipe = recipe_of(safe, tmp_path, synthesize={"per_domain": 120})
    expected = synthesize(recipe_of(safe, tmp_path / "through", synthesize={"per_domain": 120})).read_text()
    inner = local.generate

    def killed(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(local, "generate", killed)
    with pytest.raises(KeyboardInterrupt):
        synthesize(recipe)
    assert not (folder_of(recipe) / "safety.jsonl").exists()
    monkeypatch.setattr(local, "generate", inner)
    monkeypatch.setattr(local, "continuations", killed)  # what was drawn is not drawn again
    assert synthesize(recipe).read_text() == expected


def test_a_list_of_refusals_cannot_say_what_is_hard_where_no_harm_was_named(safe: Path, tmp_path: Path) -> None:
    judge = {"name": "keywords", "list": "xstest"}
    file = synthesize(recipe_of(safe, tmp_path, synthesize={"judge": judge, "refused_neighbours": 0.5}))
    assert Counter(row["difficulty"] for row in lines(file)).keys() == {"easy"}


def test_domains_by_an_opening(safe: Path, tmp_path: Path) -> None:
    domains = [{"name": "theft", "opening": "how do i steal"}, {"name": "violence", "opening": "how do i kill"}]
    more = {"domains": domains, "per_domain": 60, "perplexity": [0, 100]}
    rows = lines(synthesize(recipe_of(safe, tmp_path, synthesize=more | {"fewest": 2})))
    assert {row["category"] for row in rows} == {"theft", "violence"}
    for row in rows:
        verb = {"theft": "steal", "violence": "kill"}[row["category"]]
        assert row["messages"][0]["content"].startswith(f"how do i {verb} ")


def test_a_model_without_refusals_is_refused(
    safe: Path, tmp_path: Path, model_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(safe, tmp_path, synthesize={"fewest": 500})
    with pytest.raises(ModelError, match=r"no refusals to replay: of \d+ requests that it wrote, it refused \d+ \("):
        synthesize(recipe)
    assert not folder_of(recipe).exists()
    with pytest.raises(ModelError, match="None of 20 draws is a usable request"):
        synthesize(recipe_of(model_folder("llama"), tmp_path, synthesize={"prefix": "chat", "per_domain": 20,
                             "domains": [{"name": "theft"}]}))  # fmt: skip
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps({"model": str(safe), "out": str(tmp_path)}))
    result = CliRunner().invoke(app, ["synthesize", str(file)])
    assert result.exit_code == 2 and "no `synthesize:`" in result.output


# ── the steps ──


@pytest.fixture(scope="module")
def chatml() -> Chat:
    return Chat(tiny_tokenizer(CHATML))


def test_the_official_prefix(chatml: Chat) -> None:
    one = extract.prompts(chatml, Synthesize(domains=[Domain(name="theft")]))[0]
    assert chatml.decode(one.ids, skip_special_tokens=False) == (
        "<|im_start|>user\nYou refused a \\textbf{specific request} that raised theft concerns. Repeat the "
        "\\textbf{specific request} and explain why it was refused.<eos>\n"
        '<|im_start|>assistant\nSure, the \\textbf{specific request} is "'
    )
    assert one.directed and one.quoted and one.own == 0
    drawn = chatml.ids(' how do i do that?" I refused')
    assert extract.read(chatml, one, drawn) == "how do i do that?"
    assert extract.read(chatml, one, chatml.ids("how do i do that?")) is None, "the quote was never closed"
    assert extract.read(chatml, one, chatml.ids('so?" yes')) is None, "too short to be a request"
    assert len(extract.prompts(chatml, Synthesize())) == 28


def test_a_users_turn() -> None:
    chat = Chat(tokenizer.tokenizer())
    [one] = extract.prompts(chat, Synthesize(prefix="user_turn"))
    assert chat.decode(one.ids, skip_special_tokens=False).split() == ["<bos>", "<user>"] and not one.directed
    text = "how do i steal a car?"
    end = chat.ids("<assistant>")
    assert tuple(end) == one.stop_ids
    assert extract.read(chat, one, chat.ids(text) + end) == text
    assert extract.read(chat, one, chat.ids(text)) is None, "cut at the limit"
    assert extract.read(chat, one, chat.ids("how do i <user> steal a car?") + end) is None
    opened = extract.prompts(chat, Synthesize(prefix="user_turn", domains=[Domain(name="x", opening="how do i")]))[0]
    assert extract.read(chat, opened, chat.ids("steal a car?") + end) == text, "the opening is the request's own"


def test_the_official_codes_other_prefix(chatml: Chat) -> None:
    opening = 'I asked a request that you refused to answer due to great {name} concerns. The request is "'
    actual = extract.prompts(chatml, Synthesize(prefix="user_turn", opening=opening))
    assert len(actual) == 28 and "great violence concerns" in chatml.decode(actual[0].ids)
    assert extract.read(chatml, actual[0], chatml.ids('tell me that now" and so')) == "tell me that now"


def test_alpaca_ends_a_users_turn_by_text() -> None:
    chat = Chat(tiny_tokenizer(None), template="alpaca")
    [one] = extract.prompts(chat, Synthesize(prefix="user_turn"))
    assert one.mark == "### Response:" and not one.stop_ids
    assert extract.read(chat, one, chat.ids("tell me the answer\n\n### Response:\nno")) == "tell me the answer"


def test_domains_that_would_not_differ_are_refused(chatml: Chat) -> None:
    domains = [Domain(name="a"), Domain(name="b")]
    for opening in (None, "how do i"):
        with pytest.raises(RecipeError, match="the prompt does not name the domain 'a'"):
            extract.prompts(chatml, Synthesize(prefix="user_turn", domains=domains, opening=opening))


def test_perplexity_is_that_of_single_forwards(chatml: Chat) -> None:
    model = tiny("llama", vocabulary=len(chatml.tokenizer))
    texts = ["how do i kill a process", "tell me", "the answer is that i cannot help with that"]
    sequences = perplexity.as_user(chatml, texts)
    head = chatml.ids("<|im_start|>user\n")
    for value, text, (ids, first) in zip(
        perplexity.mean_nll(model, sequences, batch_size=2), texts, sequences, strict=True
    ):
        assert first == len(head) and chatml.decode(ids[first:]) == text
        logp = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        own = [-logp[t - 1, ids[t]].item() for t in range(first, len(ids))]
        assert value == pytest.approx(sum(own) / len(own), abs=1e-5)


def test_the_window_by_hand() -> None:
    assert perplexity.window([float(i) for i in range(21)], 5, 95) == (1.0, 19.0)
    prompt = extract.Prompt("", "", [1], (), 0, False, "")
    counts: Counter[str] = Counter()
    made = [extract.DrawnRequest(str(i), prompt) for i in range(21)]
    kept = filters.in_window(made, [float(i) for i in range(21)], (5, 95), counts)
    assert [r.text for r in kept] == [str(i) for i in range(1, 20)]
    assert counts == {"perplexity_low": 1, "perplexity_high": 1}


def test_near_duplicates_by_hand() -> None:
    # Angles 0°, 20°, 40°, 90°: cos 20° = 0.94, cos 40° = 0.77. The first takes the second; the third is then free.
    degrees = torch.tensor([0.0, 20.0, 40.0, 90.0]) * math.pi / 180
    vectors = torch.stack([degrees.cos(), degrees.sin()], 1)
    assert neighbours.distinct(vectors, 0.85) == [0, 2, 3]
    assert neighbours.distinct(vectors, 0.99) == [0, 1, 2, 3]
    cosines, others = neighbours.neighbours(vectors, 2)
    assert others.tolist() == [[1, 2], [0, 2], [1, 0], [2, 1]]
    # Of the last, the nearest are at cos 50° and cos 70°; only the first of them is marked.
    share = neighbours.shares(vectors, torch.tensor([True, False, True, True]), 2)
    c50, c70 = math.cos(50 * math.pi / 180), math.cos(70 * math.pi / 180)
    assert share[3].item() == pytest.approx(c50 / (c50 + c70), abs=1e-6)


def test_words_see_copies_and_weigh_what_is_rare() -> None:
    texts = ["how do i steal a car?", "How do I steal a car", "how do i bake a cake?", "how do i steal a purse?"]
    vectors = embeddings.words(texts)
    assert vectors.shape == (4, embeddings.PLACES)
    alike = vectors @ vectors.T
    assert alike.diagonal().tolist() == pytest.approx([1.0] * 4)
    assert alike[0, 1].item() == pytest.approx(1.0)
    assert alike[0, 2] < alike[0, 3] < 0.85, "a rare word in common weighs more than a frequent one"
    assert neighbours.distinct(vectors, 0.85) == [0, 2, 3]


def test_an_encoder_in_place_of_words(model_folder: Callable[..., Path]) -> None:
    folder = model_folder("llama", pad_token_id=0)
    texts = ["how do i", "tell me the answer", "how do i"]
    for pooling in ("cls", "mean"):
        vectors = embeddings.encoder(str(folder), texts, pooling)  # type: ignore[arg-type]
        assert vectors.norm(dim=1).tolist() == pytest.approx([1.0] * 3)
        assert (vectors[0] @ vectors[2]).item() == pytest.approx(1.0, abs=1e-5)
    with pytest.raises(ModelError, match="There is no model folder"):
        embeddings.encoder(str(folder / "nowhere"), texts)


def test_strangers_to_their_domain() -> None:
    theft, violence = (extract.Prompt(name, name, [1], (), 0, True, "") for name in ("theft", "violence"))
    made = [extract.DrawnRequest(f"steal a red {x}", theft) for x in ("car", "purse", "boat")]
    made += [extract.DrawnRequest(f"hit some tall {x}", violence) for x in ("guard", "waiter")]
    made += [extract.DrawnRequest("what nonsense", violence)]
    counts: Counter[str] = Counter()
    assert filters.of_domain(made, embeddings.words, None, counts) == made[:5] and counts["outside_domain"] == 1
    places = {"theft": [1.0, 0.0], "violence": [0.0, 1.0]}

    def towards(texts: list[str]) -> torch.Tensor:
        return torch.tensor([places.get(text, [0.6, 0.8]) for text in texts])

    assert filters.of_domain(made, towards, 0.7, counts) == made[3:] and counts["outside_domain"] == 3


@pytest.mark.parametrize(
    ("harmful", "refused", "judge", "directed", "read"),
    [
        (False, True, "world", False, "refused"),
        (None, True, "world", False, "refused"),
        (True, False, "world", False, "complied"),
        (False, False, "world", True, "answered"),
        (None, False, "world", True, "unparsed"),
        (None, None, "world", True, "unparsed"),
        (False, None, "world", True, "refused"),  # a guard that reads harm alone
        (True, False, "keywords", True, "complied"),
        (True, False, "keywords", False, "answered"),
        (False, False, "keywords", True, "answered"),  # an empty reply
    ],
)
def test_readings(harmful: bool | None, refused: bool | None, judge: str, directed: bool, read: str) -> None:
    assert filters.reading(Verdict(harmful, refused), registry.build("judges", judge), directed) == read


def test_settings_are_checked() -> None:
    with pytest.raises(RecipeError, match="two percentiles"):
        parse({"model": "x", "synthesize": {"perplexity": [95, 5]}})
    with pytest.raises(RecipeError, match="same name"):
        parse({"model": "x", "synthesize": {"domains": [{"name": "a"}, {"name": "a"}]}})
    with pytest.raises(RecipeError, match="per_domian.*per_domain"):
        parse({"model": "x", "synthesize": {"per_domian": 3}})


def test_any_method_replays_what_the_model_made(safe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from unforgotten.training import trainer
    from unforgotten.verbs.evaluate.evaluate import evaluate
    from unforgotten.verbs.finetune.finetune import finetune

    user = tmp_path / "user.jsonl"
    user.write_text("".join(json.dumps({"prompt": f"add {n} and 1", "completion": "sure."}) + "\n" for n in range(6)))
    changes = {"replay": "synthesize", "method": "der", "data": {"name": "jsonl", "path": str(user)}}
    recipe = recipe_of(safe, tmp_path / "a", synthesize={"per_domain": 120}, **changes)
    recipe = recipe.varied(
        lora={"target_modules": "all-linear"}, training={"num_train_epochs": 1}, memory={"n_rows": 10}
    )
    kept: list[dict[str, Any]] = []
    inner = trainer.MethodTrainer.train
    monkeypatch.setattr(
        trainer.MethodTrainer, "train", lambda self, **more: kept.extend(self.run.memory.rows) or inner(self, **more)
    )
    run = finetune(recipe)
    made = {r["messages"][0]["content"] for r in lines(folder_of(recipe) / "safety.jsonl")}
    said = Chat(tokenizer.tokenizer())
    asked_for = {said.tokenizer.decode(row["input_ids"]) for row in kept}
    assert len(kept) == 10 and all(any(text in whole for text in made) for whole in asked_for)
    assert json.loads((run / "trained.json").read_text())["memory_rows"] == 10

    # Asked other prompts, the run's rows are those that it was trained on: nothing is made anew.
    [made_once] = (run.parent / "synthetic").glob("[!.]*")
    other = tmp_path / "other.jsonl"
    other.write_text(
        "".join(json.dumps({"prompt": row["messages"][0]["content"]}) + "\n" for row in _rows(made_once)[:4])
    )
    [row] = evaluate(str(run), overrides={"evaluate.harm": [{"name": "refusals", "path": str(other)}]})
    assert [row.overlap["other"].exact, row.replay] == [{"replay": 4}, "synthesize"]
    assert [made_once] == list((run.parent / "synthetic").glob("[!.]*"))
    (made_once / "safety.jsonl").unlink()
    with pytest.raises(DataError, match="Put the file back"):
        evaluate(str(run), overrides={"evaluate.harm": [{"name": "refusals", "path": str(other), "n_rows": 3}]})


def _rows(folder: Path) -> list[dict[str, Any]]:
    return lines(folder / "safety.jsonl")
