"""No measured number is typed into a page: what was measured comes from a record.

The rule: in the prose of ``book/*.md`` and of the notebooks' markdown cells, in what code cells
quote, in figures' captions and in what stands for their images, there is no number with a unit of
measurement, no decimal, no number in thousands, no "so many of so many", nothing that "reaches" a
number, and no cell of a table that is a number, unless ``ALLOWED`` has its wording and the reason
why no record could tell it. What is between backticks or in a fence is prose too; indented blocks
of commands, addresses, and formulas are not, unless a formula is of one number alone or has a %.
"""

import ast
import json
import re
from functools import lru_cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]

UNIT = (r"(?:%|per ?cent\b|percentage points?\b|points?\b|pp\b|×(?! ?\d)|times\b|fold\b"
        r"|seconds?\b|minutes?\b|hours?\b|days?\b|ms\b|milliseconds?\b|s\b|min\b|h\b|steps?\b"
        r"|images? (?:a|per) second|(?:img|images?)/s\b|[kMGT]B\b)")
CELL = r"[*`$ ]*[+−-]?\d[\d.,]*(?: ?± ?\d[\d.,]*)?[*`$ ]*"
MEASURED = re.compile(
    rf"(?<![\w.])[+−-]?\d+(?:,\d{{3}})*(?:\.\d+)?(?: (?:to|and|±) \d[\d,.]*)?[ \u00a0-]?{UNIT}"
    r"|(?<![\w./])\d+\.\d+(?!\.?\w)"  # a decimal
    r"|\b\d{1,3}(?:,\d{3})+\b"  # thousands
    r"|\b\d+ (?:out of|of|in) (?:the |all |its |their )?\d+\b"  # 7 of 9
    r"|\b(?:reach|gain|ris|rose|climb|fall|fell|drop|scor|attain|achiev)[a-z]*"
    r"(?: (?:to|by|at|only|about|nearly|from))* \**\d+\b(?!×)"  # it reaches 92
    rf"|(?<=\|){CELL}(?=\|)")  # a number in a table

CODE_CELL = re.compile(r"^```\{code-cell\}[^\n]*\n(?:---\n.*?^---\n)?(.*?)^```",
                       re.DOTALL | re.MULTILINE)
FORMULA = re.compile(r"\$\$.*?\$\$|\$[^$\n]+\$", re.DOTALL)
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
    ("glossary", r"in 95 of 100 cases", "the level of an interval"),
    ("glossary", r"The paper's is 0\.2, in squared distance", PAPER),
    ("how_to_run", r"Python 3\.11 to 3\.13|about 8 GB of disk",
     "what an installation needs, not a result; pyproject.toml and the packages say it"),
    ("how_to_run", r"600 to 2,000, at", "a setting: toy_images"),
    ("how_to_run", r"They are 1\.5 GB in all", "the sum of BYTES in modlib/download.py"),
    ("how_to_run", r"of 19,000 images|`t10k` alone, 10,000 digits",
     "sizes of data sets: the lines of book/celeba_part.txt; MNIST's own"),
    ("how_to_run", r"takes 2\.5 GB there at 64×64 pixels, 14 GB at 150×150",
     "202,599 images of 3 bytes a pixel"),
    ("how_to_run", r"70 % of the images .* 10 % for validation and 20 % for tests", DEFINED),
    ("many_machines", r"32GB", "a setting of an example"),
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
    ("08", r"a learning rate of 0\.004", "a setting: learning_rate"),
    ("08", r"4,608", COUNTED),
    ("08", r"falls to 0 over them", "a setting: the schedule of the learning rate"),
    ("08", r"up to 20 % more counts as", DEFINED),
    ("10", r"1,797 scans|MNIST's\s+10,000 test digits|8,000 .* 1,000 .* 1,000|60,000",
     "sizes of data sets and of their splits"),
    ("11", r"10 times the weights, 3 times the time", DEFINED),
    ("11", r"91\.44 % in the paper, 0\.54 points above Branch-32-2\.0", PAPER),
    ("11", r"60,000 batches", PAPER),
]


@lru_cache(maxsize=1)
def pages() -> dict[str, str]:
    """What each page says, by the page's name."""
    found = {}
    for path in sorted((ROOT / "book").glob("*.md")):
        found[path.stem] = of_page(path.read_text("utf8"))
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text("utf8"))["cells"]
        found[path.stem] = "\n\n".join(
            prose("".join(cell["source"])) if cell["cell_type"] == "markdown" else
            f"{quoted(''.join(cell['source']))}\n\n{about_figure(cell['metadata'])}"
            for cell in cells)
    return found


def of_page(text: str) -> str:
    """What a page in MyST says: its prose, what its code quotes, and about its figures."""
    return "\n\n".join([
        prose(CODE_CELL.sub("", text)), *map(quoted, CODE_CELL.findall(text)),
        *(about_figure(yaml.safe_load(head)) for head in HEAD.findall(text))])


def quoted(code: str) -> str:
    """The strings of a cell's code, one after the other: any of them may be shown."""
    lines = ("pass" if re.match(r"\s*[%!]", line) else "" if re.match(r":\w", line) else line
             for line in code.splitlines())  # magics; and a MyST cell's options
    return "\n\n".join(node.value for node in ast.walk(ast.parse("\n".join(lines)))
                       if isinstance(node, ast.Constant) and isinstance(node.value, str))


def about_figure(metadata: dict) -> str:
    """A cell's caption, and what stands for its image."""
    said = metadata.get("mystnb", {})
    return "\n\n".join(prose(said[part][key]) for part, key in (
        ("figure", "caption"), ("image", "alt")) if key in said.get(part, {}))


def prose(text: str) -> str:
    """A page's text without its heading block, blocks of commands, formulas and addresses."""
    text = re.sub(r"\A---\n.*?\n---\n|\]\([^)]*\)|\{cite\}`[^`\n]*`", "", text, flags=re.DOTALL)
    return FORMULA.sub(said_by_formula, without_commands(text))


def said_by_formula(found: re.Match) -> str:
    """The text of a formula that is one number, or of a share; of any other, nothing."""
    text = re.sub(r"\\[,;: ]|~|\$", "", found.group()).replace(r"\pm", "±")
    share, number = "%" in text, re.fullmatch(rf"{CELL}(\\times)?", text)
    return text.replace("\\%", " %").replace("\\times", "×") if share or number else ""


def without_commands(text: str) -> str:
    """The text without indented blocks: these follow a blank line, and are not in a list."""
    kept, in_list, in_block, blank = [], False, False, True
    for line in text.splitlines():
        if line.strip():
            if blank and not line.startswith(" "):
                in_list = False
            in_list |= bool(re.match(r" {0,3}([-*+]|\d+[.)]) ", line))
            in_block = line.startswith("    ") and not in_list and (blank or in_block)
        kept += [] if in_block else [line]
        blank = not line.strip()
    return "\n".join(kept)


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
    "−2 points", "The paper prints 99.9 %.", "- Rows:\n    - modulated: 97.3 %",
    "- Rows:\n\n    - modulated: 97.3 %", "So it is\n    97.3 % in all.",
    "| row | accuracy |\n|---|--:|\n| modulated | 97 |", "| modulated | **97.3 ± 0.2** | x |",
    "It reaches 92 on smiles.", "It falls from about 90.", "It reaches **92** on smiles.",
    "The best is `91.6 %`.", "With `0.5 %` in code.", "The best is $91.6\\%$.",
    "The best is $91.6\\,\\%$.", "It costs $1.3\\times$.", "The mean is $0.91$.",
    "```\nmodulated 97.3 %\n```", "```{note}\nIt gains 9.1 points.\n```", "It makes 900 img/s.",
    "It makes 900 images per second.", "It takes 7 h.", "It is 3 pp better.", "It takes 40 min.",
    "It is 5 s.", "A 3-fold gain."])
def test_a_number_that_is_typed_in_would_be_found(sentence):
    assert typed_in("02_three_attributes", prose(sentence))


@pytest.mark.parametrize("code", [
    'Markdown("Modulation reaches **97.3 %**, 9.1 points more.")',
    '%matplotlib inline\nshow(f"{name} reaches 97.3 %")', '"""It takes 7 h."""'])
def test_a_number_that_code_would_show_would_be_found(code):
    assert typed_in("02_three_attributes", quoted(code))
    head = "---\nmystnb:\n  image: {alt: Bars}\n---\n"
    for options in ("", ":tags: [remove-input]\n", head):
        page = f"Text.\n\n```{{code-cell}} ipython3\n{options}{code}\n```\n\nMore.\n"
        assert typed_in("02_three_attributes", of_page(page))
        assert "More." in of_page(page)


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
    "$0.5 + 3.2$ is a formula.", r"$\alpha = 0.2$", "    make run 3.5", "It has 3 rows.",
    "So:\n\n    make run 3.5\n\n    make run 4.5\n\nMore.", "| `quick` | 64×64 | 20 tasks |",
    "- a\n\nSo:\n\n    make run 3.5",
    "Images of 64×64 pixels, in batches of 60.", "Student's 95 % interval.",
    "Guessing gives 50 %."])
def test_settings_formulas_and_definitions_are_no_measurements(sentence):
    assert not typed_in("02_three_attributes", prose(sentence))
