"""The paper's claims, each beside what the records say; written when the book is built.

Source: Zhao et al., ECCV 2018; each claim names its section or table, in our own words.
"""

from dataclasses import replace

import numpy as np

from modlib import (
    ablations,
    any_network,
    growth,
    products,
    scale_claims,
    three_attributes,
    twenty_attributes,
    verdicts,
)
from modlib.compliance import angles_verdict, compliance_verdict, tasks_verdict
from modlib.intervals import difference
from modlib.judged_claims import Claim, of_verdict
from modlib.retrieval_comparison import retrieval_verdict
from modlib.speed import read_benchmark
from modlib.studies import Rows
from modlib.systems import extra_parameter_table
from modlib.tables import with_sign
from modlib.verdicts import BETTER, LITTLE, NO_WORSE, Verdict
from modlib.w_distance import paper_figures

ONE_PASS_OF = {tasks: f"inference: the time of all {tasks} tasks over that of one"
               for tasks in (7, 20)}
ONE_PASS = ONE_PASS_OF[20]
TOLERANCE, DEAREST = 0.05, 20  # of counts; % more time that may still be called about 15


def _better(
    rows: Rows, text: str, better: str, worse: str, paper: float | None,
    tasks: tuple[str, ...] | None = None, meant: str = BETTER,
) -> Verdict:
    return Verdict(text, *difference(rows[better], rows[worse], tasks), paper, meant)


def all_claims() -> list[Claim]:
    """Every claim, judged from the committed records; none is left out where records are missing.

    Raises:
        ModlibError: records that must not stand in one table.
    """
    twenty = twenty_attributes.STUDY.published("celeba_cpu_20")
    return [
        *growth.claims(),
        *(of_verdict("3.1 to 3.3, Table 1", verdict, "02_three_attributes",
                     three_attributes.FOLDER)
          for verdict in verdicts.verdicts(three_attributes.published("celeba_cpu"))),
        *_of_updates(twenty),
        *_of_table_3(twenty),
        *_of_figure_4(twenty),
        *_of_tables_4_and_5(ablations.STUDY.published("celeba_cpu_7")),
        *_of_table_6(products.STUDY.published("zappos_gpu")),
        *scale_claims.claims(three_attributes.published("celeba_cpu")["e"], twenty),
        _of_another_network(any_network.published("celeba_cpu")),
        *_of_costs(),
    ]


def _of_table_3(rows: Rows) -> list[Claim]:
    paper, names = twenty_attributes.paper_table()["rows"], twenty_attributes.PAPER_NAMES
    ours, one_rate = twenty_attributes.OURS, twenty_attributes.ONE_RATE
    names = names | {one_rate: names[ours]}

    def printed(better: str, worse: str, tasks: tuple[str, ...]) -> float:
        return float(np.mean([paper[names[better]][task] - paper[names[worse]][task]
                              for task in tasks]))

    pairs = [
        (ours, "fully shared", "Modulation is better than one fully shared network"),
        (ours, "CSN", "Modulation is better than masks on the embedding (CSN)"),
        (ours, "branches, 25", "Modulation is better than branches of 25, which cost many times "
                               "as much"),
        (ours, "branches, 256", "Modulation is better than branches of 256, which cost a hundred "
                                "times as much or more"),
        (one_rate, "branches, 256", "The same where scales learn at the network's own rate, as "
                                    "branches do (the paper names no rate)"),
        ("branches, 256", "branches, 25", "Branches need 256 numbers in the place of 25 to come "
                                          "near modulation"),
        (ours, "independent", "Modulation is slightly better than a network for each task"),
        (ours, "mask only", "Scales learnt on a frozen trunk do worse: it is the shared weights "
                            "that modulation improves"),
        ("independent", "CSN", "With 20 tasks CSN suffers from interference"),
        ("independent", "fully shared", "With 20 tasks full sharing suffers from interference"),
    ]
    page, folder = "03_twenty_attributes", twenty_attributes.STUDY.folder
    claims = [replace(of_verdict("4.2, Table 3", _better(
        rows, text, better, worse, printed(better, worse, twenty_attributes.TASKS)), page,
        folder), variant=better == one_rate) for better, worse, text in pairs]
    for tasks, text in (
            (("Chubby", "Double_Chin"), "Against a network each, modulation gains on face shape "
                                        "(chubby, double chin)"),
            (("Goatee", "Mustache", "Sideburns"), "Against a network each, modulation gains on "
                                                  "beards (goatee, mustache, sideburns)")):
        claims.append(of_verdict("4.2", _better(
            rows, text, ours, "independent", printed(ours, "independent", tasks), tasks), page,
            folder))
    forty = twenty_attributes.STUDY.published("celeba_cpu_40")
    forty_paper = twenty_attributes.paper_table()["forty_attributes"]
    claims.append(replace(of_verdict("4.2", _better(
        forty, "With 40 attributes modulation is better than branches of 25", ours, "branches, 25",
        forty_paper["Ours"] - forty_paper["IB-25"]), page, folder), profile="celeba_cpu_40"))
    return claims


def _of_figure_4(rows: Rows) -> list[Claim]:
    """The paper shows a few queries; the whole gallery says more."""
    ours, csn = rows[twenty_attributes.OURS], rows["CSN"]
    return [of_verdict(
        "4.2, Figure 4", retrieval_verdict(
            f"With 20 tasks, searches with modulation find more of the right faces than with CSN, "
            f"{said}", ours, csn, measure), "06_retrieval", twenty_attributes.STUDY.folder)
        for measure, said in (("mAP", "by mean average precision over the whole gallery"),
                              ("recall@5", "by the searches with one of them among the first 5"))]


def _of_updates(rows: Rows) -> list[Claim]:
    """The paper's reason why modulation works, asked of networks for 20 attributes."""
    ours, shared = rows[twenty_attributes.OURS], rows["fully shared"]
    rises = "With 20 tasks, what modulation gains in accuracy comes with a higher UCR"
    judged = [
        ("3.1", False, compliance_verdict(rises, ours, shared)),
        ("3.1", True, compliance_verdict(
            f"{rises}, inner products of 0 left out", ours, shared, with_zeros=False)),
        ("3.1", False, tasks_verdict(
            "Of 20 tasks, those that gain more accuracy gain more UCR (rank correlation)",
            ours, shared)),
        ("3.2", False, angles_verdict(
            "Training with modulation makes the angles between gradients smaller: their cosines "
            "rise from the first epoch to the last", ours))]
    return [replace(of_verdict(section, verdict, "03_twenty_attributes",
                               twenty_attributes.STUDY.folder), variant=variant)
            for section, variant, verdict in judged]


def _of_tables_4_and_5(rows: Rows) -> list[Claim]:
    page, folder, claims = "04_ablations", ablations.STUDY.folder, []
    pairs = ablations.paper_table(4)["pairs"].values()
    for with_zeros, said in ((True, ""), (False, ", inner products of 0 left out")):
        mean = compliance_verdict(
            f"With 7 tasks modulation raises the mean update compliance ratio{said}",
            rows[ablations.OURS], rows[ablations.SHARED], with_zeros)
        mean = replace(mean, paper=float(np.mean([pair["Ours"] - pair["FSN"] for pair in pairs])))
        claims += [replace(one, variant=not with_zeros) for one in (
            _of_every_pair(rows, with_zeros, said), of_verdict("4.2, Table 4", mean, page, folder))]
    printed, names = ablations.paper_table(5)["printed_mean"], ablations.PAPER_NAMES
    for better, worse, text, *meant in (
            ("CSN", "fully shared", "With 7 tasks CSN is better than full sharing"),
            ("from block 4", "from block 5", "Modulating block 4 as well is better than block 5 "
                                             "alone"),
            ("from block 3", "from block 4", "Modulating block 3 as well is better"),
            ("from block 2", "from block 3", "Block 2 as well brings little or nothing: it "
                                             "saturates", LITTLE),
            ("projection", ablations.ONE_RATE, "Matrices bring little or nothing over scales that "
                                               "learn at the same rate", LITTLE),
            ("from block 4", "independent", "With 7 tasks modulation is level with a network "
                                            "each, or better", NO_WORSE)):
        claims.append(of_verdict("4.2, Table 5", _better(
            rows, text, better, worse,
            printed[names[better]] - printed[names.get(worse, names[ablations.OURS])], None,
            *meant), page, folder))
    return claims


def _of_every_pair(rows: Rows, with_zeros: bool, said: str) -> Claim:
    """Of Table 4: in how many pairs the ratio rose, and in how many the intervals say so."""
    found = ablations.count_changes(rows, with_zeros)
    word = "not run yet" if not found.pairs else "did not hold" if found.surely_lower else (
        "held" if found.surely_higher == found.pairs else "not decided")
    return Claim(
        "4.2, Table 4",
        f"Modulation raises the update compliance ratio of every pair of tasks{said}",
        f"higher in {found.higher} of {found.pairs} pairs (decided in {found.surely_higher}), "
        f"lower in {found.lower} (decided in {found.surely_lower})" if found.pairs else "",
        "21 of 21", word, "04_ablations",
        ablations.STUDY.folder)


def _of_table_6(rows: Rows) -> list[Claim]:
    return [of_verdict("4.3, Table 6", replace(verdict, claim=f"On shoes, {verdict.claim}"),
                        "12_products", products.STUDY.folder)
            for verdict in products.verdicts(rows)]


def _of_another_network(rows: Rows) -> Claim:
    text = ("The module suits other networks and losses: it helps classifiers on ResNet-18 too "
            "(area under the ROC curve)")
    line = any_network.differences(rows).loc["modulated − fully shared"]
    return of_verdict("5.1", Verdict(text, line.points, line.low, line.high, None),
                       "07_any_network", any_network.FOLDER)


def _of_costs() -> list[Claim]:
    counted = extra_parameter_table(20).set_index("paper's name").extra
    added = twenty_attributes.paper_table()["added_parameters"]
    claims = [
        Claim("4.2, Table 3", f"{name} adds {added[name]} parameters for 20 tasks",
              f"{counted[name]:,} by count", added[name],
              "held" if abs(counted[name] / _in_full(added[name]) - 1) <= TOLERANCE
              else "did not hold", "../book/systems", "")
        for name in ("Ours", "CSN", "IB-25", "IB-256", "ITN")]
    fewer = counted["ITN"] / 19 * 20 / (counted["ITN"] / 19 + counted["Ours"])
    claims.append(Claim(
        "4.2",
        "Modulation needs almost 20 times fewer parameters for 20 tasks than a network for each",
        f"{fewer:.1f} times fewer by count", "20", "held" if abs(fewer / 20 - 1) <= TOLERANCE
        else "did not hold", "../book/systems", ""))
    return [*claims, *(_of_one_pass(tasks) for tasks in ONE_PASS_OF)]


def _of_one_pass(tasks: int) -> Claim:
    """What all tasks of an image take, by the least and the largest of the benchmark's repeats."""
    printed = f"{100 * paper_figures()['one_pass_overhead']['value']:.0f} %"
    text = f"All {tasks} tasks of an image cost about {printed} more time than one"
    benchmark = read_benchmark()
    found = [row for row in benchmark["rows"]
             if row["question"] == ONE_PASS_OF[tasks]] if benchmark else []
    if not found:
        return Claim("5.2", text, "", f"+{printed}", "not run yet", "08_speed_and_memory", "speed",
                     variant=tasks == 7)
    value, low, high = (100 * (found[0][key] - 1) for key in ("value", "low", "high"))
    word = "held" if high <= DEAREST else "did not hold" if low > DEAREST else "not decided"
    measured = f"{with_sign(value, 0)} % [{with_sign(low, 0)}, {with_sign(high, 0)}] over repeats"
    return Claim("5.2", text, measured, f"+{printed}", word, "08_speed_and_memory", "speed",
                 variant=tasks == 7)


def _in_full(printed: str) -> float:
    """1.3M is 1,300,000."""
    unit = {"k": 1e3, "M": 1e6}.get(printed[-1], 1.0)
    return float(printed.rstrip("kM")) * unit
