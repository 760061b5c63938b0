"""Numbers as people read them: means with their spread, ratios with their interval."""

from collections.abc import Sequence

import numpy as np

from modlib.gradients import Ratio


def mean_and_spread(values: Sequence[float]) -> str:
    """``mean ± sample deviation`` with one decimal; ``not run yet`` for no value."""
    if len(values) == 0:
        return "not run yet"
    mean = f"{np.mean(values):.1f}"
    return f"{mean} ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else mean


def percent(ratio: Ratio) -> str:
    """``value [low, high]`` in %, or ``not run yet``."""
    if ratio.count == 0:
        return "not run yet"
    return f"{100 * ratio.value:.1f} [{100 * ratio.low:.1f}, {100 * ratio.high:.1f}]"


def not_run_yet(profile: str, folder: str, notebook: str) -> str:
    """A Markdown box for a profile without records: what is missing and how to make it.

    Args:
        folder: below ``book/results``, where the records would lie.
        notebook: the number that begins the notebook's name.
    """
    return (
        f"> **Not run yet: `{profile}`.** No record of this profile is in "
        f"`book/results/{folder}`. To make them:\n>\n"
        f">     make run NB={notebook} SETTINGS={profile} DATA=/path/to/celeba\n"
    )


def short_commit(commit: str) -> str:
    """The first ten characters of a commit, with its ``-dirty`` where it has one."""
    return commit.removesuffix("-dirty")[:10] + ("-dirty" if commit.endswith("-dirty") else "")
