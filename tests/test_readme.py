"""The README's headline comes from the committed records, and its links lead somewhere."""

import re
import sys
from pathlib import Path

from modlib.three_attributes import published

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf8")
sys.path.insert(0, str(ROOT / "tools"))

from write_headline import headline_markdown, replaced  # noqa: E402


def test_headline_is_what_the_records_say():
    assert replaced(README) == README, "run python tools/write_headline.py"


def test_every_row_of_the_headline_has_records():
    assert all(published("celeba_cpu").values())
    assert "not run yet" not in headline_markdown().lower()


def test_links_into_the_project_lead_somewhere():
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    inside = [target for target in targets if "://" not in target]
    assert len(inside) >= 5
    assert [target for target in inside if not (ROOT / target).exists()] == []


def test_first_screen_names_the_two_commands():
    first_screen = "\n".join(README.splitlines()[:12])
    assert "make book" in first_screen and "make test" in first_screen
