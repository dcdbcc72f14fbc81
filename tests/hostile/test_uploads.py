"""A stranger's file of rows: each hostile one is refused by name, within 5 s and 1 GB."""

from __future__ import annotations

import gzip
import json
import lzma
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from unforgotten.datasets.jsonl import Jsonl, rows_of
from unforgotten.datasets.reading import files
from unforgotten.datasets.refusals import Refusals
from unforgotten.errors import DataError, RecipeError
from unforgotten.runs.bounds import Bounds, bounds

ROW = b'{"prompt": "a", "completion": "b"}\n'
MIB = 1 << 20


def pieces(piece: bytes, n_mib: int) -> Callable[[], bytes]:
    """`n_mib` MiB of a piece said again and again, packed member by member so that no test holds them."""
    member = gzip.compress(piece * (MIB // len(piece)), 9)
    return lambda: member * n_mib


def xz_asking_for_memory() -> bytes:
    """An .xz whose header asks for a dictionary of 1.5 GiB."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 4096}]
    whole = bytearray(lzma.compress(ROW, lzma.FORMAT_XZ, lzma.CHECK_NONE, filters=filters))
    at = whole.index(b"\x21\x01", 12)  # the LZMA2 filter and the size of its one property
    whole[at + 2] = 39  # 3 GiB
    import struct
    import zlib

    size = (whole[12] + 1) * 4
    whole[12 + size - 4 : 12 + size] = struct.pack("<I", zlib.crc32(bytes(whole[12 : 12 + size - 4])))
    return bytes(whole)


HOSTILE: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "gzip of one line": ("a.jsonl.gz", pieces(b"a", 500), "unpacks to more than"),
    "gzip of many rows": ("a.jsonl.gz", pieces(ROW, 300), "unpacks to more than|more than 1,000,000 lines"),
    "gzip of blank lines": ("a.jsonl.gz", pieces(b"\n", 300), "unpacks to more than|more than 1,000,000 lines"),
    "xz of zeros": ("a.jsonl.xz", lambda: lzma.compress(b"\0" * (64 * MIB), preset=0), "unpacks to more than|UTF-16"),
    "xz of spaces": ("a.jsonl.xz", lambda: lzma.compress(b" " * (64 * MIB), preset=0), "unpacks to more than"),
    "xz with a huge dictionary": ("a.jsonl.xz", xz_asking_for_memory, "Memory usage limit"),
    "gzip with a name without end": ("a.jsonl.gz", lambda: b"\x1f\x8b\x08\x08" + b"\0" * 6 + b"a" * 50 * MIB, "gzip"),
    "a table that inflates": ("a.csv.gz", pieces(b"goal\n", 300), "unpacks to more than"),
    "a text that inflates": ("a.txt.gz", pieces(b"goal now\n", 300), "unpacks to more than|more than 1,000,000 lines"),
    "lists without end": ("a.jsonl", lambda: b'{"a": ' + b"[" * 5_000_000, "nested too deeply"),
    "an array without end": ("a.json", lambda: b"[" * 5_000_000, "nested too deeply"),
    "objects without end": ("a.jsonl", lambda: b'{"a":' * 1_000_000, "nested too deeply"),
    "nested beyond the limit": ("a.jsonl", lambda: b'{"a": ' + b"[" * 80 + b"]" * 80 + b"}", "nested too deeply"),
    "one line of 20 MB": ("a.jsonl", lambda: b'{"prompt": "' + b"a" * 20 * MIB + b'"}', "longer than a row may be"),
    "one element of 20 MB": ("a.json", lambda: b'[{"a": "' + b"a" * 20 * MIB + b'"}]', "longer than a row may be"),
    "a list of empty objects": ("a.jsonl", lambda: b'{"a": [' + b"{}," * 4_000_000 + b"]}", "longer than a row"),
    "an array of small numbers": ("a.json", lambda: b"[" + b"1," * 1_100_000 + b"1]", "more than 1,000,000 rows"),
    "a million blank lines and more": ("a.jsonl", lambda: b"\n" * 3_000_000, "more than 1,000,000 lines"),
    "bad rows without end": ("a.jsonl", lambda: b"{}\n" * 200_000, "10000 rows cannot be used"),
    "broken lines without end": ("a.jsonl", lambda: b"x\n" * 200_000, "10000 rows cannot be used"),
    "a string never closed": ("a.json", lambda: b'[{"a": "' + b"a" * 20 * MIB, "longer than a row|broken JSON"),
    "a number of 100,000 digits": ("a.jsonl", lambda: b'{"prompt": ' + b"1" * 100_000 + b"}", "more digits"),
    "a cell of 20 MB": ("a.csv", lambda: b'goal,n\n"' + b"a" * 20 * MIB + b'",1\n', "field limit|longer than a row"),
    "a quote never closed": ("a.csv", lambda: b'goal,n\n"' + b"a\n" * 500_000, "field limit|Close every quote"),
    "too many keys, nothing to read": (
        "a.jsonl",
        lambda: json.dumps({f"k{i}": i for i in range(300_000)}).encode(),
        "a row may have 1,000",
    ),
    "arguments without end": (
        "a.jsonl",
        lambda: json.dumps(
            {
                "messages": [
                    {"role": "user", "content": "a"},
                    {
                        "role": "assistant",
                        "tool_calls": [{"function": {"name": "f", "arguments": {f"k{i}": 1 for i in range(300_000)}}}],
                    },
                ]
            }
        ).encode(),
        "too many values; the limit is 20,000",
    ),
    "tools without end": (
        "a.jsonl",
        lambda: json.dumps(
            {"prompt": "a", "completion": "b", "tools": [{"name": f"f{i}"} for i in range(200_000)]}
        ).encode(),
        "too many values; the limit is 20,000",
    ),
    "turns without end": (
        "a.jsonl",
        lambda: json.dumps(
            {"messages": [{"role": r, "content": "x"} for _ in range(50_000) for r in ("user", "assistant")]}
        ).encode(),
        "has 100,000 turns; the limit is 1,000",
    ),
}

CHILD = """
import json, re, resource, sys, time
from unforgotten.datasets.jsonl import Jsonl
from unforgotten.datasets.refusals import Refusals
from unforgotten.errors import DataError
for name, (path, says) in json.load(open(sys.argv[1])).items():
    begun = time.process_time()
    try:
        (Refusals if ".jso" not in path else Jsonl)(path=path).rows()
        print(name, "was read")
    except DataError as error:
        if not re.search(says, str(error)):
            print(name, "is told:", str(error)[:300])
        if len(str(error)) > 20_000:
            print(name, "is told at a length of", len(str(error)))
    if (seconds := time.process_time() - begun) > 5:
        print(name, "took", round(seconds, 1), "s")
    if (peak := resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) > 1_000_000:
        print(name, "took", peak // 1000, "MB")
        break
"""


def test_each_is_refused_by_name_within_5_seconds_and_1_gb(tmp_path: Path) -> None:
    said = {}
    for i, (name, (file, content, says)) in enumerate(HOSTILE.items()):
        path = tmp_path / str(i) / file
        path.parent.mkdir()
        path.write_bytes(content())
        said[name] = (str(path), says)
    (tmp_path / "all.json").write_text(json.dumps(said))
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path / "all.json")], capture_output=True, text=True, timeout=600
    )
    assert (done.stdout, done.returncode) == ("", 0), done.stderr[-2000:]


@pytest.mark.parametrize("reader", [Jsonl, Refusals])
def test_what_is_no_regular_file_is_refused_and_never_waited_for(tmp_path: Path, reader, monkeypatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "link.jsonl").symlink_to("/dev/zero")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner").mkdir()
    os.mkfifo(tmp_path / "owner" / "name")
    said: list[str] = []

    def read() -> None:
        for path in ("pipe", "pipe.jsonl", "link.jsonl", "/dev/zero", "/dev/stdin", "owner/name", str(tmp_path)):
            with pytest.raises(DataError) as error:
                reader(path=path).rows()
            said.append(str(error.value))

    worker = threading.Thread(target=read, daemon=True)
    worker.start()
    worker.join(10)
    assert not worker.is_alive() and len(said) == 7
    for path in ("a" * 5000, "a\0b", "loop.jsonl"):
        (tmp_path / "loop.jsonl").unlink(missing_ok=True)
        (tmp_path / "loop.jsonl").symlink_to(tmp_path / "loop.jsonl")
        with pytest.raises(DataError, match="cannot be read|There is no file"):
            reader(path=path).rows()
    assert "named pipe" in said[0] and "a device" in said[2] and "named pipe" in said[5] and "folder" in said[6]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b'{"prompt": "a", "completion": "good", "completion": "bad"}', "the key 'completion' stands twice"),
        (b'{"prompt": "a", "completion": "b", "x": {"k": 1, "k": 2}}', "the key 'k' stands twice"),
        (b'{"prompt": "a", "completion": "b", "x": NaN}', "NaN is no JSON"),
        (b'{"prompt": "a", "completion": "b", "x": -Infinity}', "-Infinity is no JSON"),
        (b'{"prompt": "a", "completion": "b", "x": 1e999}', "the number 1e999 is too large"),
        (b'{"prompt": "a\\u0000", "completion": "b"}', "NUL"),
        (b'{"prompt": "a\0", "completion": "b"}', "NUL bytes"),
        (b'{"prompt": "a", "completion": "\\ud83d"}', "half a character"),
        (b'{"prompt": [{"role": "user", "content": "a", "\\ud83d": "x"}], "completion": "b"}', "half a character"),
        (b'{"prompt": "a", "completion": "b", "tools": [{"name": "f", "\\udc00": 1}]}', "half a character"),
        (b'{"prompt": "a", "completion": "b", "category": "\\ud83d"}', "half a character"),
        (b'{"prompt": "a", "completion": "\xe9"}', "not UTF-8"),
        (b"\xef\xbb\xbf\xef\xbb\xbf" + ROW, "BOM"),
        ('{"prompt": "a", "completion": "b"}'.encode("utf-16"), "looks like UTF-16"),
        ('{"prompt": "a", "completion": "b"}'.encode("utf-16-le"), "looks like UTF-16"),
        ('{"prompt": "a", "completion": "b"}'.encode("utf-32"), "not UTF-8|looks like UTF-16"),
    ],
)
def test_what_two_readers_take_for_two_things_is_refused(tmp_path: Path, text: bytes, says: str) -> None:
    (tmp_path / "up.jsonl").write_bytes(ROW + text if not text.startswith((b"\xef", b"\xff", b"{\0")) else text)
    for reader in (Jsonl, Refusals):
        with pytest.raises(DataError, match=says):
            reader(path=str(tmp_path / "up.jsonl")).rows()


def test_a_file_packed_as_files_are_is_read(tmp_path: Path) -> None:
    rows = [json.dumps({"prompt": f"{i} + {i}?", "completion": str(2 * i)}) for i in range(4_000)]
    text = ("\n".join(rows) + "\n").encode()
    for name, pack in {"a.jsonl.gz": gzip.compress, "b.jsonl.xz": lzma.compress}.items():
        (tmp_path / name).write_bytes(pack(text[: len(text) // 2]) + pack(text[len(text) // 2 :]))  # two members
        assert [row.response for row in Jsonl(path=str(tmp_path / name)).rows()] == [str(2 * i) for i in range(4_000)]


def test_an_array_larger_than_what_is_held_is_read_whole(tmp_path: Path) -> None:
    rows = [{"prompt": f"é{i}" * (1 + i % 50), "completion": "x" * (i % 3000 + 1)} for i in range(3000)]
    text = "\n\n [\n" + ",\n".join(json.dumps(row, ensure_ascii=i % 2 == 0) for i, row in enumerate(rows)) + "\n]\n"
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    records, problems = files.read(str(tmp_path / "a.json"))
    assert [r.value for r in records] == rows and problems == []
    assert [r.line for r in records] == list(range(4, 3004))
    bad = text.replace(json.dumps(rows[2500]), '{"a": }', 1)
    (tmp_path / "b.json").write_text(bad, encoding="utf-8")
    _, problems = files.read(str(tmp_path / "b.json"))
    assert problems == [(2504, "broken JSON at column 7: Expecting value")]


def test_limits_are_settings_of_the_environment(tmp_path: Path, monkeypatch) -> None:
    assert bounds() == Bounds()
    (tmp_path / "a.jsonl").write_bytes(ROW * 10)
    path = str(tmp_path / "a.jsonl")
    for name, value, says in [
        ("FILE_BYTES", "100", "has 350 bytes; the limit is 100 .UNFORGOTTEN_MAX_FILE_BYTES"),
        ("ROW_BYTES", "20", "longer than a row may be: the limit is 20 .UNFORGOTTEN_MAX_ROW_BYTES"),
        ("ROWS", "9", "more than 9 lines; the limit is 9 .UNFORGOTTEN_MAX_ROWS"),
        ("TURNS", "1", "has 2 turns; the limit is 1 .UNFORGOTTEN_MAX_TURNS"),
    ]:
        with monkeypatch.context() as here:
            here.setenv(f"UNFORGOTTEN_MAX_{name}", value)
            with pytest.raises(DataError, match=says):
                Jsonl(path=path).rows()
    for odd in ("0", "-1", "many", "1e9", "9" * 30):
        with monkeypatch.context() as here:
            here.setenv("UNFORGOTTEN_MAX_ROWS", odd)
            with pytest.raises(RecipeError, match="UNFORGOTTEN_MAX_ROWS must be a whole number"):
                Jsonl(path=path).rows()


def test_a_parquet_file_that_inflates_is_refused(tmp_path: Path, monkeypatch) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    said_once = pa.array(["a" * MIB]).dictionary_encode()
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int32()), said_once.dictionary)
    write_table(pa.table({"prompt": column}), tmp_path / "said-once.parquet", compression="zstd")
    write_table(pa.table({"prompt": ["a" * (20 * MIB)]}), tmp_path / "zeros.parquet", compression="zstd")
    for name in ("said-once", "zeros"):
        with pytest.raises(DataError, match=r"unpacks to more than 100 times|too much in its rows"):
            files.read(str(tmp_path / f"{name}.parquet"))
    write_table(pa.table({"prompt": ["a"] * 50}), tmp_path / "rows.parquet")
    monkeypatch.setenv("UNFORGOTTEN_MAX_ROWS", "49")
    with pytest.raises(DataError, match="has 50 rows; the limit is 49"):
        files.read(str(tmp_path / "rows.parquet"))


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (float("nan"), "nan is no JSON"),
        (float("inf"), "inf is no JSON"),
        pytest.param(10**5000, "more digits", id="5001 digits"),
        (b"x", "of type bytes"),
        ({1: "x"}, "the key 1 is no text"),
        ({0: "x"}, "the key 0 is no text"),
        ("\ud83d", "half a character"),
        ("a\0b", "NUL"),
    ],
)
def test_rows_made_in_python_are_held_to_the_same(value, says) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "extra": [value]}]
    with pytest.raises(DataError, match=says):
        rows_of([{"messages": turns}])
    nested: list = []
    for _ in range(70):
        nested = [nested]
    with pytest.raises(DataError, match="nested too deeply"):
        rows_of([{"messages": [{**turns[0], "extra": nested}, {"role": "assistant", "content": "b"}]}])


def test_keys_of_strangers_are_shown_so_that_they_cannot_act() -> None:
    said: list[str] = []
    rows_of([{"prompt": "a", "completion": "b", "\x1b]52;c;eA==\x07": 1, "k" * 500: 1}], say=said.append)
    assert len(said) == 1 and "\x1b" not in said[0] and "\x07" not in said[0] and len(said[0]) < 400
