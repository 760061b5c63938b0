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
BIBLIOGRAPHY = ROOT / CONFIG["bibtex_bibfiles"][0]
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


def test_every_paper_that_is_cited_has_an_entry_with_a_link_and_every_entry_is_cited():
    sources = [*ROOT.glob("book/*.md"), *ROOT.glob("notebooks/*.ipynb")]
    cited = {key.strip() for path in sources
             for keys in re.findall(r"\{cite[a-z:]*\}`([^`]+)`", path.read_text("utf8"))
             for key in keys.split(",")}
    entries = dict(re.findall(r"@\w+\{(\w+),(.*?)\n\}", BIBLIOGRAPHY.read_text("utf8"), re.S))
    assert set(entries) == cited
    for key, entry in entries.items():
        fields = set(re.findall(r"^  (\w+)\s*= ", entry, re.M))
        assert {"author", "title", "year"} <= fields, key
        assert fields & {"booktitle", "journal", "institution", "eprint"}, f"{key}: no venue"
        assert fields & {"doi", "eprint", "url"}, f"{key}: no link"


def test_every_module_is_on_a_page_of_functions():
    pages = "".join(path.read_text("utf8") for path in ROOT.glob("book/api/*.md"))
    named = re.findall(r"automodule:: modlib[.](\w+)", pages)
    modules = {path.stem for path in ROOT.glob("modlib/*.py")} - {"__init__"}
    assert sorted(named) == sorted(modules)


def test_every_equation_names_its_code_and_is_named_by_it():
    method = (ROOT / "book/method.md").read_text("utf8")
    labels = re.findall(r"^\$\$ \((eq-[\w-]+)\)$", method, re.M)
    assert len(set(labels)) == len(labels) > 10
    docstrings = "".join(path.read_text("utf8") for path in ROOT.glob("modlib/*.py"))
    for label in labels:
        assert f":eq:`{label}`" in docstrings, label
        rest = method.partition(f"$$ ({label})")[2]
        section = rest.partition("\n## ")[0]
        assert "**In code:**" in section, label


def test_no_term_of_the_glossary_is_explained_twice_and_they_are_in_order():
    lines = (ROOT / "book/glossary.md").read_text("utf8").partition("```{glossary}\n")[2]
    terms = [line for line in lines.splitlines() if line and line[0] not in " `"]
    assert len({term.lower() for term in terms}) == len(terms)
    first = [block.splitlines()[0].lower() for block in lines.removesuffix("```\n").split("\n\n")]
    assert first == sorted(first)


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
