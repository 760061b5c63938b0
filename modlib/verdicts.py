"""The paper's claims about three attributes, each judged from the records.

Source: Zhao et al., ECCV 2018, Table 1 and sections 3.1 to 3.3.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from modlib.gradients import Ratio
from modlib.results import pair_ucr
from modlib.studies import accuracies
from modlib.tables import points, with_sign
from modlib.three_attributes import RELATED, SMILE, TASKS, UNRELATED, paper_table

MARGIN = 1.0  # points: what counts as level, or as a small gain, where the paper says so
BETTER, NO_WORSE, LITTLE = "better", "level or better", "a little, or nothing"
WITHIN = {BETTER: (0.0, np.inf), NO_WORSE: (-MARGIN, np.inf), LITTLE: (-MARGIN, MARGIN)}


@dataclass(frozen=True)
class Verdict:
    """One claim of the paper beside what was measured.

    Attributes:
        difference: measured difference in percentage points; positive as the paper claims.
        low, high: its 95 % interval.
        paper: the paper's difference, None where it prints none.
        meant: what the paper's words ask of it, one of ``WITHIN``.
    """

    claim: str
    difference: float
    low: float
    high: float
    paper: float | None
    meant: str = BETTER

    @property
    def word(self) -> str:
        """held, did not hold, not decided, or not run yet."""
        if np.isnan(self.difference):
            return "not run yet"
        lowest, highest = WITHIN[self.meant]
        if self.low > lowest and self.high <= highest:
            return "held"
        return "did not hold" if self.high < lowest or self.low > highest else "not decided"


def verdicts(rows: dict[str, list[dict[str, Any]]]) -> list[Verdict]:
    """Each of the paper's claims about Table 1, judged from the records.

    Accuracies are compared seed by seed (the same seed has the same initial weights and test
    triplets) with Student's interval of the mean difference; UCRs with Newcombe's interval for
    the difference of two proportions or Student's over the seeds, whichever reaches further.
    """
    return [
        accuracy_verdict("The fully shared network is worse than independent networks",
                          rows, "d", "a", TASKS),
        accuracy_verdict("Smile is learnt worse beside young than beside mouth open",
                          rows, "c", "b", (SMILE,)),
        _ucr_verdict("The related pair has the higher UCR, without modulation",
                     rows, ("c", RELATED), ("b", UNRELATED)),
        accuracy_verdict("Even the related pair is learnt worse together than by independent "
                          "networks", rows, "d", "c", RELATED),
        accuracy_verdict("Modulation raises the accuracy of the shared network",
                          rows, "e", "a", TASKS),
        accuracy_verdict("Modulated, the three are learnt better than smile / young alone, shared",
                          rows, "e", "b", UNRELATED),
        accuracy_verdict("Modulated, the three are learnt better than smile / mouth open alone, "
                          "shared", rows, "e", "c", RELATED),
        _ucr_verdict("Modulation raises the UCR of smile / young",
                     rows, ("e", UNRELATED), ("b", UNRELATED)),
        _ucr_verdict("Modulation raises the UCR of smile / mouth open",
                     rows, ("e", RELATED), ("c", RELATED)),
        accuracy_verdict("The modulated network passes independent networks",
                          rows, "e", "d", TASKS),
        replace(accuracy_verdict("The regulariser adds a little", rows, "f", "e", TASKS),
                meant=LITTLE),
    ]


def over_seeds(
    claim: str, differences: Sequence[float], paper: float | None = None
) -> Verdict:
    """A claim judged by one difference a seed, with Student's interval; of one seed it has none."""
    if not len(differences):
        return Verdict(claim, np.nan, np.nan, np.nan, paper)
    mean, half = student(differences) if len(differences) > 1 else (float(differences[0]), np.inf)
    return Verdict(claim, mean, mean - half, mean + half, paper)


def seed_verdict(
    claim: str, better: Mapping[int, float], worse: Mapping[int, float], paper: float | None
) -> Verdict:
    """A claim that one row is better than another, judged seed by seed.

    Args:
        better, worse: each row's figure in %, by seed; seeds that only one has are left out.
        paper: the paper's difference in points, None where it prints none.
    """
    return over_seeds(claim, [
        better[seed] - worse[seed] for seed in sorted(better.keys() & worse.keys())], paper)


def row_verdict(
    claim: str, measured: pd.DataFrame, better: str, worse: str, paper: float | None
) -> Verdict:
    """The same of two rows of a table.

    Args:
        measured: columns row, seed, task, accuracy (%), of the tasks to average over.
    """
    means = measured.groupby(["row", "seed"]).accuracy.mean()
    by_seed = [means[name].to_dict() if name in means.index.get_level_values(0) else {}
               for name in (better, worse)]
    return seed_verdict(claim, *by_seed, paper)


def verdict_table(rows: dict[str, list[dict[str, Any]]]) -> pd.DataFrame:
    """The verdicts on Table 1 for people; see :func:`table_of`."""
    return table_of(verdicts(rows))


def table_of(judged: Sequence[Verdict], digits: int = 1) -> pd.DataFrame:
    """Verdicts for people: differences in percentage points, with their intervals."""
    return pd.DataFrame([
        {"claim of the paper": v.claim,
         "paper": "–" if v.paper is None else with_sign(v.paper, digits),
         "measured": "–" if v.word == "not run yet" else
                     points(v.difference, v.low, v.high, digits),
         "verdict": v.word}
        for v in judged
    ]).set_index("claim of the paper").rename_axis(None)


def as_html(judged: pd.DataFrame) -> str:
    """A table of verdicts as the page of claims has it: on a phone each claim above its numbers.

    An interval stays whole where the line breaks.
    """
    whole = judged.assign(measured=judged.measured.str.replace(", ", ",\N{NO-BREAK SPACE}"))
    return whole[["verdict", "measured", "paper"]].to_html(classes="table wide-names claims")


def summary(rows: dict[str, list[dict[str, Any]]]) -> str:
    """How many of Table 1's claims held, did not hold, and are not decided, as Markdown."""
    return summary_of(verdicts(rows))


def summary_of(judged: Sequence[Verdict], about: str = "this table") -> str:
    """How many of the paper's claims held, did not hold, and are not decided, as Markdown."""
    lines = [f"Of the paper's {len(judged)} claims about {about}:", ""]
    for word in ("held", "did not hold", "not decided", "not run yet"):
        claims = [verdict for verdict in judged if verdict.word == word]
        if word == "not run yet" and claims:
            lines.append(f"- **{len(claims)} not run yet**.")  # the table has them, and where
        elif claims:
            listed = "; ".join(
                f"{_within_a_sentence(v.claim)} ({with_sign(v.difference, 1)} points)"
                for v in claims)
            lines.append(f"- **{len(claims)} {word}**: {listed}.")
    return "\n".join(lines)


def verdict_counts(judged: Sequence[Verdict], about: str) -> str:
    """How many claims got which verdict, as a line of a Markdown list."""
    words = [verdict.word for verdict in judged]
    return f"- Of the {len(judged)} claims {about}: " + ", ".join(
        f"**{words.count(word)} {word}**"
        for word in ("held", "did not hold", "not decided", "not run yet") if word in words) + "."


def _within_a_sentence(claim: str) -> str:
    """Without its capital, unless it begins with an abbreviation."""
    begins = claim.split(" ")[0][:2]
    return claim if len(begins) == 2 and begins.isupper() else claim[0].lower() + claim[1:]


def accuracy_verdict(
    claim: str, rows: Mapping[str, list[dict[str, Any]]], better: str, worse: str,
    tasks: Sequence[str],
) -> Verdict:
    """A claim that one row of Table 1 is more accurate than another on the mean of some tasks."""
    measured = accuracies({name: rows[name] for name in (better, worse)}).query("task in @tasks")
    paper = paper_table()
    printed = np.mean([paper[better]["accuracy"][task] - paper[worse]["accuracy"][task]
                       for task in tasks])
    return row_verdict(claim, measured, better, worse, printed)


def _ucr_verdict(claim, rows, better, worse) -> Verdict:
    high_cell, low_cell = (pair_ucr(rows[name], pair) for name, pair in (better, worse))
    paper = paper_table()
    printed = (paper[better[0]]["ucr"]["/".join(better[1])]
               - paper[worse[0]]["ucr"]["/".join(worse[1])])
    if not high_cell.count or not low_cell.count:
        return Verdict(claim, np.nan, np.nan, np.nan, printed)
    difference = high_cell.value - low_cell.value
    low, high = newcombe(high_cell, low_cell)
    # Batches of one training are not independent of each other; seeds are.
    by_seed = [
        {record["settings"]["seed"]: pair_ucr([record], pair).value for record in rows[name]}
        for name, pair in (better, worse)
    ]
    seeds = sorted(by_seed[0].keys() & by_seed[1].keys())
    if len(seeds) > 1:
        mean, half = student([by_seed[0][seed] - by_seed[1][seed] for seed in seeds])
        low, high = min(low, mean - half), max(high, mean + half)
    return Verdict(claim, 100 * difference, 100 * low, 100 * high, printed)


def newcombe(first: Ratio, second: Ratio) -> tuple[float, float]:
    """Newcombe's 95 % interval for ``first − second``, from their Wilson intervals."""
    difference = first.value - second.value
    below = sqrt((first.value - first.low) ** 2 + (second.high - second.value) ** 2)
    above = sqrt((first.high - first.value) ** 2 + (second.value - second.low) ** 2)
    return difference - below, difference + above


def student(differences: Sequence[float]) -> tuple[float, float]:
    """Mean and half-width of Student's 95 % interval; at least two differences."""
    count = len(differences)
    half = stats.t.ppf(0.975, count - 1) * np.std(differences, ddof=1) / sqrt(count)
    return float(np.mean(differences)), float(half)
