"""No measured number is typed into a page: what was measured comes from a record.

The rule: in the prose of ``book/*.md`` and of the notebooks' markdown cells, in figures' captions
and in what stands for their images, there is no number with a unit of measurement, no decimal, no
number in thousands and no "so many of so many", unless ``ALLOWED`` has its wording and the reason
why no record could tell it. Code, formulas and what is between backticks are no prose.
"""

import json
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]

UNIT = (r"(?:%|percent\b|percentage points?\b|points?\b|×(?! ?\d)|times\b|seconds?\b|minutes?\b"
        r"|hours?\b|days?\b|ms\b|milliseconds?\b|steps?\b|images a second|[kMGT]B\b)")
MEASURED = re.compile(
    rf"(?<![\w.])[+−-]?\d+(?:,\d{{3}})*(?:\.\d+)?(?: (?:to|and|±) \d[\d,.]*)?[ \u00a0-]?{UNIT}"
    r"|(?<![\w./])\d+\.\d+(?![\w.])"  # a decimal
    r"|\b\d{1,3}(?:,\d{3})+\b"  # thousands
    r"|\b\d+ (?:out of|of|in) (?:the |all |its |their )?\d+\b")  # 7 of 9

HEAD = re.compile(r"^```\{code-cell\}[^\n]*\n---\n(.*?)^---\n", re.DOTALL | re.MULTILINE)
PAPER = "the paper's, and said to be"
DEFINED = "a definition or a rule of this book, not a measurement"
COUNTED = "arithmetic on sizes of networks; tests/test_networks.py and test_systems.py count them"
ALLOWED = [  # (page, wording, why)
    ("*", r"95 % (Wilson )?interval", "the level of an interval"),
    ("*", r"Guessing gives (50|10) %", DEFINED),
    ("*", r"50 % (\(white\) )?is a coin flip", DEFINED),
    ("*", r"10,000 fixed triplets", "a setting: test_triplets"),
    ("*", r"learn(ing rate of the network)? 20 times|20 times (the learning rate|as fast)",
     "a setting: scale_rate_factor"),
    ("*", r"section \d\.\d", "a section of a paper"),
    ("claims", r"5 % off still \*held\*|at most 20 % more in every repeat", DEFINED),
    ("how_to_run", r"Python 3\.11 to 3\.13|about 6 GB of disk",
     "what an installation needs, not a result; pyproject.toml and the packages say it"),
    ("how_to_run", r"2,000 toy faces", "a setting: toy_images"),
    ("how_to_run", r"They are 1\.5 GB in all", "the sum of BYTES in modlib/download.py"),
    ("how_to_run", r"70 % of the images .* 10 % for validation and 20 % for tests", DEFINED),
    ("method", r"2,955,296", COUNTED),
    ("promises", r"at least 10,000 random cases", "a rule of this book: FLOORS in modlib/soak.py"),
    ("systems", r"are 5,120", COUNTED),
    ("systems", r"2,955,296 parameters|56\.2 million|2,952,032 weights|are 1,966,080", COUNTED),
    ("systems", r"19 times 2\.7 million", "division of what the paper prints"),
    ("03", r"the paper prints 85\.75 % .* and 78\.22 %", PAPER),
    ("05", r"The paper gives two numbers .* a mean of 0\.18 .* of 0\.24", PAPER),
    ("08", r"The paper says .* about 15 % more time", PAPER),
    ("08", r"the paper prints a mean of 84\.86 % .* prints is 87\.96 %", PAPER),
    ("08", r"the middle 80 % of each photograph", "a setting: crop"),
    ("08", r"4,608", COUNTED),
    ("08", r"up to 20 % more counts as", DEFINED),
    ("10", r"1,797 scans|MNIST's\s+10,000 test digits|8,000 .* 1,000 .* 1,000|60,000",
     "sizes of data sets and of their splits"),
    ("11", r"10 times the weights, 3 times the time", DEFINED),
    ("11", r"91\.44 % in the paper, 0\.54 points above Branch-32-2\.0", PAPER),
    ("11", r"60,000 batches", PAPER),
]


def pages() -> dict[str, str]:
    """The prose of each page, by the page's name."""
    found = {}
    for path in sorted((ROOT / "book").glob("*.md")):
        text = path.read_text("utf8")
        found[path.stem] = "\n\n".join([
            prose(text), *(about_figure(yaml.safe_load(head)) for head in HEAD.findall(text))])
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text("utf8"))["cells"]
        found[path.stem] = "\n\n".join(
            prose("".join(cell["source"])) if cell["cell_type"] == "markdown" else
            about_figure(cell["metadata"]) for cell in cells)
    return found


def about_figure(metadata: dict) -> str:
    """A cell's caption, and what stands for its image."""
    said = metadata.get("mystnb", {})
    return "\n\n".join(prose(said[part][key]) for part, key in (
        ("figure", "caption"), ("image", "alt")) if key in said.get(part, {}))


def prose(text: str) -> str:
    """A page's text without its heading block, code, formulas, and addresses of links."""
    for nothing in (r"\A---\n.*?\n---\n", r"^(```+).*?^\1", r"^ {4}.*?$", r"\$\$.*?\$\$",
                    r"\$[^$\n]+\$", r"(\{[\w:-]+\})?`[^`\n]*`", r"\]\([^)]*\)"):
        text = re.sub(nothing, "", text, flags=re.DOTALL | re.MULTILINE)
    return text


def typed_in(name: str, text: str) -> list[str]:
    """The numbers on a page that ``ALLOWED`` does not know."""
    for page, wording, _ in ALLOWED:
        if page == "*" or name.startswith(page):
            text = re.sub(wording, "", text)
    return [found.group() for found in MEASURED.finditer(text)]


@pytest.mark.parametrize("name", pages())
def test_no_page_has_a_measured_number_typed_in(name):
    assert typed_in(name, pages()[name]) == [], (
        "let a record tell it (a cell that computes it), reword it, or give the reason in ALLOWED")


@pytest.mark.parametrize(("page", "wording"), [entry[:2] for entry in ALLOWED])
def test_every_exception_is_needed(page, wording):
    assert [name for name, text in pages().items()
            if (page == "*" or name.startswith(page)) and re.search(wording, text)]


def test_every_exception_has_its_reason():
    assert all(len(why.split()) >= 2 for *_, why in ALLOWED)


@pytest.mark.parametrize("sentence", [
    "Modulation reaches 91.6 % on real faces.", "It is 3.2 points better.", "It gains 3 points.",
    "A network each is 20 times as large.", "Training takes 40 minutes.", "It needs 1.3× the time.",
    "A step takes 35 ms.", "Accuracy rises from 81 to 92 %.", "The mean is 0.91 over seeds.",
    "In all 19,000 images were used.", "It peaks at 3 GB.", "It makes 900 images a second.",
    "The interval is 95 % and the accuracy 90 %.", "It is better on 15 of 20 attributes.",
    "Of the pairs 7 out of 10 agree.", "1 in 4 is wrong.", "It wins 3 of its 6 rows.",
    "−2 points", "The paper prints 99.9 %."])
def test_a_number_that_is_typed_in_would_be_found(sentence):
    assert typed_in("02_three_attributes", prose(sentence))


@pytest.mark.parametrize("part", [{"figure": {"caption": "A. It gains 3.2 points."}},
                                  {"image": {"alt": "Bars; the best is at 91 %."}}])
def test_a_number_in_a_caption_or_for_an_image_would_be_found(part):
    assert typed_in("02_three_attributes", about_figure({"tags": [], "mystnb": part}))


def test_captions_and_what_stands_for_images_are_read():
    read = pages()
    for page, words in (("intro", "The question, the idea and the result."),
                        ("intro", "Three panels. The conflict"),
                        ("02_three_attributes", "Three of the rows, drawn from their networks"),
                        ("02_three_attributes", "Three rows of boxes for the stages")):
        assert words in read[page]


@pytest.mark.parametrize("sentence", [
    "With `0.5 %` in code.", "$0.5 + 3.2$ is a formula.", "    make run 3.5", "It has 3 rows.",
    "Images of 64×64 pixels, in batches of 60.", "Student's 95 % interval.",
    "Guessing gives 50 %."])
def test_settings_formulas_and_definitions_are_no_measurements(sentence):
    assert not typed_in("02_three_attributes", prose(sentence))
