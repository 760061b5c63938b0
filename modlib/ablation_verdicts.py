"""What the records of Tables 4 and 5 say, in sentences: updates, probes, and the takeaway.

Source: Zhao et al., ECCV 2018, Tables 4 and 5 and section 4.2.
"""

from modlib.ablations import (
    ONE_RATE,
    OURS,
    SHARED,
    probe_table,
    same_sign,
    ucr_by_stage,
    ucr_differences,
)
from modlib.intervals import difference
from modlib.probes import DRAWN, FROZEN, JOINT, OWN, TRUNK
from modlib.studies import Rows
from modlib.tables import percent, points


def stage_sentence(rows: Rows) -> str:
    """The UCR of the trunk's first and last stage, in both systems, as Markdown."""
    said = []
    for label, name in (("the fully shared network", SHARED), ("the modulated one", OURS)):
        if stages := ucr_by_stage(rows[name]):
            (first, low), *_, (last, high) = stages.items()
            said.append(f"in {label} from **{percent(low)} %** in {first} to **{percent(high)} %** "
                        f"in {last}")
    if not said:
        return "Not run yet."
    return f"From the first stage to the last it goes {', '.join(said)}."


def probe_sentence(rows: Rows) -> str:
    """What the mode of batch norm, and the cheap probe, do to the answer, as Markdown."""
    table, said = probe_table(rows), []
    for name in dict.fromkeys(place for place, _ in table.index):
        of = table.loc[name]
        ratio = of["UCR % without zeros"]
        said.append(
            f"- *{name}*, zeros left out: {ratio[JOINT]:.0f} % in the joint batch and "
            f"{ratio[FROZEN]:.0f} % with frozen statistics, which keep "
            f"**{of.loc[FROZEN, same_sign(JOINT)]:.0f} %** of the signs; on the same drawn "
            f"triplets {ratio[DRAWN]:.0f} % in the joint batch and {ratio[OWN]:.0f} % in a batch "
            f"for each task, which keeps **{of.loc[OWN, same_sign(DRAWN)]:.0f} %** of them. The "
            f"cheap probe has {of.loc[TRUNK, same_sign(JOINT)]:.0f} % of the joint batch's signs. "
            "Guessing has 50.")
    return "\n".join(said) or "Not run yet."


def ucr_sentence(rows: Rows) -> str:
    """In how many pairs modulation raised the UCR, and in how many the intervals say so."""
    all_batches, nonzero = (_changes(rows, with_zeros) for with_zeros in (True, False))
    if not all_batches:
        return "Not run yet."
    return (f"Modulation raised the ratio in {all_batches}. Inner products of 0 left out: in "
            f"{nonzero or 'no pair, as all are 0'}. All intervals of the changes hold together at "
            "95 % (Bonferroni). The paper: higher in all 21.")


def _changes(rows: Rows, with_zeros: bool) -> str:
    """How many pairs' UCR rose, and how many intervals say so; nothing without pairs."""
    found = ucr_differences(rows, with_zeros).values()
    if not found:
        return ""
    raised, sure, surely_lower = (sum(values) for values in zip(*(
        (value > 0, low > 0, high < 0) for value, low, high in found), strict=True))
    decided = (f"decided in {sure}; it lowered it, decided, in {surely_lower}"
               if sure or surely_lower else "but no pair's change is decided, up or down")
    return f"**{raised} of {len(found)} pairs**, {decided}"


def takeaway(rows: Rows) -> str:
    """What the records say of the paper's claims about seven attributes, as Markdown."""
    lines, decided = [], 0
    for name, text, other in (
            ("from block 5", "Modulating after the last block alone", OURS),
            ("from block 3", "Modulating from block 3", OURS),
            ("from block 2", "Modulating from block 2", OURS),
            (ONE_RATE, "Scales at the network's learning rate", OURS),
            ("projection", "Matrices at that rate in the place of scales", ONE_RATE),
            ("signed scales", "Scales without the ReLU", OURS)):
        if rows[name] and rows[other]:
            value, low, high = difference(rows[name], rows[other])
            decided += low > 0 or high < 0
            lines.append(f"- {text}, against *{other}*, in points: "
                         f"**{points(value, low, high)}**.")
    if lines:
        lines.insert(0, "- Of the ways below to scale more, less or otherwise, "
                        f"**{decided or 'none'}** of {len(lines)} makes a decided difference.")
    return "\n".join([*lines, f"- {ucr_sentence(rows)}"])
