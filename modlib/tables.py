"""Numbers as people read them: means with their spread, ratios with their interval."""

from collections.abc import Mapping, Sequence
from typing import Any

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


def how_it_ran(
    rows: Mapping[str, list[dict[str, Any]]], profile: str, folder: str, notebook: str,
    more: str = "",
) -> str:
    """What made these records, as Markdown; the box of :func:`not_run_yet` when there are none.

    Args:
        rows: records that are of one kind but for what tells the rows apart.
        folder, notebook: see :func:`not_run_yet`.
        more: what else to say of the settings.
    """
    records = [record for row in rows.values() for record in row]
    if not records:
        return not_run_yet(profile, folder, notebook)
    settings, run = records[0]["settings"], records[0]["run"]
    minutes = [record["run"]["training_seconds"] / 60 for record in records]
    images = records[0]["data"]["images"]
    seeds = {record["settings"]["seed"] for record in records}
    return (
        f"{len(records)} runs, {len(seeds)} seeds, {min(minutes):.1f} to {max(minutes):.1f} "
        f"minutes each, on {run['device']}. {records[0]['data']['source']}: "
        f"{images['train']:,} to train on, "
        f"{images['valid']:,} to choose settings on, {images['test']:,} to test on. "
        f"Width {settings['width']}, {settings['batching']} batching, batches of "
        f"{settings['batch_size']} images, {settings['epochs']} epochs, {settings['optimiser']} at "
        f"{settings['learning_rate']} (scales at {settings['scale_rate_factor']:g} times that), "
        f"{settings['precision']}{more}. torch {run['versions']['torch']}, commit "
        f"`{short_commit(run['git_commit'])}`."
    )


def short_commit(commit: str) -> str:
    """The first ten characters of a commit, with its ``-dirty`` where it has one."""
    return commit.removesuffix("-dirty")[:10] + ("-dirty" if commit.endswith("-dirty") else "")
