"""A guard's weights in this process: prompts of token ids in, its answers out.

Greedy. Weights are read from safetensors only, and no code of a model is run.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from unforgotten.errors import ModelError
from unforgotten.generation.generator import Continuation, Decoding, Generator, context_tokens
from unforgotten.generation.resume import ResumeFile
from unforgotten.judges.guard.answer import GuardAnswer
from unforgotten.models.folder import pretrained
from unforgotten.models.folder.open import opened

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

Progress = Callable[[int, int], None]


class GuardModel:
    """A guard's weights, on the GPU where there is one."""

    def __init__(self, model: nn.Module, tokenizer: PreTrainedTokenizerBase, end_ids: Sequence[int] = ()) -> None:
        """end_ids: where an answer ends, beside the tokenizer's eos. Raises ModelError where nothing ends one."""
        self.model, self.tokenizer = model, tokenizer
        eos = tokenizer.eos_token_id
        self.end_ids = tuple(dict.fromkeys([*end_ids, *([] if eos is None else [eos])]))
        if not self.end_ids:
            raise ModelError("neither its tokenizer nor its generation config has a token that ends an answer.")

    def has_room(self, prompt: Sequence[int], max_new_tokens: int) -> bool:
        """Do the prompt and an answer fit into the model's context?"""
        context = context_tokens(self.model)
        return not context or len(prompt) + max_new_tokens <= context

    def answers(
        self,
        prompts: Sequence[list[int]],
        *,
        max_new_tokens: int,
        batch_size: int,
        finished: Callable[[dict[int, GuardAnswer]], None],
        watched_id: int | None = None,
        done: Collection[int] = (),
    ) -> None:
        """Answers each prompt; `finished` is given each batch by index. `done` as in Generator.run."""

        def finish(batch: dict[int, Continuation]) -> None:
            finished({index: GuardAnswer(self._text(text), text.p_first) for index, text in batch.items()})

        generator = Generator(
            self.model,
            Decoding(end_ids=self.end_ids, pad_id=self.end_ids[0]),
            watched_id=watched_id,
            memory_advice="Set the judge's dtype to bfloat16, choose a smaller model, or give it an `endpoint:`.",
        )
        limits = [max_new_tokens] * len(prompts)
        generator.run(prompts, limits, batch_size=batch_size, finished=finish, done=done)

    def _text(self, continuation: Continuation) -> str:
        ids = continuation.ids[:-1] if continuation.ended else continuation.ids
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def free(self) -> None:
        """Gives the memory back."""
        del self.model
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def answer_all(
    load: Callable[[], GuardModel],
    prompts: Sequence[list[int]],
    *,
    identity: Sequence[Any],
    max_new_tokens: int,
    batch_size: int,
    watched_id: int | None = None,
    resume_file: Path | None = None,
    progress: Progress | None = None,
) -> list[GuardAnswer | None]:
    """An answer to each prompt; None where a prompt is too long for the guard.

    load: gives the guard; it is not called where `resume_file` holds every answer. identity: what beside the prompt
    determines an answer, as JSON.
    """
    resumed = ResumeFile(resume_file, [[identity, prompt] for prompt in prompts])
    answers = {index: GuardAnswer(**facts) for index, facts in resumed.facts.items()}
    if resumed.missing:
        guard = load()
        places = [index for index, prompt in enumerate(prompts) if guard.has_room(prompt, max_new_tokens)]

        def finish(batch: dict[int, GuardAnswer]) -> None:
            new = {places[at]: answer for at, answer in batch.items() if places[at] not in answers}
            answers.update(new)
            resumed.add_all({index: asdict(answer) for index, answer in new.items()})
            if progress:
                progress(len(answers), len(prompts))

        guard.answers(
            [prompts[index] for index in places],
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            finished=finish,
            watched_id=watched_id,
            done={at for at, index in enumerate(places) if index in answers},
        )
    return [answers.get(index) for index in range(len(prompts))]


def load_model(
    name: str, tokenizer: PreTrainedTokenizerBase, *, revision: str | None = None, dtype: str = "auto"
) -> GuardModel:
    """A guard's weights from a folder or the Hub. Raises ModelError."""
    place = opened(name, revision)
    if place.is_adapter:
        raise ModelError("it is an adapter: merge it into its base (`unforgotten export --as merged`) to use it here.")
    model = pretrained.causal_lm(place, dtype=dtype)
    ends = pretrained.tokenizer(name, revision)[1]
    return GuardModel(model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer, ends)
