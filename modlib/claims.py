"""The paper's claims, each beside what the records say; written when the book is built.

Source: Zhao et al., ECCV 2018; each claim names its section or table, in our own words.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from modlib import ablations, later_tasks, three_attributes, twenty_attributes, verdicts, w_distance
from modlib.intervals import bootstrap_accuracies, interval
from modlib.results import pair_ucr
from modlib.speed import read_benchmark
from modlib.studies import Rows
from modlib.systems import extra_parameters
from modlib.tables import short_commit
from modlib.three_attributes import RELATED, UNRELATED
from modlib.verdicts import Verdict, newcombe

ONE_PASS = "inference: the time of all 20 tasks over that of one"
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
    """

    section: str
    text: str
    measured: str
    paper: str
    word: str
    page: str


def _of_verdict(section: str, verdict: Verdict, page: str, unit: str = "points") -> Claim:
    measured = "" if verdict.word == "not run yet" else (
        f"{verdict.difference:+.1f} {unit} [{verdict.low:+.1f}, {verdict.high:+.1f}]")
    paper = "" if verdict.paper is None else f"{verdict.paper:+.1f}"
    return Claim(section, verdict.claim, measured, paper, verdict.word, page)


def _better(
    draws: Mapping[str, np.ndarray], text: str, better: str, worse: str, paper: float | None,
    tasks: Any = slice(None),
) -> Verdict:
    if not {better, worse} <= draws.keys():
        return Verdict(text, np.nan, np.nan, np.nan, paper)
    difference = (draws[better] - draws[worse])[:, tasks].mean(1)
    return Verdict(text, *interval(difference), paper)


def all_claims() -> list[Claim]:
    """Every claim, judged from the committed records; none is left out where records are missing.

    Raises:
        ModlibError: records that must not stand in one table.
    """
    return [
        *(_of_verdict("3.1 to 3.3, Table 1", verdict, "02_three_attributes")
          for verdict in verdicts.verdicts(three_attributes.published("celeba_cpu"))),
        *_of_table_3(twenty_attributes.STUDY.published("celeba_cpu_20")),
        *_of_tables_4_and_5(ablations.STUDY.published("celeba_cpu_7")),
        *_of_scales(twenty_attributes.STUDY.published("celeba_cpu_20")[twenty_attributes.OURS]),
        *_of_costs(),
    ]


def _of_table_3(rows: Rows) -> list[Claim]:
    draws = bootstrap_accuracies({name: records for name, records in rows.items() if records})
    paper, names = twenty_attributes.paper_table()["rows"], twenty_attributes.PAPER_NAMES
    ours = twenty_attributes.OURS

    def printed(better: str, worse: str, tasks: tuple[str, ...]) -> float:
        return float(np.mean([paper[names[better]][task] - paper[names[worse]][task]
                              for task in tasks]))

    pairs = [
        (ours, "fully shared", "Modulation is better than one fully shared network"),
        (ours, "CSN", "Modulation is better than masks on the embedding (CSN)"),
        (ours, "branches, 25", "Modulation is better than branches of 25, which cost 12 times as "
                               "much"),
        (ours, "branches, 256", "Modulation is better than branches of 256, which cost 100 times "
                                "as much"),
        (ours, "independent", "Modulation is slightly better than a network for each task"),
        (ours, "mask only", "Scales learnt on a frozen trunk do worse: it is the shared weights "
                            "that modulation improves"),
        ("independent", "CSN", "With 20 tasks CSN suffers from interference"),
    ]
    page = "03_twenty_attributes"
    claims = [_of_verdict("4.2, Table 3", _better(
        draws, text, better, worse, printed(better, worse, twenty_attributes.TASKS)), page)
        for better, worse, text in pairs]
    for tasks, text in (
            (("Chubby", "Double_Chin"), "Against a network each, modulation gains on face shape "
                                        "(chubby, double chin)"),
            (("Goatee", "Mustache", "Sideburns"), "Against a network each, modulation gains on "
                                                  "beards (goatee, mustache, sideburns)")):
        chosen = [twenty_attributes.TASKS.index(task) for task in tasks]
        claims.append(_of_verdict("4.2", _better(
            draws, text, ours, "independent", printed(ours, "independent", tasks), chosen), page))
    forty = twenty_attributes.STUDY.published("celeba_cpu_40")
    forty_paper = twenty_attributes.paper_table()["forty_attributes"]
    claims.append(_of_verdict("4.2", _better(
        bootstrap_accuracies({name: records for name, records in forty.items() if records}),
        "With 40 attributes modulation is better than branches of 25", ours, "branches, 25",
        forty_paper["Ours"] - forty_paper["IB-25"]), page))
    return claims


def _of_tables_4_and_5(rows: Rows) -> list[Claim]:
    page, claims = "04_ablations", []
    pairs = ablations.paper_table(4)["pairs"]
    differences = []
    if rows[ablations.OURS] and rows[ablations.SHARED]:
        for pair in pairs:
            ours, shared = (pair_ucr(rows[name], tuple(pair.split("/")))
                            for name in (ablations.OURS, ablations.SHARED))
            if ours.count and shared.count:
                differences.append((ours.value - shared.value, newcombe(ours, shared)))
    if differences:
        raised = sum(value > 0 for value, _ in differences)
        surely = sum(low > 0 for _, (low, _) in differences)
        against = sum(high < 0 for _, (_, high) in differences)
        word = "did not hold" if against else (
            "held" if surely == len(differences) else "not decided")
        claims.append(Claim(
            "4.2, Table 4", "Modulation raises the update compliance ratio of every pair of tasks",
            f"raised in {raised} of {len(differences)} pairs ({surely} surely), surely lowered in "
            f"{against}", "21 of 21", word, page))
    else:
        claims.append(Claim(
            "4.2, Table 4", "Modulation raises the update compliance ratio of every pair of tasks",
            "", "21 of 21", "not run yet", page))
    draws = bootstrap_accuracies({name: records for name, records in rows.items() if records})
    printed, names = ablations.paper_table(5)["printed_mean"], ablations.PAPER_NAMES
    for better, worse, text in (
            ("CSN", "fully shared", "With 7 tasks CSN is much better than full sharing"),
            ("from block 4", "from block 5", "Modulating block 4 as well is better than block 5 "
                                             "alone"),
            ("from block 3", "from block 4", "Modulating block 3 as well is a little better"),
            ("from block 3", "from block 2", "With block 2 as well the gain is over: it saturates"),
            ("projection", "from block 4", "Matrices are marginally better than scales"),
            ("from block 4", "independent", "With 7 tasks modulation is level with a network "
                                            "each, or better")):
        claims.append(_of_verdict("4.2, Table 5", _better(
            draws, text, better, worse, printed[names[better]] - printed[names[worse]]), page))
    return claims


def _of_scales(records: list[dict[str, Any]]) -> list[Claim]:
    text = "Unrelated tasks (smile, young) differ more in their scales than related ones (smile, " \
           "mouth open)"
    if not records:
        return [Claim("4.2", text, "", "+0.06", "not run yet", "05_w_distance")]
    differences = []
    for record in records:
        distances_TT, tasks = w_distance.distances([record]), record["settings"]["tasks"]
        near, far = (distances_TT[tasks.index(first), tasks.index(second)]
                     for first, second in (RELATED, UNRELATED))
        differences.append(far - near)
    low, high = -np.inf, np.inf
    if len(differences) > 1:
        mean, half = verdicts.student(differences)
        low, high = mean - half, mean + half
    verdict = Verdict(text, float(np.mean(differences)), low, high, 0.06)
    return [Claim("4.2", text, f"{verdict.difference:+.3f} [{low:+.3f}, {high:+.3f}]", "+0.06",
                  verdict.word, "05_w_distance")]


def _of_costs() -> list[Claim]:
    counted = extra_parameters(20).set_index("paper's name").extra
    claims = [
        Claim("4.2, Table 3", f"{name} adds {printed} parameters for 20 tasks",
              f"{counted[name]:,} by count", printed,
              "held" if abs(counted[name] - near) <= 0.05 * near else "did not hold",
              "../book/systems")
        for name, printed, near in (
            ("Ours", "10k", 10_000), ("CSN", "3k", 3_000), ("IB-25", "128k", 128_000),
            ("IB-256", "1.3M", 1_300_000), ("ITN", "51M", 51_000_000))]
    text = "All tasks of an image cost about 15 % more time than one"
    benchmark = read_benchmark()
    found = [row for row in benchmark["rows"] if row["question"] == ONE_PASS] if benchmark else []
    if not found:
        return [*claims, Claim("5.2", text, "", "+15 %", "not run yet", "08_speed_and_memory")]
    value, low, high = (100 * (found[0][key] - 1) for key in ("value", "low", "high"))
    word = "held" if high <= 20 else "did not hold" if low > 20 else "not decided"
    return [*claims, Claim("5.2", text, f"{value:+.0f} % [{low:+.0f}, {high:+.0f}] over repeats",
                           "+15 %", word, "08_speed_and_memory")]


def claims_table(claims: list[Claim]) -> pd.DataFrame:
    """The claims for people, in the order of the paper."""
    return pd.DataFrame([
        {"where": one.section, "the paper claims": one.text, "measured": one.measured or "–",
         "paper": one.paper or "–", "verdict": one.word,
         "page": f'<a href="{_link(one.page)}">{one.page.split("/")[-1]}</a>'}
        for one in claims]).set_index("where").rename_axis(None)


def _link(page: str) -> str:
    return f"{page.split('/')[-1]}.html" if page.startswith("../book/") else (
        f"../notebooks/{page}.html")


def summary(claims: list[Claim]) -> str:
    """How many of the claims held, as one line of Markdown."""
    counts = [f"**{sum(one.word == word for one in claims)} {word}**" for word in WORDS
              if any(one.word == word for one in claims)]
    return f"Of {len(claims)} claims: {', '.join(counts)}."


def answers() -> str:
    """Does modulation work, when, by how much and at what cost: from the records, as Markdown."""
    rows = twenty_attributes.STUDY.published("celeba_cpu_20")
    ours, shared, each = (rows[name] for name in (twenty_attributes.OURS, "fully shared",
                                                  "independent"))
    if not (ours and shared):
        return "Not run yet on 20 attributes."
    draws = bootstrap_accuracies({name: records for name, records in rows.items() if records})

    def difference(worse: str) -> str:
        value, low, high = interval((draws[twenty_attributes.OURS] - draws[worse]).mean(1))
        return f"**{value:+.1f} points** [{low:+.1f}, {high:+.1f}]"

    counts = ours[0]["results"]["parameters"]
    lines = [
        f"- **Does it work?** On {len(ours[0]['settings']['tasks'])} attributes of real faces: "
        f"{difference('fully shared')} of mean triplet accuracy against full sharing"
        + (f", and {difference('independent')} against a network for each task." if each else "."),
        f"- **At what cost?** {counts['task']:,} numbers for all tasks, "
        f"{100 * counts['task'] / counts['shared']:.1f} % of the shared ones.",
    ]
    rivals = {name for name in ("branches, 25", "branches, 256", "CSN") if name in draws}
    lines += [f"- **Against {name}:** {difference(name)}." for name in sorted(rivals)]
    later = later_tasks.takeaway(later_tasks.STUDY.published("celeba_cpu_20"))
    commit = short_commit(ours[0]["run"]["git_commit"])
    return "\n".join([*lines, later if later.startswith("-") else "",
                      f"\nRecords of commit `{commit}`, {len(ours)} seeds."])
