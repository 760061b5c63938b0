"""Tables 4 and 5: the paper's figures, and what the tables and sentences say of records."""

from itertools import combinations
from statistics import NormalDist

import numpy as np
import pytest
from study_records import record, wide_record

from modlib.ablation_verdicts import probe_sentence, stage_sentence, takeaway, ucr_sentence
from modlib.ablations import (
    ONE_RATE,
    OURS,
    PAPER_NAMES,
    PAPER_RECIPE,
    SHARED,
    STUDY,
    TASKS,
    accuracy_table,
    attribute_table,
    lay_out,
    paper_table,
    probe_table,
    sign_agreement,
    ucr_by_epoch,
    ucr_by_stage,
    ucr_differences,
    ucr_matrix,
    ucr_table,
)
from modlib.arrays import to_json
from modlib.probes import DRAWN, FROZEN, JOINT, OWN, TRUNK
from modlib.tables import with_interval
from modlib.twenty_verdicts import differences

NOTHING = {row: [] for row in STUDY.rows}
PAIR, OTHER, THIRD = ("Smiling", "Bald"), ("Big_Lips", "Bald"), ("Smiling", "Big_Nose")
# % of every task, over two seeds, one below and one above.
MEANS = {OURS: 80, SHARED: 60, "from block 5": 70, "from block 3": 81, "signed scales": 90}


@pytest.fixture(scope="module")
def rows():
    """Five rows of two seeds each; the others were not run."""
    records = [wide_record(STUDY, row, dict.fromkeys(TASKS, mean + change), seed)
               for row, mean in MEANS.items() for seed, change in ((1, 1), (0, -1))]
    for epoch in (epoch for one in records for epoch in one["epochs"]):
        epoch["ucr"] = []
    return STUDY.by_row(records)


def probed(*epochs, tasks=TASKS) -> dict:
    """A record of epochs of ``{pair: (positive, negative, zero)}``."""
    return {"settings": {"tasks": list(tasks)}, "results": {}, "epochs": [
        {"ucr": [{"tasks": list(pair)} | dict(zip(("positive", "negative", "zero"), counts,
                                                  strict=True))
                 for pair, counts in epoch.items()]} for epoch in epochs]}


def with_probes(**shares) -> dict:
    """Both systems' records of one epoch: counts of positive signs in 100 batches, by pair."""
    return NOTHING | {row: [probed({pair: (positive, 100 - positive, 0) for pair, positive
                                    in zip((PAIR, OTHER, THIRD), shares[name], strict=False)})]
                      for row, name in ((OURS, "ours"), (SHARED, "shared"))}


# The systems and the paper


def test_every_row_is_told_from_every_other():
    records = {row: record(STUDY, row) for row in STUDY.rows}
    assert STUDY.by_row(list(records.values())) == {row: [one] for row, one in records.items()}


def test_scales_have_ten_times_the_networks_rate_but_where_the_row_is_about_it():
    runs, _ = STUDY.lay_out({"dataset": "celeba", "tasks": list(TASKS), "scale_rate_factor": 5.0})
    rates = {row: one.scale_rate_factor for row, [one] in runs.items()}
    assert rates == dict.fromkeys(STUDY.rows, 10.0) | {ONE_RATE: 1.0}


def test_by_the_papers_recipe_nothing_has_a_rate_of_its_own():
    values = {"dataset": "celeba", "tasks": list(TASKS), "scale_rate_factor": 1.0,
              "batching": "triplets"}
    study, runs, _ = lay_out(values | {"optimiser": "adagrad"})
    assert study is PAPER_RECIPE and ONE_RATE not in runs
    assert {one.scale_rate_factor for [one] in runs.values()} == {1}
    assert runs["independent"][0].batch_size == 60 * len(TASKS)  # as in Table 3's runs: 60 images
    assert lay_out(values)[0] is STUDY
    records = {row: record(PAPER_RECIPE, row) for row in PAPER_RECIPE.rows}
    assert PAPER_RECIPE.by_row(list(records.values())) == {
        row: [one] for row, one in records.items()}


def test_matrices_are_judged_against_scales_of_the_same_rate():
    rows = STUDY.by_row([wide_record(STUDY, row, dict.fromkeys(TASKS, accuracy), seed)
                         for row, accuracy in ((OURS, 80), (ONE_RATE, 70), ("projection", 72))
                         for seed in (0, 1)])
    assert [line.split(" [")[0] for line in takeaway(rows).splitlines()[1:-1]] == [
        f"- Scales at the network's learning rate, against *{OURS}*, in points: **−10.00",
        f"- Matrices at that rate in the place of scales, against *{ONE_RATE}*, in points: **+2.00"]


def test_each_of_the_papers_systems_is_one_of_our_rows():
    assert sorted(PAPER_NAMES.values()) == sorted(paper_table(5)["printed_mean"])
    assert set(PAPER_NAMES) <= set(STUDY.rows)


def test_the_papers_means_are_those_of_its_rows():
    for name, row in paper_table(5)["rows"].items():
        assert tuple(row) == TASKS
        assert paper_table(5)["printed_mean"][name] == pytest.approx(
            sum(row.values()) / 7, abs=0.015)


def test_the_paper_prints_every_pair_and_ours_higher_in_all():
    pairs = paper_table(4)["pairs"]
    assert [tuple(pair.split("/")) for pair in pairs] == list(combinations(TASKS, 2))
    assert all(printed["Ours"] > printed["FSN"] for printed in pairs.values())


# Table 5


def test_the_accuracy_table_has_means_over_tasks_and_their_spread_over_seeds(rows):
    table = accuracy_table(rows)
    assert list(table.index) == list(STUDY.rows)
    assert table.loc[OURS].to_dict() == {
        "measured, %": "80.0 ± 1.4", "minus from block 4, points": "", "extra parameters": "40",
        "dead scales": "", "paper, %": "82.75"}
    assert table.loc["signed scales", ["measured, %", "paper, %"]].tolist() == ["90.0 ± 1.4", "–"]
    assert table.loc[SHARED, "extra parameters"] == "0"


def test_the_accuracy_table_says_what_was_not_run(rows):
    assert accuracy_table(rows).loc["CSN"].tolist() == ["not run yet", "", "", "", "81.20"]


def test_differences_are_of_each_row_from_ours(rows):
    table = accuracy_table(rows)["minus from block 4, points"]
    for row, (value, low, high) in differences(rows, OURS).items():  # of ours from each row
        assert table[row] == with_interval(-value, -high, -low)
    assert table[SHARED].startswith("−20.00 [−2")
    assert set(accuracy_table(rows | {OURS: []})["minus from block 4, points"]) == {""}


def test_one_seed_gives_differences_without_intervals(rows):
    few = {row: records[:1] for row, records in rows.items()}
    assert accuracy_table(few)["minus from block 4, points"][SHARED] == "−20.00 (one seed)"
    assert takeaway(few).splitlines()[1].endswith("in points: **−10.00 (one seed)**.")


def test_dead_scales_are_a_mean_over_seeds():
    records = [wide_record(STUDY, OURS, {"Bald": 80}, seed) for seed in (0, 1)]
    for one, dead in zip(records, (3, 7), strict=True):
        one["results"]["dead_scales"] = dead
    assert accuracy_table(NOTHING | {OURS: records}).loc[OURS, "dead scales"] == "5 of 40"


def test_every_attribute_stands_beside_the_papers_cell(rows):
    table = attribute_table(rows)
    assert [name.removesuffix(": not run yet") for name in table] == list(PAPER_NAMES)
    assert table.loc["Bald"].to_dict() == {
        SHARED: "60.0 (77.6)", "independent: not run yet": "– (90.7)",
        "CSN: not run yet": "– (90.8)",
        "from block 5": "70.0 (88.8)", OURS: "80.0 (90.7)", "from block 3": "81.0 (90.7)",
        "from block 2: not run yet": "– (90.7)", "projection: not run yet": "– (90.6)"}


def test_the_table_of_a_row_that_was_run_alone_compares_it_with_nothing(rows):
    alone = accuracy_table({SHARED: rows[SHARED]})
    assert list(alone.index) == [SHARED]
    assert alone.loc[SHARED, "minus from block 4, points"] == ""


# Update compliance


def test_the_matrix_adds_up_records_and_epochs():
    tasks = ("Smiling", "Bald", "Big_Nose")
    records = [probed({PAIR: (3, 1, 4), THIRD: (0, 2, 0)}, {PAIR: (0, 1, 0)}, tasks=tasks),
               probed({PAIR[::-1]: (1, 0, 0)}, tasks=tasks)]
    nan = np.nan
    assert ucr_matrix(records) == pytest.approx(
        np.array([[nan, 40, 0], [40, nan, nan], [0, nan, nan]]), nan_ok=True)
    assert ucr_matrix(records, with_zeros=False)[0, 1] == pytest.approx(100 * 4 / 6)


def test_the_matrix_of_no_records_is_unknown():
    assert ucr_matrix([]).shape == (7, 7)
    assert np.isnan(ucr_matrix([])).all()


def test_the_table_has_every_pairs_ratio_with_wilsons_interval():
    """50 of 100: 40.4 to 59.6 %; 0 of 100: at most 3.7 %."""
    table = ucr_table(with_probes(ours=[50], shared=[0]))
    assert len(table) == 21
    assert table.loc["Smiling / Bald"].to_dict() == {
        OURS: "50.0 [40.4, 59.6]", f"{OURS}, zeros left out": "50.0 [40.4, 59.6]",
        f"{OURS}, paper": "67.8", SHARED: "0.0 [0.0, 3.7]",
        f"{SHARED}, zeros left out": "0.0 [0.0, 3.7]", f"{SHARED}, paper": "32.3"}
    missing = table.loc["Smiling / Big Nose"]
    assert [missing[name] for name in table if "paper" not in name] == ["not run yet", "–"] * 2


def test_the_table_counts_zeros_among_the_batches_or_leaves_them_out():
    """3 of 8 with the zeros, 3 of 4 without; nothing but zeros leaves nothing."""
    table = ucr_table(NOTHING | {OURS: [probed({PAIR: (3, 1, 4), OTHER: (0, 0, 6)})]})
    columns = [OURS, f"{OURS}, zeros left out"]
    assert table.loc["Smiling / Bald", columns].tolist() == [
        "37.5 [13.7, 69.4]", "75.0 [30.1, 95.4]"]
    assert table.loc["Bald / Big Lips", columns].tolist() == ["0.0 [0.0, 39.0]", "–"]


def test_the_table_of_no_records_has_the_papers_figures():
    table = ucr_table(NOTHING)
    assert set(table[OURS]) | set(table[SHARED]) == {"not run yet"}
    assert table.loc["Big Lips / Big Nose", f"{OURS}, paper"] == "55.2"


def test_curves_are_means_over_the_pairs_of_each_epoch():
    first = probed({PAIR: (3, 1, 4), THIRD: (1, 0, 0)}, {PAIR: (0, 1, 0), THIRD: (1, 1, 0)})
    curves = ucr_by_epoch([first, probed({})])
    assert curves[0] == pytest.approx([(37.5 + 100) / 2, 25])
    assert np.isnan(curves[1][0])
    assert ucr_by_epoch([]) == []


def staged(*epochs) -> dict:
    """A record of epochs, each: batches, and by stage the positive counts of the three pairs."""
    kept = []
    for batches, stages in epochs:
        positive_STT = np.full((len(stages), 3, 3), 99, np.int32)  # but for pairs nothing counts
        for stage, counts in enumerate(stages.values()):
            positive_STT[stage][np.triu_indices(3, 1)] = counts
        kept.append({"ucr_batches": batches, "ucr_stages": {
            "stages": list(stages),
            "counts": to_json(np.stack([positive_STT, np.full_like(positive_STT, 77)]))}})
    return {"epochs": [*kept, {"ucr_batches": 0}]}


def test_stages_are_added_up_over_pairs_epochs_and_records():
    ratios = ucr_by_stage([
        staged((4, {"conv1": (4, 2, 0), "fc": (1, 1, 1)}), (2, {"conv1": (2, 2, 2), "fc": 0})),
        staged((4, {"conv1": (0, 0, 0), "fc": (4, 4, 4)}))])
    assert {stage: (ratio.value, ratio.count) for stage, ratio in ratios.items()} == {
        "conv1": (pytest.approx(12 / 30), 10), "fc": (pytest.approx(15 / 30), 10)}


def test_the_interval_of_a_stage_counts_batches_and_not_pairs():
    """The three pairs of a batch share its gradients: 4 of 10 batches, not 12 of 30 pairs."""
    [ratio] = ucr_by_stage([staged((10, {"fc": (4, 8, 0)}))]).values()
    assert (ratio.low, ratio.high) == pytest.approx((0.1682, 0.6873), abs=1e-4)


def test_records_without_stages_have_none():
    assert ucr_by_stage([staged()]) == {}


def test_the_first_and_the_last_stage_are_told_of_both_systems():
    low, high = staged((100, {"conv1": (50, 50, 50), "conv2": 0, "fc": (40, 40, 40)})), staged(
        (100, {"conv1": (60, 60, 60), "conv2": 0, "fc": (70, 70, 70)}))
    assert stage_sentence(NOTHING | {SHARED: [low], OURS: [high]}) == (
        "From the first stage to the last it goes in the fully shared network from **50.0 [40.4, "
        "59.6] %** in conv1 to **40.0 [30.9, 49.8] %** in fc, in the modulated one from **60.0 "
        "[50.2, 69.1] %** in conv1 to **70.0 [60.4, 78.1] %** in fc.")
    assert stage_sentence(NOTHING) == "Not run yet."


PROBED = ["UCR %", "zeros %", "UCR %, zeros left out", "same sign as joint batch, %",
          "same sign as drawn triplets, joint batch, %"]


def probed_at_the_end(batches: int, **modes) -> dict:
    """By mode: the positive and the negative counts of three pairs, and the two agreements."""
    found = {}
    for mode, (positive, negative, *agreement) in modes.items():
        counts_2TT = np.full((2, 3, 3), 99, np.int32)
        counts_2TT[0][np.triu_indices(3, 1)] = positive
        counts_2TT[1][np.triu_indices(3, 1)] = negative
        found[mode] = {"counts": to_json(counts_2TT),
                       "agreement": dict(zip((JOINT, DRAWN), agreement, strict=True))}
    return {"results": {"probes": {"batches": batches, "modes": found}}}


def test_probes_are_shares_of_pairs_and_batches_of_all_seeds():
    """Pairs share a batch's gradients: 12 of 20 batches, and 3 of 20, and all and none of 4."""
    nan = pytest.approx(np.nan, nan_ok=True)
    table = probe_table(NOTHING | {
        OURS: [probed_at_the_end(10, joint=((10, 5, 0), (0, 5, 10), 1.0, 0.25),
                                 own=((3, 3, 3), (7, 1, 1), 0.5, 0.75)),
               probed_at_the_end(10, joint=((10, 10, 1), (0, 0, 9), 1.0, 0.25),
                                 own=((0, 0, 0), (2, 2, 2), 0.75, 0.25))],
        SHARED: [probed_at_the_end(4, joint=((4, 4, 4), (0, 0, 0), 1.0, None),
                                   own=((0, 0, 0), (0, 0, 0), None, 0.5)), {"results": {}}]})
    assert list(table) == PROBED
    lines = {place: tuple(line) for place, *line in table.itertuples()}
    assert lines == {
        (OURS, "joint"): ("60.0 [38.7, 78.1]", 0, "60.0 [38.7, 78.1]", 100, 25),
        # 9 pairs of the 24 that are not 0 among 60: 3 of 8 batches.
        (OURS, "own"): ("15.0 [5.2, 36.0]", 60, "37.5 [13.7, 69.4]", 62.5, 50),
        (SHARED, "joint"): ("100.0 [51.0, 100.0]", 0, "100.0 [51.0, 100.0]", 100, nan),
        (SHARED, "own"): ("0.0 [0.0, 49.0]", 100, "–", nan, 50)}


def test_the_sentence_on_probes_reads_the_table():
    counts = {JOINT: 50, FROZEN: 20, DRAWN: 60, OWN: 30, TRUNK: 40}
    one = probed_at_the_end(100, **{
        mode: ((positive,) * 3, (100 - positive,) * 3, share, other)
        for (mode, positive), share, other in zip(
            counts.items(), (1.0, 0.9, 0.8, 0.7, 0.6), (0.8, 0.5, 1.0, 0.75, 0.4), strict=True)})
    assert probe_sentence(NOTHING | {SHARED: [one]}) == (
        "- *fully shared*, zeros left out: 50 % in the joint batch and 20 % with frozen "
        "statistics, which keep **90 %** of the signs; on the same drawn triplets 60 % in the "
        "joint batch and 30 % in a batch for each task, which keeps **75 %** of them. The cheap "
        "probe has 60 % of the joint batch's signs. Guessing has 50.")
    assert probe_sentence(NOTHING) == "Not run yet."


def test_modes_that_were_not_probed_agree_with_nothing():
    rows = NOTHING | {OURS: [{"results": {}}, probed_at_the_end(4, own=(1, 1, 0.5, None))]}
    assert sign_agreement(rows, OURS, "own", JOINT) == 50
    assert np.isnan(sign_agreement(rows, OURS, "own", DRAWN))
    assert np.isnan(sign_agreement(rows, OURS, "joint", JOINT))


def test_without_probes_their_table_is_empty_and_has_its_columns():
    table = probe_table(NOTHING | {OURS: [{"results": {}}]})
    assert table.empty
    assert list(table) == PROBED


# Sentences


def test_the_sentence_counts_pairs_by_their_intervals():
    """One surely higher, one higher or not, one surely lower."""
    assert ucr_sentence(with_probes(ours=[90, 52, 10], shared=[10, 50, 90])) == (
        "Modulation raised the ratio in **2 of 3 pairs**, decided in 1; it lowered it, decided, in "
        "1. Inner products of 0 left out: in **2 of 3 pairs**, decided in 1; it lowered it, "
        "decided, in 1. The intervals of each of the two counts hold together at 95 % "
        "(Bonferroni). The paper: higher in all 21.")
    assert ucr_sentence(with_probes(ours=[52, 52, 48], shared=[50, 50, 50])) == (
        "Modulation raised the ratio in **2 of 3 pairs**, but no pair's change is decided, up or "
        "down. Inner products of 0 left out: in **2 of 3 pairs**, but no pair's change is decided, "
        "up or down. The intervals of each of the two counts hold together at 95 % (Bonferroni). "
        "The paper: higher in all 21.")


def test_the_sentence_counts_pairs_without_products_of_zero_too():
    """5 of 100 and 30 of 100 agree; of those that are not 0, all and half."""
    rows = NOTHING | {OURS: [probed({PAIR: (5, 0, 95)})], SHARED: [probed({PAIR: (30, 30, 40)})]}
    assert ucr_sentence(rows).startswith(
        "Modulation raised the ratio in **0 of 1 pairs**, decided in 0; it lowered it, decided, in "
        "1. Inner products of 0 left out: in **1 of 1 pairs**, but no pair's change is decided, up "
        "or down. The")
    zeros = NOTHING | {name: [probed({PAIR: (0, 0, 9)})] for name in (OURS, SHARED)}
    assert "left out: in no pair, as all are 0. The" in ucr_sentence(zeros)


def reference_difference(ours: int, shared: int, zeros: int) -> tuple[float, float, float]:
    """Of shares of 100 + ``zeros`` batches, in points: the ends of Wilson's intervals as roots."""
    count, z = 100 + zeros, NormalDist().inv_cdf(1 - 0.05 / 21 / 2)
    (p, below, above), (q, under, over) = (
        (share, *sorted(np.roots([1 + z**2 / count, -2 * share - z**2 / count, share**2])))
        for share in (ours / count, shared / count))
    return tuple(100 * value for value in (
        p - q, p - q - np.hypot(p - below, over - q), p - q + np.hypot(above - p, q - under)))


def test_differences_of_ratios_hold_together_for_all_pairs():
    """15 points of 100 batches are more than 0 for a pair alone, but not for 21 at once."""
    found = ucr_differences(with_probes(ours=[90, 65], shared=[10, 50]))
    assert list(found) == ["Smiling/Bald", "Bald/Big_Lips"]
    assert found["Smiling/Bald"] == pytest.approx(reference_difference(90, 10, 0))
    value, low, high = found["Bald/Big_Lips"]
    assert (value, low, high) == pytest.approx(reference_difference(65, 50, 0))
    assert low < 0 < value


def test_differences_of_ratios_count_the_zeros_of_all_seeds_and_epochs():
    records = [probed({PAIR: (30, 10, 20)}, {PAIR: (30, 30, 0)})], [
        probed({PAIR: (20, 40, 10)}), probed({PAIR: (0, 40, 10)})]
    found = ucr_differences(NOTHING | dict(zip((OURS, SHARED), records, strict=True)))
    assert found == {"Smiling/Bald": pytest.approx(reference_difference(60, 20, 20))}


def test_pairs_that_one_system_was_not_probed_on_have_no_difference():
    rows = NOTHING | {OURS: [probed({PAIR: (3, 1, 4), THIRD: (1, 0, 0)})],
                      SHARED: [probed({OTHER: (1, 0, 0), THIRD: (0, 1, 0)})]}
    assert list(ucr_differences(rows)) == ["Smiling/Big_Nose"]
    assert ucr_differences(NOTHING) == {}


@pytest.mark.parametrize("missing", [OURS, SHARED])
def test_the_sentence_needs_both_systems(missing):
    rows = with_probes(ours=[90], shared=[10]) | {missing: []}
    assert ucr_sentence(rows) == "Not run yet."


def test_the_takeaway_has_a_line_for_each_change_that_was_run(rows):
    lead, *changes, ucr = takeaway(rows).splitlines()
    assert "**2** of 3 makes a decided difference" in lead  # 1 point more is not beyond chance
    assert [line.split(" [")[0] for line in changes] == [
        "- Modulating after the last block alone, against *from block 4*, in points: **−10.00",
        "- Modulating from block 3, against *from block 4*, in points: **+1.00",
        "- Scales without the ReLU, against *from block 4*, in points: **+10.00"]
    value, low, high = differences(rows, OURS)["from block 5"]
    assert changes[0].endswith(f": **{with_interval(-value, -high, -low)}**.")
    assert ucr == f"- {ucr_sentence(rows)}"


@pytest.mark.parametrize("missing", [list(STUDY.rows), [OURS]])
def test_the_takeaway_of_nothing_to_compare_says_so(rows, missing):
    assert takeaway(rows | {row: [] for row in missing}) == "- Not run yet."
