"""Where the last `make book` lies, and whether it may be looked at."""

from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
HTML = ROOT / "_build" / "html"
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text("utf8"))
CHAPTERS = [TOC["root"], *(
    page["file"] for part in TOC["parts"] for chapter in part["chapters"]
    for page in (chapter, *chapter.get("sections", ())))]


def skip_if_not_built() -> None:
    """Skip the test that calls it where there is no book, or none of this table of contents."""
    last_written = HTML / "searchindex.js"
    if not last_written.exists():
        pytest.skip("the book is not built: run `make book`")
    if last_written.stat().st_mtime < (ROOT / "_toc.yml").stat().st_mtime:
        pytest.skip("the book is older than its table of contents: run `make book`")
