"""The page of claims: its table, the answers in short, and the records behind them.

Source: Zhao et al., ECCV 2018.
"""

import numpy as np
import pandas as pd

from modlib import ablations, later_tasks, three_attributes, twenty_attributes, verdicts
from modlib.claims import WORDS, Claim, all_claims
from modlib.committed import is_of_a_run, read_committed
from modlib.intervals import difference
from modlib.results import resolve
from modlib.tables import points, short_commit


def claims_table(claims: list[Claim]) -> pd.DataFrame:
    """The claims for people, in the order of the paper, with links as HTML."""
    return pd.DataFrame([
        {"": f"{one.text} <small>({one.section})</small>", "verdict": one.word,
         # an interval stays whole where the line breaks
         "measured": one.measured.replace(", ", ",&nbsp;") or "–", "paper": one.paper or "–",
         "see": f'<a href="{_link(one.page)}">{_short(one.page)}</a>'
         + (f', <a href="#records-{one.folder}">records</a>'
            if one.folder and one.word != "not run yet" else "")}
        for one in claims]).set_index("").rename_axis(None)


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
    """How many of the claims held, as one line of Markdown."""
    counts = [f"**{sum(one.word == word for one in claims)} {word}**" for word in WORDS
              if any(one.word == word for one in claims)]
    return f"Of {len(claims)} claims: {', '.join(counts)}."


def gains() -> dict[int, tuple[float, float, float]]:
    """Modulated minus fully shared in points with its interval, by the number of tasks.

    Each number of tasks has its own profile, and so its own sizes and settings. Of three tasks
    the interval is over seeds, of more over images and seeds.
    """
    three = three_attributes.published("celeba_cpu")
    [first] = (one for one in verdicts.verdicts(three) if one.claim.startswith(
        "Modulation raises the accuracy"))
    seven = ablations.STUDY.published("celeba_cpu_7")
    found = {3: (first.difference, first.low, first.high),
             7: difference(seven[ablations.OURS], seven[ablations.SHARED])}
    for profile, tasks in (("celeba_cpu_20", 20), ("celeba_cpu_40", 40)):
        rows = twenty_attributes.STUDY.published(profile)
        found[tasks] = difference(rows[twenty_attributes.OURS], rows["fully shared"])
    return found


def gain_table() -> pd.DataFrame:
    """:func:`gains` for people."""
    return pd.DataFrame([
        {"tasks": tasks, "modulated − fully shared, points": points(*found)}
        for tasks, found in gains().items()]).set_index("tasks")


def answers() -> str:
    """Does modulation work, when, by how much and at what cost: from the records, as Markdown."""
    rows = twenty_attributes.STUDY.published("celeba_cpu_20")
    ours, shared, each = (rows[name] for name in (twenty_attributes.OURS, "fully shared",
                                                  "independent"))
    if not (ours and shared):
        return "Not run yet on 20 attributes."

    def against(worse: str) -> str:
        return f"**{points(*difference(ours, rows[worse]))}** points"

    counts = ours[0]["results"]["parameters"]
    lines = [
        f"- **Does it work?** On {len(ours[0]['settings']['tasks'])} attributes of real faces: "
        f"{against('fully shared')} of mean triplet accuracy against full sharing"
        + (f", and {against('independent')} against a network for each task." if each else "."),
        *_when(),
        f"- **At what cost?** {counts['task']:,} numbers for all tasks, "
        f"{100 * counts['task'] / counts['shared']:.1f} % of the shared ones.",
    ]
    lines += [f"- **Against {name}:** {against(name)}."
              for name in ("branches, 25", "branches, 256", "CSN") if rows[name]]
    later = later_tasks.takeaway(later_tasks.STUDY.published("celeba_cpu_20"))
    commit = short_commit(ours[0]["run"]["git_commit"])
    return "\n".join([*lines, later if later.startswith("-") else "",
                      f"\nRecords of commit `{commit}`, {len(ours)} seeds."])


def _when() -> list[str]:
    """Where the gain is largest and smallest, by the number of tasks."""
    measured = {tasks: found[0] for tasks, found in gains().items() if not np.isnan(found[0])}
    if len(measured) < 2:
        return []
    least, most = (pick(measured, key=measured.get) for pick in (min, max))
    return [f"- **When?** The gain over full sharing is smallest with {least} tasks "
            f"({measured[least]:+.1f} points) and largest with {most} ({measured[most]:+.1f})."]


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
        parts.append(f'<h3 id="records-{folder.name}">{folder.name}</h3>{table}{others}')
    return "\n".join(parts)


def _file(folder: str, name: str) -> str:
    return f'<a href="../{folder}/{name}">{name.removesuffix(".json")}</a>'
