"""A guard model in this process: prompts of token ids in, what it says and how likely its first word was out.

Greedy, batched, longest first, padded on the left and always masked. (With no mask, transformers takes every pad id in
a prompt for padding: id 0 is "!" in Llama 3's vocabulary.) Nothing of the model's generation config is used but its end
tokens. Weights are read from safetensors only, and no code of a model is run.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from unforgotten.errors import ModelError, TemplateError
from unforgotten.generation.local import is_out_of_memory
from unforgotten.models import fingerprint
from unforgotten.models.chat import jinja_process
from unforgotten.models.chat.tokens import Tokens
from unforgotten.models.folder import pretrained
from unforgotten.models.folder.open import opened
from unforgotten.runs import digests

if TYPE_CHECKING:
    from torch import Tensor

_NO_LIMIT = 1_000_000
"""Transformers writes 1e30 where a tokenizer knows no length; no guard reads a million tokens."""


@dataclass(frozen=True, slots=True)
class Said:
    """What a guard said to one prompt."""

    text: str
    p_first: float | None = None
    """The probability of the token that was watched, among all, as the first one said."""
    unread: str = ""
    """Why a server gave no answer of the guard's own."""


class Writer:
    """A guard's tokenizer, and prompts in which the judged text closes no turn: it needs no weights."""

    def __init__(self, tokenizer: Any, template: str | None = None) -> None:
        """template: the text around what is judged, whose control tokens the judged text cannot write; None for the
        tokenizer's own chat template."""
        self.tokenizer = tokenizer
        if template is None:
            if not tokenizer.chat_template:
                raise ModelError("its tokenizer has no chat template, so how it is asked is not known.")
            template = str(tokenizer.get_chat_template())
        self._tokens = Tokens(tokenizer, template)
        self._tokens.end_turns(None)

    def plain(self, text: str) -> str:
        """The text with its control tokens parted by a mark, which `ids` takes out again. Raises DataError."""
        return str(self._tokens.neutralise(text, assistant=False)[0])

    def ids(self, text: str) -> list[int]:
        """The ids of a prompt; nothing is added to it. Raises DataError where a control token is in disguise."""
        return self._tokens.encode_after(text, [], "the judged text").ids

    @property
    def context_tokens(self) -> int | None:
        """The longest prompt that the tokenizer says its model reads; None where it says nothing."""
        longest = int(self.tokenizer.model_max_length)
        return longest if longest < _NO_LIMIT else None

    def asked(self, text: str) -> str:
        """One user turn as the tokenizer's chat template writes it, up to where the answer begins, without a thought
        where the template can be told so. Raises ModelError where the template leaves the turn out."""
        turns = [{"role": "user", "content": text}]
        made = str(
            self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, enable_thinking=False)
        )
        if text.strip() not in made:
            raise ModelError("its chat template leaves out what it is asked.")
        return made

    def chat(self, request: str, reply: str) -> str:
        """Request and reply as the tokenizer's own template writes them, up to where the guard begins to speak."""
        return self._render(request, reply, self._in_parts)

    @cached_property
    def _in_parts(self) -> bool:
        """Does the template want content in parts, as those of the 1B and the vision model do? Given plain text, they
        leave it out without a word."""
        request, reply = "Say a word.", "hello there"
        for in_parts in (False, True):
            try:
                text = self._render(request, reply, in_parts)
            except ModelError:
                continue
            if request in text and reply in text:
                return in_parts
        raise ModelError("its chat template leaves out what it is to judge.")

    def _render(self, request: str, reply: str, in_parts: bool) -> str:
        contents = [[{"type": "text", "text": text}] if in_parts else text for text in (request, reply)]
        turns = [{"role": "user", "content": contents[0]}, {"role": "assistant", "content": contents[1]}]
        [rendered] = jinja_process.render(  # a guard's template is a program of its makers
            str(self.tokenizer.get_chat_template()),
            [turns],
            [(0, 2, True)],
            specials=self.tokenizer.special_tokens_map,
            name="the judged text",
        )
        if isinstance(rendered, str):
            raise ModelError(f"its chat template refuses what it is to judge: {rendered}")
        return rendered[0]


class GuardModel:
    """A guard's weights, on the GPU where there is one."""

    def __init__(self, model: Any, tokenizer: Any, end_ids: Sequence[int] = ()) -> None:
        """end_ids: where an answer ends, beside the tokenizer's eos."""
        from transformers import GenerationConfig

        self.model, self.tokenizer = model.eval(), tokenizer
        self.model.generation_config = GenerationConfig()
        eos = tokenizer.eos_token_id
        self.end_ids = tuple(dict.fromkeys([*end_ids, *([] if eos is None else [eos])]))
        if not self.end_ids:
            raise ModelError("neither its tokenizer nor its generation config has a token that ends an answer.")

    def room(self, prompt: Sequence[int], max_new_tokens: int) -> bool:
        """Do the prompt and an answer fit into the model's context?"""
        context = getattr(self.model.config.get_text_config(decoder=True), "max_position_embeddings", None)
        return not context or len(prompt) + max_new_tokens <= context

    def said(
        self,
        prompts: Sequence[list[int]],
        *,
        max_new_tokens: int,
        batch_size: int = 16,
        watched: int | None = None,
        done: Collection[int] = (),
        finished: Callable[[dict[int, Said]], None] | None = None,
    ) -> list[Said]:
        """What the guard says to each prompt, in their order; `finished({index: said})` is told of each batch.

        done: prompts that are answered. Batches are cut from all of them all the same, so that nothing depends on where
        an earlier call was killed; one of which all are answered is left out, and its places are missing.
        """
        answers: dict[int, Said] = {}
        order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
        cut = [order[at : at + batch_size] for at in range(0, len(order), batch_size)]
        while cut:
            chosen = cut.pop(0)
            if all(index in done for index in chosen):
                continue
            try:
                batch = self._batch([prompts[index] for index in chosen], max_new_tokens, watched)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if len(chosen) == 1:
                    raise ModelError(
                        f"memory does not suffice for one prompt of {len(prompts[chosen[0]])} tokens."
                    ) from None
                half = len(chosen) // 2
                cut[:0] = [chosen[:half], chosen[half:]]
                continue
            answered = dict(zip(chosen, batch, strict=True))
            answers |= answered
            if finished:
                finished(answered)
        return [answers[index] for index in sorted(answers)]

    def _batch(self, prompts: list[list[int]], max_new_tokens: int, watched: int | None) -> list[Said]:
        """B prompts, T tokens, V words."""
        from transformers import GenerationConfig, LogitsProcessorList

        width, pad = max(len(prompt) for prompt in prompts), self.end_ids[0]
        device = next(self.model.parameters()).device
        ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts], device=device)  # (B, T)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)  # (B, T)
        first = _First(watched)
        settings = GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=False,
            use_cache=True,
            eos_token_id=list(self.end_ids),
            pad_token_id=pad,
        )
        made = self.model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=settings,
            logits_processor=LogitsProcessorList([first]),
        )
        odds = first.odds or [None] * len(prompts)
        return [Said(self._text(new), p) for new, p in zip(made[:, width:].tolist(), odds, strict=True)]

    def _text(self, ids: list[int]) -> str:
        end = next((n for n, id in enumerate(ids) if id in self.end_ids), len(ids))
        return str(self.tokenizer.decode(ids[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def free(self) -> None:
        """Gives the memory back."""
        del self.model
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


class _First:
    """Looks at the first token's distribution and changes nothing.

    The softmax is in float64; the logits come in float32, whatever the model's precision."""

    def __init__(self, watched: int | None) -> None:
        self.watched = watched
        self.odds: list[float | None] | None = None

    def __call__(self, ids: Tensor, logits: Tensor) -> Tensor:  # (B, T), (B, V)
        if logits.isnan().any():
            raise ModelError("its logits are NaN: its precision does not carry it; use dtype: float32.")
        if self.odds is None and self.watched is not None:
            self.odds = logits.double().softmax(-1)[:, self.watched].tolist()  # (B,)
        return logits


def load_writer(name: str, *, revision: str | None = None, template: str | None = None) -> Writer:
    """A guard's tokenizer from a folder or the Hub. Raises ModelError."""
    try:
        return Writer(pretrained.tokenizer(name, revision)[0], template)
    except TemplateError as error:
        raise ModelError(_short(error)) from error


def load_model(name: str, tokenizer: Any, *, revision: str | None = None, dtype: str = "auto") -> GuardModel:
    """A guard's weights from a folder or the Hub. Raises ModelError."""
    place = opened(name, revision)
    if place.is_adapter:
        raise ModelError("it is an adapter: merge it into its base (`unforgotten export --as merged`) to use it here.")
    model = pretrained.causal_lm(place, dtype=dtype)
    ends = pretrained.tokenizer(name, revision)[1]
    return GuardModel(model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer, ends)


def check_model(name: str, *, revision: str | None = None) -> None:
    """Raises ModelError where a guard's configuration, or a folder's weights, are not there; loads no weights."""
    folder = Path(name).expanduser()
    place = opened(name, revision, "all" if folder.is_dir() else "chat")
    if place.config is None:
        raise ModelError("it has no config.json.")


def context_of(name: str, *, revision: str | None = None) -> int | None:
    """The longest prompt with its answer that a model's configuration allows, in tokens; None where it says nothing."""
    config = pretrained.configuration(opened(name, revision, "chat"))
    return getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)


def weights_of(name: str, revision: str | None) -> str:
    """A digest of a guard's files; of a Hub id or an address, of its name."""
    folder = Path(name).expanduser()
    return fingerprint.model_digest(name, revision) if folder.is_dir() else digests.digest(name, revision)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
