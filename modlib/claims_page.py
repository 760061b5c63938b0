"""The page of claims: its table, the answers in short, and the records behind them.

Source: Zhao et al., ECCV 2018.
"""

from typing import Any

import numpy as np
import pandas as pd

from modlib import any_network, later_tasks, replacement, twenty_attributes
from modlib.claims import ONE_PASS, all_claims
from modlib.committed import is_of_a_run, read_committed
from modlib.compliance import compliance_verdict
from modlib.growth import gains
from modlib.intervals import difference
from modlib.judged_claims import WORDS, Claim
from modlib.results import resolve
from modlib.speed import read_benchmark
from modlib.studies import Rows, accuracies
from modlib.tables import (
    commits_in_words,
    count_seeds,
    points,
    run_call,
    short_commit,
    with_sign,
)

# What writes the records that claims are judged by, by their folder below book/results.
CALLS = {
    "three_attributes": run_call("celeba_cpu", "02"),
    "twenty_attributes": run_call("celeba_cpu_20", "03"),
    "ablations": run_call("celeba_cpu_7", "04"),
    "any_network": run_call("celeba_cpu", "07"),
    "products": run_call("zappos_gpu", "12", "/path/to/UT-Zappos50K"),
    "speed": "make bench DATA=/path/to/celeba"}
ONE_BY_ONE = "inference: 20 separate passes over all 20 tasks at once"


def claims_table(claims: list[Claim]) -> pd.DataFrame:
    """The claims for people, in the order of the paper, with links as HTML."""
    return pd.DataFrame([
        {"": f"{one.text} <small>({one.section})</small>",
         "verdict": one.word + "<br><small>size differs</small>" * one.size_differs,
         # an interval stays whole where the line breaks
         "measured": one.measured.replace(", ", ",&nbsp;") or "–",
         "paper": one.paper.replace(" %", "&nbsp;%") or "–",
         "see": f'<a href="{_link(one.page)}">{_short(one.page)}</a>'
         + (f', <a href="#records-{one.folder}">records</a>'
            if one.folder and one.word != "not run yet" else "")}
        for one in claims]).set_index("").rename_axis(None)


def calls(claims: list[Claim]) -> str:
    """The calls that run what claims still wait for, as Markdown; nothing where none waits."""
    lines = dict.fromkeys(
        run_call(one.profile, one.page[:2]) if one.profile else CALLS[one.folder]
        for one in claims if one.word == "not run yet")
    if not lines:
        return ""
    return "\n".join([
        "What is not run yet is run by these calls, on the very images that the records are of. On "
        "[others](how_to_run.html#the-images-of-the-records) first move the study's records away, "
        "as one table shows one set of images:", "",
        *(f"    {line}" for line in lines)])


def check(page: str) -> str:
    """The claims that one page judges, for that page's check against the paper, as HTML."""
    judged = [one for one in all_claims() if one.page == page]
    return claims_table(judged).drop(columns="see").to_html(
        escape=False, classes="table wide-names claims")


def _short(page: str) -> str:
    """A notebook's number, or the name of a page of ``book/``."""
    name = page.split("/")[-1]
    return name[:2] if name[0].isdigit() else name


def _link(page: str) -> str:
    return f"{page.split('/')[-1]}.html" if page.startswith("../book/") else (
        f"../notebooks/{page}.html")


def summary(claims: list[Claim]) -> str:
    """How many of the claims held, as Markdown; what is counted and not run is told apart."""
    measured, counted = ([one for one in claims if bool(one.folder) == run]
                         for run in (True, False))
    said = []
    for some, about in ((measured, "claims"), (counted, "printed numbers of parameters")):
        counts = [f"**{sum(one.word == word for one in some)} {word}**" for word in WORDS
                  if any(one.word == word for one in some)]
        if counts:
            said.append(f"Of {len(some)} {about}: {', '.join(counts)}.")
    if other := sum(one.size_differs for one in claims):
        said.append(f"In {other}, whatever the verdict, the paper's own figure lies outside our "
                    "interval.")
    return " ".join(said)


def gain_table() -> pd.DataFrame:
    """:func:`gains` for people."""
    return pd.DataFrame([
        {"tasks": tasks, "modulated − fully shared, points": points(*found)}
        for tasks, found in gains().items()]).set_index("tasks")


def answers() -> str:
    """Does modulation work, when, by how much and at what cost: from the records, as Markdown."""
    rows = twenty_attributes.STUDY.published("celeba_cpu_20")
    ours, shared = rows[twenty_attributes.OURS], rows["fully shared"]
    if not (ours and shared):
        return "Not run yet on 20 attributes."
    of_systems = [one for name in twenty_attributes.PAPER_NAMES for one in rows[name]]
    lines = [*_does_it_work(rows), *_is_it_the_module(rows), *_when(rows), _why(ours, shared),
             *_cost(ours), *_something_better(rows), *_later(), *_in_classifiers()]
    return "\n".join([*lines, f"\nThe records of Table 3's systems are of "
                      f"{commits_in_words(of_systems)}, {count_seeds(ours)}; "
                      "all others stand at the end of this page."])


def _something_better(rows: Rows) -> list[str]:
    """What passes the module at no more numbers than branches of 25 have; nothing undecided."""
    best = replacement.chosen(rows)
    if best in (None, twenty_attributes.OURS):
        return []
    value, low, high = difference(rows[best], rows[twenty_attributes.OURS])
    if low <= 0:
        return []
    return [f"- **Is there something better?** *{best.capitalize()}*, chosen on the validation "
            f"split, is **{points(value, low, high)}** points above the module on the test split, "
            f"with {replacement.candidates(rows)[best]:,} numbers for all tasks."]


def _later() -> list[str]:
    said = later_tasks.takeaway(later_tasks.published("celeba_cpu_20"))
    return [said.replace("-", "- **Can a task come later?**", 1)] if said[0] == "-" else []


def _in_classifiers() -> list[str]:
    rows = any_network.published("celeba_cpu")
    if not (rows["modulated"] and rows["fully_shared"]):
        return []
    line = any_network.differences(rows).loc["modulated − fully shared"]
    word = "more" if line.low > 0 else "less" if line.high < 0 else "not decided"
    return ["- **In classifiers too?** Where each task has a row of the last layer to itself, on "
            f"ResNet-18, mean AUC changes by {points(line.points, line.low, line.high)} points "
            f"({word})."]


def _does_it_work(rows: Rows) -> list[str]:
    ours, shared = rows[twenty_attributes.OURS], rows["fully shared"]
    means = accuracies(rows).groupby("row").accuracy.mean()
    value, low, high = difference(ours, shared)
    word = "Yes" if low > 0 else "No" if high < 0 else "Not decided"
    return [
        f"- **Does it work?** {word}, against full sharing: mean triplet accuracy on "
        f"{len(ours[0]['settings']['tasks'])} attributes of real faces goes from "
        f"{means['fully shared']:.1f} to {means[twenty_attributes.OURS]:.1f} %, by "
        f"**{points(value, low, high)}** points."]


def _is_it_the_module(rows: Rows) -> list[str]:
    """How far other ways to give each task something of its own come, and what is left."""
    ours, shared = rows[twenty_attributes.OURS], rows["fully shared"]
    others = [name for name in ("branches, 256", "branches, 25", "CSN", "independent")
              if rows[name]]
    if not others:
        return []
    gain = difference(ours, shared)[0]
    said = {name: name.replace(", ", " of ") for name in others}
    reached = ", ".join(f"{said[name]} {100 * difference(rows[name], shared)[0] / gain:.0f} %"
                        for name in others).replace("-", "−")
    paper = {one.claim: one.paper for one in twenty_attributes.verdicts(rows)}
    left = "; ".join(
        f"{said[name]} **{points(*difference(ours, rows[name]))}** (paper: "
        f"{with_sign(paper[f'{twenty_attributes.OURS} is better than {name}'], 1)})"
        for name in others)
    return [f"- **Is it this module?** Other systems give each task something of its own too, and "
            f"reach this share of that gain: {reached}. In points, modulated minus each: {left}."
            f"{_at_one_rate(rows)}"]


def _at_one_rate(rows: Rows) -> str:
    """Whether the order of scales and wide branches hangs on the rate at which scales learn."""
    if not (rows["modulated, one rate"] and rows["branches, 256"]):
        return ""
    found = difference(rows["modulated, one rate"], rows["branches, 256"])
    factor = rows[twenty_attributes.OURS][0]["settings"]["scale_rate_factor"]
    return (f" These scales learn {factor:g} times as fast as the network; branches learn at its "
            "rate. With scales at that rate too, not tuned again, modulated minus branches of 256 "
            f"is **{points(*found)}**.")


def _when(rows: Rows) -> list[str]:
    """The gain by the number of tasks, and by the attribute."""
    by_tasks = ", ".join(f"{points(*found)} with {tasks} tasks" for tasks, found in gains().items()
                         if not np.isnan(found[0]))
    means = accuracies(rows).groupby(["row", "task"]).accuracy.mean()
    gained = (means[twenty_attributes.OURS] - means["fully shared"]).sort_values()
    most, least = (f"{task.replace('_', ' ')} {with_sign(gained[task], 1)}"
                   for task in (gained.index[-1], gained.index[0]))
    return [f"- **When?** The gain over full sharing, in points: {by_tasks}. Of the {len(gained)} "
            f"attributes {most} gains most, {least} least."]


def _why(ours: list[dict[str, Any]], shared: list[dict[str, Any]]) -> str:
    """What the records say of the paper's reason, which hangs on how products of 0 are counted."""
    found = [compliance_verdict("", ours, shared, with_zeros) for with_zeros in (True, False)]
    if found[0].word == "not run yet":
        return "- **Why?** Not run yet: no training of 20 tasks was probed."
    said = [f"{points(one.difference, one.low, one.high)} points ({one.word})" for one in found]
    return ("- **Why?** The paper's reason is that updates agree more often. The update compliance "
            f"ratio changes by {said[0]} over all pairs, or by {said[1]} where inner products of 0 "
            "are left out. <a href='../notebooks/03_twenty_attributes.html'>More on this</a>.")


def _cost(ours: list[dict[str, Any]]) -> list[str]:
    counts, benchmark = ours[0]["results"]["parameters"], read_benchmark()
    times = {row["question"]: row for row in benchmark["rows"]} if benchmark else {}
    in_time = ""
    if {ONE_PASS, ONE_BY_ONE} <= times.keys():
        at_once, apart = times[ONE_PASS], times[ONE_BY_ONE]
        in_time = (f" All 20 tasks of an image take {at_once['value']:.2f} times the time of one "
                   f"({at_once['low']:.2f} to {at_once['high']:.2f} over repeats), where 20 passes "
                   f"take {apart['value'] * at_once['value']:.0f} times.")
    return [f"- **At what cost?** {counts['task']:,} numbers for all tasks of our narrow network, "
            f"{100 * counts['task'] / counts['shared']:.1f} % of the shared ones.{in_time}"]


def records_list() -> str:
    """Every record of the book with its link, a table a folder, as HTML.

    Raises:
        ModlibError: one is not signed, cannot be, or has settings that no longer exist; see
            :func:`modlib.committed.read_committed`.
    """
    parts = []
    for folder in sorted(path for path in resolve("book/results").iterdir() if path.is_dir()):
        lines, others = [], ""
        for path in sorted(folder.glob("*.json")):
            record = read_committed(path)
            if not is_of_a_run(path):
                others += f"<p>{_file(folder.name, path.name)}</p>"
                continue
            run = record["run"]
            lines.append({"record": _file(folder.name, path.name),
                          "minutes": f"{run['training_seconds'] / 60:.1f}",
                          "commit": short_commit(run["git_commit"])})
        table = pd.DataFrame(lines).to_html(index=False, escape=False) if lines else ""
        count = len(list(folder.glob("*.json")))
        parts.append(f'<h3 id="records-{folder.name}">{folder.name}</h3><details><summary>'
                     f"{count} record{'s' * (count > 1)}</summary>{table}{others}"
                     "</details>")
    return "\n".join(parts)


def _file(folder: str, name: str) -> str:
    return f'<a href="../{folder}/{name}">{name.removesuffix(".json")}</a>'
