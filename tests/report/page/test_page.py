"""One file holds all: anyone's words stay words, nothing is fetched, and the page says no more than the figures."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.report.page.conftest import NASTY, STORY, simple
from unforgotten.cli import app
from unforgotten.errors import DataError
from unforgotten.report.page import examples, prose, significance
from unforgotten.report.page.facets import facets
from unforgotten.report.page.page import page
from unforgotten.runs import results
from unforgotten.runs.result_types import ModelDigests

Make = Callable[..., Path]
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Read(HTMLParser):
    """Tags, attributes and text of a page; every tag that is opened has to be closed."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def told_in(text: str) -> str:
    return " ".join(" ".join(Read(text).words).split())


SAVED = "data:image/svg+xml;base64,"


def spoil(folder: Path) -> None:
    """Every reply and request of every run becomes mark-up that would run."""
    for file in folder.parent.glob("*/replies/*.jsonl"):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        for line in lines:
            line |= {"text": line["text"] + NASTY, "request": line["request"] + NASTY, "thought": NASTY}
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_words_stay_words_and_nothing_is_fetched(comparison: Make) -> None:
    folder = comparison(STORY, name="mine", task=NASTY, model='m"><b>')
    spoil(folder)
    text = page(folder).read_text(encoding="utf-8")
    read = Read(text)
    names = {tag for tag, _ in read.tags}
    assert not names & {"script", "img", "iframe", "object", "embed", "form", "base", "image", "use", "foreignobject"}
    for tag, attributes in read.tags:
        assert not [name for name in attributes if name.startswith("on") or name in ("src", "srcset", "style")], tag
        href = attributes.get("href") or "data:,"
        assert href == "data:," or (tag == "a" and href.startswith(SAVED) and attributes["download"])
    assert NASTY in "".join(read.words), "and yet it can be read"
    assert "url(" not in text and "@import" not in text and "http" not in re.sub(r'http-equiv="[^"]*"', "", text)


def test_each_picture_can_be_saved_out_of_the_page_as_it_lies_beside_it(comparison: Make) -> None:
    out = page(comparison(STORY))
    tags = Read(out.read_text(encoding="utf-8")).tags
    saved = {a["download"]: base64.b64decode((a["href"] or "").removeprefix(SAVED)) for t, a in tags if t == "a"}
    assert saved == {file.name: file.read_bytes().rstrip() for file in (out.parent / "figures").glob("*.svg")} and saved


def test_the_policy_allows_this_style_sheet_alone(comparison: Make) -> None:
    text = page(comparison(STORY)).read_text(encoding="utf-8")
    policy = next(a["content"] or "" for _, a in Read(text).tags if a.get("http-equiv") == "Content-Security-Policy")
    [sheet] = re.findall(r"<style>(.*?)</style>", text, flags=re.S)
    digest = base64.b64encode(hashlib.sha256(sheet.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in policy and policy.startswith("default-src 'none'")
    assert "unsafe" not in policy and "script-src" not in policy


def test_it_says_what_happened_and_names_no_path(comparison: Make, tmp_path: Path) -> None:
    folder = comparison(STORY)
    (folder.parent / "sft-0" / "recipe.yaml").write_text(
        f"name: mine\nmodel: {tmp_path}/models/small\nout: {tmp_path}\n"
    )
    (folder.parent / "sft-0" / "environment.json").write_text(json.dumps({"python": "3.11", "aligned": str(tmp_path)}))
    out = page(folder)
    words = told_in(text := out.read_text(encoding="utf-8"))
    assert out == folder / "report.html" and len(text) < 200_000
    assert "Plain fine-tuning (sft) raises harmful answers from 0.0 % to 80.0 % ; 1 of 2 other methods" in words
    assert (
        "der the fewest, 20.0 %" in words
        and "(utility 75.0 against 100, look-alikes refused 25.0 against 0.0)" in words
    )
    assert str(tmp_path) not in text and "…/small" in words and "python: '3.11'" in words
    assert sorted(p.name for p in (folder / "figures").iterdir()) == [
        "categories-clean-data.svg",
        "tradeoff-clean-data.svg",
    ]
    assert sorted(p.name for p in (folder / "tables").iterdir()) == ["table.csv", "table.json", "table.md", "table.tex"]


def test_a_difference_is_marked_as_the_figures_beside_it(comparison: Make) -> None:
    story: Any = {
        ("sft", 0): {"question": "hhhhhhhhhhhhrrrrrrrrrrrr"},
        ("der", 0): {"question": "r" * 24},
        ("ema", 0): {"question": "hhhhhhhhhhhhhrrrrrrrrrrr"},
        ("lisa", 0): {"question": "h" * 24},
    }
    shown = page(comparison(story)).read_text(encoding="utf-8")
    actual = re.findall(r"<td>((?:<b>)?[+−]\d[^/]*?(?:</\w+>)?)<small>", shown)
    # 12 of 24 fewer, 1 more, and 12 more: clearly better, not clear, clearly worse (0 or 12 of 12 that differ).
    assert set(actual) == {"<b>−50.0</b>", "+4.2", "+50.0<sup>↓</sup>"}


def test_one_clause_for_each_outcome(tmp_path: Path) -> None:
    def said(*rows: dict[str, Any]) -> str:
        actual = facets(rows)
        tested = significance.tested(actual, tmp_path)
        return re.sub("<[^>]*>", "", prose.clause(actual[0], tested, False)).replace("\xa0", " ")

    start = simple("aligned", 1, 0, stage="aligned")
    assert (
        said(start, simple("sft", 2, 90))
        == "plain fine-tuning (sft) leaves harmful answers at 2.0 % (no clear change from 1.0 %)"
    )
    assert said(start, simple("sft", 70, 90), simple("der", 69, 90)).endswith(
        "none of 1 other method gives clearly fewer"
    )
    assert "; der keeps them at 5.0 % (utility 88.0 against 90.0" in said(
        start, simple("sft", 70, 90), simple("der", 5, 88)
    )
    assert "both other methods give clearly fewer, ema the fewest, 3.0 %" in said(
        start, simple("sft", 70, 90), simple("der", 5, 88), simple("ema", 3, 88)
    )
    assert said(start, simple("der", 5, 88)).startswith("der leaves harmful answers at 5.0 % (no clear change from 1.0")
    assert "with 10 % poison" in said(start, simple("sft", 70, 90, poison=0.1))


def test_harmful_replies_are_folded_and_refusals_are_not(comparison: Make) -> None:
    folder = comparison(STORY)
    [facet] = facets(results.read(folder / "results.json"))
    actual = examples.quotes(facet, folder.parent)
    assert [q.kind for q in actual] == ["asr", "asr", "asr", "refusal", "utility"]
    first = examples.drawn(actual[0])
    for name, reply in actual[0].replies:
        folded = f"{name} says {'r' if examples.verdict('asr', reply) == 'refuses' else 'h'}"
        before = first[: first.index(folded)]
        inside = before.count("<details") > before.count("</details")
        assert inside == (examples.verdict("asr", reply) == "harmful"), name
    assert "<details open" not in first


def test_where_only_words_were_looked_for_every_reply_is_folded(comparison: Make) -> None:
    folder = comparison(STORY, judges=[{"name": "keywords"}])
    [facet] = facets(results.read(folder / "results.json"))
    harm = [q for q in examples.quotes(facet, folder.parent) if q.kind == "asr"]
    for quote in harm:
        drawn = examples.drawn(quote)
        assert drawn.count("class=veiled") == drawn.count("class=card>") == 5
        assert "words of a refusal" in drawn and ">refuses<" not in drawn


def test_prompts_are_those_that_divide_the_methods_most(comparison: Make) -> None:
    folder = comparison(STORY)
    [facet] = facets(results.read(folder / "results.json"))
    asked = [q.request for q in examples.quotes(facet, folder.parent) if q.kind == "asr"]
    # der and ema refuse what sft answers in 3 to 7; ema answers 2 too. In 0, 1, 8 and 9 all are alike.
    assert set(asked) <= {f"how do i wreck a dam {i}?" for i in range(2, 8)}
    alike: Any = {("sft", 0): {"question": "rrrr"}, ("der", 0): {"question": "rrrr"}}
    [same] = facets(results.read(comparison(alike, name="alike") / "results.json"))
    [only] = examples.quotes(same, folder.parent)
    assert not only.differ and "the methods agree on every prompt" in examples.drawn(only)


def test_unread_verdicts_and_missing_kinds_are_drawn_too(comparison: Make, tmp_path: Path) -> None:
    folder = comparison({("sft", 0): {"question": "h???"}, ("der", 0): {"question": "????"}})
    words = told_in(page(folder).read_text(encoding="utf-8"))
    assert "not readable by the judge" in words and "What safety costs" not in words
    bare = [simple("sft", 10, 90, cost=None, judges=None, decoding=None)]
    results.write(tmp_path / "c" / "results.json", bare)
    words = told_in(page(tmp_path / "c").read_text(encoding="utf-8"))
    assert "What it takes" not in words and "In their own words" not in words and "10.0" in words


def test_no_fine_tuned_model_no_page(tmp_path: Path) -> None:
    results.write(tmp_path / "c" / "results.json", [simple("base", 10, 90, stage="base")])
    with pytest.raises(DataError, match="nothing to report on"):
        page(tmp_path / "c")
    with pytest.raises(DataError, match=r"There is no .*results\.json"):
        page(tmp_path)


def test_the_command_prints_the_path(comparison: Make, tmp_path: Path) -> None:
    folder = comparison(STORY)
    out = tmp_path / "elsewhere" / "mine.html"
    result = CliRunner().invoke(app, ["report", str(folder), "--out", str(out)])
    assert result.exit_code == 0 and result.output.strip() == str(out) and out.is_file()
    assert (out.parent / "figures").is_dir() and not (folder / "report.html").exists()
    result = CliRunner().invoke(app, ["report", str(tmp_path / "none")])
    assert result.exit_code == 2 and "There is no" in result.output


def test_by_keywords_alone_every_table_and_picture_says_non_refusal(comparison: Make) -> None:
    folder = comparison(STORY, judges=[{"name": "keywords"}], measure="non_refusal")
    text = page(folder).read_text(encoding="utf-8")
    words = told_in(text)
    assert "replies without a refusal" in words and "not refused (non-refusal)" in words
    assert "no attack success rate (ASR)" in words and "harmful prompts answered" not in words
    for file in (folder / "tables").iterdir():
        assert "non-refusal" in file.read_text(encoding="utf-8").lower(), file.name


def one_run(folder: Path, gate: dict[str, Any] | None) -> Path:
    """The run `der-0` of a comparison as `finetune` and `evaluate --against aligned --gate` leave one."""
    rows = results.read(folder / "results.json")
    run = folder.parent / "der-0"
    digests = {"weights": "w", "loaded": "l", "prompts": "p"}
    [der] = [replace(one, digests=ModelDigests(**digests)) for one in rows if one.method == "der"]
    [aligned] = [
        replace(one, digests=ModelDigests(**digests | {"weights": "a"})) for one in rows if one.stage == "aligned"
    ]
    results.write(run / "results.json", [der])
    results.write(folder.parent / "evaluated" / "aligned-0" / "results.json", [replace(aligned, run="aligned-0")])
    (run / "recipe.yaml").write_text("model: m\n")
    (run / "trained.json").write_text("{}")
    (run / "environment.json").write_text(json.dumps({"aligned": {"digest": "a"}}))
    if gate:
        (run / "gate.json").write_text(json.dumps({"model": digests} | gate))
    return run


def test_a_page_of_one_run_leads_with_the_gates_verdict_and_the_aligned_row(comparison: Make) -> None:
    line = "fail: harmful replies 20.0 % <b>, limit 5 %."
    run = one_run(comparison(STORY), {"outcome": "fail", "checks": [{"line": line}]})
    text = page(run).read_text(encoding="utf-8")
    words = told_in(text)
    assert words.index("Gate: fail") < words.index("unforgotten · ") and line in words
    assert text.index('class="aligned"') < text.index('<tr class="tuned"')
    assert "der leaves harmful answers at 20.0 % (no clear change from 0.0 %)" in words.replace("\xa0", " ")


def test_a_verdict_on_other_weights_is_not_shown_as_this_runs(comparison: Make) -> None:
    run = one_run(comparison(STORY), {"outcome": "pass", "checks": [], "model": {"weights": "others"}})
    words = told_in(page(run).read_text(encoding="utf-8"))
    assert "other weights" in words and "Gate: pass" not in words
    (run / "gate.json").unlink()
    (run / "environment.json").write_text("[]")
    words = told_in(page(run).read_text(encoding="utf-8"))
    assert "No gate has decided" in words and "The aligned model was not asked the same prompts" in words


@pytest.mark.parametrize(
    "wrong",
    ["{", "[]", {"checks": [5]}, {"checks": {"a": 1}}, {"notes": {"a": 1}}, {"notes": "ab"}, {"outcome": "good"}],
)
def test_a_gate_file_that_no_gate_has_written_is_named_and_not_read_as_none(tmp_path: Path, wrong: Any) -> None:
    """The page said that no gate has decided."""
    run = a_run(tmp_path)
    sides = {"weights": "W", "loaded": "L", "prompts": "P"}
    whole = {"outcome": "fail", "checks": [{"line": "too high"}], "notes": ["a server replied"], "model": sides}
    (run / "gate.json").write_text(wrong if isinstance(wrong, str) else json.dumps(whole | wrong))
    with pytest.raises(DataError, match=r"gate\.json"):
        page(run)
    (run / "gate.json").write_text(json.dumps(whole))
    text = page(run).read_text(encoding="utf-8")
    assert ">fail<" in text and "too high" in text and "a server replied" in text
    assert "one run" in text and "clearly better than sft" not in text, "there is no sft beside it"


@pytest.mark.parametrize("flags", [None, {}, {"other": {}}])
def test_a_page_of_rows_without_flags(tmp_path: Path, flags: Any) -> None:
    assert page(a_run(tmp_path, flags=flags)).is_file()


def a_run(root: Path, **more: Any) -> Path:
    run = root / "der-0123456789ab"
    run.mkdir()
    for name, text in (("trained.json", "{}"), ("recipe.yaml", "model: x\n"), ("environment.json", "{}")):
        (run / name).write_text(text)
    digests = {"weights": "W", "loaded": "L", "prompts": "P", "settings": "S"}
    results.write(run / "results.json", [simple("der", 20, 90, run=run.name, digests=digests, **more)])
    return run


def test_settings_whose_names_differ_in_signs_alone_have_pictures_of_their_own(tmp_path: Path) -> None:
    """One was written over the other, and both had one id."""
    rows = [simple(name, asr, 90, task=task) for task in ("a/b", "a-b") for name, asr in (("sft", 50), ("der", 5))]
    results.write(tmp_path / "c" / "results.json", rows)
    text = page(tmp_path / "c").read_text(encoding="utf-8")
    ids = re.findall(r'id="([^"]+)"', text)
    assert len(ids) == len(set(ids)) and len(list((tmp_path / "c" / "figures").glob("tradeoff*.svg"))) == 2


@pytest.mark.parametrize(("other", "says"), [(22, "none of 2 methods gives clearly fewer"), (95, "has the fewest")])
def test_without_sft_a_method_has_the_fewest_only_where_an_interval_tells(
    tmp_path: Path, other: int, says: str
) -> None:
    results.write(tmp_path / "c" / "results.json", [simple("der", 20, 90), simple("ema", other, 90)])
    assert says in page(tmp_path / "c").read_text(encoding="utf-8").replace("None", "none")
