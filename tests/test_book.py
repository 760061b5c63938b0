"""The book's pages are all there, need no network, and have no broken link, image or cell."""

import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from built_book import CHAPTERS, HTML, ROOT, skip_if_not_built

CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text("utf8"))
LOADS = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}


@pytest.fixture
def pages():
    """Every page of the last `make book`."""
    skip_if_not_built()
    return sorted(path for path in HTML.rglob("*.html") if "_static" not in path.parts)


class Page(HTMLParser):
    """What a page links to, loads and shows."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.loads, self.without_alt, self.classes = set(), [], [], [], set()
        self.feed(path.read_text("utf8"))

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.ids.update(given[name] for name in ("id", "name") if given.get(name))
        self.classes.update((given.get("class") or "").split())
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        if given.get(LOADS.get(tag)):
            self.loads.append(given[LOADS[tag]])
        if tag == "img" and not (given.get("alt") or "").strip():
            self.without_alt.append(given.get("src"))

    handle_startendtag = handle_starttag


read = cache(Page)


def is_external(address):
    return bool(urlsplit(address).netloc)


def broken(page, address):
    """Whether an address on a page leads to no file, or to no place in that file."""
    parts = urlsplit(address)
    if parts.scheme or parts.netloc:
        return False
    target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if not target.is_file():
        return True
    fragment = unquote(parts.fragment)
    return bool(fragment) and target.suffix == ".html" and fragment not in read(target).ids


# Before it is built


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_chapter_has_a_source(chapter):
    assert any((ROOT / f"{chapter}{suffix}").exists() for suffix in (".md", ".ipynb"))


def test_what_the_configuration_names_is_shipped():
    sphinx = CONFIG["sphinx"]["config"]
    (static,) = sphinx["html_static_path"]
    for name in [sphinx["mathjax_path"], *sphinx["html_css_files"], *sphinx["html_js_files"]]:
        assert (ROOT / static / name).is_file(), f"{static}/{name} is missing"
    for name in [CONFIG["html"]["favicon"], *CONFIG["bibtex_bibfiles"]]:
        assert (ROOT / name).is_file(), f"{name} is missing"


# As it was built


def test_every_chapter_has_a_page(pages):
    assert [name for name in CHAPTERS if not (HTML / f"{name}.html").exists()] == []


def test_no_page_needs_a_network(pages):
    loads = {address for page in pages for address in read(page).loads}
    assert sorted(filter(is_external, loads)) == []
    for style in HTML.rglob("*.css"):
        text = style.read_text("utf8")
        assert "url(http" not in text and "url(//" not in text, style


def test_every_image_has_alternative_text(pages):
    assert {str(page): read(page).without_alt for page in pages if read(page).without_alt} == {}


def test_every_internal_link_and_file_is_there(pages):
    found = [
        f"{page.relative_to(HTML)}: {address}"
        for page in pages
        for address in [*read(page).links, *read(page).loads]
        if broken(page, address)
    ]
    assert found == []


def test_every_external_link_is_whole_and_secure(pages):
    external = {address for page in pages for address in read(page).links if is_external(address)}
    assert external
    whole = re.compile(r"https://[\w-]+(\.[\w-]+)+(/[^\s<>\"]*[^\s<>\".,;:])?")
    assert [address for address in sorted(external) if not whole.fullmatch(address)] == []


def test_no_cell_failed(pages):
    bad = {"traceback", "system-message", "problematic"}
    assert {str(page): read(page).classes & bad for page in pages if read(page).classes & bad} == {}


def test_formulas_come_with_the_script_that_draws_them(pages):
    script = Path(CONFIG["sphinx"]["config"]["mathjax_path"]).name
    for page in pages:
        if "math" in read(page).classes:
            assert any(script in address for address in read(page).loads), page
