"""The built site in a browser: phone, tablet and laptop, light and dark.

Needs `make site`, the extra `browser` and Chromium (Debian's, or playwright's own); what is missing skips the tests.
Screenshots: build/screenshots/.
"""

from __future__ import annotations

import functools
import http.server
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SITE, SHOTS = ROOT / "build" / "site", ROOT / "build" / "screenshots"
WIDTHS = {"phone": 390, "tablet": 768, "laptop": 1366}
PAGES = sorted(p.relative_to(SITE).as_posix() for p in SITE.rglob("*.html") if "_static" not in p.parts)

playwright = pytest.importorskip("playwright.sync_api", reason="pip install -e '.[browser]'")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install -e '.[browser]'")
pytestmark = [
    pytest.mark.skipif(not PAGES, reason="no built site: make site"),
    pytest.mark.timeout(1200),
]


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def address():
    handler = functools.partial(_Quiet, directory=str(SITE))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def _open(browser, width: int, theme: str):
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme)
    context.add_init_script(f"localStorage.setItem('mode', '{theme}'); localStorage.setItem('theme', '{theme}')")
    return context


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("device", WIDTHS)
def test_pages_fit_are_accessible_and_ask_for_nothing_from_elsewhere(browser, address, device, theme):
    """No page scrolls sideways, breaks a rule of axe-core (contrast and heading order among them), or calls outside."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    context = _open(browser, WIDTHS[device], theme)
    page, asked, missing, wide, broken = context.new_page(), set(), set(), {}, {}
    page.on("request", lambda r: asked.add(r.url))

    def note(response) -> None:
        if response.status >= 400:
            missing.add(response.url)

    for name in PAGES:
        page.on("response", note)
        page.goto(f"{address}/{name}", wait_until="networkidle")
        page.remove_listener("response", note)  # axe-core asks for a style sheet's imports, at the wrong place
        width, room = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
        if width > room:
            wide[name] = width - room
        if name != "index.html":  # leads to the start page at once
            # axe-core's best practices hold the order of headings; a page's figures are data, and long to look through
            found = axe.Axe().run(page).response["violations"]
            if found:
                broken[name] = {v["id"]: [n["html"][:160] for n in v["nodes"][:3]] for v in found}
        height = page.evaluate("document.documentElement.scrollHeight")
        for i, share in enumerate((0, 0.2, 0.5, 0.8)):
            page.evaluate(f"window.scrollTo(0, {int(share * height)})")
            page.screenshot(path=SHOTS / f"{name[:-5].replace('/', '-')}_{device}_{theme}_{i}.png")
    context.close()
    outside = {url for url in asked if not url.startswith((address, "data:", "blob:"))}
    found = {"scroll sideways, by pixels": wide, "axe-core": broken, "not there": missing, "from elsewhere": outside}
    assert not any(found.values()), found


def test_search_finds_a_word_of_a_lesson(browser, address):
    context = _open(browser, 1366, "light")
    page = context.new_page()
    page.goto(f"{address}/search.html?q=temperature", wait_until="networkidle")
    page.wait_for_selector("#search-results li a")
    assert any("04_simclr" in a.get_attribute("href") for a in page.query_selector_all("#search-results li a"))
    context.close()


def test_hidden_inputs_are_folded_and_open(browser, address):
    context = _open(browser, 390, "light")
    page = context.new_page()
    page.goto(f"{address}/notebooks/04_simclr.html", wait_until="networkidle")
    folded = page.locator(".tag_hide-input details").first
    assert folded.get_attribute("open") is None
    folded.locator("summary").click()
    assert folded.locator("pre").first.is_visible()
    context.close()


def test_equations_are_drawn(browser, address):
    context = _open(browser, 1366, "dark")
    page = context.new_page()
    page.goto(f"{address}/notebooks/04_simclr.html", wait_until="networkidle")
    page.wait_for_selector("mjx-container")
    assert page.locator("mjx-merror").count() == 0
    assert page.locator("mjx-container").count() > 20
    context.close()
