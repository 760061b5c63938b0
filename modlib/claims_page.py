"""The page of claims: its table, what was counted, and the records behind it.

Source: Zhao et al., ECCV 2018.
"""

import pandas as pd

from modlib.claims import all_claims
from modlib.committed import is_of_a_run, read_committed
from modlib.growth import gains
from modlib.judged_claims import WORDS, Claim
from modlib.missing_records import run_call
from modlib.results import resolve
from modlib.tables import points, short_commit

# What writes the records that claims are judged by, by their folder below book/results.
CALLS = {
    "three_attributes": run_call("celeba_cpu", "02"),
    "twenty_attributes": run_call("celeba_cpu_20", "03"),
    "ablations": run_call("celeba_cpu_7", "04"),
    "any_network": run_call("celeba_cpu", "07"),
    "products": run_call("zappos_gpu", "12", "/path/to/UT-Zappos50K"),
    "speed": "make bench DATA=/path/to/celeba"}


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
    """How many of the claims held, as Markdown; what is counted and not run is told apart.

    Variants are not counted among the claims.
    """
    measured, counted = ([one for one in claims if bool(one.folder) == run and not one.variant]
                         for run in (True, False))
    said = []
    for some, about in ((measured, "claims"), (counted, "printed numbers of parameters")):
        counts = [f"**{sum(one.word == word for one in some)} {word}**" for word in WORDS
                  if any(one.word == word for one in some)]
        if counts:
            said.append(f"Of {len(some)} {about}: {', '.join(counts)}.")
    if variants := sum(one.variant for one in claims):
        lines = "more lines ask" if variants > 1 else "more line asks"
        said.append(f"{variants} {lines} one of them again, in other settings or by another count.")
    if other := sum(one.size_differs for one in claims if not one.variant):
        said.append(f"In {other}, whatever the verdict, the paper's own figure lies outside our "
                    "interval.")
    return " ".join(said)


def gain_table() -> pd.DataFrame:
    """:func:`gains` for people."""
    return pd.DataFrame([
        {"tasks": tasks, "modulated − fully shared, points": points(*found)}
        for tasks, found in gains().items()]).set_index("tasks")


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
