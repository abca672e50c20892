"""The page of a run in a headless Chromium: nothing on the console, nothing from the network, tables sort, no overflow.

Chromium is driven over a pipe with as much of its protocol as is needed here, so no package has to be installed; where
there is no Chromium the tests are skipped.
"""

import base64
import dataclasses
import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import pytest

import linkboy as lb
from linkboy.classify import Classifier
from linkboy.classify.saved.explain import Contribution, Explanations

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def find_browser() -> str | None:
    """Return the path of a Chromium, which the variable LINKBOY_CHROMIUM may name."""
    return os.environ.get("LINKBOY_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page of a headless Chromium; `problems` collects what it wrote to its console and what it failed to load.

    Args:
        profile: an empty directory.
    """

    def __init__(self, profile: Path) -> None:
        command = [
            str(find_browser()), "--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu",
            "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking", "--hide-scrollbars",
            f"--user-data-dir={profile}", "about:blank",
        ]  # fmt: skip
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        # Chromium reads its commands from descriptor 3 and answers on 4, whatever they were in this process.
        script = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'
        self._process = subprocess.Popen(
            ["bash", "-c", script, "bash", *command],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._buffer, self._number, self._session = b"", 0, None
        self.problems: list[str] = []
        self._events: list[str] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._session = None
        self.send("Browser.close")
        self._process.wait(20)
        os.close(self._in)
        os.close(self._out)

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send one command and return its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != self._number:
            self._note(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def open(self, url: str, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Load a page in a window of that size and wait until it has been laid out."""
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=2, mobile=width < 600
        )
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.send("Emulation.setEmulatedMedia", features=scheme)
        self._events.clear()
        self.send("Page.navigate", url=url)
        while "Page.loadEventFired" not in self._events:
            self._note(self._receive())

    def run(self, expression: str) -> Any:
        """Return the value of a JavaScript expression."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"]["description"])
        return answer["result"].get("value")

    def screenshot(self, *, whole: bool = True) -> bytes:
        """Return a PNG of the whole page."""
        return base64.b64decode(self.send("Page.captureScreenshot", captureBeyondViewport=whole)["data"])

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            more = os.read(self._in, 1 << 16)
            if not more:
                raise RuntimeError("the browser has ended")
            self._buffer += more
        line, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(line)

    def _note(self, event: Mapping[str, Any]) -> None:
        method, values = event.get("method", ""), event.get("params", {})
        self._events.append(method)
        if method == "Runtime.consoleAPICalled":
            self.problems.append(f"console: {values['args']}")
        elif method == "Runtime.exceptionThrown":
            self.problems.append(f"exception: {values['exceptionDetails']}")
        elif method == "Log.entryAdded":
            self.problems.append(f"log: {values['entry']['text']}")
        elif method == "Network.requestWillBeSent":
            self.problems += [
                f"request: {url}" for url in [values["request"]["url"]] if not url.startswith(("file:", "data:"))
            ]


@pytest.fixture(scope="module")
def page(tmp_path_factory, make_rows):
    """A page about a run that leaves mistakes, with texts that try to break out of it."""
    rows = make_rows(240)
    hostile = [
        "<script>console.log(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "\u202eright to left",
        "</p><h1>title",
    ]
    texts = [f"{text} {hostile[n % 4]}" for n, text in enumerate(rows.texts)]
    labels = list(rows.labels)
    for n in range(0, 240, 7):
        labels[n] = labels[(n + 1) % 240]  # wrong labels become sure mistakes
        texts[n] += rows.texts[(n + 1) % 240][: 6 * (n % 2)]  # some with pieces that speak for the label
    names = {"sport": "<b>sport</b>"}
    data = lb.LabelledTexts("<i>made up", texts, [names.get(label, label) for label in labels], rows.lines)
    out = tmp_path_factory.mktemp("page") / "model"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classifier, "explain", with_pieces_for_both(Classifier.explain))
        lb.train_classifier(data, out, test=data, options=lb.TrainingOptions(epochs=3, batch_size=32))
    return (out / "report.html").as_uri()


def with_pieces_for_both(explain):
    """Put a strong piece for either class in front of each explanation, whatever the model has learned."""
    planted = [Contribution("<b>", "characters", 50.0, [(0, 1)]), Contribution("</b>", "characters", -50.0, [(1, 2)])]

    def explained(*arguments, **keywords):
        made = explain(*arguments, **keywords).explanations
        return Explanations([dataclasses.replace(each, pieces=[*planted, *each.pieces]) for each in made])

    return explained


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if find_browser() is None:
        pytest.skip("there is no Chromium on this machine")
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_renders_without_a_word_on_the_console_and_fits_its_width(browser, page, width, dark):
    browser.problems.clear()
    browser.open(page, width=width, dark=dark)
    assert browser.run("document.documentElement.scrollWidth") == width
    background = browser.run("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(20, 22, 25)" if dark else "rgb(253, 253, 251)")
    written = Path.from_uri(page) if hasattr(Path, "from_uri") else Path(page.removeprefix("file://"))
    assert browser.run("document.querySelectorAll('svg').length") == written.read_text("utf-8").count("<svg ") >= 2
    assert browser.screenshot().startswith(b"\x89PNG")
    assert browser.problems == []


def test_a_planted_error_and_a_planted_request_are_seen(browser, tmp_path):
    wrong = tmp_path / "wrong.html"
    wrong.write_text("<img src='http://127.0.0.1:9/x.png'><script>console.error('planted'); undefined_name()</script>")
    browser.problems.clear()
    browser.open(wrong.as_uri())
    kinds = {problem.split(":")[0] for problem in browser.problems}
    assert {"console", "exception", "request"} <= kinds
    browser.problems.clear()


def test_nothing_a_text_or_label_says_becomes_markup(browser, page):
    browser.open(page)
    assert browser.run("document.querySelectorAll('main img, main script, main h1, b b, i').length") == 0
    assert browser.run("document.querySelector('h1').textContent") == "<i>made up"
    assert browser.run("document.querySelectorAll('.mistakes > li').length") > 10


def test_the_class_table_sorts_both_ways_by_mouse_and_keyboard(browser, page):
    browser.open(page)
    shown = "[...document.querySelectorAll('.sortable tbody tr')].map((r) => parseFloat(r.cells[3].dataset.value))"
    click = "document.querySelectorAll('.sortable th button')[3].click()"
    upward = browser.run(f"{click}; {shown}")
    assert len(upward) == 3
    assert upward == sorted(upward)
    assert browser.run("document.querySelectorAll('.sortable thead th')[3].ariaSort") == "ascending"
    browser.run("document.querySelectorAll('.sortable th button')[3].focus()")
    for kind in ("keyDown", "keyUp"):
        browser.send(
            "Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r"
        )
    assert browser.run(shown) == sorted(upward, reverse=True)
    names = "[...document.querySelectorAll('.sortable tbody tr')].map((r) => r.cells[0].textContent)"
    by_name = browser.run(f"document.querySelector('.sortable th button').click(); {names}")
    assert sorted(by_name) == sorted(["<b>sport</b>", "体育", "财经"])
    assert by_name[0] == "<b>sport</b>"


CONTRAST = """
(() => {
  const parts = (colour) => { const v = colour.match(/[\\d.]+/g).map(Number); return { rgb: v.slice(0, 3), alpha: v[3] ?? 1 }; };
  const over = (top, below) => top.rgb.map((value, n) => top.alpha * value + (1 - top.alpha) * below[n]);
  const luminance = (rgb) => rgb.map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0);
  const behind = (element) => element === null ? [255, 255, 255]
    : over(parts(getComputedStyle(element).backgroundColor), behind(element.parentElement));
  const worst = {};
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || element.closest("script, svg")) continue;
    const paper = behind(element), ink = over(parts(getComputedStyle(element).color), paper);
    const [low, high] = [luminance(ink), luminance(paper)].sort((a, b) => a - b);
    const ratio = (high + 0.05) / (low + 0.05), held = element.closest("[class]");
    const place = (held === element ? "" : element.localName + " in ") + held?.className;
    worst[place] = Math.min(worst[place] ?? 21, ratio);
  }
  return worst;
})()
"""


@pytest.mark.parametrize("dark", [False, True])
def test_text_has_the_contrast_that_accessibility_asks_for(browser, page, dark):
    """WCAG 2 AA: 4.5 to 1 between each text and what is behind it, the shades of a mistake's n-grams included."""
    browser.open(page, dark=dark)
    worst = browser.run(CONTRAST)
    assert {"sub", "caption", "taken", "truth", "for", "against", "p5", "n5"} <= {
        place.split(" ")[-1] for place in worst
    }
    assert {place: ratio for place, ratio in worst.items() if ratio < 4.5} == {}


def test_text_without_contrast_is_seen(browser, tmp_path):
    faint = tmp_path / "faint.html"
    faint.write_text("<body style='background: #fff'><p class='faint' style='color: #999'>text</p>")
    browser.open(faint.as_uri())
    assert browser.run(CONTRAST) == pytest.approx({"faint": 2.85}, abs=0.01)
