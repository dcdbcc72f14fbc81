"""θ_safe's own replies to prompts of token ids, and whether they refuse: what `MethodTrainer(replies=…)` takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unforgotten import registry
from unforgotten.datasets.base import ask
from unforgotten.errors import JudgeError
from unforgotten.generation.reply import Reply
from unforgotten.generation.resume import ResumeFile
from unforgotten.methods.base import OwnReply
from unforgotten.models.chat import Chat
from unforgotten.runs.bars import progress_bar
from unforgotten.runs.lease import alone
from unforgotten.runs.progress import Say, quiet

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from unforgotten.generation.generator import Continuation


class AlignedReplies:
    """Greedy replies, kept in a folder under a digest of the model, so that they are made once for all runs.

    >>> MethodTrainer(model=aligned, method="own_replies", replies=AlignedReplies(tokenizer), …)
    """

    def __init__(
        self,
        chat: Chat | PreTrainedTokenizerBase,
        folder: Path | None = None,
        *,
        batch_size: int = 32,
        say: Say = quiet,
    ) -> None:
        """folder: where replies are kept; None is `answers` beside the checkpoints."""
        from transformers import PreTrainedTokenizerBase

        self.chat = Chat(chat) if isinstance(chat, PreTrainedTokenizerBase) else chat
        self.folder, self._batch_size, self._say = folder, batch_size, say

    def generate(
        self,
        model: Any,
        prompts: Sequence[list[int]],
        limits: Sequence[int],
        key: str,
        folder: Path,
        begun: Sequence[Sequence[int]] = (),
    ) -> list[OwnReply]:
        """One reply for each prompt, at most `limits[i]` tokens long. key: a digest of the model's weights.

        begun: for each prompt, tokens that its reply is forced to begin with. One token at least is the model's own.
        """
        from unforgotten.generation.generator import Decoding, Generator, context_tokens

        file = (self.folder or folder) / f"{key}.jsonl"
        ends, context = list(self.chat.end_ids), context_tokens(model)
        limits = [min(n, context - len(p)) if context else n for n, p in zip(limits, prompts, strict=True)]
        heads = [tuple(head)[: max(0, n - 1)] for head, n in zip(begun, limits, strict=True)] if begun else []
        if heads:
            prompts = [[*prompt, *head] for prompt, head in zip(prompts, heads, strict=True)]
            limits = [n - len(head) for n, head in zip(limits, heads, strict=True)]
        asked = [[prompt, limit, ends] for prompt, limit in zip(prompts, limits, strict=True)]
        with alone(file, self._say), progress_bar() as tick:
            resumed = ResumeFile(file, asked)
            texts = {i: OwnReply(tuple(facts["ids"]), facts["ended"]) for i, facts in resumed.facts.items()}
            if resumed.missing:
                forced = ", forced to begin with a refusal" if heads else ""
                what = f"its replies to {len(resumed.missing)} user prompts{forced}"
                self._say(f"Asking the aligned model for {what} (once).")

            def finished(batch: dict[int, Continuation]) -> None:
                new = {i: text for i, text in batch.items() if i not in texts}
                resumed.add_all({i: {"ids": text.ids, "ended": text.ended} for i, text in new.items()})
                texts.update({i: OwnReply(tuple(text.ids), text.ended) for i, text in new.items()})
                tick("own replies", len(texts), len(prompts))

            how = Decoding(end_ids=self.chat.end_ids, pad_id=self.chat.pad_id)
            Generator(model, how).run(prompts, limits, batch_size=self._batch_size, finished=finished, done=set(texts))
        replies = [texts[i] for i in range(len(prompts))]
        return [OwnReply((*h, *r.ids), r.ended) for h, r in zip(heads, replies, strict=True)] if heads else replies

    def opening_logp(
        self,
        model: Any,
        prompts: Sequence[list[int]],
        openings: Sequence[Sequence[int]],
        key: str,
        folder: Path,
    ) -> list[list[float]]:
        """Mean log p of each opening's tokens, after each prompt: one list a prompt, kept beside the replies."""
        from unforgotten.generation.answer_odds import opening_logp

        said = [list(opening) for opening in openings]
        file = (self.folder or folder) / f"{key}-openings.jsonl"
        with alone(file, self._say), progress_bar() as tick:
            resumed = ResumeFile(file, [[prompt, said] for prompt in prompts])
            missing = sorted(resumed.missing, key=lambda i: len(prompts[i]))  # rows of one length need no padding
            if missing:
                self._say(f"Asking the aligned model how likely it is to refuse {len(missing)} prompts (once).")
            for at in range(0, len(missing), self._batch_size):
                some = missing[at : at + self._batch_size]
                logp = opening_logp(model, self.chat.pad_id, [prompts[i] for i in some], said).tolist()
                resumed.add_all({i: {"logp": row} for i, row in zip(some, logp, strict=True)})
                resumed.facts.update({i: {"logp": row} for i, row in zip(some, logp, strict=True)})
                tick("refusal openings", len(resumed.facts), len(prompts))
        return [resumed.facts[i]["logp"] for i in range(len(prompts))]

    def refused(
        self, prompts: Sequence[list[int]], replies: Sequence[OwnReply], judge: str | Mapping[str, Any]
    ) -> list[bool | None]:
        """Whether the judge reads each reply as a refusal; None where it cannot read it."""
        reader = registry.build("judges", judge)
        if "refused" not in reader.tells:
            raise JudgeError(f"The judge {registry.title(type(reader))} does not tell refusals. Choose one that does.")
        rows = [Reply(ask(self.text(p)), self.text(r.ids)) for p, r in zip(prompts, replies, strict=True)]
        try:
            return [verdict.refused for verdict in reader.verdicts(rows)]
        finally:
            reader.close()

    def text(self, ids: Sequence[int]) -> str:
        """Ids as text, without special tokens."""
        return self.chat.decode(ids)
