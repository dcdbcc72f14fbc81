"""Measures, prints a table, and writes latest.json: `python -m benchmarks [NAME …] [--device cpu|cuda] [--pairs N]`."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import time

GROUPS = {
    "replay": "DER against stored logits, vocabulary 128k",
    "steps": "a method's step over SFT's",
    "curvature": "the Fisher of 64 rows",
    "projection": "SafeLoRA's products at d = 4096",
    "merges": "MagMax and SafeLoRA on a checkpoint of 2 GB",
    "generation": "replies in batches against one at a time",
    "growth": "cost over memory size, vocabulary and rows, with plots",
    "picture": "where the time of a DER step goes",
}
ON_GPU = ("steps", "replay", "curvature")


def main() -> None:
    """Runs the groups asked for, all of them by default."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    told = "; ".join(f"{name}: {what}" for name, what in GROUPS.items())
    parser.add_argument("names", nargs="*", metavar="NAME", help=told)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--pairs", type=int, default=40, help="pairs of steps; slow figures take fewer (default: 40)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch on the CPU (default: 1)")
    given = parser.parse_args()
    if unknown := set(given.names) - set(GROUPS):
        parser.error(f"there is no {', '.join(sorted(unknown))}; choose from {', '.join(GROUPS)}")
    os.environ |= {"OMP_NUM_THREADS": str(given.threads), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

    import torch

    from benchmarks import measure, page
    from unforgotten.training.watch import hush

    torch.set_num_threads(given.threads)
    logging.disable(logging.WARNING)
    hush()
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device here")
    began = time.perf_counter()
    chosen = given.names or (GROUPS if given.device == "cpu" else ON_GPU)
    for name in [group for group in GROUPS if group in chosen]:
        print(f"\n{name}: {GROUPS[name]} (load {os.getloadavg()[0]:.1f})", flush=True)
        if name != "replay":
            measure.keep_freed_memory()  # for good: so `replay`, which measures both ways, comes first
        found = []
        for figure in importlib.import_module(f"benchmarks.{name}").figures(given.device, given.pairs):
            print(measure.line(figure), flush=True)
            found.append(figure)
            measure.keep(found)  # an interrupted run keeps what it found
    page.write()
    print(f"\n{time.perf_counter() - began:.0f} s; {measure.LATEST.name} and docs/performance.md are written")


if __name__ == "__main__":
    main()
