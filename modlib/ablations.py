"""Seven attributes, Tables 4 and 5 of the paper: how much is modulated, and what the updates do.

Source: Zhao et al., ECCV 2018, Tables 4 and 5 and section 4.2.
Shapes: T tasks, S stages of the trunk.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from modlib import twenty_attributes
from modlib.arrays import from_json
from modlib.gradients import Ratio, update_compliance_ratio, wilson
from modlib.intervals import difference
from modlib.probes import DRAWN, JOINT
from modlib.results import pair_ucr, paper_tables, ucr_counts
from modlib.settings import Places, Settings
from modlib.studies import Rows, Study, accuracies
from modlib.tables import mean_and_spread, percent, points
from modlib.twenty_attributes import extra_parameters
from modlib.verdicts import newcombe

TASKS = ("Smiling", "Oval_Face", "5_o_Clock_Shadow", "Bald", "Arched_Eyebrows", "Big_Lips",
         "Big_Nose")
OURS, SHARED = "from block 4", "fully shared"
AGAINST = "minus from block 4, points"
PAPER_NAMES = {
    SHARED: "FSN", "independent": "ITN", "CSN": "CSN", "from block 5": "Ours block5+",
    OURS: "Ours block4+", "from block 3": "Ours block3+", "from block 2": "Ours block2+",
    "projection": "channel-wise projection"}
ONE_RATE = "from block 4, one rate"
ROWS = {
    OURS: {"system": "modulated"},
    SHARED: {"system": "fully_shared"},
    "from block 5": {"system": "modulated", "modulate_from": 5},
    "from block 3": {"system": "modulated", "modulate_from": 3},
    "from block 2": {"system": "modulated", "modulate_from": 2},
    # Matrices learn at the network's rate. They are judged against scales that do so too.
    "projection": {"system": "projection"},
    ONE_RATE: {"system": "modulated", "scale_rate_factor": 1.0},
    "signed scales": {"system": "modulated", "signed_scales": True},
    "CSN": {"system": "csn"},
    "independent": {"system": "independent"},
}
# Scales and masks have ten times the network's rate: at the same rate they hardly move.
STUDY = Study("ablations", {
    name: {"scale_rate_factor": 10.0} | changes for name, changes in ROWS.items()})
# By the paper's own recipe, which settings files hold, all learn at the rate that these say.
PAPER_RECIPE = Study("paper_ablations", {
    name: changes for name, changes in ROWS.items() if name != ONE_RATE}, tuned=("batch_size",))


def lay_out(
    parameters: Mapping[str, Any],
) -> tuple[Study, dict[str, list[Settings]], Places]:
    """The study and its runs: by the paper's recipe where the parameters ask for it.

    See :meth:`Study.lay_out`.
    """
    if not twenty_attributes.is_papers_recipe(parameters):
        return STUDY, *STUDY.lay_out(parameters)
    runs, places = PAPER_RECIPE.lay_out(parameters)
    return PAPER_RECIPE, twenty_attributes.with_own_batches(runs), places


def paper_table(number: int) -> dict[str, Any]:
    """Table 4 or 5 as the paper prints it."""
    return paper_tables()[f"table_{number}"]


def accuracy_table(rows: Rows) -> pd.DataFrame:
    """Table 5 for people: mean accuracy, its difference from ours, dead scales, the paper."""
    measured, paper, lines = accuracies(rows), paper_table(5)["printed_mean"], []
    for name, records in rows.items():
        means = measured[measured.row == name].groupby("seed").accuracy.mean()
        line = {"": name, "measured, %": mean_and_spread(means), AGAINST: ""}
        if records and rows.get(OURS) and name != OURS:
            line[AGAINST] = points(*difference(records, rows[OURS]))
        results = records[0]["results"] if records else {}
        line["extra parameters"] = f"{extra_parameters(records[0]):,}" if records else ""
        line["dead scales"] = (
            f"{np.mean([one['results']['dead_scales'] for one in records]):.0f} of "
            f"{results['parameters']['task']:,}" if "dead_scales" in results else "")
        line["paper, %"] = f"{paper[PAPER_NAMES[name]]:.2f}" if name in PAPER_NAMES else "–"
        lines.append(line)
    return pd.DataFrame(lines).set_index("").rename_axis(None)


def attribute_table(rows: Rows) -> pd.DataFrame:
    """Table 5's cells: every attribute and row, the paper's figure in brackets."""
    return twenty_attributes.attribute_table(rows, PAPER_NAMES, paper_table(5)["rows"])


def ucr_matrix(records: list[dict[str, Any]], with_zeros: bool = True) -> np.ndarray:
    """UCR of every pair in %, float (T, T), over all records and epochs; nan where not probed."""
    tasks = records[0]["settings"]["tasks"] if records else TASKS
    matrix = np.full((len(tasks), len(tasks)), np.nan)
    for i, first in enumerate(tasks):
        for j, second in enumerate(tasks[:i]):
            matrix[i, j] = matrix[j, i] = 100 * pair_ucr(
                records, (first, second), with_zeros).value
    return matrix


def ucr_table(rows: Rows) -> pd.DataFrame:
    """Table 4 for people: every pair's UCR, ours and fully shared, and the paper's figures."""
    paper, lines = paper_table(4)["pairs"], []
    for pair, printed in paper.items():
        first, second = pair.split("/")
        line = {"pair": f"{first} / {second}".replace("_", " ")}
        for name, theirs in ((OURS, "Ours"), (SHARED, "FSN")):
            ratio = pair_ucr(rows[name], (first, second))
            line[name] = percent(ratio)
            nonzero = pair_ucr(rows[name], (first, second), with_zeros=False)
            line[f"{name}, zeros left out"] = percent(nonzero, "–")
            line[f"{name}, paper"] = f"{printed[theirs]:.1f}"
        lines.append(line)
    return pd.DataFrame(lines).set_index("pair").rename_axis(None)


def ucr_by_epoch(records: list[dict[str, Any]]) -> list[list[float]]:
    """Mean UCR over all pairs in %, a list of epochs for each record."""
    def of_epoch(epoch: dict[str, Any]) -> float:
        ratios = [update_compliance_ratio(
            one["positive"], one["negative"], one["zero"], with_zeros=True) for one in epoch["ucr"]]
        return 100 * float(np.mean([ratio.value for ratio in ratios])) if ratios else np.nan

    return [[of_epoch(epoch) for epoch in record["epochs"]] for record in records]


def ucr_by_stage(records: list[dict[str, Any]]) -> dict[str, Ratio]:
    """UCR within each stage of the trunk, over all pairs, records and epochs.

    The pairs of one batch share their gradients: the interval counts batches alone.
    """
    totals: dict[str, list[float]] = {}
    for record in records:
        for epoch in record["epochs"]:
            if "ucr_stages" not in epoch:
                continue
            counts_2STT = from_json(epoch["ucr_stages"]["counts"])
            pairs = np.triu_indices(counts_2STT.shape[-1], 1)
            positive_S = counts_2STT[0][:, *pairs].mean(1)
            for stage, positive in zip(epoch["ucr_stages"]["stages"], positive_S, strict=True):
                total = totals.setdefault(stage, [0.0, 0])
                total[0] += float(positive)
                total[1] += epoch["ucr_batches"]
    return {stage: wilson(positive, count) for stage, (positive, count) in totals.items()}


def ucr_differences(
    rows: Rows, with_zeros: bool = True
) -> dict[str, tuple[float, float, float]]:
    """Ours minus fully shared for each of the paper's pairs, in points, with its interval.

    Newcombe's interval over batches, widened so that all pairs hold together at 95 %
    (Bonferroni). Pairs that were not probed are left out.

    Args:
        with_zeros: whether batches with an inner product of exactly 0 count.
    """
    pairs = list(paper_table(4)["pairs"])
    z, found = float(stats.norm.ppf(1 - 0.025 / len(pairs))), {}
    for pair in pairs:
        ratios = []
        for name in (OURS, SHARED):
            counts = ucr_counts(rows[name], tuple(pair.split("/")))
            batches = sum(counts.values()) - (0 if with_zeros else counts["zero"])
            ratios.append(wilson(counts["positive"], batches, z))
        if all(ratio.count for ratio in ratios):
            change = ratios[0].value - ratios[1].value
            found[pair] = tuple(100 * value for value in (change, *newcombe(*ratios)))
    return found


@dataclass(frozen=True)
class Changes:
    """Of how many pairs modulation changes the ratio, up or down; *surely*: by the interval."""

    pairs: int
    higher: int
    surely_higher: int
    lower: int
    surely_lower: int


def count_changes(rows: Rows, with_zeros: bool = True) -> Changes:
    """What :func:`ucr_differences` decides, counted."""
    found = ucr_differences(rows, with_zeros).values()
    return Changes(
        len(found), sum(value > 0 for value, _, _ in found), sum(low > 0 for _, low, _ in found),
        sum(value < 0 for value, _, _ in found), sum(high < 0 for _, _, high in found))


def probe_ratios(rows: Rows) -> dict[tuple[str, str], tuple[Ratio, Ratio]]:
    """The UCR of each way to probe the trained networks, over all pairs and seeds.

    The pairs of one batch share their gradients: the intervals count batches alone.

    Returns:
        by system and probe: of all batches, and with inner products of 0 left out.
    """
    totals: dict[tuple[str, str], np.ndarray] = {}
    for name in (OURS, SHARED):
        for record in rows[name]:
            probes = record["results"].get("probes", {"modes": {}})
            for mode, found in probes["modes"].items():
                counts_2TT = from_json(found["counts"])
                pairs = np.triu_indices(counts_2TT.shape[-1], 1)
                totals[name, mode] = totals.get((name, mode), 0) + np.array(
                    [*counts_2TT[:, *pairs].mean(1), probes["batches"]])
    return {place: (wilson(positive, batches), wilson(positive, positive + negative))
            for place, (positive, negative, batches) in totals.items()}


def sign_agreement(rows: Rows, system: str, mode: str, other: str) -> float:
    """In how many % of pairs and batches a probe's sign is another's, the mean over seeds.

    nan where that is not known.
    """
    shares = [record["results"]["probes"]["modes"][mode]["agreement"][other]
              for record in rows[system]
              if mode in record["results"].get("probes", {"modes": {}})["modes"]]
    known = [100 * share for share in shares if share is not None]
    return float(np.mean(known)) if known else np.nan


def probe_table(rows: Rows) -> pd.DataFrame:
    """What each way to probe the trained network says, and how often its signs are another's.

    The last two columns: the signs of the joint batch, and those of drawn triplets in it, from
    which *drawn triplets, own batch* differs by batch norm alone.
    """
    columns = ["UCR %", "zeros %", "UCR %, zeros left out",
               *(f"same sign as {mode}, %" for mode in (JOINT, DRAWN))]
    lines = {place: [percent(ratio), round(100 * (1 - nonzero.count / ratio.count), 1),
                     percent(nonzero, "–"),
                     *(round(sign_agreement(rows, *place, mode), 1) for mode in (JOINT, DRAWN))]
             for place, (ratio, nonzero) in probe_ratios(rows).items()}
    return pd.DataFrame(lines.values(), columns=columns, index=pd.MultiIndex.from_tuples(
        lines, names=["system", "probe"]) if lines else None)
