"""The built site in a headless Chromium: no errors, all pictures load, and the search finds pages.

It is skipped where ``make docs`` has not built the site, or where no Chromium is installed.
"""

from __future__ import annotations

import functools
import http.server
import itertools
import json
import shutil
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SITE = Path(__file__).resolve().parent.parent / "docs" / "_build" / "html"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next((path for name in BROWSERS if (path := shutil.which(name))), None)
client = pytest.importorskip("websockets.sync.client")

pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed"),
    pytest.mark.skipif(not (SITE / "index.html").exists(), reason="`make docs` was not run"),
]


class Page:
    """A page of the browser, over Chromium's DevTools protocol.

    Attributes:
        problems: Exceptions, errors of the console and files that did not load, since the last
            :meth:`open`.
    """

    def __init__(self, socket: Any, address: str) -> None:
        self.socket = socket
        self.address = address
        self.numbers = itertools.count(1)
        self.problems: list[str] = []
        self.loaded = False
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self.socket.recv(timeout=60))
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        params = message.get("params", {})
        match message.get("method"):
            case "Page.loadEventFired":
                self.loaded = True
            case "Runtime.exceptionThrown":
                self.problems.append(str(params["exceptionDetails"]))
            case "Log.entryAdded" if params["entry"]["level"] == "error":
                self.problems.append(f"{params['entry']['text']} {params['entry'].get('url')}")
            case "Network.loadingFailed" if not params.get("canceled"):
                self.problems.append(params["errorText"])

    def open(self, path: str) -> None:
        self.problems, self.loaded = [], False
        self.call("Page.navigate", url=f"{self.address}/{path}")
        self.wait("document.readyState === 'complete'")

    def evaluate(self, expression: str) -> Any:
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, expression: str, seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while not self.evaluate(expression):
            assert time.monotonic() < end, f"never true: {expression}"
            time.sleep(0.05)


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Prints nothing."""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    handler = functools.partial(QuietHandler, directory=str(SITE))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    profile = tmp_path_factory.mktemp("profile")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]
    browser = subprocess.Popen(
        [str(BROWSER), *flags, f"--user-data-dir={profile}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with client.connect(_debugger(profile), max_size=None, proxy=None) as socket:
            yield Page(socket, f"http://127.0.0.1:{server.server_port}")
    finally:
        browser.terminate()
        browser.wait(timeout=30)
        server.shutdown()
        server.server_close()


def _debugger(profile: Path) -> str:
    """Address of the browser's first page."""
    port_file = profile / "DevToolsActivePort"
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if port_file.exists() and (lines := port_file.read_text().splitlines()):
            with urllib.request.urlopen(f"http://127.0.0.1:{lines[0]}/json/list") as answer:
                pages = [entry for entry in json.load(answer) if entry["type"] == "page"]
            if pages:
                return pages[0]["webSocketDebuggerUrl"]
        time.sleep(0.1)
    raise AssertionError("the browser does not answer")


PAGES = sorted(
    str(path.relative_to(SITE))
    for path in SITE.glob("docs/**/*.html")
    if not path.is_relative_to(SITE / "docs" / "api")
)


def test_there_are_pages() -> None:
    assert {"docs/index.html", "docs/start.html", "docs/agents/rl2.html"} < set(PAGES)
    assert len(PAGES) > 50


def test_pages_load_without_errors_and_with_their_pictures(page: Page) -> None:
    """Lazy pictures are asked for too."""
    broken = {}
    for path in PAGES:
        page.open(path)
        page.evaluate("document.querySelectorAll('img').forEach(i => { i.loading = 'eager'; }); 1")
        page.wait("[...document.images].every(image => image.complete)")
        images = page.evaluate(
            "[...document.images].filter(i => i.naturalWidth === 0).map(i => i.src).join(' ')"
        )
        if images or page.problems:
            broken[path] = (images, list(page.problems))
    assert broken == {}


def test_a_missing_picture_is_noticed(page: Page) -> None:
    page.open("docs/index.html")
    page.evaluate("document.body.append(Object.assign(new Image(), {src: 'missing.png'})); 1")
    page.wait("[...document.images].every(image => image.complete)")
    assert page.evaluate("[...document.images].filter(i => i.naturalWidth === 0).length") == 1
    assert any("404" in problem for problem in page.problems)


def test_the_address_of_the_site_leads_to_the_first_page(page: Page) -> None:
    page.open("")
    page.wait("location.pathname === '/docs/index.html' && document.readyState === 'complete'")
    assert page.evaluate("document.querySelector('h1').textContent").startswith("meta_rl")


@pytest.mark.parametrize(
    ("query", "expected"),
    [("PEARL", "docs/agents/pearl.html"), ("AntGoal", "environments/AntGoal")],
)
def test_the_search_finds(query: str, expected: str, page: Page) -> None:
    page.open(f"search.html?q={query}")
    page.wait("document.querySelectorAll('#search-results li a').length > 0")
    page.wait("/found|finished/i.test(document.querySelector('#search-results').textContent)")
    found = page.evaluate(
        "[...document.querySelectorAll('#search-results li a')].map(a => a.href).join(' ')"
    )
    assert expected in found
    assert page.problems == []


def test_the_search_finds_nothing_for_nonsense(page: Page) -> None:
    page.open("search.html?q=xqzzyv")
    page.wait("/did not match/i.test(document.querySelector('#search-results').textContent)")
    assert page.evaluate("document.querySelectorAll('#search-results li a').length") == 0


def test_the_report_of_all_suites(page: Page) -> None:
    """It has a section for each row that was adopted, its pictures load, and its tables sort."""
    page.open("docs/report.html")
    page.evaluate("document.querySelector('a[href=\"suites-report.html\"]').click(); 1")
    page.wait("location.pathname === '/docs/suites-report.html'")
    page.wait("document.readyState === 'complete'")
    adopted = SITE.parents[2] / "benchmarks" / "results" / "suites" / "results"
    rows = {file.stem.rpartition("-seed")[0] for file in adopted.glob("*.json")}
    heads = page.evaluate("[...document.querySelectorAll('h2')].map(h => h.textContent).join('|')")
    assert {f"Cell {row}" for row in rows} <= set(heads.split("|"))
    assert page.evaluate("document.images.length") > len(rows) / 2
    assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 300)")
    first = "document.querySelector('table').tBodies[0].rows[0].cells[1].textContent"
    page.evaluate("document.querySelectorAll('th button')[1].click(); 1")
    names = page.evaluate(
        "[...document.querySelector('table').tBodies[0].rows].map(r => r.cells[1].textContent)"
        ".join('|')"
    ).split("|")
    assert page.evaluate(first) == names[0] == min(names)
    assert page.problems == []
