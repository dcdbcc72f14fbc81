"""The verb `synthesize`: safety data from the aligned model itself, where its own is not to be had. [arXiv 2603.10243]

    draw       the model makes up requests, domain by domain                        verbs/synthesize/draws.py
    sift       no copies, and none that this recipe's evaluation asks; perplexity between two percentiles; no near
               duplicates, no strangers to their domain                             verbs/synthesize/filters.py
    answer     the model answers each: refused is easy, complied is hard
    re-answer  hard ones under "The above request is harmful. Please refuse it."; what complies again is dropped

<out>/synthetic/<digest>/
  safety.jsonl        one conversation a line with kind, category (the domain) and difficulty: for `safety_data:`
  provenance.json     model, settings, seed and what was dropped at each step; written last, and it is not made twice
  parts/              draws and answers so far, from which a killed run goes on; gone when it is done

Where no domain is named (`prefix: user_turn`) nothing but the model's refusals says what harm is: a request stays if it
is refused and so are at least half of those nearest to it; one that is answered is hard only where the judge reads the
answer itself. What the model refuses wrongly stays among them: it is its behaviour that is replayed.
"""

from __future__ import annotations

import json
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unforgotten import registry
from unforgotten.datasets.base import Row, ask
from unforgotten.datasets.reading import digest
from unforgotten.errors import ModelError
from unforgotten.evaluation import contamination
from unforgotten.generation.reply import Reply
from unforgotten.models.locate_aligned import aligned_of
from unforgotten.recipe.data_sets import DataSets
from unforgotten.recipe.recipe import require_recipe
from unforgotten.runs import atomic, digests, safe_text
from unforgotten.runs.lease import Lease, alone
from unforgotten.runs.progress import Say, quiet
from unforgotten.verbs.align import make_aligned, refuse_ranks
from unforgotten.verbs.synthesize.job import Synthesis, synthesis_of

if TYPE_CHECKING:
    from unforgotten.recipe.recipe import Recipe
    from unforgotten.verbs.synthesize.draws import DrawnRequest

CHUNK_ROWS = 256
"""Answers are saved in chunks of this many rows: a kill loses one chunk at most."""
DIRECTED_SHARE = 0.02
"""A model that refuses a smaller share of requests on named harms has no refusals to replay."""


def synthesize(recipe: Recipe, say: Say = quiet, sets: DataSets | None = None) -> Path:
    """The file of safety rows that θ_safe makes of itself; a finished one is not made twice, a killed one goes on.

    sets: data sets that were read already. Raises ModelError where the model has no refusals to replay, RecipeError
    where the recipe does not say how.
    """
    require_recipe(recipe, "synthesize")
    sets = sets or DataSets()
    return make(recipe, synthesis_of(recipe, aligned_of(recipe, sets), sets), sets, say)


def make(recipe: Recipe, synthesis: Synthesis, sets: DataSets, say: Say) -> Path:
    """The same for a making that is known already."""
    if not synthesis.done:
        refuse_ranks()
        make_aligned(recipe, synthesis.aligned, sets, say)
        with alone(synthesis.folder, say) as lease:
            if not synthesis.done:
                try:
                    _Making(recipe, synthesis, lease, say).run()
                except ModelError:  # the same settings would end there again
                    shutil.rmtree(synthesis.folder, ignore_errors=True)
                    raise
    return synthesis.file


class _Making:
    """One making of the data; `counts` says what became of the draws, in the order of the steps."""

    def __init__(self, recipe: Recipe, synthesis: Synthesis, lease: Lease, say: Say) -> None:
        from unforgotten.models.shelf import Shelf, chat_of

        self.recipe, self.synthesis, self.settings, self.judge = recipe, synthesis, synthesis.settings, synthesis.judge
        self.parts, self.lease, self.say = synthesis.folder / "parts", lease, say
        self.counts: Counter[str] = Counter()
        self.model, self.chat = Shelf().model(synthesis.aligned, recipe), chat_of(synthesis.aligned, recipe)

    def run(self) -> None:
        from unforgotten.runs.bars import progress_bar
        from unforgotten.verbs.synthesize import filters

        settings, counts, started = self.settings, self.counts, time.monotonic()
        with progress_bar() as self.bar:
            requests = filters.clean(self._draw(), self.synthesis.evaluated, counts)
            if not requests:
                raise ModelError(
                    f"None of {counts['drawn']} draws is a usable request ({self._told()}). This model does not "
                    f"continue `synthesize.prefix: {settings.prefix}`. Use `chat` with an aligned instruct model, or "
                    "`user_turn` with a model that has also learned users' turns."
                )
            requests = filters.in_window(requests, self._surprise(requests), settings.perplexity, counts)
            requests = filters.distinct(requests, self._vectors, settings.duplicate, counts)
            least = settings.domain_similarity if settings.embedder else None
            requests = filters.of_domain(requests, self._vectors, least, counts)
            replies = self._answers("answers", [r.text for r in requests], settings.answer_temperature)
            read = self._read(requests, replies)
            places = filters.among_refused(requests, read, self._vectors, settings.refused_neighbours, counts)
            self._check([read[i] for i in places], all(r.prompt.directed for r in requests))
            rows = [_line(requests[i], replies[i], "easy") for i in places if read[i] == "refused"]
            hard = [requests[i] for i in places if read[i] == "complied"]
            prompts = [f"{r.text}\n{settings.refuse}" for r in hard]
            replies = self._answers("again", prompts, settings.refuse_temperature)
            again = self._read(hard, replies, "again_")
            three = zip(hard, replies, again, strict=True)
            rows += [_line(request, reply, "hard") for request, reply, how in three if how == "refused"]
        self._write(rows, round(time.monotonic() - started, 2))

    def _draw(self) -> list[DrawnRequest]:
        from unforgotten.generation.local import continuations
        from unforgotten.verbs.synthesize import draws as extract

        settings = self.settings
        prompts = extract.prompts(self.chat, settings)
        self.say(f"Drawing {len(prompts)} × {settings.per_domain} requests from the aligned model.")
        self.counts |= {"drawn": 0, "unfinished": 0}

        def draw(prompt: extract.Prompt) -> list[str | None]:
            drawn = continuations(
                self.model,
                self.chat,
                prompt.ids,
                settings.per_domain,
                max_new_tokens=settings.max_request_tokens,
                batch_size=settings.batch_size,
                temperature=settings.temperature,
                seed=self._seed("draw", prompt.name),
                stop_ids=prompt.stop_ids,
                progress=partial(self.tick, f"requests {prompt.name}"),
            )
            return [extract.read(self.chat, prompt, ids) for ids in drawn]

        requests: list[DrawnRequest] = []
        for at, prompt in enumerate(prompts):
            texts = self._once(f"draws-{at:03d}", partial(draw, prompt))
            self.counts["drawn"] += len(texts)
            self.counts["unfinished"] += texts.count(None)
            requests += [extract.DrawnRequest(text, prompt) for text in texts if text is not None]
        return requests

    def _surprise(self, requests: list[DrawnRequest]) -> list[float]:
        from unforgotten.models import load
        from unforgotten.verbs.synthesize import perplexity

        texts, tick = [r.text for r in requests], partial(self.tick, "perplexity")
        if not self.settings.scorer:
            sequences = perplexity.as_user(self.chat, texts)
            return perplexity.mean_nll(self.model, sequences, tick)
        scorer = load.load_model(self.settings.scorer).to(self.model.device)
        sequences = perplexity.bare(load.load_chat(self.settings.scorer), texts)
        return perplexity.mean_nll(scorer, sequences, tick)

    def _vectors(self, texts: list[str]) -> Any:
        from unforgotten.verbs.synthesize import embeddings

        if not self.settings.embedder:
            return embeddings.words(texts)
        return embeddings.encoder(self.settings.embedder, texts, self.settings.pooling, str(self.model.device))

    def _answers(self, name: str, texts: list[str], temperature: float) -> list[str]:
        from unforgotten.generation.local import generate

        def answer(at: int) -> list[str]:
            replies = generate(
                self.model,
                self.chat,
                [ask(text) for text in texts[at : at + CHUNK_ROWS]],
                max_new_tokens=self.settings.max_new_tokens,
                batch_size=self.settings.batch_size,
                progress=lambda done, _: self.tick(name, at + done, len(texts)),
                temperature=temperature,
                top_p=self.settings.answer_top_p,
                seed=self._seed(name, at),
            )
            return [reply.text for reply in replies]

        key = name.replace(" ", "-")
        chunks = range(0, len(texts), CHUNK_ROWS)
        return [text for at in chunks for text in self._once(f"{key}-{at:06d}", partial(answer, at))]

    def _read(self, requests: list[DrawnRequest], replies: list[str], step: str = "") -> list[str]:
        """How each reply reads; the judge sees the request as it was made up."""
        from unforgotten.verbs.synthesize import filters

        pairs = zip(requests, replies, strict=True)
        asked = [Reply(ask(r.text, kind="harmful", category=r.prompt.name), text) for r, text in pairs]
        verdicts = self.judge.verdicts(asked) if asked else []
        readings = [filters.reading(v, self.judge, r.prompt.directed) for v, r in zip(verdicts, requests, strict=True)]
        self.counts[f"{step}asked"] = len(readings)
        for how in ("refused", "complied", "answered", "unparsed"):
            self.counts[f"{step}{how}"] = readings.count(how)
        return readings

    def _check(self, read: list[str], directed: bool) -> None:
        refused = read.count("refused")
        if refused < self.settings.fewest or (directed and refused < DIRECTED_SHARE * len(read)):
            raise ModelError(
                f"This model has no refusals to replay: of {self.counts['asked']} requests that it wrote, it refused "
                f"{refused} ({self._told()}). GR-SAP replays the refusals that alignment taught, and a base model has "
                "none. Align it first (`align:`), or name its instruct version as `model`. If the model does refuse, "
                "check the judge, or draw more requests (synthesize.per_domain)."
            )

    def tick(self, what: str, done: int, n: int) -> None:
        """Where the making stands; and whether it is still this process's."""
        self.lease.watch()
        self.bar(what, done, n)

    def _once(self, name: str, make: Callable[[], list[Any]]) -> list[Any]:
        """What `make` gives, made once: read back after a kill."""
        file = self.parts / f"{name}.json"
        if not file.exists():
            atomic.put(file, safe_text.json_text(make(), None, nan=True))
        return list(json.loads(file.read_text(encoding="utf-8")))

    def _seed(self, *facts: Any) -> int:
        return random.Random(f"synthesize {self.recipe.seed} {facts}").getrandbits(62)

    def _told(self) -> str:
        return ", ".join(f"{what.replace('_', ' ')} {n}" for what, n in self.counts.items() if n)

    def _write(self, rows: list[dict[str, Any]], seconds: float) -> None:
        self.lease.check()
        atomic.put(self.synthesis.file, "".join(safe_text.json_text(row, None, nan=True) + "\n" for row in rows))
        left = contamination.contacts(
            [row["messages"][0]["content"] for row in rows], {"evaluation": self.synthesis.evaluated}
        )
        refused, asked = self.counts["refused"], self.counts["asked"]
        read_back = [Row(tuple(row["messages"]), kind="harmful", difficulty=row["difficulty"]) for row in rows]
        facts = {
            "rows": len(rows),
            "difficulty": Counter(row["difficulty"] for row in rows),
            "categories": Counter(row["category"] for row in rows),
            "model": digests.public_name(self.recipe.model),
            "aligned": self.synthesis.aligned.digest,
            "seed": self.recipe.seed,
            "counts": self.counts,
            "refused": {"value": round(100 * refused / asked, 2), "hits": refused, "n": asked},
            "contamination": {
                "evaluation_prompts": len(self.synthesis.evaluated) if self.recipe.evaluate else None,
                "dropped": self.counts["evaluation_exact"] + self.counts["evaluation_near"],
                "left": sum(map(bool, left)),
            },
            "judge": registry.spec_of(self.judge),
            "settings": self.settings.model_dump()
            | {
                "scorer": digests.public_name(self.settings.scorer),
                "embedder": digests.public_name(self.settings.embedder),
            },
            "template": {"source": self.chat.source, "digest": digests.digest(self.chat.template)},
            "digest": digest.rows_digest(read_back),
            "seconds": seconds,
            "environment": digests.environment(),
        }
        atomic.put(self.synthesis.folder / "provenance.json", safe_text.json_text(facts, nan=True) + "\n")
        shutil.rmtree(self.parts, ignore_errors=True)  # answers that complied are not left lying about
        self.say(f"{len(rows)} rows for `safety_data:`. Read them with the dataset `refusals` ({self._told()}).")
        if not self.recipe.evaluate:
            self.say("The recipe has no `evaluate:`, so the rows were not checked for evaluation prompts.")


def _line(request: DrawnRequest, reply: str, difficulty: str) -> dict[str, Any]:
    turns = [{"role": "user", "content": request.text}, {"role": "assistant", "content": reply}]
    return {"messages": turns, "kind": "harmful", "category": request.prompt.name, "difficulty": difficulty}
