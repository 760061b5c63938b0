"""What the records of adaptive branching say of the paper's claims.

Source: Lu et al., "Fully-adaptive Feature Sharing in Multi-Task Networks", CVPR 2017, Tables 1 and
3, Figures 3 to 5.
"""

from typing import Any

import numpy as np
import pandas as pd

from modlib.answers import answer_difference
from modlib.branching_study import (
    BY_CHANCE,
    FOUND,
    HIGH,
    LOW,
    PAPER_NAMES,
    RANDOM,
    SHUFFLED,
    THIN,
    branches,
    paired,
    paper_table,
    speed_up,
    vgg16_weights,
    weights_at,
)
from modlib.record_checks import ANSWERS, TOP
from modlib.studies import Rows, valid_accuracy
from modlib.tables import points, with_sign
from modlib.verdicts import Verdict, over_seeds

# At least so many times as large or slow as the branched network: what "far" is taken to mean.
FAR_WEIGHTS, FAR_TIME = 10, 3


def tasks_gained(rows: Rows, better: str, worse: str) -> list[float]:
    """How many tasks gain, less how many lose, one number for each seed that both rows have."""
    tasks = [task for one in rows[better][:1] for task in one["settings"]["tasks"]]
    by_task = [paired(rows, better, worse, lambda one, task=task: one["results"]["test_accuracy"][
        task]) for task in tasks]
    return [float(np.sign(of_seed).sum()) for of_seed in zip(*by_task, strict=True)]


def after_first_epoch(record: dict[str, Any]) -> float:
    """Mean validation accuracy after the first epoch, in %."""
    return valid_accuracy({"epochs": record["epochs"][:1]})


def verdicts(rows: Rows) -> list[Verdict]:
    """The paper's claims about differences, with their intervals, in points.

    Of accuracy and recall on the test split over images and seeds (:mod:`modlib.answers`); of
    numbers of branches and tasks, and on the validation split, Student's over seeds.
    """
    paper = paper_table()

    def printed(better: str, worse: str, key: str = "accuracy") -> float:
        return paper[PAPER_NAMES[better]][key] - paper[PAPER_NAMES[worse]][key]

    def claim(text, better, worse, key=ANSWERS, of_paper=None) -> Verdict:
        return Verdict(text, *answer_difference(rows[better], rows[worse], key), of_paper)

    def by_seed(text, better, worse, measure) -> Verdict:
        return over_seeds(text, paired(rows, better, worse, measure))

    return [
        claim("Branching makes the thin network more accurate (α = 1)", LOW, THIN,
              of_paper=printed(LOW, THIN)),
        claim("Branching makes the thin network more accurate (α = 2)", HIGH, THIN,
              of_paper=printed(HIGH, THIN)),
        claim("Branching raises its top-10 recall (α = 1)", LOW, THIN, TOP,
              printed(LOW, THIN, "top_10_recall")),
        claim("Branching raises its top-10 recall (α = 2)", HIGH, THIN, TOP,
              printed(HIGH, THIN, "top_10_recall")),
        by_seed("A larger α makes more branches (number of branches)", HIGH, LOW, branches),
        claim("A larger α makes the network more accurate", HIGH, LOW,
              of_paper=printed(HIGH, LOW)),
        claim("A larger α raises the top-10 recall", HIGH, LOW, TOP,
              printed(HIGH, LOW, "top_10_recall")),
        claim("The grouping that was found is more accurate than a shuffled one", FOUND, SHUFFLED),
        claim("The grouping that was found has a higher top-10 recall than a shuffled one", FOUND,
              SHUFFLED, TOP),
        over_seeds("More tasks gain by the grouping that was found than lose (their difference)",
                   tasks_gained(rows, FOUND, SHUFFLED)),
        claim("A thin network that starts from a trained wide one, by SOMP, is more accurate than "
              "one that starts at random", THIN, RANDOM),
        by_seed("A start by SOMP is ahead of a random one after the first epoch (validation)", THIN,
                RANDOM, after_first_epoch),
        claim("SOMP's filters are better to start with than as many of the same, by chance",
              THIN, BY_CHANCE),
    ]


def costs(rows: Rows) -> list[tuple[Verdict, float]]:
    """The paper's claims about ratios to VGG-16 for α = 1, each over what is taken for "far".

    The paper has them at a comparable accuracy. No VGG-16 is trained here, so they are of cost
    alone.

    Ratios are compared by their logarithms, as none can be below 0.

    Returns:
        the verdict, whose difference and interval are of log(ratio / threshold), and whose
        ``paper`` is the ratio itself; and the threshold.
    """
    paper, ours = paper_table(), paper_table()[PAPER_NAMES[LOW]]
    of_weights = [vgg16_weights(len(one["settings"]["tasks"])) / weights_at(one)
                  for one in rows[LOW]]
    printed = {key: paper["VGG-16"][key] / ours[key]
               for key in ("million_parameters", "milliseconds")}
    return [
        (over_seeds(f"Cost alone: VGG-16 has at least {FAR_WEIGHTS} times as many weights (α = 1)",
                    [np.log(ratio / FAR_WEIGHTS) for ratio in of_weights],
                    printed["million_parameters"]),
         FAR_WEIGHTS),
        (over_seeds(f"Cost alone: VGG-16 takes at least {FAR_TIME} times as long (α = 1)",
                    [np.log(speed_up(one) / FAR_TIME) for one in rows[LOW]],
                    printed["milliseconds"]),
         FAR_TIME)]


def ratio(one: Verdict, far: float) -> str:
    """A verdict of :func:`costs` for people: the geometric mean of ratios, its interval."""
    value, low, high = (far * np.exp(number) for number in (one.difference, one.low, one.high))
    if np.isnan(value):
        return "not run yet"
    return f"× {value:.1f}" + (
        " (one seed)" if np.isinf(one.low) else f" [{low:.1f}, {high:.1f}]")


def verdict_table(rows: Rows) -> pd.DataFrame:
    """All claims for people: the paper's number, ours with its interval, the verdict."""
    lines = [
        {"claim of the paper": one.claim,
         "paper": "–" if one.paper is None else with_sign(one.paper),
         "measured": points(one.difference, one.low, one.high), "verdict": one.word}
        for one in verdicts(rows)]
    for one, far in costs(rows):
        lines.append({"claim of the paper": one.claim, "paper": f"× {one.paper:.1f}",
                      "measured": ratio(one, far), "verdict": one.word})
    return pd.DataFrame(lines).set_index("claim of the paper").rename_axis(None)
