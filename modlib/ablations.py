"""Seven attributes, Tables 4 and 5 of the paper: how much is modulated, and what the updates do.

Source: Zhao et al., ECCV 2018, Tables 4 and 5 and section 4.2.
Shapes: T tasks, S stages of the trunk.
"""

import json
from typing import Any

import numpy as np
import pandas as pd

from modlib.arrays import from_json
from modlib.gradients import Ratio, update_compliance_ratio, wilson
from modlib.intervals import bootstrap_accuracies, interval
from modlib.results import pair_ucr, resolve
from modlib.studies import Rows, Study
from modlib.tables import mean_and_spread
from modlib.twenty_attributes import accuracies, extra_parameters

TASKS = ("Smiling", "Oval_Face", "5_o_Clock_Shadow", "Bald", "Arched_Eyebrows", "Big_Lips",
         "Big_Nose")
OURS, SHARED = "from block 4", "fully shared"
PAPER_NAMES = {
    SHARED: "FSN", "independent": "ITN", "CSN": "CSN", "from block 5": "Ours block5+",
    OURS: "Ours block4+", "from block 3": "Ours block3+", "from block 2": "Ours block2+",
    "projection": "channel-wise projection"}
STUDY = Study("ablations", {
    OURS: {"system": "modulated"},
    SHARED: {"system": "fully_shared"},
    "from block 5": {"system": "modulated", "modulate_from": 5},
    "from block 3": {"system": "modulated", "modulate_from": 3},
    "from block 2": {"system": "modulated", "modulate_from": 2},
    "projection": {"system": "projection"},
    "signed scales": {"system": "modulated", "signed_scales": True},
    "CSN": {"system": "csn"},
    "independent": {"system": "independent"},
})


def paper_table(number: int) -> dict[str, Any]:
    """Table 4 or 5 as the paper prints it."""
    return json.loads(resolve("book/paper_tables.json").read_text())[f"table_{number}"]


def accuracy_table(rows: Rows) -> pd.DataFrame:
    """Table 5 for people: mean accuracy, its difference from ours, dead scales, the paper."""
    measured, paper, lines = accuracies(rows), paper_table(5)["printed_mean"], []
    draws = bootstrap_accuracies({name: records for name, records in rows.items() if records})
    for name, records in rows.items():
        means = measured[measured.row == name].groupby("seed").accuracy.mean()
        line = {"": name, "measured": mean_and_spread(means), "against from block 4": ""}
        if name in draws and OURS in draws and name != OURS:
            value, low, high = interval(draws[name].mean(1) - draws[OURS].mean(1))
            line["against from block 4"] = f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"
        results = records[0]["results"] if records else {}
        line["extra parameters"] = f"{extra_parameters(records[0]):,}" if records else ""
        line["dead scales"] = (
            f"{np.mean([one['results']['dead_scales'] for one in records]):.0f}"
            if "dead_scales" in results else "")
        line["paper"] = f"{paper[PAPER_NAMES[name]]:.2f}" if name in PAPER_NAMES else "–"
        lines.append(line)
    return pd.DataFrame(lines).set_index("").rename_axis(None)


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
            ratio = pair_ucr(rows[name], (first, second)) if rows[name] else wilson(0, 0)
            line[name] = (f"{100 * ratio.value:.1f} [{100 * ratio.low:.1f}, {100 * ratio.high:.1f}]"
                          if ratio.count else "not run yet")
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
    """UCR within each stage of the trunk, over all pairs, records and epochs."""
    totals: dict[str, list[int]] = {}
    for record in records:
        for epoch in record["epochs"]:
            if "ucr_stages" not in epoch:
                continue
            counts_2STT = from_json(epoch["ucr_stages"]["counts"])
            pairs = np.triu_indices(counts_2STT.shape[-1], 1)
            positive_S = counts_2STT[0][:, *pairs].sum(1)
            for stage, positive in zip(epoch["ucr_stages"]["stages"], positive_S, strict=True):
                total = totals.setdefault(stage, [0, 0])
                total[0] += int(positive)
                total[1] += epoch["ucr_batches"] * len(pairs[0])
    return {stage: wilson(positive, count) for stage, (positive, count) in totals.items()}


def probe_table(rows: Rows) -> pd.DataFrame:
    """What each way to probe the trained network says, and how often its sign is the joint one."""
    lines = []
    for name in (OURS, SHARED):
        for record in rows[name]:
            probes = record["results"].get("probes", {"modes": {}})
            for mode, found in probes["modes"].items():
                counts_2TT = from_json(found["counts"])
                pairs = np.triu_indices(counts_2TT.shape[-1], 1)
                ucr = counts_2TT[0][pairs].sum() / (probes["batches"] * len(pairs[0]))
                lines.append({"system": name, "probe": mode, "UCR %": 100 * ucr,
                              "signs as in the joint batch, %": 100 * found["agreement"]})
    if not lines:
        return pd.DataFrame(columns=["UCR %", "signs as in the joint batch, %"])
    return pd.DataFrame(lines).groupby(["system", "probe"], sort=False).mean().round(1)


def ucr_sentence(rows: Rows) -> str:
    """In how many pairs modulation raised the UCR, and in how many the intervals say so."""
    if not (rows[OURS] and rows[SHARED]):
        return "Not run yet."
    raised = decided = against = pairs = 0
    for pair in paper_table(4)["pairs"]:
        ours, shared = (pair_ucr(rows[name], tuple(pair.split("/"))) for name in (OURS, SHARED))
        if not (ours.count and shared.count):
            continue
        pairs += 1
        raised += ours.value > shared.value
        decided += ours.low > shared.high
        against += ours.high < shared.low
    return (f"Modulation raised the ratio in **{raised} of {pairs} pairs**; in {decided} of them "
            f"the two intervals do not touch. In {against} pairs it is lower beyond its interval. "
            "The paper: higher in all 21.")


def takeaway(rows: Rows) -> str:
    """What the records say of the paper's claims about seven attributes, as Markdown."""
    draws = bootstrap_accuracies({name: records for name, records in rows.items() if records})
    lines = []
    for name, text in (("from block 5", "after the last block alone"),
                       ("from block 3", "from block 3"), ("from block 2", "from block 2"),
                       ("projection", "matrices in the place of scales"),
                       ("signed scales", "scales without the ReLU")):
        if name in draws and OURS in draws:
            value, low, high = interval(draws[name].mean(1) - draws[OURS].mean(1))
            lines.append(f"- Modulating {text}, against *from block 4*: **{value:+.2f} points** "
                         f"[{low:+.2f}, {high:+.2f}].")
    return "\n".join([*lines, f"- {ucr_sentence(rows)}"])
