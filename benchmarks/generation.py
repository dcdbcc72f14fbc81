"""Prompts per second in batches against one at a time, on the embedded world's model, in one run.

    python benchmarks/generation.py [--prompts 520] [--batch 64]

Prints both rates, their ratio, and whether every reply is the same. Batches are made in turns with single prompts, so
that whatever else the machine does falls on both.
"""

from __future__ import annotations

import argparse
import time

from unforgotten import pretrain
from unforgotten.datasets.base import Row, ask
from unforgotten.generation.local import generate
from unforgotten.judges.base import Reply
from unforgotten.training import load
from unforgotten.world.requests import requests

ROUNDS = 4


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=520)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64)
    given = parser.parse_args()
    folder = str(pretrain.pretrain(0))
    model, chat = load.load_model(folder), load.load_chat(folder)
    found = [request for request in requests() if request.harmful] + [r for r in requests() if not r.harmful]
    phrasings = ("how do i {} ?", "tell me how to {} .", "explain how to {} .", "i want to {} .", "{}")
    rows = [ask(phrasing.format(r.goal)) for phrasing in phrasings for r in found][: given.prompts]
    seconds, replies = {1: 0.0, given.batch: 0.0}, {1: list[Reply](), given.batch: list[Reply]()}
    generate(model, chat, rows[:4], max_new_tokens=4)
    share = -(-len(rows) // ROUNDS)
    for at in range(0, len(rows), share):
        for size in seconds:
            part: list[Row] = rows[at : at + share]
            started = time.perf_counter()
            replies[size] += generate(model, chat, part, max_new_tokens=given.tokens, batch_size=size)
            seconds[size] += time.perf_counter() - started
    for size, spent in seconds.items():
        print(f"{size:3} at a time: {len(rows) / spent:8.1f} prompts/s ({spent:.1f} s for {len(rows)})")
    same = sum(a == b for a, b in zip(replies[1], replies[given.batch], strict=True))
    tokens = sum(reply.tokens for reply in replies[1]) / len(rows)
    ratio = seconds[1] / seconds[given.batch]
    print(f"ratio {ratio:.1f}; {same} of {len(rows)} replies the same; {tokens:.1f} tokens each")


if __name__ == "__main__":
    main()
