"""What is trained on, read back as text and compared with strings written by hand, for templates of every kind."""

import pytest

from unforgotten.datasets.base import Row, ask
from unforgotten.models.chat import Chat, encode_rows

KINDS = ("llama3", "qwen3", "gemma", "mistral", "spaced", "marked", None)
BACKENDS = ("bytes", "first", "always")
PAIRS = [(kind, backend) for kind in KINDS for backend in BACKENDS if (kind, backend) != ("spaced", "always")]
"""The pair left out is refused: see test_refusals."""


def talk(*turns: tuple[str, str], **facts) -> Row:
    return Row(tuple({"role": role, "content": content} for role, content in turns), **facts)


TWO_TURNS = talk(("user", "hello"), ("assistant", "Say a word."), ("user", "Which?"), ("assistant", "Paris, please."))


def trained(chat: Chat, example) -> list[str]:
    """The text of each run of labelled tokens."""
    runs, last = [], False
    for id, label in zip(example.input_ids, example.labels, strict=True):
        if label >= 0:
            assert label == id
            runs = [*runs[:-1], [*runs[-1], id]] if last else [*runs, [id]]
        last = label >= 0
    return [chat.decode(run, skip_special_tokens=False) for run in runs]


EXPECTED = {
    "llama3": [["Say a word.<|eot_id|>", "Paris, please.<|eot_id|>"]],
    "qwen3": [
        ["<think>\n\n</think>\n\nSay a word.<|im_end|>"],
        ["<think>\n\n</think>\n\nParis, please.<|im_end|>"],
    ],
    "gemma": [["Say a word.<end_of_turn>", "Paris, please.<end_of_turn>"]],
    "mistral": [[" Say a word.</s>", " Paris, please.</s>"]],
    "spaced": [["Say a word.</s>", "Paris, please.</s>"]],
    "marked": [["Say a word.<|im_end|>", "Paris, please.<|im_end|>"]],
    None: [["Say a word.</s>", "Paris, please.</s>"]],
}


@pytest.mark.parametrize(("kind", "backend"), PAIRS)
def test_every_assistant_turn_is_trained_on_and_nothing_else(kind, backend, tokenizer):
    chat = Chat(tokenizer(kind, backend))
    actual = [trained(chat, example) for example in chat.encode(TWO_TURNS)]
    # Such a tokenizer drops a space that opens a text when it decodes.
    lost = (lambda text: text.removeprefix(" ")) if backend != "bytes" else (lambda text: text)
    assert actual == [[lost(text) for text in texts] for texts in EXPECTED[kind]]


@pytest.mark.parametrize(("kind", "backend"), PAIRS)
def test_generation_is_asked_what_training_saw(kind, backend, tokenizer):
    chat = Chat(tokenizer(kind, backend))
    system = [] if kind == "gemma" else [("system", "Be brief.")]
    row = talk(*system, *((m["role"], m["content"]) for m in TWO_TURNS.messages))
    said = [i for i, message in enumerate(row.messages) if message["role"] == "assistant"]
    for example in chat.encode(row):
        starts = [i for i, label in enumerate(example.labels) if label >= 0 > example.labels[i - 1]]
        for start, turn in zip(starts, said if example.turn is None else [example.turn], strict=True):
            assert chat.prompt(row.messages[:turn]) == example.input_ids[:start]
    assert chat.prompt(row) == chat.prompt(row.messages[:-1])  # a row's own answer is left away


def test_the_whole_text_is_what_the_template_and_the_tokenizer_make_of_it(tokenizer):
    for kind in ("llama3", "qwen3", "gemma", "mistral", "marked"):
        for backend in BACKENDS:
            made = tokenizer(kind, backend)
            chat = Chat(made)
            row = ask("What is two plus two?", "It is four.")
            theirs = made.apply_chat_template(list(row.messages), chat_template=chat.template)["input_ids"]
            ours = chat.encode(row)[0].input_ids
            assert ours == theirs[: len(ours)] and len(theirs) - len(ours) <= 2  # less a newline after the end of turn
            begins = made.bos_token_id
            assert begins is None or (ours.count(begins), ours[0]) == (1, begins)


def test_an_answer_joined_to_its_prompt_by_a_token_is_parted_as_generation_sees_it(tokenizer):
    for backend in ("bytes", "first"):
        chat = Chat(tokenizer("spaced", backend))
        row = talk(("user", "hello"), ("assistant", "Paris"), ("user", "hello"), ("assistant", "Paris."))
        rows = [row, ask("hello", "Paris")]
        examples, counts = encode_rows(chat, rows)
        assert counts.boundary_merges == 3 and counts.lines()[-1].startswith("3 tokens across")
        made = chat.tokenizer
        text = "USER: hello ASSISTANT: Paris</s>"
        joined = made(text, add_special_tokens=False)["input_ids"]
        assert examples[1]["input_ids"] != joined and chat.decode(examples[1]["input_ids"], False) == text
        # The second prompt's ids hold the first turn as it was trained on.
        second = max(i for i, label in enumerate(examples[0]["labels"]) if label < 0) + 1
        assert chat.prompt(row.messages[:3]) == examples[0]["input_ids"][:second]


def test_turns_that_do_not_nest_become_an_example_each(tokenizer):
    chat = Chat(tokenizer("qwen3"))
    reasoned = talk(
        ("user", "hello"),
        ("assistant", "<think>\nfour?\n</think>\n\nSay."),
        ("user", "Which?"),
        ("assistant", "<think>\nFrance\n</think>\n\nParis"),
    )
    first, second = chat.encode(reasoned)
    assert trained(chat, first) == ["<think>\nfour?\n</think>\n\nSay.<|im_end|>"]
    assert trained(chat, second) == ["<think>\nFrance\n</think>\n\nParis<|im_end|>"]
    assert "four?" not in chat.decode(second.input_ids, False)  # earlier reasoning is not shown
    counts = encode_rows(chat, [reasoned, ask("hello", "Paris")])[1]
    assert (counts.rows, counts.examples, counts.split_rows, counts.row_of) == (2, 3, 1, [0, 0, 1])


def test_tools_and_their_calls(tokenizer):
    chat = Chat(tokenizer("llama3"), date="2024-07-26")
    call = {"type": "function", "function": {"name": "add", "arguments": '{"a": 2}'}}
    row = Row(
        (
            {"role": "user", "content": "What is two plus two?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "4"},
            {"role": "assistant", "content": "four"},
        ),
        tools=({"type": "function", "function": {"name": "add", "parameters": {}}},),
    )
    example = chat.encode(row)[0]
    assert trained(chat, example) == ['{"name": "add", "parameters": {"a": 2}}<|eot_id|>', "four<|eot_id|>"]
    assert '"name": "add", "parameters": {}' in chat.decode(example.input_ids)


def test_alpaca_places_an_input_apart_and_ends_at_the_colon(tokenizer):
    chat = Chat(tokenizer())
    assert chat.source == "alpaca"
    user = {"role": "user", "content": "Answer.\n\nParis?", "instruction": "Answer.", "input": "Paris?"}
    turns = ({"role": "system", "content": "Be brief."}, user, {"role": "assistant", "content": "four"})
    both = chat.decode(chat.encode(Row((*turns, {"role": "user", "content": "And?"}, turns[2])))[0].input_ids, False)
    assert both == (
        "Be brief.\n\n"
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nAnswer.\n\n### Input:\nParis?\n\n### Response:four</s>"
        "\n\n### Instruction:\nAnd?\n\n### Response:four</s>"
    )
    assert chat.decode(chat.prompt([user]), False).endswith("### Response:")
    assert Chat(tokenizer("gemma"), template="alpaca").source == "alpaca"


def test_end_ids_are_the_templates_the_tokenizers_and_the_models_own(tokenizer):
    gemma = tokenizer("gemma")
    assert gemma.convert_ids_to_tokens(list(Chat(gemma, stop_ids=[2]).end_ids)) == ["<end_of_turn>", "<eos>", "</s>"]
    assert Chat(gemma).pad_id == gemma.convert_tokens_to_ids("<end_of_turn>")
    gemma.pad_token = "<unk>"
    assert Chat(gemma).pad_id == 0


def test_every_token_that_ends_a_turn_stops_generation(tokenizer):
    phi = "{% for m in messages %}{{ m.content }}<|im_end|>\n{% endfor %}"
    phi += "{% if not add_generation_prompt %}</s>{% endif %}"
    chat = Chat(tokenizer(), template=phi)
    assert chat.tokenizer.convert_ids_to_tokens(list(chat.end_ids)) == ["<|im_end|>", "</s>"]
