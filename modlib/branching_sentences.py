"""What the records of adaptive branching say, in sentences.

Source: Lu et al., "Fully-adaptive Feature Sharing in Multi-Task Networks", CVPR 2017, Tables 1 and
3, Figures 3 to 5.
"""

import math
from itertools import combinations, permutations
from typing import Any

import numpy as np

from modlib.answers import answer_difference
from modlib.branching_study import (
    BY_CHANCE,
    FOUND,
    HIGH,
    LOW,
    RANDOM,
    SHUFFLED,
    THIN,
    TRAINED_ON,
    weights_at,
)
from modlib.branching_verdicts import costs, verdicts
from modlib.record_checks import ANSWERS, TOP
from modlib.studies import Rows, valid_accuracy
from modlib.tables import NOT_COMPLETE, points, with_sign
from modlib.verdicts import verdict_counts

LITTLE = 1.0  # points by which training may be ahead of validation and not be worth a word


def tree_sentence(rows: Rows) -> str:
    """What trees are worth when they are there from the start, as Markdown."""
    pairs = [(FOUND, THIN), (SHUFFLED, THIN), (SHUFFLED, HIGH), (FOUND, HIGH)]
    found = [answer_difference(rows[one], rows[other]) for one, other in pairs]
    if any(np.isnan(value) for value, _, _ in found):
        return ""
    of_found, of_shuffled, from_grown, regrown = (f"**{points(*one)}** points" for one in found)
    return (f"In accuracy, a network that is trained on the found tree from the start differs from "
            f"the thin network by {of_found}. On the shuffled tree it differs by {of_shuffled}. "
            f"From the network that grew the tree, the first differs by {regrown}, the second by "
            f"{from_grown}.")


def fit_sentence(rows: Rows) -> str:
    """How far a network is ahead on its training batches, and what that says, as Markdown."""
    ahead = {name: np.mean([_training_accuracy(one) - valid_accuracy(one) for one in records])
             for name, records in rows.items() if records}
    if not ahead:
        return ""
    furthest = max(ahead, key=ahead.get)
    said = (f"On its training batches *{furthest}* is furthest ahead of validation, by "
            f"{with_sign(ahead[furthest], 1)} points.")
    if ahead[furthest] >= LITTLE:
        return said
    return (f"{said} None has learnt its images by heart. So this study tells what helps to fit, "
            "and little of what helps to generalise.")


def _training_accuracy(record: dict[str, Any]) -> float:
    return 100 * float(np.mean(list(record["epochs"][-1]["train_accuracy"].values())))


def repeat_sentence(rows: Rows, row: str = HIGH, layer: str = "fc7") -> str:
    """Whether tasks that share a branch with one seed share one with another, as Markdown."""
    if len(rows[row]) < 2:
        return "Whether the same tasks share a branch with another seed: not run yet."
    tasks = len(rows[row][0]["settings"]["tasks"])
    together = [{frozenset(pair) for group in one["results"]["groups"][layer]
                 for pair in combinations(group, 2)} for one in rows[row]]
    both = [(first, second) for first, second in permutations(together, 2) if first]
    if not both:
        return f"No two tasks share a branch of {layer}."
    again = np.mean([len(first & second) / len(first) for first, second in both])
    by_chance = np.mean([len(second) / math.comb(tasks, 2) for _, second in both])
    return (f"Of two attributes that share a branch of {layer} with one seed, {100 * again:.0f} % "
            f"share one with another seed; by chance it would be {100 * by_chance:.0f} %.")


def weight_sentence(rows: Rows) -> str:
    """Whether branches are more than weights: an unbranched network, as long trained, beside α = 1.

    As Markdown; "" without runs.
    """
    value, low, high = answer_difference(rows[LOW], rows[TRAINED_ON])
    if np.isnan(value):
        return ""
    branched, unbranched = (np.mean([weights_at(one) for one in rows[name]]) / 1e6
                            for name in (LOW, TRAINED_ON))
    return (f"The wide network, trained on, has no branches, {unbranched:.2f} million weights and "
            f"as many batches behind it as the network with α = 1, which has {branched:.2f} "
            f"million. Branching is ahead of it by **{points(value, low, high)}** points.")


def takeaway(rows: Rows) -> str:
    """What the records say, as Markdown; nothing is concluded from one seed or an open table."""
    if any(len(records) < 2 for records in rows.values()):
        return NOT_COMPLETE

    def apart(one: str, other: str) -> str:
        return f"**{points(*answer_difference(rows[one], rows[other]))}** points"

    cost = np.mean([weights_at(low) / weights_at(thin)
                    for low, thin in zip(rows[LOW], rows[THIN], strict=False)])
    lines = [
        f"- **Do branches help?** With α = 1 the network differs from the thin one by "
        f"{apart(LOW, THIN)} of accuracy, for {cost:.1f} times its weights; from the wide one, "
        f"trained on, by {apart(LOW, TRAINED_ON)}. {branches_or_weights(rows)}",
        f"- **Does it matter who shares one?** With the tasks where the method put them, the tree "
        f"differs from the thin network by {apart(FOUND, THIN)}; with the tasks at random places, "
        f"by {apart(SHUFFLED, THIN)}. {_who_shares(rows)}",
        f"- **Does it matter where the thin network starts?** From a trained network instead of at "
        f"random, with twice the training: {apart(THIN, RANDOM)}. With SOMP's choice of its "
        f"filters instead of chance: {apart(THIN, BY_CHANCE)}."]
    return "\n".join([
        *lines, verdict_counts(verdicts(rows), "about accuracy, recall and branches"),
        verdict_counts([one for one, _ in costs(rows)], "about cost")])


def branches_or_weights(rows: Rows) -> str:
    """What follows from the network of :func:`weight_sentence`."""
    _, low, high = answer_difference(rows[LOW], rows[TRAINED_ON])
    if low > 0:
        return "So branches bring more than weights without branches do."
    if high < 0:
        return "So weights without branches bring more than branches do."
    return "So no gain over weights without branches is shown."


def _who_shares(rows: Rows) -> str:
    """What follows from the found and the shuffled grouping, both of accuracy and recall."""
    against = [answer_difference(rows[FOUND], rows[SHUFFLED], key) for key in (ANSWERS, TOP)]
    (_, low, high), _ = against
    if low > 0:
        return "So it does."
    if high < 0:
        return "So chance does better than the method, against the paper's central idea."
    if any(one[1] > 0 for one in against):
        return "By top-10 recall it does."
    tree_helps = answer_difference(rows[SHUFFLED], rows[THIN])[1] > 0
    return ("So branches help, or the weights that they bring; that it matters *who* shares one, "
            "the paper's central idea, is not shown. " * tree_helps
            + f"A gain of the found grouping above {high:.2f} points is outside the interval.")
