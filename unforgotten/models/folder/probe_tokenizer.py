"""Run by itself in a child: reads a tokenizer.json under limits and encodes texts on which bad patterns would hang.

Arguments: site-packages, tokenizer.json, seconds of processor time, bytes of address space, most added tokens. Prints
`ok`, or what is wrong. Nothing of unforgotten is imported.
"""

import base64
import contextlib
import json
import re
import resource
import sys

RUN = 3_000
"""Characters of each probe: a cubic pattern does not end in time on them, a quadratic one does."""
GROWTH = 1_000
"""Times as long as it was that a text may become: a mark of one character is spelt with 18 at most [Unicode, NFKC]."""
WORD = 1_000
"""Characters of a word that WordPiece reads; published tokenizers have 100."""
LITERALS = 400
"""Characters that patterns name: those of published tokenizers name fewer than 100."""
OPTIONAL = 16
"""Parts of a pattern that may be there or not: each doubles what a match may try. Published ones have 10 at most."""
SYNTAX = frozenset("\\()[]{}|?*+.^$")
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
    regexes: list[str] = []
    for part in (tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.post_processor, tokenizer.decoder):
        if part is not None:
            facts = json.loads(part.__getstate__())
            patterns(facts, regexes)
            if (times := growth(facts)) > GROWTH:
                print(f"it may make a text {times:.0e} times longer, more than {GROWTH}")
                return
    if getattr(tokenizer.model, "dropout", None):
        print("it drops merges at random (model.dropout), so the same text gets different tokens each time")
        return
    if (longest := getattr(tokenizer.model, "max_input_chars_per_word", 0)) > WORD:
        print(f"it reads words of up to {longest} characters, in time that grows as their square; more than {WORD}")
        return
    for pattern in regexes:
        if why := refused(pattern):
            print(f"its pattern {pattern[:80]!r} {why}")
            return
    named = literals(regexes)
    if len(named) > LITERALS:
        print(f"its patterns name {len(named)} characters, more than {LITERALS}")
        return
    for char in named:  # through what the patterns are of, since encoding each would take long
        for end in ("", "\x00", "x"):
            text = char * RUN + end
            if tokenizer.normalizer is not None:
                text = tokenizer.normalizer.normalize_str(text)
            if tokenizer.pre_tokenizer is not None:
                tokenizer.pre_tokenizer.pre_tokenize_str(text)
    for text in probes(regexes):
        tokenizer.encode(text)
    print("ok")


def growth(value: object) -> float:
    """How many times as long a text may become, by replacements and tables that follow one another."""
    times = 1.0
    if isinstance(value, dict):
        if value.get("type") == "Replace":
            pattern = value.get("pattern") or {}
            least = len(pattern["String"]) if isinstance(pattern.get("String"), str) else 1
            times = max(1.0, len(value.get("content") or "") / max(1, least))
        elif value.get("type") == "Precompiled":
            table = base64.b64decode(value.get("precompiled_charsmap") or "")
            pieces = table[4 + int.from_bytes(table[:4], "little") :].split(b"\x00")
            times = max(1.0, *(float(len(piece)) for piece in pieces))
        for inner in value.values():
            times = min(times * growth(inner), 1e300)
    elif isinstance(value, list):
        for inner in value:
            times = min(times * growth(inner), 1e300)
    return times


def literals(regexes: list[str]) -> list[str]:
    """Characters that patterns name, also by number and as the ends of ranges; letters and digits are probed anyway."""
    names: set[str] = set()
    for pattern in regexes:
        for code in re.findall(r"\\(?:x\{|u\{?|x|U)([0-9A-Fa-f]{2,8})", pattern):
            names |= {chr(number) for number in (int(code, 16), int(code[:4], 16)) if valid(number)}
        names |= {char for char in pattern if char not in SYNTAX}
    return sorted(names)


def valid(number: int) -> bool:
    """Is it a character's number?"""
    return number < 0x110000 and not 0xD800 <= number < 0xE000


def patterns(value: object, regexes: list[str]) -> None:
    """Collects every regular expression."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "Regex" and isinstance(inner, str):
                regexes.append(inner)
            patterns(inner, regexes)
    elif isinstance(value, list):
        for inner in value:
            patterns(inner, regexes)


def refused(pattern: str) -> str:
    """Why a pattern could take more than polynomial time, or a power above 4; empty where it could not."""
    if len(pattern) > 20_000:
        return f"has {len(pattern)} characters"
    if re.search(r"\\[1-9]|\\k[<'{]|\\g[<'{]|\(\?[&R(]|\(\?P=", re.sub(r"\\\\", "", pattern)):
        return "refers to its own groups"
    bare = re.sub(r"\\.|\[[^\]]*\]", "c", pattern)
    if len(re.findall(r"(?<![*+?}(])\?|\{\d*,\d+\}", bare)) > OPTIONAL:
        return f"has more than {OPTIONAL} optional parts"
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


def probes(regexes: list[str]) -> list[str]:
    """Runs of what patterns name and of each kind of character, each with an end that no run has."""
    named = sorted({char for pattern in regexes for char in pattern if char.isalnum()})[:24]
    kinds = ["a", "A", "1", " ", "\n", "\t", "!", "é", "中", "aA1 !", "a ", " \n", "a1", *named]
    runs = [kind * (RUN // len(kind)) + end for kind in kinds for end in ("", "\x00")]
    return [*runs, "".join(chr(code) for code in range(32, 1500)), "how do I kill a process? " * 40]


try:
    main()
except BaseException as error:  # a panic of the library is no Exception
    print(f"it cannot be read: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
