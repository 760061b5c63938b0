"""What the records of Tables 4 and 5 say, in sentences: updates, probes, and the takeaway.

Source: Zhao et al., ECCV 2018, Tables 4 and 5 and section 4.2.
"""

from modlib.ablations import (
    ONE_RATE,
    OURS,
    SHARED,
    count_changes,
    probe_ratios,
    sign_agreement,
    ucr_by_stage,
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
    found, said = probe_ratios(rows), []
    for name in dict.fromkeys(system for system, _ in found):
        ratio = {mode: 100 * nonzero.value for (system, mode), (_, nonzero) in found.items()
                 if system == name}

        def same(mode: str, other: str, system: str = name) -> str:
            return f"{sign_agreement(rows, system, mode, other):.0f} %"

        said.append(
            f"- *{name}*, zeros left out: {ratio[JOINT]:.0f} % in the joint batch and "
            f"{ratio[FROZEN]:.0f} % with frozen statistics, which keep **{same(FROZEN, JOINT)}** "
            f"of the signs; on the same drawn triplets {ratio[DRAWN]:.0f} % in the joint batch and "
            f"{ratio[OWN]:.0f} % in a batch for each task, which keeps **{same(OWN, DRAWN)}** of "
            f"them. The cheap probe has {same(TRUNK, JOINT)} of the joint batch's signs. Guessing "
            "has 50.")
    return "\n".join(said) or "Not run yet."


def ucr_sentence(rows: Rows) -> str:
    """In how many pairs modulation raised the UCR, and in how many the intervals say so."""
    all_batches, nonzero = (_changes(rows, with_zeros) for with_zeros in (True, False))
    if not all_batches:
        return "Not run yet."
    return (f"Modulation raised the ratio in {all_batches}. Inner products of 0 left out: in "
            f"{nonzero or 'no pair, as all are 0'}. The intervals of each of the two counts hold "
            "together at 95 % (Bonferroni). The paper: higher in all 21.")


def _changes(rows: Rows, with_zeros: bool) -> str:
    """How many pairs' UCR rose, and how many intervals say so; nothing without pairs."""
    found = count_changes(rows, with_zeros)
    if not found.pairs:
        return ""
    decided = (f"decided in {found.surely_higher}; it lowered it, decided, in {found.surely_lower}"
               if found.surely_higher or found.surely_lower
               else "but no pair's change is decided, up or down")
    return f"**{found.higher} of {found.pairs} pairs**, {decided}"


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
