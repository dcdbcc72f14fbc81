"""Run by itself in a child: reads a tokenizer.json under limits and encodes texts on which bad patterns would hang.

Arguments: site-packages, tokenizer.json, seconds of processor time, bytes of address space, most added tokens. Prints
`ok`, or what is wrong. Nothing of unforgotten is imported.
"""

import contextlib
import json
import re
import resource
import sys

RUN = 3_000
"""Characters of each probe: a cubic pattern does not end in time on them, a quadratic one does."""
QUANTIFIER = re.compile(r"\*|\+|\{\d+,\}|\{,?\d{3,}(?:,\d*)?\}|\{\d+,\d{3,}\}")


def main() -> None:
    """Reads, then encodes."""
    site, file, seconds, room, most_added = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6])
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    with contextlib.suppress(OSError, ValueError):  # not every system has this bound
        resource.setrlimit(resource.RLIMIT_AS, (room, room))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.path.append(site)
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(file)
    if (added := len(tokenizer.get_added_tokens_decoder())) > most_added:
        print(f"it adds {added} tokens, more than {most_added} (UNFORGOTTEN_MAX_ADDED_TOKENS)")
        return
    found: list[str] = []
    for part in (tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.post_processor, tokenizer.decoder):
        if part is not None:
            patterns(json.loads(part.__getstate__()), found)
    for pattern in found:
        if why := refused(pattern):
            print(f"its pattern {pattern[:80]!r} {why}")
            return
    for text in probes(found):
        tokenizer.encode(text)
    print("ok")


def patterns(value: object, found: list[str]) -> None:
    """Collects every regular expression."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "Regex" and isinstance(inner, str):
                found.append(inner)
            patterns(inner, found)
    elif isinstance(value, list):
        for inner in value:
            patterns(inner, found)


def refused(pattern: str) -> str:
    """Why a pattern could take more than polynomial time, or a power above 4; empty where it could not."""
    if len(pattern) > 20_000:
        return f"has {len(pattern)} characters"
    if re.search(r"\\[1-9]|\\k[<'{]|\\g[<'{]|\(\?[&R(]|\(\?P=", re.sub(r"\\\\", "", pattern)):
        return "refers to its own groups"
    stack = [[0, 0]]  # of each open group: repeats of its present alternative, the most of any
    at, last = 0, 0
    while at < len(pattern):
        char = pattern[at]
        if char == "\\":
            end = pattern.find("}", at) if pattern[at + 1 : at + 3] in ("p{", "P{", "x{") else at + 1
            at, last = (end if end > 0 else at + 1) + 1, 0
        elif char == "[":
            at, last = after_class(pattern, at), 0
        elif char == "(":
            stack.append([0, 0])
            at += 1
        elif char == ")" and len(stack) > 1:
            now, most = stack.pop()
            last = max(now, most)
            stack[-1][0] += last
            at += 1
        elif char == "|":
            stack[-1] = [0, max(stack[-1])]
            at += 1
        elif match := QUANTIFIER.match(pattern, at):
            if last:
                return "repeats what repeats within"
            stack[-1][0] += 1
            at, last = match.end(), 1
            if pattern[at : at + 1] in ("?", "+"):
                at += 1
        else:
            last = last if char in "?{" else 0
            at += 1
        if stack[-1][0] > 4:
            return "has more than 4 repeats in a row"
    return ""


def after_class(pattern: str, at: int) -> int:
    """The place after a class that begins at `at`; classes nest."""
    depth, at = 1, at + 1
    at += pattern[at : at + 1] == "^"
    at += pattern[at : at + 1] == "]"
    while at < len(pattern) and depth:
        if pattern[at] == "\\":
            at += 1
        elif pattern[at] == "[":
            depth += 1
        elif pattern[at] == "]":
            depth -= 1
        at += 1
    return at


def probes(found: list[str]) -> list[str]:
    """Runs of what patterns name and of each kind of character, each with an end that no run has."""
    named = sorted({char for pattern in found for char in pattern if char.isalnum()})[:24]
    kinds = ["a", "A", "1", " ", "\n", "\t", "!", "é", "中", "aA1 !", "a ", " \n", "a1", *named]
    runs = [kind * (RUN // len(kind)) + end for kind in kinds for end in ("", "\x00")]
    return [*runs, "".join(chr(code) for code in range(32, 1500)), "how do I kill a process? " * 40]


try:
    main()
except BaseException as error:  # a panic of the library is no Exception
    print(f"it cannot be read: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
