"""A part of the book in short: what its records have decided, and what stays open.

Sources: Zhao et al., ECCV 2018; Levi and Ullman, 2020; Lu et al., CVPR 2017.
"""

from modlib import (
    branching_sentences,
    branching_study,
    branching_verdicts,
    claims_page,
    later_tasks,
    three_views,
    top_down_study,
    top_down_verdicts,
)
from modlib.claims import all_claims
from modlib.errors import unknown_name
from modlib.intervals import difference
from modlib.judged_claims import Claim, of_verdict
from modlib.later_tasks import ADDED, HELD_OUT, TOGETHER
from modlib.missing_records import question
from modlib.verdicts import NO_WORSE, Verdict

LISTED = 8  # undecided claims of one page; where there are more, they are counted
# The pages whose claims a part is judged by.
PARTS = {
    "conflict": ("02_three_attributes", "03_twenty_attributes"),
    "closer_look": ("04_ablations", "05_w_distance", "06_retrieval", "08_speed_and_memory"),
    "use": ("07_any_network", "09_add_a_task_later", "12_products"),
    "other_ways": ("10_top_down", "11_adaptive_branching", "13_three_views_of_task_relation"),
}


def claims_of(part: str) -> list[Claim]:
    """Every claim that a part's pages judge, in the order of the claims' page.

    Raises:
        ModlibError: a part that is not in ``PARTS``.
    """
    if part not in PARTS:
        raise unknown_name("part", part, PARTS)
    every = [*all_claims(), *_of_later_tasks(), *_of_other_papers()]
    return [one for one in every if one.page in PARTS[part]]


def settled(claims: list[Claim]) -> str:
    """How many claims there are, and each that held or did not, as Markdown."""
    lines = [f"- {one.text}: **{one.word}**, {one.measured}"
             + (f" (paper: {one.paper})" if one.paper else "") + "."
             for one in claims if one.word in ("held", "did not hold")]
    return "\n".join([claims_page.summary(claims), "", *(lines or ["Nothing is settled yet."])])


def still_open(claims: list[Claim]) -> str:
    """What the records cannot decide, and how many claims wait for records, as Markdown."""
    undecided: dict[str, list[Claim]] = {}
    for one in claims:
        if one.word == "not decided":
            undecided.setdefault(one.page, []).append(one)
    waiting = [one.page for one in claims if one.word == "not run yet"]
    lines = ["- **Not decided** by our records:"] if undecided else []
    for page, some in undecided.items():
        lines += [f"  - {one.text}: {one.measured}" for one in some] if len(some) <= LISTED else [
            f"  - {len(some)} claims on {_link(page)}: its table of verdicts has them"]
    if waiting:
        lines += ["- **Not run yet**; the page has the call:", *(
            f"  - {waiting.count(page)} on {_link(page)}" for page in dict.fromkeys(waiting))]
    return "\n".join(lines)


def _link(page: str) -> str:
    return f'<a href="../notebooks/{page}.html">{question(page[:2])}</a>'


def branching_control() -> str:
    """What branching is worth beside a wider network without branches, as one point of a list."""
    rows = branching_study.STUDY.published("celeba_cpu_branching")
    said = branching_sentences.weight_sentence(rows)
    return said and f"- But: {said} {branching_sentences.branches_or_weights(rows)}"


def _of_later_tasks() -> list[Claim]:
    """Not a claim of the paper, but the question of the page."""
    rows = later_tasks.published("celeba_cpu_20")
    level = Verdict("A task that comes later is level with one that was there from the start",
                    *difference(rows[ADDED], rows[TOGETHER], HELD_OUT), None, NO_WORSE)
    return [of_verdict("", level, "09_add_a_task_later", later_tasks.STUDY.folder)]


def _of_other_papers() -> list[Claim]:
    digits = top_down_study.MULTI_MNIST
    branching = branching_study.STUDY.published("celeba_cpu_branching")
    judged = [
        ("10_top_down", digits.folder,
         top_down_verdicts.verdicts(digits.published("multi_mnist_cpu"), digits.folder)),
        ("11_adaptive_branching", branching_study.STUDY.folder,
         branching_verdicts.verdicts(branching)),
        ("13_three_views_of_task_relation", three_views.STUDY.folder,
         three_views.verdicts(three_views.STUDY.published("celeba_cpu_three_views")))]
    ratios = [Claim("", one.claim, branching_verdicts.ratio(one, far), f"× {one.paper:.1f}",
                    one.word, "11_adaptive_branching", branching_study.STUDY.folder)
              for one, far in branching_verdicts.costs(branching)]
    return ratios + [of_verdict("", verdict, page, folder)
                     for page, folder, verdicts in judged for verdict in verdicts]
