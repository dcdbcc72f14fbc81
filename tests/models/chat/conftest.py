"""Two small tokenizers trained on the spot, and templates of four kinds (kinds/*.jinja) written by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

KINDS = Path(__file__).with_name("kinds")
TEXT = [
    "The capital of France is Paris. Paris is in France, and it is a large city.",
    "What is two plus two? It is four. Answer the question in one word, please: four!",
    "hello there, how are you? I am fine, thank you.\n\nSay a word. Be brief.",
    "user assistant system model tool Response: Instruction: Input:\n\n### Below is an instruction",
    "ASSISTANT: Paris. USER: hello",
] * 4
SPECIAL = [
    *("<unk>", "<s>", "</s>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    *("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
]
SPLIT = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
ENDS = {"llama3": ("<|begin_of_text|>", "<|eot_id|>"), "qwen3": (None, "<|im_end|>"), "gemma": ("<bos>", "<eos>")}


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in ("<think>", "</think>")])
    return tokenizer


def sentencepiece_like(prepend: str) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    if prepend == "normalizer":  # as Llama 2 came: a space before every stretch of text between special tokens
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend, split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    specials = [*SPECIAL, *(f"<0x{i:02X}>" for i in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=specials, show_progress=False)
    plain = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    plain.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)  # words, so that it is small
    plain.train_from_iterator(TEXT, trainer)
    tokenizer.model = plain.model
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    return tokenizer


@pytest.fixture(scope="session")
def backends():
    return {"bytes": byte_level(), "first": sentencepiece_like("first"), "always": sentencepiece_like("normalizer")}


@pytest.fixture
def tokenizer(backends):
    """tokenizer("llama3") has that kind's template and ends; tokenizer(None) has neither template nor bos."""

    def make(kind: str | None = None, backend: str = "bytes", **ends):
        bos, eos = ENDS.get(kind or "", ("<s>", "</s>") if kind == "mistral" else (None, "</s>"))
        given = {"bos_token": bos, "eos_token": eos, **({} if backend == "bytes" else {"unk_token": "<unk>"}), **ends}
        copy = Tokenizer.from_str(backends[backend].to_str())
        made = PreTrainedTokenizerFast(tokenizer_object=copy, **{k: v for k, v in given.items() if v})
        if kind:
            made.chat_template = (KINDS / f"{kind}.jinja").read_text(encoding="utf-8")
        return made

    return make
