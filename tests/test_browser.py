"""The built book in a real browser: nothing is missing, and everyone can read, search and reach it.

The browser is the machine's own Chromium; axe-core comes with axe-playwright-python.
"""

import shutil
from functools import cache, partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from built_book import CHAPTERS, HTML, skip_if_not_built
from playwright.sync_api import sync_playwright

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
               None)
PAGES = [f"{name}.html" for name in (*CHAPTERS, "genindex", "search")]
# The schemes differ in their colours alone, and the widths do not: so colours, which take axe most
# of its time, are looked at on the wide page of each scheme, and all else on the light pages.
VIEWS = [("light", 390), ("light", 1280), ("dark", 1280)]
COLOURS = "color-contrast"
AXE_RULES = {
    ("light", 390): {"rules": {COLOURS: {"enabled": False}}},
    ("light", 1280): {},
    ("dark", 1280): {"runOnly": [COLOURS]},
}
EVERY_VIEW = [pytest.param(page, *view, id=f"{page.removesuffix('.html')}-{view[0]}-{view[1]}")
              for page in PAGES for view in VIEWS]

# Stylesheets are not fetched again: axe takes the addresses in them to be the page's own.
AXE = """rules => axe.run(document, {
    preload: false, resultTypes: ["violations"], ...rules,
}).then(({violations}) => violations
    .filter(({impact}) => ["serious", "critical"].includes(impact))
    .flatMap(({id, nodes}) => nodes.map(({target}) => `${id}: ${target}`)))"""

FORMULAS = """() => {
    const unseen = [...document.querySelectorAll("article .math")]
        .filter(formula => !formula.querySelector("mjx-container svg"));
    const refused = document.querySelectorAll("mjx-merror, [data-mml-node=merror]");
    return [...unseen, ...refused].map(formula => formula.textContent.slice(0, 80));
}"""

RAW = """() => {
    const texts = document.createTreeWalker(document.querySelector("article") ?? document.body,
                                            NodeFilter.SHOW_TEXT);
    const raw = [];
    while (texts.nextNode()) {
        const {data, parentElement} = texts.currentNode;
        if (/\\$|\\\\[([]/.test(data) && !parentElement.closest("pre, code, script, style"))
            raw.push(data.slice(0, 80));
    }
    return raw;
}"""

WIDER = """() => {
    const {scrollWidth, clientWidth} = document.documentElement;
    return scrollWidth <= clientWidth ? [] : [...document.body.querySelectorAll("*")]
        .filter(one => one.getBoundingClientRect().right > clientWidth)
        .map(one => `${one.tagName}.${one.className}`).slice(0, 5);
}"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def site():
    """The address at which the book's pages are served."""
    skip_if_not_built()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(HTML)))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser(site):
    if BROWSER is None:
        pytest.skip("no chromium or google-chrome on this machine")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=BROWSER,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def tab(browser):
    """A tab for each view, which goes from page to page."""
    return cache(lambda scheme, width: browser.new_context(
        color_scheme=scheme, viewport={"width": width, "height": 900}).new_page())


@pytest.fixture(scope="module")
def look(site, tab):
    """Look at a page in a view, once: what is wrong with it, by kind."""
    def look(page, scheme, width):
        of_view, failed = tab(scheme, width), []
        listeners = {
            "console": lambda said: said.type == "error" and failed.append(said.text),
            "pageerror": lambda error: failed.append(str(error)),
            "requestfailed": lambda request: failed.append(request.url),
            "request": lambda request: request.url.startswith((site, "data:", "blob:"))
            or failed.append(f"external: {request.url}"),
        }
        for event, listener in listeners.items():
            of_view.on(event, listener)
        of_view.goto(site + page)
        of_view.evaluate("window.MathJax?.startup.promise.then(() => null)")
        for event, listener in listeners.items():
            of_view.remove_listener(event, listener)
        of_view.evaluate(AXE_SCRIPT)
        return {
            "failed": failed,
            "scheme": of_view.evaluate("document.documentElement.dataset.theme"),
            "wider": of_view.evaluate(WIDER),
            "formulas": of_view.evaluate(FORMULAS) + of_view.evaluate(RAW),
            "images": of_view.evaluate("""[...document.images].filter(
                image => !image.alt.trim() || !image.naturalWidth).map(image => image.src)"""),
            "barriers": of_view.evaluate(AXE, AXE_RULES[scheme, width]),
        }

    return cache(look)


@pytest.mark.parametrize(("page", "scheme", "width"), EVERY_VIEW)
def test_a_page_loads_all_that_it_asks_for_without_an_error(look, page, scheme, width):
    assert look(page, scheme, width)["failed"] == []
    assert look(page, scheme, width)["scheme"] == scheme


@pytest.mark.parametrize(("page", "scheme", "width"), EVERY_VIEW)
def test_a_page_is_never_wider_than_the_screen(look, page, scheme, width):
    assert look(page, scheme, width)["wider"] == []


@pytest.mark.parametrize(("page", "scheme", "width"), EVERY_VIEW)
def test_every_formula_is_drawn(look, page, scheme, width):
    assert look(page, scheme, width)["formulas"] == []


@pytest.mark.parametrize(("page", "scheme", "width"), EVERY_VIEW)
def test_every_image_is_shown_and_described(look, page, scheme, width):
    assert look(page, scheme, width)["images"] == []


@pytest.mark.parametrize(("page", "scheme", "width"), EVERY_VIEW)
def test_axe_finds_no_serious_barrier(look, page, scheme, width):
    assert look(page, scheme, width)["barriers"] == []


PAPER = 700  # pixels: A4 or Letter within a browser's usual margins
# Of a formula a copy for those who listen lies beyond its edge.
CUT_OFF = """width => [...document.querySelectorAll("article *")].filter(one => {
    const {left, right} = one.getBoundingClientRect();
    const hides = getComputedStyle(one).overflowX !== "visible" && !one.matches("span.math")
        && one.clientWidth && one.scrollWidth > one.clientWidth + 1;
    return !one.closest("mjx-container svg, mjx-assistive-mml") && right > left
        && (right > width + 1 || hides);
}).slice(0, 5).map(one => `${one.tagName}.${one.className}: ${one.textContent.trim()}`)"""
BESIDE = ".bd-sidebar-primary, .bd-sidebar-secondary, .bd-header-article, .prev-next-footer"


@pytest.fixture(scope="module")
def paper(browser):
    """A tab that is laid out as for print, opened by someone with a dark screen."""
    on_paper = browser.new_context(
        color_scheme="dark", viewport={"width": PAPER, "height": 1000}).new_page()
    on_paper.emulate_media(media="print")
    return on_paper


@pytest.mark.parametrize("page", PAGES)
def test_on_paper_a_page_is_whole_and_alone(site, paper, page):
    paper.goto(site + page)
    paper.evaluate("window.MathJax?.startup.promise.then(() => null)")
    assert paper.evaluate(CUT_OFF, PAPER) == []
    assert not any(one.is_visible() for one in paper.locator(BESIDE).all())
    assert paper.evaluate("getComputedStyle(document.querySelector('h1, p')).color") == (
        "rgb(0, 0, 0)")


def test_a_reader_may_choose_the_other_scheme(site, tab):
    of_view = tab("light", 1280)
    of_view.goto(site + PAGES[0])
    try:
        of_view.evaluate("localStorage.setItem('mode', 'dark')")
        of_view.reload()
        assert of_view.evaluate("document.documentElement.dataset.theme") == "dark"
    finally:
        of_view.evaluate("localStorage.clear()")


def test_a_word_is_searched_for_and_found(site, tab):
    of_view = tab("light", 1280)
    of_view.goto(site + "search.html")
    box = of_view.locator(".bd-search-container input[type=search]")
    box.fill("interference")
    box.press("Enter")
    hits = of_view.locator("#search-results li a")  # they come one after the other
    of_view.locator("#search-results p", has_text="earch finished").wait_for()
    found = {address.split("?")[0].split("#")[0] for address in hits.evaluate_all(
        "links => links.map(link => link.href)")}
    assert f"{site}notebooks/01_destructive_interference.html" in found
    assert found <= {site + page for page in PAGES}
