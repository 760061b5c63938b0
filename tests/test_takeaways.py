"""The pages that sum up a part: every claim of its pages is there, and what they propose runs."""

import ast
import re
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
import yaml

from modlib import (
    ablations,
    any_network,
    branching_sentences,
    branching_study,
    takeaways,
    three_attributes,
)
from modlib.errors import ModlibError
from modlib.judged_claims import Claim
from modlib.takeaways import PARTS, branching_control, claims_of, settled, still_open

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "book").glob("takeaways_*.md"))
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text("utf8"))
LAY_OUT = {"02": three_attributes.study, "04": ablations.STUDY.lay_out,
           "07": any_network.study, "11": branching_study.STUDY.lay_out}
ONE = Claim("4.2", "Modulation helps", "+1.00 [+0.50, +1.50]", "+2.0", "held",
            "03_twenty_attributes", "twenty_attributes")


@pytest.fixture(scope="module")
def by_part():
    """Read once: the claims count the parameters of whole networks."""
    every = [one for part in PARTS for one in claims_of(part)]
    return {part: [one for one in every if one.page in pages] for part, pages in PARTS.items()}


def test_every_part_that_runs_something_ends_with_its_page():
    ends = [part["chapters"][-1]["file"] for part in TOC["parts"]
            if part["chapters"][0]["file"].startswith("notebooks/")]
    assert sorted(ends) == [f"book/{page.stem}" for page in PAGES]
    assert sorted(PARTS) == [page.stem.removeprefix("takeaways_") for page in PAGES]


def test_a_parts_claims_are_of_notebooks_that_are_in_that_part():
    for part in TOC["parts"]:
        files = [page["file"] for page in part["chapters"]]
        if name := next((one for one in PARTS if f"book/takeaways_{one}" in files), None):
            assert {f"notebooks/{page}" for page in PARTS[name]} <= set(files)


def test_no_part_is_without_claims_and_each_judges_all_of_its_pages(by_part):
    for part, pages in PARTS.items():
        assert {one.page for one in by_part[part]} == set(pages)


def test_an_unknown_part_is_refused_with_the_nearest():
    with pytest.raises(ModlibError, match="did you mean 'conflict'"):
        claims_of("conflicts")


def test_what_is_settled_has_its_figures_and_what_is_open_has_not():
    opposite = replace(ONE, text="It is free", word="did not hold", paper="", measured="+9 %")
    unsure = replace(ONE, text="It is best", word="not decided")
    missing = replace(ONE, text="It is fast", word="not run yet", measured="")
    claims = [ONE, opposite, unsure, missing, missing]
    assert settled(claims).splitlines() == [
        "Of 5 claims: **1 held**, **1 did not hold**, **1 not decided**, **2 not run yet**.", "",
        "- Modulation helps: **held**, +1.00 [+0.50, +1.50] (paper: +2.0).",
        "- It is free: **did not hold**, +9 %."]
    assert still_open(claims).splitlines() == [
        "- **Not decided** by our records:", "  - It is best: +1.00 [+0.50, +1.50]",
        "- **Not run yet**; the page has the call:",
        '  - 2 on <a href="../notebooks/03_twenty_attributes.html">'
        "Twenty attributes: who learns best, and at what price?</a>"]


def test_beside_branching_stands_what_weights_without_branches_gain(monkeypatch):
    said = branching_control()
    assert said == "" or said.startswith("- But: The wide network, trained on, has no branches")
    monkeypatch.setattr(branching_sentences, "weight_sentence", lambda rows: "")
    assert branching_control() == ""


def test_where_nothing_is_settled_or_open_that_is_said_or_nothing():
    missing = replace(ONE, word="not run yet", measured="")
    assert settled([missing]).endswith("\n\nNothing is settled yet.")
    assert still_open([ONE]) == ""


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_a_page_asks_answers_and_proposes_something_to_try(page):
    text = page.read_text("utf8")
    assert re.findall("^## (.+)", text, re.M) == [
        "What we asked", "What came out", "What stays open", "Try this"]
    assert f'takeaways.claims_of("{page.stem.removeprefix("takeaways_")}")' in text
    assert not re.search(r"\d[.]\d+ ?%|(?<!\w)[+−-]\d", text), "figures come from the records"
    assert len(text.split()) < 300


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_what_is_proposed_is_accepted_by_its_notebook(page):
    call = page.read_text("utf8").partition("## Try this")[2]
    [notebook] = re.findall(r"papermill \\\s+(notebooks/\S+) \\\s+runs/", call)
    [changes] = re.findall(r'-y "([^"]+)"', call)
    [cell] = [cell for cell in nbformat.read(ROOT / notebook, 4).cells
              if "parameters" in cell.metadata.get("tags", [])]
    own = {node.target.id: ast.literal_eval(node.value)
           for node in ast.parse(cell.source).body}
    changes = yaml.safe_load(changes)
    assert changes.keys() <= own.keys()
    assert all(own[name] != value for name, value in changes.items())
    number = Path(notebook).name[:2]
    runs, _ = LAY_OUT[number](own | changes)
    assert any(runs.values())


def test_a_later_task_may_be_level(monkeypatch):
    """It is asked whether it loses something, so a point more or less is no loss."""
    monkeypatch.setattr(takeaways, "difference", lambda *_: (-0.2, -0.5, 0.1))
    [one] = [one for one in claims_of("use") if one.page.startswith("09")]
    assert one.word == "held" and one.measured == "−0.20 [−0.50, +0.10]"
