"""One claim of a paper, and the word that the records give it."""

from dataclasses import dataclass

import numpy as np

from modlib.tables import points, with_sign
from modlib.verdicts import Verdict

MARGIN = 1.0  # points: what counts as level, or as a small gain, where the paper says so
BETTER, NO_WORSE, LITTLE = "better", "level or better", "a little, or nothing"
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
    """

    section: str
    text: str
    measured: str
    paper: str
    word: str
    page: str
    folder: str


def of_verdict(
    section: str, verdict: Verdict, page: str, folder: str, meant: str = BETTER
) -> Claim:
    """A claim about a difference in points; ``meant`` says what the paper's words ask of it."""
    run = verdict.word != "not run yet"
    measured = points(verdict.difference, verdict.low, verdict.high) if run else ""
    paper = "" if verdict.paper is None else with_sign(verdict.paper, 1)
    word = _word(verdict, meant) if run else "not run yet"
    return Claim(section, verdict.claim, measured, paper, word, page, folder)


def _word(verdict: Verdict, meant: str) -> str:
    lowest, highest = {
        BETTER: (0.0, np.inf), NO_WORSE: (-MARGIN, np.inf), LITTLE: (-MARGIN, MARGIN)}[meant]
    if verdict.low > lowest and verdict.high <= highest:
        return "held"
    apart = verdict.high < lowest or verdict.low > highest
    return "did not hold" if apart else "not decided"
