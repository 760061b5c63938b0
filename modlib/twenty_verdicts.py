"""What the records of Table 3 say of its order: differences, verdicts, and the takeaway.

Source: Zhao et al., ECCV 2018, Table 3 and section 4.2.
"""

import numpy as np
import pandas as pd

from modlib.intervals import difference
from modlib.studies import Rows
from modlib.tables import points, with_sign
from modlib.twenty_attributes import ONE_RATE, OURS, PAPER_NAMES, paper_table
from modlib.verdicts import Verdict


def differences(
    rows: Rows, first: str = OURS, together: int = 1
) -> dict[str, tuple[float, float, float]]:
    """The mean accuracy of one row minus each other's, with its interval, in points.

    Args:
        together: how many intervals are to hold at once; see :func:`modlib.intervals.difference`.
    """
    if not rows[first]:
        return {}
    return {name: difference(rows[first], records, together=together)
            for name, records in rows.items() if name != first and records}


def verdicts(rows: Rows) -> list[Verdict]:
    """The paper's claims about the order of Table 3, each judged by the difference's interval."""
    measured, paper = differences(rows), paper_table()["rows"]

    def mean(name: str) -> float:
        return float(np.mean(list(paper[PAPER_NAMES[name]].values())))

    return [
        Verdict(f"{OURS} is better than {name}", *measured.get(name, (np.nan,) * 3),
                paper=mean(OURS) - mean(name))
        for name in PAPER_NAMES if name != OURS]


def verdict_table(rows: Rows) -> pd.DataFrame:
    """Differences of the modulated network to every other row, with intervals, for people."""
    judged = {v.claim.removeprefix(f"{OURS} is better than "): v for v in verdicts(rows)}
    together, lines = decided_together(rows), []
    for name, (value, low, high) in differences(rows).items():
        verdict = judged.get(name)
        lines.append({
            "": f"{OURS} − {name}", "points": points(value, low, high),
            "paper": with_sign(verdict.paper) if verdict else "–",
            "the paper's claim": verdict.word if verdict else "–",
            "decided with all six": "–" if not verdict or verdict.word == "not run yet" else (
                "yes" if name in together else "no")})
    if not lines:
        return pd.DataFrame(columns=[
            "points", "paper", "the paper's claim", "decided with all six"])
    return pd.DataFrame(lines).set_index("").rename_axis(None)


def decided_together(rows: Rows) -> list[str]:
    """Whose difference to the modulated network is decided when all of Table 3's are to hold.

    One of several claims may look decided by chance. So here each interval is as wide as all of
    them together need, by Bonferroni, whether they were run or not.
    """
    compared = {name: rows[name] for name in PAPER_NAMES if name in rows}
    found = differences(compared, together=len(PAPER_NAMES) - 1)
    return [name for name, (_, low, high) in found.items() if low > 0 or high < 0]


def recipe_sentence(rows: Rows) -> str:
    """Whether the order of modulation and wide branches is a matter of the scales' learning rate.

    The paper has modulation above branches of 256, and names no rate of the scales' own.
    """
    wide, said = rows["branches, 256"], []
    for name, rate in ((OURS, "ten times the network's learning rate"),
                       (ONE_RATE, "the network's own learning rate")):
        if not (rows[name] and wide):
            return "> **Not run yet:** scales at one rate, beside branches of 256."
        found = difference(rows[name], wide)
        word = ("above" if found[1] > 0 else "below" if found[2] < 0
                else "not decidedly apart from")
        said.append(f"with scales at {rate} it is **{word}** them ({points(*found)} points)")
    return (f"Modulation against branches of 256: {said[0]}; {said[1]}. "
            "The paper: above them, with no rate named.")


def takeaway(rows: Rows) -> str:
    """What the records say about the paper's claims of Table 3's order, as Markdown."""
    judged, lines = verdicts(rows), []
    for word in ("held", "did not hold", "not decided", "not run yet"):
        names = [verdict.claim.split(" is better than ")[1] for verdict in judged
                 if verdict.word == word]
        if names:
            lines.append(f"- \"{OURS.capitalize()} is better than …\" **{word}** for: "
                         f"{'; '.join(names)}.")
    if any(not np.isnan(verdict.difference) for verdict in judged):
        lines.append("- Decided also when all six are judged together: "
                     f"{'; '.join(decided_together(rows)) or 'none'}.")
    return "\n".join(lines)
