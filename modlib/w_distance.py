"""How differently two tasks scale the channels, and whether that tells how the tasks relate.

Source: Zhao et al., ECCV 2018, section 3.3: the element-wise ``|W_i − W_j|`` over all
modulated layers.
Shapes: T tasks, C channels of all modulated layers, N images.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations, product
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from modlib.arrays import from_json
from modlib.results import paper_tables
from modlib.tables import with_interval, with_sign

DRAWS = 1000
CLOSE = 0.5  # a rank correlation from which on views are not called weakly alike


def paper_figures() -> dict[str, Any]:
    """Figures that the paper's text gives, by what they are of."""
    return paper_tables()["figures"]


def scales(record: dict[str, Any], stage: str | None = None) -> np.ndarray:
    """The scales of a record's tasks, float32 (T, C): of one stage, or of all side by side."""
    kept = record["results"]["scales"]
    return np.concatenate([from_json(kept[name]) for name in ([stage] if stage else kept)], axis=1)


def distances(records: list[dict[str, Any]], stage: str | None = None) -> np.ndarray:
    """Mean ``|W_i − W_j|`` of every pair of tasks, float (T, T), averaged over the records.

    Computes :eq:`eq-w-distance` of the book's page on the method.
    """
    of_records = []
    for record in records:
        scales_TC = scales(record, stage)
        of_records.append(np.abs(scales_TC[:, None] - scales_TC[None]).mean(2))
    return np.mean(of_records, axis=0)


def pair_table(
    rows: Mapping[str, list[dict[str, Any]]], pairs: list[tuple[str, str]]
) -> pd.DataFrame:
    """Mean and variance of ``|W_i − W_j|``, and the mean of W_i − W_j: per layer and over all.

    Args:
        rows: records of networks whose scales learn at one rate each; a row without records is
            left out.
    """
    paper, lines = paper_figures()["w_distance"], []
    for records, (first, second) in product(filter(None, rows.values()), pairs):
        factor = records[0]["settings"]["scale_rate_factor"]
        for stage in (*records[0]["results"]["scales"], None):
            found = []
            for record in records:
                i, j = _scales_of(record, (first, second), stage)
                found.append([np.abs(i - j).mean(), np.abs(i - j).var(), (i - j).mean()])
            mean, variance, signed = np.mean(found, axis=0)
            printed = paper.get(f"{first}/{second}") if stage is None else None
            lines.append({
                "rate of the scales": _rate_in_words(factor),
                "pair": f"{first} / {second}".replace("_", " "), "layer": stage or "all",
                "mean": f"{mean:.3f}", "variance": f"{variance:.3f}",
                "signed mean": with_sign(signed, 3),
                "paper": f"{printed['mean']} (variance {printed['variance']})" if printed else "–"})
    if not lines:
        return pd.DataFrame(columns=["mean", "variance", "signed mean", "paper"])
    return pd.DataFrame(lines).set_index(["rate of the scales", "pair", "layer"])


def _scales_of(
    record: dict[str, Any], pair: tuple[str, str], stage: str | None = None
) -> np.ndarray:
    """The scales of two tasks, float32 (2, C)."""
    tasks = record["settings"]["tasks"]
    return scales(record, stage)[[tasks.index(task) for task in pair]]


def pair_distance(record: dict[str, Any], pair: tuple[str, str]) -> float:
    """Mean ``|W_i − W_j|`` of two tasks, over all modulated channels."""
    first, second = _scales_of(record, pair)
    return float(np.abs(first - second).mean())


def rate_sentence(
    rows: Mapping[str, list[dict[str, Any]]], pairs: list[tuple[str, str]]
) -> str:
    """At which rate of the scales the distances are nearest, by ratio, to the paper's, as Markdown.

    "" where fewer than two rows were run, as there is nothing to compare.
    """
    printed = [paper_figures()["w_distance"]["/".join(pair)]["mean"] for pair in pairs]
    names = [" / ".join(pair).replace("_", " ").lower() for pair in pairs]
    found = {records[0]["settings"]["scale_rate_factor"]: [
        np.mean([pair_distance(record, pair) for record in records]) for pair in pairs]
        for records in rows.values() if records}
    if len(found) < 2:
        return ""
    nearest = min(found, key=lambda factor: sum(
        abs(np.log(one / of_paper)) for one, of_paper in zip(found[factor], printed, strict=True)))
    said = "; ".join(f"at {_rate_in_words(factor)} " + " and ".join(f"{one:.2f}" for one in means)
                     for factor, means in found.items())
    return (f"The means over all layers, of {' and of '.join(names)}: {said}. The paper's "
            f"{' and '.join(map(str, printed))}, of networks of three tasks, are nearest by ratio "
            f"to those at **{_rate_in_words(nearest)}**.")


def _rate_in_words(factor: float) -> str:
    """The learning rate of scales that learn this many times as fast as the network."""
    return "the network's own rate" if factor == 1 else f"{factor:g} times the network's rate"


def all_pairs_table(records: list[dict[str, Any]]) -> pd.DataFrame:
    """Mean and variance of ``|W_i − W_j|`` of every pair of tasks, per layer and over all."""
    if not records:
        return pd.DataFrame()
    tasks = records[0]["settings"]["tasks"]
    first, second = np.triu_indices(len(tasks), 1)
    columns: dict[tuple[str, str], np.ndarray] = {}
    for stage in (None, *records[0]["results"]["scales"]):
        apart_RPC = np.array([np.abs(found[first] - found[second]) for found in (
            scales(record, stage) for record in records)])
        columns[stage or "all layers", "mean"] = apart_RPC.mean((0, 2))
        columns[stage or "all layers", "variance"] = apart_RPC.var(2).mean(0)
    index = [f"{tasks[i]} / {tasks[j]}".replace("_", " ")
             for i, j in zip(first, second, strict=True)]
    table = pd.DataFrame(columns, index=index).sort_values(("all layers", "mean"))
    return table.map("{:.3f}".format)


def label_correlation(record: dict[str, Any]) -> np.ndarray:
    """Pearson's correlation of every two attributes over the test images (phi): float (T, T)."""
    labels_NT = from_json(record["results"]["test_triplets"]["labels"])
    return np.corrcoef(labels_NT.T.astype(float))


def rank_agreement(
    first_TT: np.ndarray, second_TT: np.ndarray, draws: int = DRAWS, seed: int = 0
) -> tuple[float, float, float]:
    """Spearman's rank correlation of two symmetric tables over the pairs of tasks.

    The pairs are not independent: each task stands in T − 1 of them. So tasks are drawn again,
    and pairs of a task with itself are left out.

    Returns:
        the correlation and its 95 % percentile interval; nan where a table is constant or unknown.
    """
    pairs = np.triu_indices(len(first_TT), 1)
    if not (np.isfinite(first_TT[pairs]).all() and np.isfinite(second_TT[pairs]).all()):
        return float("nan"), float("nan"), float("nan")
    rng, drawn = np.random.default_rng(seed), []
    for _ in range(draws):
        tasks = rng.integers(0, len(first_TT), len(first_TT))
        i, j = tasks[pairs[0]], tasks[pairs[1]]
        kept = i != j
        # of few tasks it may be one and the same that is drawn every time
        if kept.any() and np.ptp(first_TT[i, j][kept]) and np.ptp(second_TT[i, j][kept]):
            drawn.append(stats.spearmanr(first_TT[i, j][kept], second_TT[i, j][kept]).statistic)
    value = float(stats.spearmanr(first_TT[pairs], second_TT[pairs]).statistic)
    low, high = np.quantile(drawn, (0.025, 0.975)) if drawn else (np.nan, np.nan)
    return value, float(low), float(high)


def rank_correlation(
    first_T: np.ndarray, second_T: np.ndarray, draws: int = DRAWS, seed: int = 0
) -> tuple[float, float, float]:
    """Spearman's rank correlation of two figures of each task.

    Returns:
        the correlation and its 95 % percentile interval, from drawing tasks again; nan where a
        figure is the same for all tasks, or unknown.
    """
    if not (np.ptp(first_T) and np.ptp(second_T)):
        return float("nan"), float("nan"), float("nan")
    rng, drawn = np.random.default_rng(seed), []
    for _ in range(draws):
        tasks = rng.integers(0, len(first_T), len(first_T))
        if np.ptp(first_T[tasks]) and np.ptp(second_T[tasks]):
            drawn.append(stats.spearmanr(first_T[tasks], second_T[tasks]).statistic)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(stats.spearmanr(first_T, second_T).statistic), float(low), float(high)


def agreement_table(
    tables: Mapping[str, np.ndarray], against: Mapping[str, np.ndarray] | None = None
) -> pd.DataFrame:
    """Rank agreement of every two tables over pairs of tasks, for people.

    Args:
        tables: by name, float (T, T).
        against: None: each of ``tables`` with each other; else with each of these.
    """
    pairs = (combinations(tables.items(), 2) if against is None
             else product(tables.items(), against.items()))
    lines = []
    for (first, first_TT), (second, second_TT) in pairs:
        value, low, high = rank_agreement(first_TT, second_TT)
        lines.append({"": f"{first} and {second}", "rank correlation":
                      "not run yet" if np.isnan(value) else
                      with_interval(value, low, high)})
    return pd.DataFrame(lines).set_index("").rename_axis(None)


def agreement_sentence(
    first: tuple[str, np.ndarray], second: tuple[str, np.ndarray]
) -> str:
    """Whether two views, each a name and its table, rank the pairs of tasks alike, as Markdown."""
    value, low, high = rank_agreement(first[1], second[1])
    much = "" if abs(value) >= CLOSE else ", but weakly"
    said = (f"rank the pairs of tasks alike{much}" if low > 0 else
            f"rank the pairs of tasks in opposite orders{much}" if high < 0 else
            "do not decidedly agree on the pairs of tasks")
    return (f"- {first[0]} and {second[0]} **{said}**: rank correlation "
            f"{with_interval(value, low, high)}.")


def repeat_table(views: Mapping[str, Sequence[np.ndarray]]) -> pd.DataFrame:
    """How far each view agrees with itself when the network is trained again, for people.

    What does not repeat can agree with nothing else. An average over several trainings repeats
    better than the single ones that are compared here.

    Args:
        views: name → its table, float (T, T), from each of several trainings.
    """
    lines = []
    for name, tables in views.items():
        again = own_agreement(tables)
        lines.append({"": f"{name}, trained again", "rank correlation":
                      "not run yet" if np.isnan(again) else with_sign(again)})
    return pd.DataFrame(lines).set_index("").rename_axis(None)


def own_agreement(tables: Sequence[np.ndarray]) -> float:
    """Mean rank correlation of every two trainings' tables, each float (T, T); nan of fewer."""
    found = [rank_agreement(one, other, draws=0)[0] for one, other in combinations(tables, 2)]
    return float(np.mean(found)) if found else float("nan")
