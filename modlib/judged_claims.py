"""One claim of a paper, and the word that the records give it."""

from dataclasses import dataclass

from modlib.tables import points, with_sign
from modlib.verdicts import Verdict

WORDS = ("held", "did not hold", "not decided", "not run yet")


@dataclass(frozen=True)
class Claim:
    """One claim of the paper and what became of it.

    Attributes:
        section: where the paper makes it.
        text: the claim, in our own words.
        measured: our figure, with its interval.
        paper: the paper's figure, or an empty text.
        word: one of ``WORDS``.
        page: the notebook's name, without its suffix.
        folder: of the records, below ``book/results``; empty where none is needed.
        size_differs: the paper's own figure lies outside our interval.
        profile: of the records, where it is not the one that the folder's other claims are judged
            by.
        variant: the paper's claim asked once more, in other settings or by another count than its
            own question has.
    """

    section: str
    text: str
    measured: str
    paper: str
    word: str
    page: str
    folder: str
    size_differs: bool = False
    profile: str = ""
    variant: bool = False


def of_verdict(section: str, verdict: Verdict, page: str, folder: str) -> Claim:
    """A claim about a difference in points."""
    run = verdict.word != "not run yet"
    measured = points(verdict.difference, verdict.low, verdict.high) if run else ""
    paper = "" if verdict.paper is None else with_sign(verdict.paper, 1)
    apart = run and verdict.paper is not None and not verdict.low <= verdict.paper <= verdict.high
    return Claim(section, verdict.claim, measured, paper, verdict.word, page, folder, apart)
