"""Measures, prints a table, and writes latest.json: `python -m benchmarks [NAME …] [--device cpu|cuda] [--pairs N]`."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import subprocess
import sys
import time

GROUPS = {
    "replay": "DER against stored logits, vocabulary 128k",
    "kept": "the same with freed memory kept",
    "steps": "a method's step over SFT's",
    "curvature": "the Fisher of 64 rows",
    "projection": "SafeLoRA's products at d = 4096",
    "merges": "MagMax and SafeLoRA on a checkpoint of 2 GB",
    "generation": "replies in batches against one at a time",
    "growth": "cost over memory size, vocabulary and rows, with plots",
    "picture": "where the time of a DER step goes",
}
AS_GLIBC_IS = ("replay", "merges")
ON_GPU = ("steps", "replay", "curvature")


def main() -> None:
    """Runs the groups asked for, all of them by default."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    said = "; ".join(f"{name}: {what}" for name, what in GROUPS.items())
    parser.add_argument("names", nargs="*", metavar="NAME", help=said)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--pairs", type=int, default=40, help="pairs of steps; slow figures take fewer (default: 40)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch on the CPU (default: 1)")
    given = parser.parse_args()
    if unknown := set(given.names) - set(GROUPS):
        parser.error(f"there is no {', '.join(sorted(unknown))}; choose from {', '.join(GROUPS)}")
    os.environ |= {"OMP_NUM_THREADS": str(given.threads), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

    chosen = [name for name in GROUPS if name in (given.names or (GROUPS if given.device == "cpu" else ON_GPU))]
    began = time.perf_counter()
    if len(chosen) > 1:  # each in a process of its own: what one does to the allocator is for good
        more = ["--device", given.device, "--pairs", str(given.pairs), "--threads", str(given.threads)]
        ends = [subprocess.run([sys.executable, "-m", "benchmarks", name, *more]).returncode for name in chosen]
        print(f"\nall: {time.perf_counter() - began:.0f} s")
        sys.exit(max(ends))
    _measure(chosen[0], given)
    print(f"{time.perf_counter() - began:.0f} s; benchmarks/latest.json and docs/performance.md are written")


def _measure(name: str, given: argparse.Namespace) -> None:
    logging.disable(logging.WARNING)
    import torch

    from benchmarks import measure, page
    from unforgotten.runs.bars import hush

    if given.device == "cuda" and not torch.cuda.is_available():
        sys.exit("error: there is no CUDA device here")
    torch.set_num_threads(given.threads)
    hush()
    if name not in AS_GLIBC_IS:
        measure.keep_freed_memory()
    print(f"\n{name}: {GROUPS[name]} (load {os.getloadavg()[0]:.1f})", flush=True)
    seen = []
    for figure in importlib.import_module(f"benchmarks.{name}").figures(given.device, given.pairs):
        print(measure.line(figure), flush=True)
        seen.append(figure)
        measure.keep(seen)  # an interrupted run keeps what it found
    page.write()


if __name__ == "__main__":
    main()
