"""Numbers as people read them, and what made them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from modlib.gradients import Ratio
from modlib.machine import device_in_words
from modlib.missing_records import not_run_yet, some_not_run_yet

SEE_ABOVE = "*Not run yet: the box above has the call.*"  # in the place of the same box
NOT_COMPLETE = "The records of this page are not complete yet, so it draws no conclusion."


def mean_and_spread(values: Sequence[float]) -> str:
    """``mean ± sample deviation`` with one decimal; ``not run yet`` for no value."""
    if len(values) == 0:
        return "not run yet"
    mean = f"{np.mean(values):.1f}"
    return f"{mean} ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else mean


def count_seeds(records: Sequence[Mapping[str, Any]]) -> str:
    """How many seeds records are of: ``1 seed``, ``3 seeds``."""
    count = len({record["settings"]["seed"] for record in records})
    return f"{count} seed{'s' * (count != 1)}"


def with_sign(value: float, digits: int = 2) -> str:
    """A number with its sign, ``+1.23`` or ``−1,234.50``; the minus is the sign, not a hyphen.

    What rounds to 0 has a plus.

    Args:
        digits: after the point.
    """
    return f"{value:+z,.{digits}f}".replace("-", "−")


def with_interval(value: float, low: float, high: float, digits: int = 2) -> str:
    """A signed number with its interval, ``+1.23 [−0.50, +2.96]``."""
    return f"{with_sign(value, digits)} [{with_sign(low, digits)}, {with_sign(high, digits)}]"


def points(value: float, low: float, high: float, digits: int = 2) -> str:
    """A difference with its interval, ``+1.23 [+0.50, +1.96]``; of one seed it has none."""
    if np.isnan(value):
        return "not run yet"
    if np.isinf(low):
        return f"{with_sign(value, digits)} (one seed)"
    return with_interval(value, low, high, digits)


def percent(ratio: Ratio, nothing: str = "not run yet") -> str:
    """``value [low, high]`` in %.

    Args:
        nothing: what to say where nothing was counted.
    """
    if ratio.count == 0:
        return nothing
    return f"{100 * ratio.value:.1f} [{100 * ratio.low:.1f}, {100 * ratio.high:.1f}]"


def how_it_ran(
    rows: Mapping[str, list[dict[str, Any]]], profile: str, folder: str, notebook: str,
    more: str = "", data: str = "/path/to/celeba",
) -> str:
    """What made these records, as Markdown; the box of :func:`not_run_yet` when there are none.

    Args:
        rows: records that are of one kind but for what tells the rows apart.
        folder, notebook, data: see :func:`not_run_yet`.
        more: what else to say of the settings.
    """
    records = [record for row in rows.values() for record in row]
    if not records:
        return not_run_yet(profile, folder, notebook, data)
    images = records[0]["data"]["images"]

    def of(key: str) -> str:
        """What all records have, or what there is: from the smallest to the largest."""
        values = sorted({record["settings"][key] for record in records})
        plain = [f"{value:g}" if isinstance(value, float) else str(value) for value in values]
        if len(plain) > 1 and isinstance(values[0], float | int):
            return f"{plain[0]} to {plain[-1]}"
        return " and ".join(plain)

    return (
        f"{runs_in_words(records)}. "
        f"{records[0]['data']['source']}: {images['train']:,} to train on, "
        f"{images['valid']:,} to choose settings on, {images['test']:,} to test on. "
        f"Width {of('width')}, {of('batching')} batching, batches of {of('batch_size')} images, "
        f"{of('epochs')} epochs, {of('optimiser')}, learning rate {of('learning_rate')} (of scales "
        f"{of('scale_rate_factor')} times that), margin {of('margin')}, {of('precision')}{more}. "
        f"{versions_in_words(records)}."
        + some_not_run_yet(rows, profile, notebook, data)
    )


def runs_in_words(records: Sequence[Mapping[str, Any]]) -> str:
    """How many runs records are of, how long these took, and on what device."""
    minutes = [record["run"]["training_seconds"] / 60 for record in records]
    devices = sorted({device_in_words(record["run"]["device"]) for record in records})
    return (f"{len(records)} run{'s' * (len(records) > 1)}, {count_seeds(records)}, "
            f"{min(minutes):.1f} to {max(minutes):.1f} minutes each by the clock, pauses included "
            f"(median {np.median(minutes):.1f}), on {' and '.join(devices)}")


def versions_in_words(records: Sequence[Mapping[str, Any]]) -> str:
    """The versions of torch and of this code that made records, each named, as Markdown."""
    torch = sorted({record["run"]["versions"]["torch"] for record in records})
    return f"torch {' and '.join(torch)}, {commits_in_words(records)}"


def commits_in_words(records: Sequence[Mapping[str, Any]]) -> str:
    """Every commit that records are of, as Markdown."""
    names = sorted({short_commit(record["run"]["git_commit"]) for record in records})
    return f"commit{'s' * (len(names) > 1)} {', '.join(f'`{name}`' for name in names)}"


def short_commit(commit: str) -> str:
    """The first ten characters of a commit, with its ``-dirty`` where it has one."""
    return commit.removesuffix("-dirty")[:10] + ("-dirty" if commit.endswith("-dirty") else "")
