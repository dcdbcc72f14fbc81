"""In a real browser the page has no console error, sends nothing, and fits a desk and a phone. Skipped without one."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.report.page.conftest import STORY
from unforgotten.evaluation.statistics import rates
from unforgotten.report.page.page import page
from unforgotten.runs import results

Make = Callable[..., Path]
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on the PATH")
QUIET = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run")


def opened(file: Path, tmp_path: Path, width: int, *more: str, height: int = 2400) -> tuple[str, str]:
    """What the browser prints and what it logs."""
    words = [str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *QUIET]
    words += [f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", f"--window-size={width},{height}"]
    done = subprocess.run([*words, *more, file.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, done.stderr


def console(log: str) -> list[str]:
    return [line for line in log.splitlines() if "CONSOLE" in line]


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """An address on this machine, and what was asked of it."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    one = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=one.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{one.server_port}", asked
    one.shutdown()


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_a_screenshot_without_a_word_on_the_console(comparison: Make, tmp_path: Path, width: int, dark: bool) -> None:
    out = page(comparison(STORY))
    shot = tmp_path / "shot.png"
    more = ["--blink-settings=preferredColorScheme=0"] if dark else []
    _, log = opened(out, tmp_path, width, f"--screenshot={shot}", *more)
    assert console(log) == []
    data = shot.read_bytes()
    assert struct.unpack(">II", data[16:24]) == (width, 2400) and len(data) > 30_000, "and something is on it"


def test_nothing_leaves_even_where_a_reply_would_have_it(
    comparison: Make, tmp_path: Path, server: tuple[str, list[str]]
) -> None:
    address, asked = server
    mark_up = (
        f'<img src="{address}/image"><script>fetch("{address}/script")</script><link rel=stylesheet href="{address}/s">'
    )
    control = tmp_path / "control.html"
    control.write_text(f"<p>{mark_up}<script>console.error('seen')</script>")
    _, log = opened(control, tmp_path, 390, "--screenshot=" + str(tmp_path / "c.png"))
    assert "/image" in asked and console(log), "what is looked for would be seen"
    asked.clear()
    folder = comparison(STORY, task=mark_up)
    for file in folder.parent.glob("*/replies/*.jsonl"):
        file.write_text(file.read_text().replace(" says ", " says " + mark_up.replace('"', '\\"')))
    out = page(folder)
    _, log = opened(out, tmp_path, 390, "--screenshot=" + str(tmp_path / "o.png"))
    assert asked == [] and console(log) == []
    # Were the escaping to fail, the policy would still hold.
    out.write_text(out.read_text(encoding="utf-8").replace("<main>", f"<main>{mark_up}"), encoding="utf-8")
    opened(out, tmp_path, 390, "--screenshot=" + str(tmp_path / "p.png"))
    assert asked == []


LOOK = """<script>
const found = [];
const wide = document.documentElement.scrollWidth;
if (wide > innerWidth) {
  const out = [...document.querySelectorAll("body *")].filter(e => !e.parentElement.closest(".scroll,.panel,pre") &&
    e.getBoundingClientRect().right > innerWidth + 1).map(e => e.tagName + "." + e.className);
  found.push("the page is " + wide + " wide: " + [...new Set(out)].slice(0, 6));
}
for (const svg of document.querySelectorAll("svg.figure")) {
  const frame = svg.getBoundingClientRect(), name = svg.querySelector("title").textContent;
  const words = [...svg.querySelectorAll("text:not([transform])")].map(e => [e.textContent, e.getBoundingClientRect()]);
  // The frame of a leaning word says little of where its letters are.
  words.forEach(([one, a], i) => {
    if (a.left < frame.left - 1 || a.right > frame.right + 1 || a.top < frame.top - 1 || a.bottom > frame.bottom + 1)
      found.push(name + ": " + one + " is cut");
    words.slice(i + 1).forEach(([other, b]) => {
      const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const tall = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (wide > 1 && tall > 4) found.push(name + ": " + one + " covers " + other);
    });
  });
}
document.title = "looked " + JSON.stringify(found);
</script></body>"""


@pytest.mark.parametrize("width", [1280, 390, 360])
def test_no_word_is_cut_or_covered_and_the_page_does_not_scroll_sideways(
    comparison: Make, tmp_path: Path, width: int
) -> None:
    story = {**STORY, **{(f"method_{i}", 0): STORY["der" if i % 2 else "ema", 0] for i in range(9)}}
    probe = [
        {"step": at, "asr": rates.rate(at // 10, 40).json(), "refusal": None, "utility": None, "metric": None}
        for at in range(0, 401, 25)
    ]
    looks(page(comparison(story, probe=probe)), tmp_path, width)


def looks(file: Path, tmp_path: Path, width: int) -> None:
    text = file.read_text(encoding="utf-8")
    looked = tmp_path / "looked.html"
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    looked.write_text(text.replace("</body>", LOOK), encoding="utf-8")
    printed, _ = opened(looked, tmp_path, width, "--dump-dom")
    [title] = re.findall(r"<title>looked (.*?)</title>", printed)
    assert title == "[]", title


@pytest.mark.parametrize("width", [1280, 390])
def test_names_of_any_length_are_cut_in_pictures_and_wrapped_in_words(
    comparison: Make, tmp_path: Path, width: int
) -> None:
    long, odd = "m" * 60, "\u202e<b>$x_1|=cmd'A1&#x`x`"
    story = {**STORY, **{(name, 0): STORY["der", 0] for name in (long, odd)}}
    folder = comparison(story, model="M" * 90 + odd, task="t" * 90)
    rows = results.read(folder / "results.json")
    said = {"q" * 40: rates.rate(3, 10), odd * 3: rates.rate(2, 10)}
    results.write(folder / "results.json", [replace(row, categories={"question": said}) for row in rows])
    looks(page(folder), tmp_path, width)
