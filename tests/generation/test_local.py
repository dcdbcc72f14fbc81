"""Replies are what one-at-a-time greedy decoding gives, token for token, for four architectures.

In float64, so that two nearly equal logits are not told apart by the order of a sum; Gemma 2 in float32, since its
eager attention takes the softmax in float32, where float64's mask value is -inf and a padded row becomes NaN.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerFast

from unforgotten.datasets.base import ask
from unforgotten.errors import DataError, ModelError
from unforgotten.generation.local import decoding, generate
from unforgotten.models.chat import Chat

ROOT = Path(__file__).parent.parent.parent
WORDS = "name a city in France please say it again and then once more with feeling now".split()
SHAPES = ("llama", "mistral", "gemma2", "qwen2", "qwen3")
TEMPLATE = "{% for m in messages %}{{ m.role }} {{ m.content }} {{ eos_token }} {% endfor %}{% if add_generation_prompt %}assistant {% endif %}"  # noqa: E501


@pytest.fixture(scope="module")
def chat() -> Chat:
    backend = Tokenizer(models.WordLevel(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    specials = ["<unk>", "</s>", "<pad>"]
    backend.train_from_iterator(
        [" ".join([*WORDS, "user", "assistant"])], trainers.WordLevelTrainer(special_tokens=specials)
    )
    made = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
    return Chat(made, template=TEMPLATE)


def random_model(shape: str, vocabulary: int, **changes):
    torch.manual_seed(3)
    small = {
        **{"vocab_size": vocabulary, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2},
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4, "max_position_embeddings": 64},
        **{
            "initializer_range": 0.5,
            "tie_word_embeddings": False,
            "bos_token_id": None,
            "eos_token_id": 1,
            "pad_token_id": 2,
        },
    }
    if shape in ("mistral", "gemma2"):
        small["sliding_window"] = 8  # shorter than the prompts
    config = AutoConfig.for_model(shape, **small | changes)
    model = AutoModelForCausalLM.from_config(config)
    model = model if shape == "gemma2" else model.double()
    with torch.no_grad():  # layers outweigh the last word, and <unk> and <pad> are hardly ever said
        model.get_input_embeddings().weight.mul_(0.2)
        model.get_output_embeddings().weight[[0, 2]] = 0.0
    return model


def asked(n: int = 11):
    return [ask(" ".join(WORDS[i % 5 : i % 5 + 1 + (i * 7) % 13]), source=f"row:{i}") for i in range(n)]


def one_at_a_time(model, chat, rows, max_new_tokens):
    model.eval()
    made = []
    for row in rows:
        ids = torch.tensor([chat.prompt(row)])
        greedy = GenerationConfig(do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=1, pad_token_id=2)
        made.append(
            model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=greedy)[0, ids.shape[1] :]
        )
    return made


@pytest.mark.parametrize("shape", SHAPES)
def test_batched_replies_are_those_given_one_at_a_time(shape, chat):
    model, rows = random_model(shape, len(chat.tokenizer)), asked()
    alone = one_at_a_time(model, chat, rows, 20)
    replies = generate(model, chat, rows, max_new_tokens=20, batch_size=4)
    assert [reply.row for reply in replies] == rows
    assert [reply.text for reply in replies] == [chat.decode(ids.tolist()) for ids in alone]
    assert [reply.tokens for reply in replies] == [len(ids) for ids in alone]
    assert [reply.finish for reply in replies] == ["stop" if ids[-1] == 1 else "length" for ids in alone]
    assert len({reply.text for reply in replies}) > 3
    assert "</s>" not in "".join(reply.text for reply in replies)


def test_a_reply_stops_at_every_end_token(chat):
    model, rows = random_model("llama", len(chat.tokenizer)), asked()
    long = generate(model, chat, rows, max_new_tokens=12)
    said = [word for reply in long for word in reply.text.split()]
    word = max(sorted(set(said)), key=said.count)  # ends turns from now on
    stopping = Chat(chat.tokenizer, template=TEMPLATE, stop_ids=[chat.tokenizer.convert_tokens_to_ids(word)])
    short = generate(model, stopping, rows, max_new_tokens=12)
    for before, after in zip(long, short, strict=True):
        words = before.text.split()
        kept = words[: words.index(word)] if word in words else words
        assert after.text.split() == kept
        assert after.finish == "stop" if word in words else after == before


def test_the_models_own_generation_config_changes_nothing_and_is_put_back(chat):
    model, rows = random_model("qwen2", len(chat.tokenizer)), asked(5)
    plain = generate(model, chat, rows, max_new_tokens=8)
    theirs = GenerationConfig(
        do_sample=True, temperature=3.0, repetition_penalty=9.0, top_p=0.9, suppress_tokens=[5, 6]
    )
    model.generation_config = theirs
    assert generate(model, chat, rows, max_new_tokens=8) == plain
    assert model.generation_config is theirs


@pytest.mark.parametrize("peft", [False, True])
def test_training_mode_and_dropout_come_back_as_they_were(peft, chat):
    model = random_model("llama", len(chat.tokenizer), attention_dropout=0.5)
    if peft:
        lora = LoraConfig(r=2, lora_dropout=0.5, target_modules=["q_proj"], init_lora_weights=False)
        model = get_peft_model(model, lora).double()
    plain = generate(model.eval(), chat, asked(4), max_new_tokens=6)
    model.train()
    next(m for m in model.modules() if type(m).__name__ == "LlamaMLP").eval()  # one part frozen in eval mode
    before = {name: module.training for name, module in model.named_modules()}
    state = torch.get_rng_state()
    assert generate(model, chat, asked(4), max_new_tokens=6) == plain
    assert {name: module.training for name, module in model.named_modules()} == before
    assert torch.equal(torch.get_rng_state(), state)
    if peft:
        merged = one_at_a_time(model.merge_and_unload(), chat, asked(4), 6)
        assert [reply.text for reply in plain] == [chat.decode(ids.tolist()) for ids in merged]


def test_sampling_is_seeded_and_leaves_the_random_state_alone(chat):
    model, rows = random_model("llama", len(chat.tokenizer)), asked(6)
    state = torch.get_rng_state()
    first, again, other = (
        [r.text for r in generate(model, chat, rows, max_new_tokens=8, temperature=2.0, seed=s)] for s in (1, 1, 2)
    )
    assert first == again != other and torch.equal(torch.get_rng_state(), state)
    facts = decoding(chat, max_new_tokens=8)
    assert facts == {"strategy": "greedy", "max_new_tokens": 8, "stop": ["</s>"], "engine": "transformers"}
    assert decoding(chat, temperature=0.5)["seed"] == 0


def test_a_reply_never_runs_over_the_context(chat):
    model, rows = random_model("llama", len(chat.tokenizer), max_position_embeddings=20, initializer_range=0.3), asked()
    limits = [20 - len(chat.prompt(row)) for row in rows]
    assert min(limits) > 0
    replies = generate(model, chat, rows, max_new_tokens=10)
    assert all(r.tokens <= min(10, limit) for r, limit in zip(replies, limits, strict=True))
    assert any(r.tokens == limit < 10 and r.finish == "length" for r, limit in zip(replies, limits, strict=True))
    with pytest.raises(DataError, match="1 prompts leave no room.*\n.*far:1 has 34 tokens"):
        generate(model, chat, [rows[0], ask(" ".join(WORDS * 2)[:150], source="far:1")], max_new_tokens=10)


def test_a_broken_model_says_so(chat):
    model = random_model("llama", len(chat.tokenizer))
    model.get_output_embeddings().weight.data[:] = float("nan")
    with pytest.raises(ModelError, match="logits are NaN"):
        generate(model, chat, asked(2), max_new_tokens=2)


def test_progress_is_told_and_no_rows_are_no_replies(chat):
    model, said = random_model("llama", len(chat.tokenizer)), []
    generate(model, chat, asked(5), max_new_tokens=2, batch_size=2, progress=lambda done, n: said.append((done, n)))
    assert said == [(0, 5), (2, 5), (4, 5), (5, 5)]
    assert generate(model, chat, []) == []


class Counted:
    """A model's own `generate`, which counts the rows that it was given and may be cut off."""

    def __init__(self, model, batches=None):
        self.rows, self.left, self.real = 0, batches, model.generate
        model.generate = self

    def __call__(self, **given):
        if self.left == 0:
            raise KeyboardInterrupt
        self.left = None if self.left is None else self.left - 1
        self.rows += len(given["input_ids"])
        return self.real(**given)


def test_a_cut_off_generation_goes_on_and_is_that_of_one_that_was_not(chat, tmp_path):
    model, rows, kept = random_model("llama", len(chat.tokenizer)).float(), asked(11), tmp_path / "part.jsonl"
    rows[3] = rows[8]  # the same prompt twice is two rows
    whole = generate(model, chat, rows, max_new_tokens=8, batch_size=3)
    first = Counted(model, batches=2)
    with pytest.raises(KeyboardInterrupt):
        generate(model, chat, rows, max_new_tokens=8, batch_size=3, resume_file=kept)
    model.generate = first.real
    with kept.open("a") as file:
        file.write('{"key": "half a li')  # as a kill leaves it
    second = Counted(model)
    assert generate(model, chat, rows, max_new_tokens=8, batch_size=3, resume_file=kept) == whole
    assert (first.rows, second.rows) == (6, 5)
    assert generate(model, chat, rows, max_new_tokens=8, batch_size=3, resume_file=kept) == whole and second.rows == 5
    # Another length is another reply.
    generate(model, chat, rows, max_new_tokens=7, batch_size=3, resume_file=kept)
    assert second.rows == 16


def test_a_cut_off_sampling_does_not_draw_the_same_again(chat, tmp_path):
    model, rows = random_model("llama", len(chat.tokenizer)).float(), asked(1) * 6
    how = {"max_new_tokens": 8, "batch_size": 2, "temperature": 2.0}
    whole = generate(model, chat, rows, resume_file=tmp_path / "whole.jsonl", **how)
    cut = Counted(model, batches=1)
    with pytest.raises(KeyboardInterrupt):
        generate(model, chat, rows, resume_file=tmp_path / "cut.jsonl", **how)
    model.generate = cut.real
    assert generate(model, chat, rows, resume_file=tmp_path / "cut.jsonl", **how) == whole
    assert len({reply.text for reply in whole}) > 3


OUT_OF_MEMORY = """
import resource, sys, torch
sys.path[:0] = [{tests!r}, {root!r}]
torch.set_num_threads(1)
from test_local import *
made = Tokenizer(models.WordLevel(unk_token="<unk>"))
made.pre_tokenizer = pre_tokenizers.Whitespace()
words = trainers.WordLevelTrainer(special_tokens=["<unk>", "</s>", "<pad>"])
made.train_from_iterator([" ".join([*WORDS, "user", "assistant"])], words)
made = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
chat = Chat(made, template=TEMPLATE)
wide = {{"hidden_size": 64, "head_dim": 16, "intermediate_size": 16384, "max_position_embeddings": 2048}}
model = random_model("llama", len(chat.tokenizer), **wide).float()
rows = [ask(" ".join(WORDS * {times}))] * {n}
generate(model, chat, [ask(" ".join(WORDS * 8))] * 2, max_new_tokens=2)  # all that is loaded at first use
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + {megabytes} * 2**20,) * 2)
noted = []
replies = generate(model, chat, rows, max_new_tokens=2, batch_size={n}, note=noted.append)
print(len(replies), len({{reply.text for reply in replies}}), *noted, sep="|")
"""


def starved(n, megabytes, times=8):
    here = str(Path(__file__).parent)
    script = OUT_OF_MEMORY.format(tests=here, root=str(ROOT), n=n, megabytes=megabytes, times=times)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.skipif(sys.platform != "linux", reason="limits its own memory")
def test_where_memory_does_not_suffice_for_a_batch_it_is_halved_and_said():
    # The MLP's widest tensor is 128 rows × 130 tokens × 16,384 × 4 bytes = 1 GiB, of which several are held at once.
    process = starved(128, 1500)
    assert process.returncode == 0, process.stderr[-2000:]
    n, texts, *notes = process.stdout.strip().split("|")
    assert (n, texts) == ("128", "1")
    assert notes[0].startswith("Memory did not suffice for 128 prompts at once, so 64 were generated together.")
    assert len(notes) <= 4
    # One prompt of 1,600 tokens takes 100 MB at its widest: more than any rest of what was held before.
    process = starved(2, 40, times=100)
    assert "ModelError: Memory does not suffice for one prompt of" in process.stderr
