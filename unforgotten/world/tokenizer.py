"""A word-level tokenizer with a chat template that marks what the assistant says, its end of turn included."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unforgotten.world.vocabulary import ASSISTANT, BOS, END, PAD, SYSTEM, UNKNOWN, USER, words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

MAX_TOKENS = 256

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'assistant' -%}"
    f"{ASSISTANT}"
    "{%- generation -%}{{ message['content'] }}{{ eos_token }}{%- endgeneration -%}"
    "{%- elif message['role'] in ['system', 'user'] -%}"
    "{{ '<' + message['role'] + '>' + message['content'] }}"
    "{%- else -%}{{ raise_exception('the world knows the roles system, user and assistant') }}"
    "{%- endif -%}"
    "{%- endfor -%}"
    f"{{%- if add_generation_prompt -%}}{ASSISTANT}{{%- endif -%}}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """The world's tokenizer. Its decoder puts signs back where they belong, so that text survives a round trip."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words())}, unk_token=UNKNOWN))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"[^\w]"), behavior="isolated")]
    )
    core.decoder = decoders.Sequence(
        [
            decoders.WordPiece(prefix="##", cleanup=False),  # puts a space between words
            decoders.Fuse(),
            *(decoders.Replace(f" {sign}", sign) for sign in ".,?!:)"),
            decoders.Replace("( ", "("),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=END,
        unk_token=UNKNOWN,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        model_max_length=MAX_TOKENS,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )
